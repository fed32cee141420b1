"""What pictures cost at the providers. Pure numbers; prices change, so each names its source.

A price for a reservation is rather too high than too low. Units: US dollars.
"""

from collections.abc import Mapping
from typing import Final

import msgspec

from contracts.requests import Quality

# --- Stability AI -------------------------------------------------------------------------------

CREDIT_USD: Final = 0.01
"""Source: Stability's OpenAPI description, and developer.puter.com, June 2026."""

STABILITY_CREDITS: Final[Mapping[str, float]] = {
    "stable-image-core": 3.0,
    "sd3.5-large": 6.5,
    "sd3.5-large-turbo": 4.0,
    "sd3.5-medium": 3.5,
    "stable-image-ultra": 8.0,
}
"""Credits for a picture, v2beta; a failed call costs nothing, a filtered picture costs the same."""

SDXL_CREDITS: Final = 0.9
SDXL_STEPS: Final = 30
"""v1, SDXL 1.0: 0.9 credits up to 30 steps, above that in proportion."""


def stability_usd(model: str) -> float:
    """Return the price of a v2beta picture."""
    return STABILITY_CREDITS[model] * CREDIT_USD


def sdxl_usd(steps: int) -> float:
    """Return the price of a v1 picture."""
    return SDXL_CREDITS * max(1.0, steps / SDXL_STEPS) * CREDIT_USD


# --- OpenAI -------------------------------------------------------------------------------------


class Rates(msgspec.Struct, frozen=True, kw_only=True):
    """Price of a token: of text and pictures that go in, of pictures that come out.

    `picture` is what a picture of 1024 x 1024 costs by quality, for what must be known before.
    """

    text: float
    image: float
    out: float
    picture: Mapping[Quality, float]


def _by_quality(low: float, medium: float, high: float) -> Mapping[Quality, float]:
    return {
        Quality.DRAFT: low,
        Quality.STANDARD: medium,
        Quality.HIGH: high,
        Quality.PREMIUM: high,
    }


_MINI: Final = Rates(text=2e-6, image=2.5e-6, out=8e-6, picture=_by_quality(0.005, 0.011, 0.036))
"""Source: OpenAI's model page of gpt-image-1-mini; the model goes on 2026-12-01."""
_NORMAL: Final = Rates(text=5e-6, image=8e-6, out=30e-6, picture=_by_quality(0.006, 0.053, 0.211))
"""Source: OpenAI's model page of gpt-image-2.6-sunburst for tokens (2 and 2.5 cost the same), its
image guide for gpt-image-2 by picture; 2.5 and 2.6 have no such table yet and are taken as equal.
"""
PIXELS: Final = 1024 * 1024
TEXT_TOKENS_A_LETTER: Final = 1.0
"""Never fewer in any script; English has about four letters a token."""


def rates(model: str) -> Rates:
    """Return the rates of a model; an unknown one costs as the normal ones do."""
    return _MINI if "mini" in model else _NORMAL


class _InputDetails(msgspec.Struct, frozen=True):
    text_tokens: int = 0
    image_tokens: int = 0


class Usage(msgspec.Struct, frozen=True):
    """What an answer says it has used."""

    input_tokens: int = 0
    output_tokens: int = 0
    input_tokens_details: _InputDetails | None = None


def openai_usd(model: str, usage: Usage) -> float:
    """Return what a call has cost; input that is not told apart counts as the dearer kind."""
    price = rates(model)
    details = usage.input_tokens_details
    text = details.text_tokens if details is not None else 0
    return (
        text * price.text
        + max(0, usage.input_tokens - text) * price.image
        + usage.output_tokens * price.out
    )


def openai_estimate_usd(model: str, quality: Quality, pixels: int, letters: int) -> float:
    """Return the price of one picture before it is made, rather too high than too low."""
    price = rates(model)
    return (
        price.picture[quality] * max(1.0, pixels / PIXELS)
        + letters * TEXT_TOKENS_A_LETTER * price.text
    )
