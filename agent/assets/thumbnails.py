"""Lesser copies of a picture: a small WebP, and a JPEG of its size. Must not touch the disk."""

import io
from typing import Final

from agent.assets.check import broken, open_image, undecodable

THUMBNAIL_SIDE: Final = 256
_QUALITY: Final = 80


def thumbnail(data: bytes) -> bytes:
    """Return a WebP that fits into a square of THUMBNAIL_SIDE pixels and keeps the shape.

    Raises: PictureBrokenFault.
    """
    out = io.BytesIO()
    try:
        with open_image(data) as image:
            clear = image.mode in {"RGBA", "LA", "PA"} or "transparency" in image.info
            mode = "RGBA" if clear else "RGB"
            # A palette must go before the resize; else the JPEG decoder may scale, which is faster.
            small = image if image.mode == mode else image.convert(mode)
            small.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
            small.save(out, "WEBP", quality=_QUALITY)
    except undecodable() as error:
        raise broken(f"{type(error).__name__}: {error}") from error
    return out.getvalue()


def jpeg_copy(data: bytes) -> bytes:
    """Return a JPEG of the same size, what is clear in the picture made white.

    Raises: PictureBrokenFault.
    """
    from PIL import Image  # noqa: PLC0415 - see the head of `agent.assets.check`

    out = io.BytesIO()
    try:
        with open_image(data) as image:
            clear = image.mode in {"RGBA", "LA", "PA"} or "transparency" in image.info
            flat = image.convert("RGBA" if clear else "RGB")
        if clear:
            white = Image.new("RGBA", flat.size, "white")
            flat = Image.alpha_composite(white, flat).convert("RGB")
        flat.save(out, "JPEG", quality=_QUALITY)
    except undecodable() as error:
        raise broken(f"{type(error).__name__}: {error}") from error
    return out.getvalue()
