"""The check of a picture: that an engine delivered what it says, before it is kept.

The bytes are never changed: a signature inside them survives. Pillow is imported by the functions
that need it, so that a program that never sees a picture does not carry it. Must not touch the
disk.
"""

import io
import struct
import zlib
from typing import TYPE_CHECKING, Final

from agent.core.faults import InternalFault
from agent.core.picture import Picture

if TYPE_CHECKING:
    from PIL.ImageFile import ImageFile

PIXELS_MAX: Final = 4 * 2048 * 2048
"""Pixels of the largest picture that is accepted: four times the largest a request may ask for,
so that a workflow may double its sides. Decoded it takes 64 MiB."""

_SIGNATURES: Final = {"png": b"\x89PNG\r\n\x1a\n", "jpeg": b"\xff\xd8\xff", "webp": b"RIFF"}
_PNG_HEADER_BYTES: Final = 13
_CHUNK_FRAME_BYTES: Final = 12


class PictureBrokenFault(InternalFault):
    """The engine delivered a picture that is broken."""


def check(picture: Picture) -> None:
    """Read a picture from its first byte to its last.

    1. The signature is that of its format. 2. A PNG has all its chunks, each with its checksum,
    and nothing after them; a WebP is as long as it says. 3. It is within the limit of pixels and
    has the size that was reported. 4. What has no checksums decodes: a PNG's prove as much as
    decoding it would, at a tenth of the time (13 ms for 3 MB).

    Raises: PictureBrokenFault, whose detail says what is wrong.
    """
    if not picture.data.startswith(_SIGNATURES[picture.format]):
        raise broken(f"it does not begin like a {picture.format}: {picture.data[:16]!r}")
    if picture.format == "png":
        _check_size(picture, *_png_size(picture.data))
        return
    if picture.format == "webp":
        (length,) = struct.unpack("<I", picture.data[4:8].ljust(4, b"\0"))
        if picture.data[8:12] != b"WEBP" or length + 8 != len(picture.data):
            raise broken(f"a WebP of {length + 8} bytes came with {len(picture.data)}")
    try:
        with open_image(picture.data) as image:
            _check_size(picture, *image.size)
            image.load()
    except undecodable() as error:
        raise broken(f"{type(error).__name__}: {error}") from error


def open_image(data: bytes) -> "ImageFile":
    """Open a picture of one of the formats that are kept, without decoding it yet.

    Raises: one of `undecodable()`.
    """
    from PIL import (  # noqa: PLC0415 - see the head of this module
        Image,
        JpegImagePlugin,
        PngImagePlugin,
        WebPImagePlugin,
    )

    # Imported by name, or Pillow would import all of its forty formats to find these.
    kept = (
        PngImagePlugin.PngImageFile,
        JpegImagePlugin.JpegImageFile,
        WebPImagePlugin.WebPImageFile,
    )
    # Pillow's own limit is ten times as high. Nothing in this program opens larger pictures.
    Image.MAX_IMAGE_PIXELS = PIXELS_MAX
    return Image.open(io.BytesIO(data), formats=[str(each.format) for each in kept])


def undecodable() -> tuple[type[Exception], ...]:
    """Return what Pillow raises for hostile input.

    Source: Pillow 13, tried: truncated OSError, bad checksum SyntaxError, no picture
    UnidentifiedImageError (an OSError), text too long ValueError, too many pixels the last two.
    """
    from PIL import Image  # noqa: PLC0415 - see the head of this module

    bombs = (Image.DecompressionBombError, Image.DecompressionBombWarning)
    return (OSError, SyntaxError, ValueError, *bombs)


def _check_size(picture: Picture, width: int, height: int) -> None:
    if width * height > PIXELS_MAX:
        raise broken(f"{width}x{height} are more than {PIXELS_MAX} pixels")
    if (width, height) != (picture.width, picture.height):
        raise broken(f"it is {width}x{height}, not {picture.width}x{picture.height}")


def _png_size(data: bytes) -> tuple[int, int]:
    """Walk the chunks of a PNG and return width and height from the first one."""
    at = len(_SIGNATURES["png"])
    size = None
    pixels = False
    while at + _CHUNK_FRAME_BYTES <= len(data):
        length, kind = struct.unpack(">I4s", data[at : at + 8])
        end = at + _CHUNK_FRAME_BYTES + length
        if end > len(data):
            break
        if zlib.crc32(memoryview(data)[at + 4 : end - 4]) != int.from_bytes(data[end - 4 : end]):
            raise broken(f"the checksum of chunk {kind!r} is wrong")
        if (size is None) != (kind == b"IHDR") or (size is None and length != _PNG_HEADER_BYTES):
            raise broken("a PNG begins with one IHDR chunk")
        if size is None:
            size = struct.unpack(">II", data[at + 8 : at + 16])
        pixels = pixels or kind == b"IDAT"
        if kind == b"IEND":
            if end != len(data) or not pixels:
                raise broken("bytes after its end" if pixels else "it has no pixels")
            return size
        at = end
    raise broken(f"it ends after {len(data)} bytes, within a chunk or before the last")


def broken(detail: str) -> PictureBrokenFault:
    """Return the fault; `detail` says what is wrong with the picture."""
    return PictureBrokenFault("The engine delivered a broken picture.", detail)
