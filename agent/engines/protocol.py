"""The one protocol of all engines: a job in, pictures out, progress on the way.

An engine knows nothing of the bus, of assets or of retries. It must not write files.
"""

from collections.abc import Callable
from typing import Literal, Protocol

import msgspec

from agent.core import catalog
from agent.core.catalog import StyleBook
from agent.core.job import StoredRequest
from agent.core.picture import Picture
from contracts.events import Started

__all__ = [
    "Brand",
    "Engine",
    "EngineJob",
    "Generation",
    "Health",
    "Picture",
    "Report",
    "Step",
    "job_for",
]


class Brand(msgspec.Struct, frozen=True, kw_only=True):
    """Colours and marks of a style, read from `workflows/styles.toml`.

    `palette` holds `#rrggbb` strings, background first, then ink, then accents.
    """

    palette: tuple[str, ...]
    logo: str | None = None
    font: str | None = None


class EngineJob(msgspec.Struct, frozen=True, kw_only=True):
    """What an engine needs to make the pictures of one attempt.

    Units: `width` and `height` in pixels. `(agent, request_id, attempt)` is unique.
    """

    agent: str
    request_id: str
    attempt: int
    prompt: str
    negative_prompt: str | None
    style: str | None
    brand: Brand
    quality: str
    width: int
    height: int
    count: int
    seed: int
    steps: int | None = None
    cfg: float | None = None
    model: str | None = None

    @property
    def key(self) -> tuple[str, str, int]:
        """The identity of this attempt."""
        return (self.agent, self.request_id, self.attempt)


def job_for(stored: StoredRequest, started: Started, book: StyleBook) -> EngineJob:
    """Turn a request into the order for the engine that `started` names."""
    request = stored.request
    assert request is not None, "an unreadable request never starts"
    options = request.options
    style = catalog.sheet(book, options.style)
    width, height = catalog.size(options, style)
    brand = Brand(palette=style.brand.palette, logo=style.brand.logo, font=style.brand.font)
    return EngineJob(
        agent=stored.who.agent,
        request_id=stored.who.request_id,
        attempt=started.attempt,
        prompt=request.prompt.strip(),
        negative_prompt=options.negative_prompt,
        style=options.style,
        brand=brand,
        quality=options.quality,
        width=width,
        height=height,
        count=options.count,
        seed=options.seed if options.seed is not None else catalog.seed_for(stored.who),
        steps=options.steps,
        cfg=options.cfg,
        model=started.model,
    )


class Generation(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome of one successful attempt.

    Units: `cost_usd` in US dollars for all pictures, `vram_mib` the peak while it ran.
    """

    pictures: tuple[Picture, ...]
    model_used: str
    seed: int
    cost_usd: float = 0.0
    vram_mib: int | None = None


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """Progress of an attempt: `step` of `steps` are done; `message` is for a person.

    Units: `eta_s` in seconds until the pictures are there, where the engine can tell.
    """

    step: int
    steps: int
    message: str
    eta_s: float | None = None


Report = Callable[[Step], None]
"""Called on the event loop's thread, in order, `step` never falling; returns at once."""


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """Whether the engine can take a job now; `detail` says why not, or what it is."""

    state: Literal["up", "starting", "down"]
    detail: str


class Engine(Protocol):
    """Makes pictures. `slot` names the kind of slot that one job occupies."""

    name: str
    slot: Literal["gpu", "cpu", "cloud"]
    models: tuple[str, ...]

    async def generate(self, job: EngineJob, report: Report) -> Generation:
        """Make the pictures of `job`.

        Raises: `agent.core.faults.Fault`; `CancelledFault` after `cancel`. When the calling
        task is cancelled, whatever the job occupied is free before CancelledError leaves.
        """
        ...

    async def cancel(self, job: EngineJob) -> None:
        """Stop `job` within one step; its `generate` then raises CancelledFault."""
        ...

    async def health(self) -> Health:
        """Say whether a job could run now; never raises, answers within 5 s."""
        ...

    def price_usd(self, job: EngineJob) -> float:
        """Return what `job` would cost here, before it runs."""
        ...

    async def close(self) -> None:
        """Give back threads, sockets and files. Nothing may be called after it."""
        ...
