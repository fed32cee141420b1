"""Stability AI: v2beta core, sd3 and ultra by quality; v1 SDXL where it is asked for. Pure.

Sources: openapi.json of nod-ai/StabilityAI-client-typescript (v1, March 2025); types.ts of
tadasant/mcp-server-stability-ai (v2beta, December 2024). Read, not observed: nobody here has a key.
"""

import base64
import binascii
import math
from http import HTTPStatus
from typing import Any, Final, Literal

import msgspec

from agent.clock import Clock
from agent.engines.cloud import prices
from agent.engines.cloud.engine import CloudEngine
from agent.engines.cloud.faults import (
    FilteredFault,
    KeyRefusedFault,
    ModelGoneFault,
    PaidFault,
    RefusedFault,
    UnknownOutcomeFault,
)
from agent.engines.cloud.provider import (
    Answer,
    Call,
    Drawn,
    Outlook,
    model_asked,
    picture,
    plain,
    words,
)
from agent.engines.cloud.statuses import fault_of
from agent.engines.protocol import EngineJob
from contracts.requests import Quality

TITLE: Final = "Stability AI"
URL: Final = "https://api.stability.ai"
TIME_OUT_S: Final = 60.0
"""Over 150 calls in 10 s the provider answers nothing but 429 for so long."""
SEED_MAX: Final = 2**32 - 2
PROMPT_MAX_V1: Final = 2000
STEPS_V1: Final = (10, 50)
CFG_V1: Final = (0.0, 35.0)
CFG_SD3: Final = (1.0, 10.0)

SD3: Final = ("sd3.5-large", "sd3.5-large-turbo", "sd3.5-medium")
CORE: Final = "stable-image-core"
ULTRA: Final = "stable-image-ultra"
SDXL: Final = "stable-diffusion-xl-1024-v1-0"

RATIOS: Final = ("21:9", "16:9", "3:2", "5:4", "1:1", "4:5", "2:3", "9:16", "9:21")
"""What v2beta draws; it takes no width and no height, and has no 4:3."""
SIZES_V1: Final = (
    (1024, 1024),
    (1152, 896),
    (896, 1152),
    (1216, 832),
    (832, 1216),
    (1344, 768),
    (768, 1344),
    (1536, 640),
    (640, 1536),
)
"""What SDXL 1.0 draws; v1's own default of 512 is not among them."""
_EXPECTED_S: Final = {CORE: 8.0, ULTRA: 20.0, SDXL: 8.0}


class StabilitySettings(msgspec.Struct, frozen=True, kw_only=True):
    """How Stability is used. Units: seconds. `api` v1 is SDXL 1.0, no longer developed."""

    url: str = URL
    api: Literal["v2beta", "v1"] = "v2beta"
    high_model: str = SD3[0]
    timeout_s: float = 300.0


class _Artifact(msgspec.Struct, frozen=True):
    """One picture of an answer. v1 and v2beta spell the same differently."""

    base64: str = ""
    finishReason: str = ""  # noqa: N815 - the provider's spelling
    seed: int | None = None


class _V2(msgspec.Struct, frozen=True):
    image: str = ""
    finish_reason: str = ""
    seed: int | None = None


class _V1(msgspec.Struct, frozen=True):
    artifacts: tuple[_Artifact, ...] = ()


class _Error(msgspec.Struct, frozen=True):
    """An error of either version: v1 has `message`, v2beta `errors`."""

    name: str = ""
    message: str = ""
    errors: tuple[str, ...] = ()

    @property
    def words(self) -> str:
        return plain("; ".join(self.errors) or self.message or "no reason given")


class Stability:
    """Writes calls to Stability and reads its answers."""

    name = "stability"
    title = TITLE
    key_name = "STABILITY_API_KEY"
    ignores_seed = False

    def __init__(self, settings: StabilitySettings) -> None:
        """Draw with the models of one version of the API."""
        self._settings = settings
        self._v1 = settings.api == "v1"
        self.url = settings.url
        self.timeout_s = settings.timeout_s
        self.probe_path = "/v1/engines/list" if self._v1 else "/v1/user/balance"
        self.models: tuple[str, ...] = (SDXL,) if self._v1 else (CORE, *SD3, ULTRA)

    def model(self, quality: Quality, asked: str | None) -> str:
        """Return the model that was asked for, else: core, from high sd3, premium ultra."""
        if asked is not None:
            return asked
        if self._v1:
            return SDXL
        by_quality = {Quality.HIGH: self._settings.high_model, Quality.PREMIUM: ULTRA}
        return by_quality.get(quality, CORE)

    def expected_s(self, job: EngineJob) -> float:
        """Return how long a picture takes: a guess, until the first was seen."""
        return _EXPECTED_S.get(self._model(job), 12.0)

    def calls(self, job: EngineJob) -> tuple[Call, ...]:
        """Return one call for each picture. Raises: RefusedFault."""
        write = self._call_v1 if self._v1 else self._call
        return tuple(write(job, index) for index in range(job.count))

    def read(self, _job: EngineJob, call: Call, answer: Answer) -> Drawn:
        """Return the picture of a 200.

        Only SUCCESS is a picture: CONTENT_FILTERED comes as a 200 with a blurred one, and is
        charged. Raises: FilteredFault, UnknownOutcomeFault.
        """
        try:
            if self._v1:
                (found,) = msgspec.json.decode(answer.body, type=_V1).artifacts
            else:
                v2 = msgspec.json.decode(answer.body, type=_V2)
                found = _Artifact(v2.image, v2.finish_reason, v2.seed)
            if found.finishReason == "CONTENT_FILTERED":
                raise FilteredFault(f"{TITLE} filtered the picture it drew", spent_usd=call.usd)
            if found.finishReason != "SUCCESS":
                raise UnknownOutcomeFault(
                    f"{TITLE} ended the picture as {plain(found.finishReason) or 'nothing'!r}",
                    spent_usd=call.usd,
                )
            data = base64.b64decode(found.base64, validate=True)
        except (msgspec.DecodeError, binascii.Error, ValueError) as error:
            raise UnknownOutcomeFault(
                f"{TITLE} sent an answer that cannot be read", spent_usd=call.usd
            ) from error
        return Drawn(pictures=(picture(data, TITLE, call.usd),), usd=call.usd, seed=found.seed)

    def fault(self, answer: Answer) -> PaidFault:
        """Return what an error means; a call that fails is not charged."""
        error = _error(answer)
        match answer.status:
            case HTTPStatus.FORBIDDEN if error.name == "content_moderation":
                return FilteredFault(f"{TITLE} does not draw this prompt: {error.words}")
            case HTTPStatus.FORBIDDEN:
                return KeyRefusedFault(
                    f"{TITLE} does not permit this with the key in {self.key_name}"
                )
            case HTTPStatus.NOT_FOUND:
                return ModelGoneFault(f"{TITLE} has no such model any more: {error.words}")
        return fault_of(answer, TITLE, self.key_name, error.words, TIME_OUT_S)

    def outlook(self, answer: Answer) -> Outlook:
        """Return what the free question says: is the key good, is anything left, is SDXL there."""
        if answer.status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
            return Outlook(down=self.fault(answer).message)
        if answer.status != HTTPStatus.OK:
            return Outlook(detail=f"its account answers HTTP {answer.status}")
        if self._v1:
            there = any(_name(one) == SDXL for one in _listed(answer.json))
            return Outlook(down="" if there else f"{TITLE} has no {SDXL} any more")
        credits_left = answer.json.get("credits") if isinstance(answer.json, dict) else None
        if not isinstance(credits_left, int | float):
            return Outlook()
        least = prices.STABILITY_CREDITS[CORE]
        down = "" if credits_left >= least else f"the account at {TITLE} is out of credits"
        return Outlook(down=down, detail=f"{credits_left:.1f} credits left")

    # --- calls ---------------------------------------------------------------------------------

    def _model(self, job: EngineJob) -> str:
        return self.model(Quality(job.quality), model_asked(job, self.models))

    def _call(self, job: EngineJob, index: int) -> Call:
        """Write a v2beta call: multipart always, no width, no height."""
        model = self._model(job)
        prompt, negative = words(job)
        form = [
            ("prompt", prompt),
            ("aspect_ratio", ratio(job.width, job.height)),
            ("seed", str(seed(job.seed, index))),
            ("output_format", "png"),
        ]
        if negative:
            form.append(("negative_prompt", negative))
        path = {CORE: "core", ULTRA: "ultra"}.get(model, "sd3")
        if path == "sd3":
            form += [("model", model), ("mode", "text-to-image")]
            if job.cfg is not None:
                form.append(("cfg_scale", f"{_within(job.cfg, *CFG_SD3):g}"))
        return Call(
            path=f"/v2beta/stable-image/generate/{path}",
            usd=prices.stability_usd(model),
            form=tuple(form),
        )

    def _call_v1(self, job: EngineJob, index: int) -> Call:
        """Write a v1 call; a negative prompt is a prompt of negative weight."""
        prompt, negative = words(job)
        if max(len(prompt), len(negative)) > PROMPT_MAX_V1:
            raise RefusedFault(f"{SDXL} takes prompts of {PROMPT_MAX_V1} characters", "$.prompt")
        width, height = size_v1(job.width, job.height)
        steps = int(_within(job.steps or prices.SDXL_STEPS, *STEPS_V1))
        texts: list[dict[str, Any]] = [{"text": prompt, "weight": 1.0}]
        if negative:
            texts.append({"text": negative, "weight": -1.0})
        return Call(
            path=f"/v1/generation/{SDXL}/text-to-image",
            usd=prices.sdxl_usd(steps),
            body={
                "text_prompts": texts,
                "width": width,
                "height": height,
                "seed": seed(job.seed, index),
                "steps": steps,
                "samples": 1,
                "cfg_scale": _within(7.0 if job.cfg is None else job.cfg, *CFG_V1),
            },
        )


def stability_engine(
    key: str | None,
    clock: Clock,
    settings: StabilitySettings | None = None,
    *,
    expected_s: float | None = None,
) -> CloudEngine:
    """Return the engine `stability`; without a key it is down."""
    provider = Stability(settings or StabilitySettings())
    return CloudEngine(provider, key, clock, expected_s=expected_s)


def ratio(width: int, height: int) -> str:
    """Return the aspect ratio that comes closest to a size."""
    wanted = math.log(width / height)

    def distance(name: str) -> float:
        across, _, down = name.partition(":")
        return abs(math.log(int(across) / int(down)) - wanted)

    return min(RATIOS, key=distance)


def size_v1(width: int, height: int) -> tuple[int, int]:
    """Return the size of SDXL 1.0 whose shape comes closest."""
    wanted = math.log(width / height)
    return min(SIZES_V1, key=lambda size: abs(math.log(size[0] / size[1]) - wanted))


def seed(wanted: int, index: int) -> int:
    """Return the seed of picture `index`: 1 to 2^32 - 2, because 0 means any."""
    return (wanted + index - 1) % SEED_MAX + 1


def _within(value: float, low: float, high: float) -> float:
    return min(high, max(low, value))


def _error(answer: Answer) -> _Error:
    try:
        return msgspec.json.decode(answer.body, type=_Error)
    except msgspec.DecodeError:
        return _Error()


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _name(item: Any) -> str:
    return str(item.get("id", "")) if isinstance(item, dict) else ""
