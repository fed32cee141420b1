"""Real PNGs of a given size: the same words and seed give the same bytes."""

import hashlib
import io
import struct

from PIL import Image, ImageFilter


def png(width: int, height: int, *marks: object) -> bytes:
    """Return a PNG whose colours follow from `marks`."""
    digest = hashlib.sha256(repr(marks).encode()).digest()
    small = Image.frombytes("RGB", (2, 2), digest[:12])
    out = io.BytesIO()
    small.resize((width, height), Image.Resampling.NEAREST).save(out, "PNG", compress_level=1)
    return out.getvalue()


def blurred(data: bytes) -> bytes:
    """Return the picture as a filter shows it."""
    image = Image.open(io.BytesIO(data)).resize((64, 64)).filter(ImageFilter.GaussianBlur(8))
    out = io.BytesIO()
    image.resize(struct.unpack(">II", data[16:24])).save(out, "PNG", compress_level=1)
    return out.getvalue()
