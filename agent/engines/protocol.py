"""The one protocol of all engines: a job in, pictures out, progress on the way.

An engine knows nothing of the bus, of assets or of retries. It must not write files.
"""

from collections.abc import Callable
from typing import Literal, Protocol

import msgspec

from agent.core import catalog
from agent.core.catalog import StyleBook, StyleSheet
from agent.core.job import StoredRequest
from agent.core.picture import Picture
from agent.core.routing import EngineFacts
from contracts.events import Started
from contracts.requests import Options

__all__ = [
    "Attempt",
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


class Attempt(msgspec.Struct, frozen=True):
    """What names one try at one engine: token, id, number."""

    agent: str
    request_id: str
    attempt: int


class EngineJob(msgspec.Struct, frozen=True, kw_only=True):
    """What an engine needs to make the pictures of one attempt.

    Units: `width` and `height` in pixels. `(agent, request_id, attempt)` is unique. `prompt` is
    the requester's own; what its style adds for a model is in `sheet`. `server` is the peer of
    the slot that was taken, `again` how often the attempt has run out of memory before; `earlier`
    are attempt and server of starts whose workers were lost. `month` (YYYY-MM) is of the stored
    time.
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
    workflow: str | None = None
    options: Options = Options()
    sheet: StyleSheet | None = None
    month: str = ""
    image: bytes | None = None
    previews: bool = False
    server: str | None = None
    earlier: tuple[tuple[int, str], ...] = ()
    again: int = 0

    @property
    def key(self) -> tuple[str, str, int]:
        """The identity of this attempt."""
        return (self.agent, self.request_id, self.attempt)


def order_for(stored: StoredRequest, book: StyleBook) -> EngineJob:
    """Turn a request into an order for no engine yet: enough to ask for its price."""
    request = stored.request
    assert request is not None, "an unreadable request never starts"
    options = request.options
    style = catalog.sheet(book, options.style)
    width, height = catalog.size(options, style)
    brand = Brand(palette=style.brand.palette, logo=style.brand.logo, font=style.brand.font)
    return EngineJob(
        agent=stored.who.agent,
        request_id=stored.who.request_id,
        attempt=1,
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
        options=options,
        sheet=style,
        month=f"{stored.stored_at:%Y-%m}",
        previews=options.previews,
    )


def job_for(order: EngineJob, started: Started, earlier: tuple[Started, ...]) -> EngineJob:
    """Return the order for the attempt and the engine that `started` names."""
    return msgspec.structs.replace(
        order,
        attempt=started.attempt,
        model=started.model,
        workflow=started.workflow,
        server=started.server,
        earlier=tuple(
            (link.attempt, link.server)
            for link in earlier
            if link.engine == started.engine and link.server is not None
        ),
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

    Units: `eta_s` in seconds until the pictures are there, where the engine can tell. `fraction`
    (0 to 1) is of the whole attempt, where steps are only a part of it. `preview` is a JPEG of how
    far the drawing is, for jobs that ask for previews.
    """

    step: int
    steps: int
    message: str
    eta_s: float | None = None
    fraction: float | None = None
    preview: bytes | None = None

    @property
    def share(self) -> float:
        """How much of the attempt is done, 0 to 1."""
        return self.step / max(1, self.steps) if self.fraction is None else self.fraction


Report = Callable[[Step], None]
"""Called on the event loop's thread, in order, `step` never falling; returns at once."""


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """Whether the engine can take a job now; `detail` says why not, or what it is.

    `warnings` are things a person should mend although jobs can run.
    """

    state: Literal["up", "starting", "down"]
    detail: str
    warnings: tuple[str, ...] = ()


class Engine(Protocol):
    """Makes pictures. `slot` names the kind of slot that one job occupies."""

    name: str
    slot: Literal["gpu", "cpu", "cloud"]
    places: tuple[str, ...]
    """Names of the slots this engine brings along, one a server; empty: counted by MMG_SLOTS."""

    @property
    def facts(self) -> EngineFacts:
        """What routing may know of it now: models, workflows, whether it is up."""
        ...

    async def run(self) -> None:
        """Do what goes on beside jobs (sockets, health), until cancelled. Order: before jobs."""
        ...

    async def generate(self, job: EngineJob, report: Report) -> Generation:
        """Make the pictures of `job`.

        Raises: `agent.core.faults.Fault`; `CancelledFault` after `cancel`. When the calling
        task is cancelled, whatever the job occupied is free before CancelledError leaves.
        """
        ...

    async def cancel(self, job: EngineJob) -> None:
        """Stop `job` within one step; its `generate` then raises CancelledFault."""
        ...

    async def forget(self, job: EngineJob) -> None:
        """Remove what the engine still holds of an attempt whose chain went on; never raises."""
        ...

    async def leftovers(self) -> tuple[Attempt, ...]:
        """Return the attempts that an earlier process of this worker left in the engine."""
        ...

    async def drop(self, attempt: Attempt) -> None:
        """End and remove what was left of an attempt; never raises."""
        ...

    async def health(self) -> Health:
        """Say whether a job could run now; never raises, answers within 5 s."""
        ...

    def price_usd(self, job: EngineJob) -> float:
        """Return what `job` would cost here, before it runs."""
        ...

    def time_limit_s(self, job: EngineJob) -> float | None:
        """Return how long `job` may take here; None: as long as any."""
        ...

    async def close(self) -> None:
        """Give back threads, sockets and files. Nothing may be called after it."""
        ...
