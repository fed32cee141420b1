"""How a request is cancelled, by whoever is asked: worker, gateway or command line.

A generator of steps like `agent.core.story`. `cancelled` is appended after the head, again on each
refusal, until it is stored or the chain has ended; the one rule of the chain makes that safe
against a start or an end at the same moment. Nobody takes anything out of a lane here: a worker
acks the request away when its turn comes.
"""

from collections.abc import Generator
from datetime import datetime
from typing import Final
from uuid import UUID

from agent.core.job import EMPTY, Head, Place, StoredRequest, place_after
from agent.core.links import Author, Pen
from agent.core.steps import (
    Append,
    Command,
    Event,
    FindRequest,
    Found,
    NoChain,
    NotFound,
    ReadHead,
    Stored,
    Superseded,
    Told,
    Unknown,
)
from contracts.errors import ErrorBody, ErrorCode, error_body
from contracts.events import Cancelled, is_terminal, kind_of
from contracts.requests import Priority
from contracts.subjects import Identity

ROUNDS_MAX: Final = 20
"""Refusals in a row before the asker is told to try again: each means the chain moved on."""


class Cancelling:
    """One wish to cancel. `answer` is the link that was stored, or the error to show."""

    def __init__(self, who: Identity, by: str, nonce: UUID, now: datetime) -> None:
        """`by` is who asked; `nonce` makes the link this wish's own."""
        self.who = who
        self.by = by
        self.author = Author(worker=by, nonce=nonce)
        self.now = now
        self.rounds = 0
        self.place: Place = EMPTY
        self.answer: Cancelled | ErrorBody = error_body(
            ErrorCode.INTERNAL, "nobody could say whether it was cancelled; ask again"
        )

    def run(self) -> Generator[Command, Told, None]:
        """Ask for the head, append after it, and again with the head that was quicker."""
        told = yield ReadHead()
        while self.rounds < ROUNDS_MAX:
            self.rounds += 1
            if isinstance(told.event, NoChain):
                told = yield from self._find()
            self.now = told.now
            link = self._next(told.event)
            if link is None:
                return
            told = yield Append(link, self.place.seq)
            if isinstance(told.event, Stored):
                self.answer = link
                return

    def _next(self, event: Event) -> Cancelled | None:
        """Return the link to append after what was found, or None where that is the answer."""
        match event:
            case Superseded(head=head) if is_terminal(head.link):
                self.answer = self._ended(head)
            case Superseded(head=head):
                self.place = place_after(head.seq, head.link)
                return self._link(self._stand_in(head), head.link.progress_percent)
            case Found(stored=stored):
                self.place = EMPTY
                return self._link(stored, 0)
            case NoChain():
                self.answer = error_body(
                    ErrorCode.NOT_FOUND, f"no request {self.who} is queued or known"
                )
            case Unknown(reason=reason):
                self.answer = error_body(
                    ErrorCode.INTERNAL, f"nobody could say whether it was cancelled: {reason}"
                )
            case other:
                raise AssertionError(f"no answer to a question about the head: {other}")
        return None

    def _find(self) -> Generator[Command, Told, Told]:
        """Look for the request in its lane, and at the chain again where no lane has it.

        It may have been started, ended and acked between the two questions.
        """
        told = yield FindRequest()
        if isinstance(told.event, NotFound):
            told = yield ReadHead()
        return told

    def _link(self, stored: StoredRequest, percent: int) -> Cancelled:
        pen = Pen(stored=stored, author=self.author, place=self.place, now=self.now)
        return Cancelled(
            **pen.fields("cancelled", f"Cancelled by {self.by}.", percent=percent), by=self.by
        )

    def _stand_in(self, head: Head) -> StoredRequest:
        """Return as much of the stored request as a later link needs."""
        return StoredRequest(
            who=self.who,
            priority=Priority.LOW,
            seq=head.link.request_seq,
            stored_at=self.now,
            request=None,
        )

    def _ended(self, head: Head) -> Cancelled | ErrorBody:
        """A request that was cancelled before is cancelled; any other end stands."""
        if isinstance(head.link, Cancelled):
            return head.link
        return error_body(
            ErrorCode.ALREADY_COMPLETED, f"it has ended already: {kind_of(head.link)}"
        )
