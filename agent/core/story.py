"""The story of a request: from a delivery to its ack, step by step.

`Story.run` is a generator: it yields what is to be done next and is sent what came of it, so the
whole protocol is plain data and can be searched exhaustively. `agent.worker` performs the steps;
nothing here waits, reads a clock or touches a server.

The rules, by the numbers of the design's section 3:

1. Start: `started` expects the chain as last seen; refused, the head says what the delivery means.
2. Only the writer of the head settles the delivery, except that a closed chain may always be
   acked away.
3. An append that ends `Unknown` settles nothing, deletes nothing, says nothing.
4. End: store the pictures, append the end, ack; in this order. Superseded: discard own files.
5. A fault is a `retrying` link or the end; three tries an engine, three lost workers in all.
6. Stop: `released`, then the delivery goes back. A more urgent request: `preempted`, likewise.
"""

from collections.abc import Generator
from datetime import datetime, timedelta
from typing import Final

from agent.core.catalog import seed_for
from agent.core.choosing import Choice, Chosen, wish
from agent.core.faults import Fault, Remedy, TriesSpentFault
from agent.core.job import (
    EMPTY,
    TRIES_MAX,
    History,
    Place,
    StoredRequest,
    backoff_s,
    fold,
    place_after,
)
from agent.core.links import Author, Pen
from agent.core.routing import Candidate
from agent.core.steps import (
    Append,
    AskLane,
    Command,
    Discard,
    Draw,
    Drawn,
    Elsewhere,
    Event,
    Faulted,
    FreeSlot,
    HandBack,
    Interrupted,
    Keep,
    Kept,
    Links,
    Look,
    Placed,
    Polish,
    ReadHead,
    ReadHistory,
    Seen,
    Settle,
    Stored,
    Superseded,
    Told,
    Waits,
    WaitUntil,
)
from contracts.errors import ErrorBody
from contracts.events import FaultRecord, Link, Retrying, Started, is_terminal, kind_of
from contracts.requests import Request

LOOK_AGAIN_S: Final = 1.0
"""How long to wait for an engine that works, before the engines are looked at again."""

Steps = Generator[Command, Told, None]
Asking = Generator[Command, Told, Event]


class Story:
    """The steps of one job.

    `ended` tells where it stands: the kind of the chain's end if this job wrote it, else
    `settled`, `released`, `preempted`, `superseded` or `lapsed`. `closed`: the chain is known to
    have ended; `mine`: the link at `place` is this job's own. `chosen` is the last choice of an
    engine, with what it rested on.
    """

    def __init__(self, stored: StoredRequest, author: Author, now: datetime) -> None:
        """Begin with a delivery in hand and nothing said about it."""
        self.stored = stored
        self.author = author
        self.now = now
        self.seen = Seen(())
        self.place: Place = EMPTY
        self.mine = False
        self.percent = 0
        self.history = History()
        self.earlier: tuple[Started, ...] = ()
        self.passed: dict[str, Elsewhere] = {}
        self.chosen: Chosen | None = None
        self.ended = "lapsed"
        self.closed = False

    def run(self, *, again: bool = False) -> Steps:
        """Carry the request from its start to its end. `again`: it was handed over before."""
        head = yield from self._begin(came_before=again)
        while head is not None:
            head = yield from self._try(head)

    def refuse(self, error: ErrorBody, raw: bytes) -> Steps:
        """Answer a request that breaks the contract, and take it out of its lane."""
        link = self._pen().unreadable(error, raw)
        outcome = yield from self._ask(Append(link, 0))
        match outcome:
            case Stored():
                self.ended = "failed"
            case Superseded(head=head) if (
                head.link.request_seq == self.stored.seq and not is_terminal(head.link)
            ):
                return  # A worker that can read it is carrying it.
            case Superseded():
                self.ended = "settled"
            case _:
                return
        yield from self._ask(Settle("term", f"{error.code}: {error.message}"))

    # --- start: rule 1 -------------------------------------------------------------------------

    def _begin(self, *, came_before: bool) -> Generator[Command, Told, Started | None]:
        """Write the first link of this job; None where it is not ours to carry, or ended.

        One that `came_before` looks before it waits for a slot: no LLM is unloaded for nothing.
        """
        found = (yield from self._ask(ReadHead())) if came_before else None
        outcome = found if isinstance(found, Superseded) else (yield from self._start())
        if not isinstance(outcome, Superseded):
            return outcome
        head = outcome.head
        if is_terminal(head.link):
            yield from self._settle("already ended")
            return None
        if head.link.request_seq != self.stored.seq:
            answer = yield from self._ask(AskLane(head.link.request_seq))
            if not isinstance(answer, Waits):
                return None
            if answer.waits:
                yield from self._settle(f"duplicate of stored request {head.link.request_seq}")
                return None
        links = yield from self._ask(ReadHistory(head.seq))
        if not isinstance(links, Links):
            return None
        yield from self._look()
        paid = frozenset(facts.name for facts in self.seen.engines if facts.is_cloud)
        self.history = fold(links.links, taken_over=True, paid=paid)
        self.earlier = tuple(link for link in links.links if isinstance(link, Started))
        self.place = place_after(head.seq, head.link)
        self.percent = head.link.progress_percent
        if isinstance(head.link, Retrying) and head.link.due_at > self.now:
            yield from self._ask(FreeSlot())
            waited = yield from self._ask(WaitUntil(head.link.due_at, own=False))
            if isinstance(waited, Interrupted):
                return None
        again = yield from self._start(_announced(head.link))
        return (yield from self._unless_lost(again))

    def _start(
        self, engine: str | None = None
    ) -> Generator[Command, Told, Started | Superseded | None]:
        """Append `started` after `place`, or the end of a request that cannot start.

        `engine` is the one that the last `retrying` announced.
        """
        placed = yield from self._slot(engine)
        if not isinstance(placed, Placed):
            return placed
        link = self._pen().started(placed.candidate, placed.place)
        outcome = yield from self._ask(Append(link, self.place.seq))
        if isinstance(outcome, Superseded):
            return outcome
        if not isinstance(outcome, Stored):
            return None
        self.place, self.mine = place_after(outcome.seq, link), True
        self.percent = 0
        return link

    def _slot(self, last: str | None) -> Generator[Command, Told, Placed | Superseded | None]:
        """Get a slot for the best candidate, passing over those that have none for it.

        1. Too late, or too many lost workers: the end.
        2. Nobody can do it: the end. A dry run: the end too, with what would have been done.
        3. The best one is in trouble, so all are: look again soon; no try is spent on it.
        4. A slot, or the reason why there is none: the next candidate.
        """
        while True:
            if (end := self._cannot_begin()) is not None:  # 1
                return (yield from self._end(end))
            found = yield from self._choices((last, Remedy.RETRY))
            if (end := self._cannot_be_done(found)) is not None:  # 2
                return (yield from self._end(end))
            assert isinstance(found, tuple), "a fault is an end"
            before = self.passed.get(found[0].engine)
            if found[0].trouble or (before is not None and before.why == "no_card"):  # 3
                self.passed.clear()
                soon = self.now + timedelta(seconds=LOOK_AGAIN_S)
                own = self.mine or self.place.n == 0
                answer = yield from self._ask(WaitUntil(soon, own=own, stuck=True))
            else:
                is_first = self.place.n == 0
                asked = wish(self.stored, self.history, found, self.passed, is_first=is_first)
                answer = yield from self._ask(asked)  # 4
            match answer:
                case Placed():
                    return answer
                case Interrupted():
                    yield from self._stop_waiting(answer)
                    return None
                case Elsewhere() if answer.why != "late":
                    self.passed[found[0].engine] = answer

    def _cannot_begin(self) -> Link | None:
        """Return the end of a request that must not start (any more): rule 1 of `_slot`."""
        deadline_s = self._request.deadline_s
        if self.place.n == 0 and deadline_s is not None and self.stored.is_late(self.now):
            return self._pen().expired(deadline_s)
        if self.history.lost() >= TRIES_MAX:
            error = self.history.faults[-1].error
            return self._pen().failed(error, self.history, dead=True)
        return None

    def _cannot_be_done(self, found: tuple[Candidate, ...] | Fault) -> Link | None:
        """Return the end of a request that nobody can do, or nobody shall: rule 2 of `_slot`."""
        if isinstance(found, Fault):
            spent = isinstance(found, TriesSpentFault) and bool(self.history.faults)
            error = self.history.faults[-1].error if spent else found.body()
            return self._pen().failed(error, self.history, dead=spent)
        if self._request.dry_run:
            seed = self._request.options.seed
            return self._pen().dry(found, seed_for(self.stored.who) if seed is None else seed)
        return None

    def _choices(
        self, last: tuple[str | None, Remedy]
    ) -> Generator[Command, Told, tuple[Candidate, ...] | Fault]:
        """Look at the engines and order those that are left."""
        yield from self._look()
        choice = Choice(
            stored=self.stored,
            seen=self.seen,
            history=self.history,
            passed=dict(self.passed),
            last=last,
        )
        found = choice.made()
        self.chosen = choice, found
        return found

    def _look(self) -> Generator[Command, Told, None]:
        seen = yield from self._ask(Look())
        assert isinstance(seen, Seen), "Look is answered by Seen"
        self.seen = seen

    @property
    def _request(self) -> Request:
        assert self.stored.request is not None, "an unreadable request is refused, not started"
        return self.stored.request

    def _stop_waiting(self, event: Interrupted) -> Steps:
        """Give back a request that waits for a slot: rule 2 says who may."""
        if event.why == "stop" and self.place.n == 0:
            self.ended = "released"
            yield from self._ask(HandBack())
        elif event.why == "stop" and self.mine:
            yield from self._interrupted(event)

    # --- a try: rules 4, 5, 6 ------------------------------------------------------------------

    def _try(self, started: Started) -> Generator[Command, Told, Started | None]:
        """Draw, store and end; returns the next `started` where there is another try."""
        drawn = yield from self._ask(Draw(started, self.earlier))
        yield from self._ask(FreeSlot())
        match drawn:
            case Interrupted():
                self.percent = drawn.percent
                yield from self._interrupted(drawn)
                return None
            case Faulted():
                self.percent = drawn.percent
                return (yield from self._after_fault(started, drawn.fault))
            case Drawn(made=made):
                self.percent = drawn.percent
            case _:
                raise AssertionError(f"no answer to Draw: {drawn}")
        kept = yield from self._ask(Keep(self.place.attempt))
        if isinstance(kept, Faulted):
            return (yield from self._after_fault(started, kept.fault))
        assert isinstance(kept, Kept), "Keep is answered by Kept or Faulted"
        outputs = kept.outputs
        refused = yield from self._end(self._pen().completed(started, made, outputs))
        if refused is not None:
            yield from self._ask(Discard(outputs))
            yield from self._unless_lost(refused)
        elif self.ended == "completed":
            yield from self._ask(Polish(outputs, self.place.attempt))
        return None

    def _after_fault(
        self, started: Started, fault: Fault
    ) -> Generator[Command, Told, Started | None]:
        """Retry, move on or give up: a failed try is a link of the chain either way."""
        record = FaultRecord(attempt=started.attempt, engine=started.engine, error=fault.body())
        self.history = self.history.plus(record)
        give_up = fault.remedy is Remedy.GIVE_UP
        found = yield from self._choices((started.engine, fault.remedy))
        if give_up or isinstance(found, Fault):
            link = self._pen().failed(record.error, self.history, dead=not give_up)
            refused = yield from self._end(link)
            return (yield from self._unless_lost(refused))
        following = found[0].engine
        same = following == started.engine
        spread = (self.author.nonce.int >> 8) % 1000 / 999
        delay_s = backoff_s(self.history.tries(started.engine), spread) if same else 0.0
        pause = self._pen().retrying(record.error, delay_s, following)
        outcome = yield from self._ask(Append(pause, self.place.seq))
        if not isinstance(outcome, Stored):
            return (yield from self._unless_lost(outcome))
        self.place = place_after(outcome.seq, pause)
        if delay_s > 0:
            waited = yield from self._ask(WaitUntil(pause.due_at, own=True))
            if isinstance(waited, Interrupted):
                yield from self._interrupted(waited)
                return None
        again = yield from self._start(following)
        return (yield from self._unless_lost(again))

    def _interrupted(self, event: Interrupted) -> Steps:
        """Hand the request back, or leave it to who overtook us."""
        if event.why == "overtaken":
            head = yield from self._ask(ReadHead())
            yield from self._unless_lost(head)
            return
        link: Link = self._pen().released(event.reason)
        if event.why == "preempted":
            link = self._pen().preempted(event.by, event.reason)
        outcome = yield from self._ask(Append(link, self.place.seq))
        if isinstance(outcome, Stored):
            self.ended = kind_of(link)
            yield from self._ask(HandBack())
        else:
            yield from self._unless_lost(outcome)

    # --- end -----------------------------------------------------------------------------------

    def _end(self, link: Link) -> Generator[Command, Told, Superseded | None]:
        """Append a terminal link, then ack; returns the refusal if there was one."""
        outcome = yield from self._ask(Append(link, self.place.seq))
        if isinstance(outcome, Stored):
            self.place = place_after(outcome.seq, link)
            self.closed = True
            yield from self._settle(kind_of(link))
            self.ended = kind_of(link)
            return None
        return outcome if isinstance(outcome, Superseded) else None

    def _unless_lost(
        self, outcome: Started | Event | None
    ) -> Generator[Command, Told, Started | None]:
        """Pass a `started` on; leave a request that another writer has to that writer.

        A closed chain may be acked away by anybody: nothing can follow it.
        """
        if isinstance(outcome, Superseded):
            self.ended = "superseded"
            if is_terminal(outcome.head.link):
                self.closed = True
                yield from self._ask(Settle("ack", "already ended"))
        return outcome if isinstance(outcome, Started) else None

    def _settle(self, reason: str) -> Steps:
        yield from self._ask(Settle("ack", reason))
        self.ended = "settled"

    def _ask(self, command: Command) -> Asking:
        told = yield command
        self.now = told.now
        return told.event

    def _pen(self) -> Pen:
        return Pen(
            stored=self.stored,
            author=self.author,
            place=self.place,
            now=self.now,
            percent=self.percent,
        )


def _announced(link: Link) -> str | None:
    """Return the engine that a `retrying` at the head promised for the next try."""
    return link.next_engine if isinstance(link, Retrying) else None
