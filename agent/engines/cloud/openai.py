"""OpenAI's image models. Pure.

Sources: types of PyPI openai 3.52.0; openai/openai-openapi v2.3.0 (August 2026); pages of
developers.openai.com. Read, not observed: nobody here has a key.
"""

import base64
import binascii
import math
from http import HTTPStatus
from typing import Any, Final

import msgspec

from agent.clock import Clock
from agent.engines.cloud import prices
from agent.engines.cloud.engine import CloudEngine
from agent.engines.cloud.faults import (
    BudgetExceededFault,
    FilteredFault,
    KeyRefusedFault,
    ModelGoneFault,
    PaidFault,
    UnknownOutcomeFault,
)
from agent.engines.cloud.prices import Usage
from agent.engines.cloud.provider import (
    Answer,
    Call,
    Drawn,
    Outlook,
    picture,
    plain,
    words,
)
from agent.engines.cloud.statuses import fault_of
from agent.engines.protocol import EngineJob
from contracts.requests import Quality

TITLE: Final = "OpenAI"
URL: Final = "https://api.openai.com"
MODEL: Final = "gpt-image-2.5-flare"
TIMEOUT_S: Final = 600.0
PAUSE_S: Final = 20.0
"""After a 429 that names no time: limits are per minute."""
SIDE: Final = 16
SHAPE_MAX: Final = 3
"""The long side is at most three times the short one."""
LONG_MAX: Final = 3840
SHORT_MAX: Final = 2160
PIXELS_MIN: Final = 655_360
FIXED_SIZES: Final = ((1024, 1024), (1536, 1024), (1024, 1536))
FIXED_MODELS: Final = ("gpt-image-1", "chatgpt-image")
"""Families before gpt-image-2: they draw the fixed sizes only."""
FILTERED: Final = ("moderation_blocked", "content_policy_violation")

_QUALITIES: Final = {
    Quality.DRAFT: "low",
    Quality.STANDARD: "medium",
    Quality.HIGH: "high",
    Quality.PREMIUM: "high",
}
_EXPECTED_S: Final = {
    Quality.DRAFT: 20.0,
    Quality.STANDARD: 45.0,
    Quality.HIGH: 110.0,
    Quality.PREMIUM: 110.0,
}


class OpenAISettings(msgspec.Struct, frozen=True, kw_only=True):
    """How OpenAI is used. Units: seconds; a picture of high quality takes minutes."""

    url: str = URL
    model: str = MODEL
    timeout_s: float = TIMEOUT_S


class _Image(msgspec.Struct, frozen=True):
    b64_json: str = ""


class _Images(msgspec.Struct, frozen=True):
    data: tuple[_Image, ...] = ()
    usage: Usage | None = None


class _Trouble(msgspec.Struct, frozen=True):
    message: str | None = None
    type: str | None = None
    code: str | None = None


class _Error(msgspec.Struct, frozen=True):
    error: _Trouble = _Trouble()


class OpenAI:
    """Writes calls to OpenAI and reads its answers."""

    name = "openai"
    title = TITLE
    key_name = "OPENAI_API_KEY"
    ignores_seed = True

    def __init__(self, settings: OpenAISettings) -> None:
        """Draw with the one model that is configured: names come and go."""
        self._model = settings.model
        self.url = settings.url
        self.timeout_s = settings.timeout_s
        self.probe_path = f"/v1/models/{settings.model}"
        self.models: tuple[str, ...] = (settings.model,)

    def model(self, _quality: Quality, _asked: str | None) -> str:
        """Return the configured model."""
        return self._model

    def expected_s(self, job: EngineJob) -> float:
        """Return how long a call takes: a guess, until the first was seen."""
        return _EXPECTED_S[Quality(job.quality)]

    def calls(self, job: EngineJob) -> tuple[Call, ...]:
        """Return the one call for all pictures. There is no seed and no negative prompt."""
        prompt, negative = words(job)
        if negative:
            prompt = f"{prompt}\n\nAvoid: {negative}"
        quality = Quality(job.quality)
        width, height = size(self._model, job.width, job.height)
        usd = prices.openai_estimate_usd(self._model, quality, width * height, len(prompt))
        body: dict[str, Any] = {
            "model": self._model,
            "prompt": prompt,
            "n": job.count,
            "size": f"{width}x{height}",
            "quality": _QUALITIES[quality],
            "output_format": "png",
        }
        return (Call(path="/v1/images/generations", usd=usd * job.count, body=body),)

    def read(self, job: EngineJob, call: Call, answer: Answer) -> Drawn:
        """Return the pictures of a 200; the cost is counted from `usage`, else as estimated.

        Raises: UnknownOutcomeFault.
        """
        usd = call.usd
        try:
            found = msgspec.json.decode(answer.body, type=_Images)
            if found.usage is not None and found.usage.output_tokens:
                usd = prices.openai_usd(self._model, found.usage)
            images = [base64.b64decode(image.b64_json, validate=True) for image in found.data]
        except (msgspec.DecodeError, binascii.Error, ValueError) as error:
            raise UnknownOutcomeFault(
                f"{TITLE} sent an answer that cannot be read", spent_usd=usd
            ) from error
        if len(images) != job.count:
            raise UnknownOutcomeFault(
                f"{TITLE} sent {len(images)} pictures, not {job.count}", spent_usd=usd
            )
        pictures = tuple(picture(data, TITLE, usd) for data in images)
        return Drawn(pictures=pictures, usd=usd)

    def fault(self, answer: Answer) -> PaidFault:
        """Return what an error means. `code` counts before the status."""
        error = _error(answer)
        said = plain(error.message or "no reason given")
        if error.code in FILTERED:
            return FilteredFault(f"{TITLE} does not draw this prompt: {said}")
        if error.code == "model_not_found" or answer.status == HTTPStatus.NOT_FOUND:
            return ModelGoneFault(
                f"{TITLE} has no model {self._model!r} any more: set MMG_OPENAI_MODEL"
            )
        if "insufficient_quota" in (error.code, error.type):
            return BudgetExceededFault(f"the account at {TITLE} is out of credits")
        if answer.status == HTTPStatus.FORBIDDEN:
            return KeyRefusedFault(
                f"{TITLE} does not permit {self._model} with the key in {self.key_name}"
            )
        return fault_of(answer, TITLE, self.key_name, said, PAUSE_S)

    def outlook(self, answer: Answer) -> Outlook:
        """Return what the model's own page says: is it there, and until when."""
        if answer.status in (
            HTTPStatus.UNAUTHORIZED,
            HTTPStatus.FORBIDDEN,
            HTTPStatus.NOT_FOUND,
        ):
            return Outlook(down=self.fault(answer).message)
        if answer.status != HTTPStatus.OK:
            return Outlook(detail=f"its models answer HTTP {answer.status}")
        ends = answer.json.get("shutdown_date") if isinstance(answer.json, dict) else None
        return Outlook(detail=self._model, ends_on=ends if isinstance(ends, str) else None)


def openai_engine(
    key: str | None,
    clock: Clock,
    settings: OpenAISettings | None = None,
    *,
    expected_s: float | None = None,
) -> CloudEngine:
    """Return the engine `openai`; without a key it is down."""
    provider = OpenAI(settings or OpenAISettings())
    return CloudEngine(provider, key, clock, expected_s=expected_s)


def size(model: str, width: int, height: int) -> tuple[int, int]:
    """Return the size to ask for: as wanted where the model draws any, else the nearest shape.

    1. A model of fixed sizes: the one whose shape comes closest.
    2. Too long a shape: the short side grows until it is a third.
    3. Too few pixels: both sides grow.
    4. Sides are multiples of 16, within the bounds.
    """
    if model.startswith(FIXED_MODELS):  # 1
        wanted = math.log(width / height)
        return min(FIXED_SIZES, key=lambda size: abs(math.log(size[0] / size[1]) - wanted))
    long, short = max(width, height), min(width, height)
    short = max(short, math.ceil(long / SHAPE_MAX))  # 2
    grow = max(1.0, math.sqrt(PIXELS_MIN / (long * short)))  # 3
    long, short = min(_up(long * grow), LONG_MAX), min(_up(short * grow), SHORT_MAX)  # 4
    return (long, short) if width >= height else (short, long)


def _up(side: float) -> int:
    """Return the next multiple of 16; what is one already stays."""
    return math.ceil(round(side / SIDE, 6)) * SIDE


def _error(answer: Answer) -> _Trouble:
    try:
        return msgspec.json.decode(answer.body, type=_Error).error
    except msgspec.DecodeError:
        return _Trouble()
