"""The data of a searched world: what is configured, what is, and what a step does.

Everything in a `State` is a small number or a tuple of them, so that equal states are found by
hashing. What the numbers of chains and positions mean is known to `chains` and `automaton`.
"""

from typing import Final, NamedTuple

import msgspec

from tests.simulation.automaton import Answer

CRASH, ENGINE, LOST, STOP, FROZEN, DELAYED, CANCEL = range(7)
IS_LATE: Final = 1
IS_PUBLISHED: Final = 2


class Faults(msgspec.Struct, frozen=True, kw_only=True):
    """How often each thing may go wrong, or be wished, in one run. In the order of `State.left`."""

    crash: int = 0
    """A worker dies with all it has in hand; another process takes its place."""
    engine: int = 0
    """An engine or the disk fails."""
    lost: int = 0
    """A message or its answer is lost; the asker asks again or runs out of patience."""
    stop: int = 0
    """A worker that drains interrupts a job."""
    frozen: int = 0
    """A request is delivered again although its worker lives and sends heartbeats."""
    delayed: int = 0
    """A copy of an append stays on the way and may arrive at any later time."""
    cancel: int = 0
    """Somebody asks for the request to be cancelled."""


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """One world to be searched."""

    name: str
    faults: Faults
    workers: int = 2
    unable: int = 0
    """How many of the workers cannot read the request."""
    requests: int = 1
    """Stored requests of the one identity, in different lanes."""
    engines: tuple[str, ...] = ("sketch",)
    remedies: tuple[str, ...] = ("retry",)
    """What the faults of engines are, see `automaton.FAULTS`."""
    passes: tuple[str, ...] = ()
    """Why the arbiter may have no slot for a candidate; counts as a fault of an engine."""
    deadline: bool = False
    """The request has a start deadline, which may pass at any time."""
    published_later: bool = False
    """The request is not in its lane yet when the search begins."""
    removed_first: bool = False
    """The first request was started and then removed by hand; its chain is open."""


Job = tuple[int, bool, int] | tuple[()]
"""Position, whether it wrote the head of the chain, and its delayed copy (-1: none)."""

Wish = tuple[int, bool, int, bool]
"""A canceller: as a job, and whether the request was there when it was wished."""

Jobs = tuple[Job, ...]
"""What one worker has in hand, by stored request; a second delivery of it joins its job."""


class State(NamedTuple):
    """Everything that is."""

    chain: int
    lane: int
    """Stored requests that are in their lanes, as bits."""
    files: int
    """Attempts whose files are on the disk, as bits."""
    excused: int
    """Attempts whose files may stay: their writer died, or never learned how it ended."""
    workers: tuple[Jobs, ...]
    wishes: tuple[Wish, ...]
    delayed: tuple[int, ...]
    """Delayed copies whose senders are gone."""
    left: tuple[int, ...]
    """What may still go wrong."""
    flags: int


class Effect(NamedTuple):
    """What one command may do to the world; `answer` None: its actor goes on waiting."""

    note: str
    answer: Answer | None
    chain: int
    writes: bool
    """Whether the actor is the writer of the chain's head now."""
    delayed: int
    lane: int
    files: int
    left: tuple[int, ...]
    good: bool
    """Nothing went wrong in it."""
    silent: bool = False
    """Nobody but the actor can notice it."""


Said = tuple[tuple[int, str], ...]
"""The commands of one step: position and what came of each."""

Step = tuple[tuple[object, ...], State, bool]
"""What happened, what is then, and whether nothing went wrong in it."""

COMES: Final = (-1, "")
DIES: Final = (-2, "")


def spend(state: State, what: int) -> tuple[int, ...]:
    """Return what may still go wrong after one more of this."""
    left = list(state.left)
    left[what] -= 1
    return tuple(left)


def placed(workers: tuple[Jobs, ...], at: int, request: int, job: Job) -> tuple[Jobs, ...]:
    """Return the workers with one job in its place."""
    jobs = workers[at]
    changed = (*jobs[:request], job, *jobs[request + 1 :])
    return (*workers[:at], changed, *workers[at + 1 :])


def disowned(state: State) -> State:
    """Take the head of the chain from whoever wrote it: there is a new one."""
    workers = tuple(
        tuple((job[0], False, job[2]) if job else job for job in jobs) for jobs in state.workers
    )
    wishes = tuple((position, False, copy, there) for position, _, copy, there in state.wishes)
    return state._replace(workers=workers, wishes=wishes)
