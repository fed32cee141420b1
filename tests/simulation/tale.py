"""A story told step by step, and the links of others it may meet: for tests without a search."""

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from agent.core.faults import InternalFault
from agent.core.job import EMPTY, Head, StoredRequest, place_after
from agent.core.links import Author, Made, Pen
from agent.core.routing import Candidate, EngineFacts, Policy
from agent.core.steps import (
    Append,
    Done,
    Look,
    Placed,
    Seen,
    Superseded,
    TakeSlot,
    Told,
    Unknown,
)
from agent.core.story import Story
from contracts.errors import ErrorCode, error_body
from contracts.events import Cancelled, Link, Output
from contracts.requests import Priority, Request
from contracts.subjects import Identity

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)
MADE = Made(model_used="m", seed=1, cost_usd=0.0, vram_mib=None, drawn_s=1.0)
OUTPUT = Output(
    url="u",
    file_path="f",
    thumbnail_url="t",
    file_size_bytes=1,
    width=1,
    height=1,
    format="png",
    sha256="s",
)
STORED = StoredRequest(
    who=Identity("L2-00-01", "r1"),
    priority=Priority.HIGH,
    seq=7,
    stored_at=NOON,
    request=Request(type="image", prompt="p"),
)
ME = Author(worker="me", nonce=UUID(int=1))
OTHER = Author(worker="other", nonce=UUID(int=2))
ONE = (EngineFacts(name="sketch", slot="cpu", models=("m",)),)
TWO = (*ONE, EngineFacts(name="second", slot="gpu", models=("m",)))
DONE = Done()
UNKNOWN = Unknown("no answer")
BROKEN = error_body(ErrorCode.INVALID_REQUEST, "unreadable", "$")


class Tale:
    """A story that is told events; `says` is what it asks for now, None once it has ended."""

    def __init__(
        self, stored=STORED, engines=ONE, now=NOON, author=ME, *, refuse=False, again=False
    ):
        self.story = Story(stored, author, now)
        self.engines = engines
        self.policy = Policy()
        self.now = now
        steps = self.story.refuse(BROKEN, b"?") if refuse else self.story.run(again=again)
        self.steps = steps
        self.says: Any = next(self.steps)
        self._look()

    def tell(self, *events):
        """Tell events; a slot that is `DONE` was given to the candidate that asked."""
        for event in events:
            given = isinstance(self.says, TakeSlot) and isinstance(event, Done)
            self._send(Placed(self.says.candidate) if given else event)
            self._look()
        return self.says

    def _look(self):
        while isinstance(self.says, Look):
            self._send(Seen(self.engines, self.policy))

    def _send(self, event):
        try:
            self.says = self.steps.send(Told(event, self.now))
        except StopIteration:
            self.says = None

    @property
    def link(self):
        assert isinstance(self.says, Append), f"asks for {self.says}"
        return self.says.link


def pen(after=(), stored=STORED, author=OTHER):
    place = place_after(10 * len(after), after[-1]) if after else EMPTY
    return Pen(stored=stored, author=author, place=place, now=NOON)


def started(after=(), stored=STORED, engine="sketch"):
    candidate = Candidate(engine=engine, model="m", slot="cpu", reason="only")
    return pen(after, stored).started(candidate)


def retrying(after, delay_s=5.0, engine="sketch"):
    return pen(after).retrying(InternalFault("it broke").body(), delay_s, engine)


def cancelled(after):
    percent = after[-1].progress_percent if after else 0
    return Cancelled(**pen(after).fields("cancelled", "Cancelled.", percent=percent), by="me")


def head(*links):
    return Superseded(Head(seq=10 * len(links), link=links[-1]))


def lost_workers(count):
    links: list[Link] = []
    for _ in range(count):
        links.append(started(links))
    return links
