"""What a worker and a gateway tell of the time they take: spans, for whoever collects them.

Here is the protocol, and what does nothing, which is used unless an operator wants spans
(`agent.tracing.opening`). The trace of a request is passed on by others, with and without spans.
Nothing here may wait, fail or decide anything.
"""

from typing import Final, Protocol, Self

from agent.core.job import StoredRequest
from agent.core.steps import Command, Event
from contracts.events import Link
from contracts.requests import Priority
from contracts.subjects import Identity
from contracts.trace import Trace


class Step(Protocol):
    """The time that one command of a story takes: a context."""

    def __enter__(self) -> Self:
        """Begin."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: object
    ) -> None:
        """End, whatever has happened."""

    def came(self, event: Event) -> None:
        """Note what came of the command."""


class JobSpan(Protocol):
    """The time that one job takes. `trace_id` is the trace it is in; None: it is in none."""

    @property
    def trace_id(self) -> str | None:
        """The trace of this span, 32 hex digits."""

    def step(self, command: Command) -> Step:
        """Return the part of it that a command takes; not each command is worth one."""

    def link(self, link: Link, seq: int) -> None:
        """Note a link that the server has stored at `seq`."""

    def end(self, ended: str) -> None:
        """End it, saying how the story stands."""


class Sending(Protocol):
    """A request on its way to its lane: a context. An exception that leaves it is noted."""

    def __enter__(self) -> Self:
        """Begin."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: object
    ) -> None:
        """End, whatever has happened."""

    @property
    def trace(self) -> Trace | None:
        """What the request is to carry."""

    def stored(self, who: Identity, priority: Priority, *, joined: bool) -> None:
        """Note where it lies now; `joined`: it was known before."""


class Tracer(Protocol):
    """Makes the spans of one process. Order: `close` once nothing is begun any more."""

    def process(self, stored: StoredRequest, deliveries: int) -> JobSpan:
        """Begin the span of a job whose request was handed out `deliveries` times."""

    def send(self, of: Trace | None) -> Sending:
        """Begin the span of a request that came in with the trace `of`."""

    async def close(self) -> None:
        """Send what is left, but not for longer than a stop may take."""


class _NoStep:
    """Takes no time down."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: object
    ) -> None:
        pass

    def came(self, event: Event) -> None:
        """Say nothing."""


class _NoSpan:
    """Tells nobody anything."""

    trace_id = None

    def step(self, command: Command) -> Step:  # noqa: ARG002 - the protocol's
        """Return what does nothing."""
        return NO_STEP

    def link(self, link: Link, seq: int) -> None:
        """Say nothing."""

    def end(self, ended: str) -> None:
        """Say nothing."""


class _Passing:
    """Lets a request pass with the trace it came with."""

    def __init__(self, of: Trace | None) -> None:
        """Keep the trace as it is."""
        self.trace = of

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: object
    ) -> None:
        pass

    def stored(self, who: Identity, priority: Priority, *, joined: bool) -> None:
        """Say nothing."""


class Untraced:
    """Makes no spans."""

    def process(self, stored: StoredRequest, deliveries: int) -> JobSpan:  # noqa: ARG002 - as above
        """Return what does nothing."""
        return _NO_SPAN

    def send(self, of: Trace | None) -> Sending:
        """Return what passes `of` on."""
        return _Passing(of)

    async def close(self) -> None:
        """Have nothing to send."""


NO_STEP: Final[Step] = _NoStep()
_NO_SPAN: Final = _NoSpan()
UNTRACED: Final[Tracer] = Untraced()
