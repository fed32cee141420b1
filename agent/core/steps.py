"""The words between the story and who performs it: what is to be done, and what came of it.

Data only. `agent.core.story` yields commands, `agent.worker` answers each with one event.
"""

from datetime import datetime
from typing import Literal

import msgspec

from agent.core.faults import Fault
from agent.core.job import Head, StoredRequest
from agent.core.links import Made
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


class TakeSlot(msgspec.Struct, frozen=True):
    """Wait for a slot of this kind; answered by Done or Interrupted."""

    slot: str


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
    """Wait until `due`; answered by Done or Interrupted. `own` allows heartbeats meanwhile."""

    due: datetime
    own: bool


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
    """The job was stopped: the worker drains (`stop`) or the chain moved on (`overtaken`)."""

    why: Literal["stop", "overtaken"]
    reason: str
    percent: int = 0


class Done(msgspec.Struct, frozen=True):
    """It is done, or it cannot be helped. `place` is the name of a slot just taken."""

    place: str | None = None


Event = (
    Outcome
    | NoChain
    | Found
    | NotFound
    | Links
    | Waits
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
