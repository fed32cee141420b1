"""One run of a real generator: what it asks next, and all that its future depends on.

An actor is a job (`Story.run`, `Story.refuse`) or a wish to cancel (`Cancelling.run`). Where the
story says `Append`, the real `agent.bus.chain.append` runs, and asks the server by itself.
"""

from collections.abc import Coroutine, Generator
from datetime import UTC, datetime
from enum import Enum
from types import CoroutineType, GeneratorType
from typing import Any, Final, Literal
from uuid import UUID

import msgspec

from agent.core.faults import Fault
from agent.core.job import StoredRequest
from agent.core.routing import EngineFacts
from agent.core.steps import (
    Append,
    Command,
    Discard,
    Draw,
    Elsewhere,
    Event,
    Faulted,
    FreeSlot,
    HandBack,
    Keep,
    Kept,
    Look,
    Placed,
    Polish,
    Seen,
    Settle,
    Stored,
    TakeSlot,
    Told,
    Unknown,
    WaitUntil,
)
from contracts.errors import ErrorBody, ErrorCode, error_body
from contracts.events import Failed, Preempted, Released, Retrying, Started, kind_of
from tests.simulation.source import Clock, Code
from tests.simulation.violation import Violation, demand

EXPECTED: Final = "Nats-Expected-Last-Subject-Sequence"
NONCES: Final = (UUID(int=1), UUID(int=2))
"""Two writers; below 256, so that the spread of a pause does not differ between them."""

OVER_S: Final = 1e9
BROKEN: Final = error_body(ErrorCode.INVALID_REQUEST, "unreadable", "$")
NOON: Final = datetime(2026, 1, 2, 12, tzinfo=UTC)


class Role(msgspec.Struct, frozen=True):
    """Who an actor is, but for its nonce."""

    kind: Literal["run", "refuse", "cancel"]
    stored: StoredRequest
    engines: tuple[str, ...]
    now: datetime


class Question(msgspec.Struct, frozen=True):
    """What `chain.append` asks the server: to store a link, or for the head of the chain."""

    what: Literal["store", "head"]
    expected: int | None = None

    def __await__(self) -> Generator["Question", Any, Any]:
        answer = yield self
        if isinstance(answer, Exception):
            raise answer
        return answer


class Wire:
    """The bus as `chain.append` sees it."""

    name = "searched"
    appends_refused = 0  # counted for the metrics; decides nothing

    async def store(
        self, _subject: str, _data: bytes, headers: dict[str, str], **_: object
    ) -> object:
        expected = headers.get(EXPECTED)
        return await Question("store", None if expected is None else int(expected))

    async def api(self, _verb: str, _query: object) -> object:
        return await Question("head")


class Actor:
    """A generator in progress. `asks` is what it waits for; None: it has ended."""

    def __init__(self, code: Code, role: Role, nonce: UUID) -> None:
        self.code = code
        self.role = role
        self.append: Append | None = None
        self.kept = 0
        self.last = ""
        self.stored = False
        self._spoke = False
        self._too_small: frozenset[str] = frozenset()
        self._beating = False
        self._appending: Coroutine[Any, Any, Any] | None = None
        self._holds_slot = False
        if role.kind == "cancel":
            self.self: Any = code.cancelling(role.stored.who, "somebody", nonce, role.now)
            self._steps = self.self.run()
        else:
            author = code.author(worker="worker", nonce=nonce)
            self.self = code.story(role.stored, author, role.now)
            refusing = role.kind == "refuse"
            self._steps = self.self.refuse(BROKEN, b"?") if refusing else self.self.run()
        self.asks: Command | Question | None = None
        self._next(None)

    @property
    def beating(self) -> bool:
        """Whether the worker sends heartbeats for this job, as `agent.worker` does it.

        It also beats while a fresh job waits for its slot, but not during the append that follows;
        the two are one step here, so that it counts as silent for both.
        """
        return self.asks.own if isinstance(self.asks, WaitUntil) else self._beating

    def tell(self, answer: object, now: datetime, *, over: bool = False) -> None:
        """Answer what was asked; `over`: patience has run out meanwhile."""
        if self._appending is None:
            assert isinstance(answer, msgspec.Struct), "a command is answered by an event"
            self._next(Told(answer, now))  # type: ignore[arg-type] # one of Event
            return
        self.code.clock.now_s = OVER_S if over else 0.0
        try:
            self.asks = self._appending.send(answer)
        except StopIteration as stop:
            self._appending = None
            self._next(Told(stop.value, now))
        finally:
            self.code.clock.now_s = 0.0

    def _next(self, told: Told | None) -> None:
        if told is not None:
            self._note(told.event)
        try:
            command = next(self._steps) if told is None else self._steps.send(told)
        except StopIteration:
            demand(
                self.last != "released", "handed back", "a job that wrote `released` kept its lane"
            )
            self.append, self.asks = None, None
            return
        except Exception as error:
            raise Violation("nobody breaks", repr(error)) from error
        self._judge(command)
        if isinstance(command, Look):  # Nobody else can tell when.
            now = told.now if told is not None else self.role.now
            self._next(Told(Seen(_facts(self.role.engines)), now))
            return
        self.asks = command
        self.append = command if isinstance(command, Append) else None
        if self.append is not None:
            self._spoke = True
            self._appending = self.code.append(
                Wire(), self.role.stored.who, self.append.link, self.append.expected
            )
            self.asks = self._appending.send(None)

    # --- the manners of one actor ---------------------------------------------------------------

    def _note(self, event: Event) -> None:
        """Remember what the next command is judged by."""
        if self.append is not None:
            link = self.append.link
            stored = isinstance(event, Stored)
            self._beating = stored and isinstance(link, Started | Retrying)
            self.stored = stored
            self.last = "released" if stored and isinstance(link, Released | Preempted) else ""
        if isinstance(event, Unknown):
            self.last = "unknown"
        elif isinstance(event, Faulted):
            self.last = "faulted"
        match self.asks:
            case HandBack() | Settle():
                self.last = ""
            case TakeSlot(candidate=candidate):
                self._holds_slot = isinstance(event, Placed)
                if isinstance(event, Elsewhere) and event.why == "too_big":
                    self._too_small |= {candidate.engine}
            case FreeSlot():
                self._holds_slot = False
            case Discard() | Polish():
                self.kept = 0
            case Keep(attempt=attempt) if isinstance(event, Kept):
                self.kept = attempt

    def _judge(self, command: Command) -> None:
        if self.last == "unknown":
            demand(
                not isinstance(command, Settle | HandBack | Discard | Polish | Append),
                "unknown says nothing",
                f"{type(command).__name__} after an answer that is not known",
            )
        match command:
            case HandBack():
                demand(
                    self.last == "released" or not self._spoke,
                    "handed back",
                    "HandBack without `released` by one that has written",
                )
            case Append(link=link) if self.last == "faulted":
                demand(
                    isinstance(link, Retrying | Failed),
                    "a fault is a link",
                    f"a failed try was followed by {type(link).__name__}",
                )
            case TakeSlot(candidate=candidate):
                demand(
                    candidate.engine not in self._too_small,
                    "too small stays too small",
                    f"{candidate.engine} is asked for a slot again",
                )
            case WaitUntil():
                demand(not self._holds_slot, "slot given back", "a job waits with its slot held")
            case Draw():
                demand(self._holds_slot, "slot taken", "a job draws without a slot")

    @property
    def leaves(self) -> int:
        """The attempt whose files an ended job may leave behind, because it could not know."""
        return self.kept if self.asks is None and self.last == "unknown" else 0

    @property
    def answer(self) -> str:
        """What a wish to cancel came to."""
        said = self.self.answer
        return str(said.code) if isinstance(said, ErrorBody) else kind_of(said)

    # --- identity --------------------------------------------------------------------------------

    def key(self) -> object:
        """Return a value that two actors share only if they will behave alike.

        A generator's future depends on where each of its frames stands, on their locals, and on
        the object it is a method of; all of these are in the key. What else a frame has is its
        value stack, which at a `yield` of these functions holds nothing but the generator that is
        waited for. `Automaton(check=True)` tests this by running merged actors side by side.
        """
        attributes = {name: freeze(value) for name, value in vars(self.self).items()}
        return (
            self.role.kind,
            tuple(sorted(attributes.items())),
            frames(self._steps),
            frames(self._appending),
            (self._beating, self._holds_slot, self.kept, self.last, self.stored),
            self._too_small,
        )


def _facts(names: tuple[str, ...]) -> tuple[EngineFacts, ...]:
    return tuple(EngineFacts(name=name, slot="cpu", models=("m",)) for name in names)


def frames(running: object) -> tuple[object, ...]:
    """Return position and locals of each frame from the outermost to the one that waits."""
    found: list[object] = []
    while True:
        if isinstance(running, CoroutineType):
            frame, inner = running.cr_frame, running.cr_await
        elif isinstance(running, GeneratorType):
            frame, inner = running.gi_frame, running.gi_yieldfrom
        else:
            return tuple(found)
        if frame is not None:
            local = {name: freeze(v) for name, v in frame.f_locals.items() if name != "self"}
            found.append((frame.f_code.co_name, frame.f_lasti, tuple(sorted(local.items()))))
        running = inner


def freeze(value: object) -> object:
    """Return something hashable that is equal only for equal values."""
    match value:
        case None | bool() | int() | float() | str() | bytes() | Enum() | UUID() | datetime():
            return repr(value)
        case msgspec.Struct():
            fields = (freeze(getattr(value, name)) for name in value.__struct_fields__)
            return (type(value).__name__, *fields)
        case frozenset():
            return tuple(sorted(map(str, value)))
        case list() | tuple():
            return tuple(freeze(item) for item in value)
        case dict():
            return tuple(sorted((str(name), freeze(item)) for name, item in value.items()))
        case Fault():
            return (type(value).__name__, value.message)
        case Exception() | Wire() | Clock():
            return type(value).__name__
    if value is msgspec.UNSET:
        return "unset"
    raise AssertionError(f"a local of unknown kind: {value!r}")
