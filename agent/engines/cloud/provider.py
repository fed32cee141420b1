"""A provider as the engine sees it: pure. It writes calls and reads answers, and sends nothing.

`agent.engines.cloud.http` sends them, `agent.engines.cloud.engine` decides how often: once.
"""

from collections.abc import Mapping
from typing import Any, Final, Protocol

import msgspec

from agent.core import catalog
from agent.engines.cloud.faults import PaidFault, UnknownOutcomeFault
from agent.engines.protocol import EngineJob, Picture
from contracts.requests import Quality

_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
_HEADER: Final = 24
WORDS_MAX: Final = 200


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """One paid call: a multipart form or a JSON body. Units: `usd` is its price in US dollars."""

    path: str
    usd: float
    form: tuple[tuple[str, str], ...] | None = None
    body: dict[str, Any] | None = None


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """An answer in full; header names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body as JSON; an empty object where it is none."""
        try:
            return msgspec.json.decode(self.body)
        except msgspec.DecodeError:
            return {}


class Drawn(msgspec.Struct, frozen=True, kw_only=True):
    """What a call has brought: `seed` where the provider tells it, `usd` what it cost."""

    pictures: tuple[Picture, ...]
    usd: float
    seed: int | None = None


class Outlook(msgspec.Struct, frozen=True, kw_only=True):
    """What a free question found out: `down` is why no job should come, `detail` is for a person.

    `ends_on` (YYYY-MM-DD) is when the model is switched off, where that is known.
    """

    down: str = ""
    detail: str = ""
    ends_on: str | None = None


class Provider(Protocol):
    """One cloud. `title` is its name for people, `key_name` the setting that holds its key."""

    name: str
    title: str
    key_name: str
    models: tuple[str, ...]
    ignores_seed: bool
    url: str
    timeout_s: float
    probe_path: str

    def model(self, quality: Quality, asked: str | None) -> str:
        """Return the model that draws a quality, or the one that was asked for."""
        ...

    def expected_s(self, job: EngineJob) -> float:
        """Return how long one call takes, before any was seen."""
        ...

    def calls(self, job: EngineJob) -> tuple[Call, ...]:
        """Return the calls that make the pictures of a job. Raises: RefusedFault."""
        ...

    def read(self, job: EngineJob, call: Call, answer: Answer) -> Drawn:
        """Return the pictures of a 200. Raises: PaidFault, with what the call has cost."""
        ...

    def fault(self, answer: Answer) -> PaidFault:
        """Return what an answer other than 200 means."""
        ...

    def outlook(self, answer: Answer) -> Outlook:
        """Return what the answer to `probe_path` means."""
        ...


def model_asked(job: EngineJob, models: tuple[str, ...]) -> str | None:
    """Return the model that the request itself names, if it is one of these."""
    return job.options.model if job.options.model in models else None


def words(job: EngineJob) -> tuple[str, str]:
    """Return prompt and negative prompt, with what the style adds."""
    if job.sheet is None:
        return job.prompt.strip(), (job.negative_prompt or "").strip()
    return catalog.words(job.prompt, job.sheet, job.options)


def picture(data: bytes, who: str, usd: float) -> Picture:
    """Return a picture with the size that its bytes have, which may not be the one asked for.

    Raises: UnknownOutcomeFault for bytes that are no PNG: paid for, and of no use.
    """
    if not data.startswith(_SIGNATURE) or len(data) < _HEADER:
        raise UnknownOutcomeFault(f"{who} sent a picture that is no PNG", spent_usd=usd)
    width, height = (int.from_bytes(data[at : at + 4], "big") for at in (16, 20))
    return Picture(data=data, width=width, height=height, format="png")


def plain(text: object) -> str:
    """Return a provider's words as one short line."""
    return " ".join(str(text).split())[:WORDS_MAX]
