"""The words between the story and who performs it: what is to be done, and what came of it.

Data only. `agent.core.story` yields commands, `agent.worker` answers each with one event.
"""

from datetime import datetime
from typing import Literal

import msgspec

from agent.core.faults import Fault
from agent.core.job import Head, StoredRequest
from agent.core.links import Made
from agent.core.routing import Candidate, EngineFacts, Policy
from contracts.events import Link, Output, Started

# --- what is to be done ------------------------------------------------------------------------


class Append(msgspec.Struct, frozen=True):
    """Append `link` after the link at sequence `expected`; answered by an Outcome."""

    link: Link
    expected: int


class ReadHistory(msgspec.Struct, frozen=True):
    """Read all links up to the head at sequence `upto`; answered by Links, or Unknown."""

    upto: int


class ReadHead(msgspec.Struct, frozen=True):
    """Read the chain's head; answered by Superseded with that head, NoChain, or Unknown."""


class FindRequest(msgspec.Struct, frozen=True):
    """Look for the stored request in its lane; answered by Found, NotFound, or Unknown."""


class AskLane(msgspec.Struct, frozen=True):
    """Is the stored request `seq` still in its lane? Answered by Waits, or Unknown."""

    seq: int


class Look(msgspec.Struct, frozen=True):
    """Look at engines, breakers and budgets now; answered by Seen."""


class TakeSlot(msgspec.Struct, frozen=True):
    """Wait for a slot for this candidate; answered by Placed, Elsewhere or Interrupted.

    `cloud`: another candidate is a cloud, so that the arbiter may send the job there. Of earlier
    attempts it has to know how often it was `preempted` and ran out of memory (`ooms`). Not later
    than `due`, where there is a deadline.
    """

    candidate: Candidate
    cloud: bool = False
    preempted: int = 0
    ooms: int = 0
    due: datetime | None = None


class Draw(msgspec.Struct, frozen=True):
    """Let the engine of `started` make the pictures; answered by Drawn, Faulted, Interrupted.

    `earlier` are the starts of lost workers: what they left in an engine may be adopted.
    """

    started: Started
    earlier: tuple[Started, ...] = ()


class FreeSlot(msgspec.Struct, frozen=True):
    """Give the slot back, if one is held; answered by Done."""


class Keep(msgspec.Struct, frozen=True):
    """Store the pictures just drawn; answered by Kept or Faulted."""

    attempt: int


class Discard(msgspec.Struct, frozen=True):
    """Remove the files just stored: another attempt won; answered by Done."""

    outputs: tuple[Output, ...]


class Polish(msgspec.Struct, frozen=True):
    """After the end: remove files of earlier attempts, make thumbnails; answered by Done."""

    outputs: tuple[Output, ...]
    attempt: int


class WaitUntil(msgspec.Struct, frozen=True):
    """Wait until `due`; answered by Done or Interrupted. `own` allows heartbeats meanwhile.

    `stuck`: no engine here can begin now.
    """

    due: datetime
    own: bool
    stuck: bool = False


class Settle(msgspec.Struct, frozen=True):
    """Take the delivery out of its lane: `term` with a reason the server shows, or ack."""

    how: Literal["ack", "term"]
    reason: str


class HandBack(msgspec.Struct, frozen=True):
    """Give the delivery back to its lane, after every other one with a lower sequence."""


Command = (
    Append
    | ReadHead
    | FindRequest
    | ReadHistory
    | AskLane
    | Look
    | TakeSlot
    | Draw
    | FreeSlot
    | Keep
    | Discard
    | Polish
    | WaitUntil
    | Settle
    | HandBack
)

# --- what came of it ---------------------------------------------------------------------------


class Stored(msgspec.Struct, frozen=True):
    """The link is in the chain at `seq`."""

    seq: int


class Superseded(msgspec.Struct, frozen=True):
    """Another writer was first: `head` is what the chain ends with now."""

    head: Head


class Unknown(msgspec.Struct, frozen=True):
    """Nobody could say in time; nothing may be settled, deleted or said."""

    reason: str


Outcome = Stored | Superseded | Unknown


class NoChain(msgspec.Struct, frozen=True):
    """The chain has no link yet."""


class Found(msgspec.Struct, frozen=True):
    """The request lies in a lane and nobody has ended it."""

    stored: StoredRequest


class NotFound(msgspec.Struct, frozen=True):
    """No lane has a request of this identity."""


class Links(msgspec.Struct, frozen=True):
    """The chain's links in order."""

    links: tuple[Link, ...]


class Waits(msgspec.Struct, frozen=True):
    """Whether that stored request is still in its lane."""

    waits: bool


class Seen(msgspec.Struct, frozen=True):
    """The engines as routing sees them, and what operator and style prefer."""

    engines: tuple[EngineFacts, ...]
    policy: Policy = Policy()


class Placed(msgspec.Struct, frozen=True):
    """A slot is held, for this candidate: perhaps a smaller model. `place` is the slot's name."""

    candidate: Candidate
    place: str | None = None


class Elsewhere(msgspec.Struct, frozen=True):
    """There will be no slot for this candidate.

    `cloud`: it would wait too long; `no_card`, `too_big`, `out_of_memory`: this card cannot do it;
    `late`: its deadline has passed.
    """

    why: Literal["cloud", "no_card", "too_big", "out_of_memory", "late"]
    reason: str


class Drawn(msgspec.Struct, frozen=True):
    """The pictures are made; `percent` is the last progress that was told."""

    made: Made
    percent: int


class Kept(msgspec.Struct, frozen=True):
    """The pictures are on disk."""

    outputs: tuple[Output, ...]


class Faulted(msgspec.Struct, frozen=True):
    """The try failed; `percent` is the last progress that was told."""

    fault: Fault
    percent: int = 0


class Interrupted(msgspec.Struct, frozen=True):
    """The job was stopped.

    `stop`: the worker drains; `overtaken`: the chain moved on; `preempted`: a more urgent job
    needs the card, `by`.
    """

    why: Literal["stop", "overtaken", "preempted"]
    reason: str
    percent: int = 0
    by: str = ""


class Done(msgspec.Struct, frozen=True):
    """It is done, or it cannot be helped."""


Event = (
    Outcome
    | NoChain
    | Found
    | NotFound
    | Links
    | Waits
    | Seen
    | Placed
    | Elsewhere
    | Drawn
    | Kept
    | Faulted
    | Interrupted
    | Done
)


class Told(msgspec.Struct, frozen=True):
    """What came of the last command, and what time it is now (UTC)."""

    event: Event
    now: datetime
