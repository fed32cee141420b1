"""Thumbnails: a small WebP of a picture. Must not touch the disk."""

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
