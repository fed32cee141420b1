"""A picture: bytes as an engine made them, before they are stored."""

from typing import Literal

import msgspec


class Picture(msgspec.Struct, frozen=True, kw_only=True):
    """One image. Units: `width` and `height` in pixels, as really produced."""

    data: bytes
    width: int
    height: int
    format: Literal["png", "jpeg", "webp"]
