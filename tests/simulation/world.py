"""The world around the actors: all steps that may come next, and the rules about states.

Each step is one command with an effect: the effect, its answer and the way to the next question
together, and before it the commands that nobody else can notice (a slot, a pause, drawing).
Nothing is missed by that. A crash between an effect and its answer leaves the same state as a
crash after the answer, and nobody but the actor sees the answer. A refused append and the question
for the head that follows it are one step, because a stale writer stays stale.

Two more savings, with their reasons at `_at_once` and `_left_its_mark`. And workers have no names:
they run the same code, and the name a worker signs with is only shown to people, so that states
that differ in who is who are one state.
"""

from collections.abc import Iterator
from datetime import datetime
from typing import Final, Literal

import msgspec

from agent.core.job import StoredRequest
from agent.core.steps import HandBack, Polish, ReadHistory, Settle
from contracts.events import kind_of
from contracts.requests import Priority, Request
from contracts.subjects import Identity
from tests.simulation.actor import NOON, Question, Role
from tests.simulation.automaton import LATE, Automaton
from tests.simulation.chains import Chains
from tests.simulation.effects import Effects
from tests.simulation.source import Code
from tests.simulation.state import (
    CANCEL,
    COMES,
    CRASH,
    DELAYED,
    DIES,
    FROZEN,
    IS_LATE,
    IS_PUBLISHED,
    LOST,
    Config,
    Job,
    Jobs,
    Said,
    State,
    Step,
    Wish,
    disowned,
    placed,
    spend,
)
from tests.simulation.violation import demand

WHO: Final = Identity("L2-00-01", "r1")
LANES: Final = (Priority.HIGH, Priority.LOW)


class World:
    """All steps of one configuration. `now` names the step that is being made."""

    def __init__(self, config: Config, code: Code, *, check: bool = False) -> None:
        self.config = config
        self.chains = Chains()
        self.actors = Automaton(code, self.chains, check=check)
        request = Request(type="image", prompt="p", deadline_s=60 if config.deadline else None)
        self._stored = tuple(
            StoredRequest(who=WHO, priority=lane, seq=seq, stored_at=NOON, request=request)
            for seq, lane in enumerate(LANES[: config.requests], 1)
        )
        self._nothing: Jobs = ((),) * config.requests
        self.effects = Effects(config, self.chains, self.actors, self._stored)
        self.now: tuple[object, ...] = ()

    def first(self) -> State:
        """Return where the search begins."""
        config = self.config
        chain, lane = 0, (1 << config.requests) - 1
        if config.removed_first:
            writer = self.actors.root(self._role("run", 0, NOON))
            while self.actors.link[writer] < 0:
                writer = self.actors.step(writer, ("done", False))
            chain, lane = self.chains.extended(0, self.actors.link[writer]), lane & ~1
        return State(
            chain=chain,
            lane=0 if config.published_later else lane,
            files=0,
            excused=0,
            workers=(self._nothing,) * config.workers,
            wishes=(),
            delayed=(),
            left=msgspec.structs.astuple(config.faults),
            flags=0 if config.published_later else IS_PUBLISHED,
        )

    # --- what may come next ----------------------------------------------------------------------

    def after(self, state: State) -> Iterator[Step]:
        """Yield each possible step. Raises: Violation."""
        for at, jobs in enumerate(state.workers):
            for request, job in enumerate(jobs):
                if job:
                    yield from self._perform(state, (at, request), job)
                elif state.lane >> request & 1:
                    yield from self._deliver(state, at, request)
            if state.left[CRASH] and any(self._left_its_mark(job) for job in jobs):
                self.now = ("crash", at)
                yield self._crash(state, at)
        for at, wish in enumerate(state.wishes):
            yield from self._perform(state, (at,), wish)
        for copy in state.delayed:
            yield self._arrive(state, copy)
        yield from self._from_outside(state)

    def _from_outside(self, state: State) -> Iterator[Step]:
        if state.left[CANCEL]:
            published = bool(state.flags & IS_PUBLISHED)
            wish = (self.actors.root(self._role("cancel", 0, NOON)), False, -1, published)
            wished = state._replace(wishes=(*state.wishes, wish), left=spend(state, CANCEL))
            for what, after, _ in self._perform(wished, (len(state.wishes),), wish, (COMES,)):
                yield what, after, False
        if self.config.deadline and not state.flags & IS_LATE:
            self.now = ("the deadline passes",)
            yield self.now, state._replace(flags=state.flags | IS_LATE), False
        if not state.flags & IS_PUBLISHED:
            self.now = ("the request is stored",)
            lane = (1 << self.config.requests) - 1
            yield self.now, state._replace(flags=state.flags | IS_PUBLISHED, lane=lane), True

    def _deliver(self, state: State, at: int, request: int) -> Iterator[Step]:
        """Deliver to a worker that has no job for it; one that has only keeps the delivery.

        A request nobody sends heartbeats for may be delivered at any time: it was never handed
        out, or handed back, or ack_wait is over. Where the chain is not empty the first append is
        made at once: until then a fresh job differs in nothing from none.
        """
        beating = any(self._beats(jobs[request]) for jobs in state.workers)
        if beating and not state.left[FROZEN]:
            return
        self.now = ("deliver", at, request, "although it is beating" if beating else "")
        late = bool(state.flags & IS_LATE)
        reads = at >= self.config.unable
        role = self._role("run" if reads else "refuse", request, LATE if late else NOON)
        job = (self.actors.root(role), False, -1)
        left = spend(state, FROZEN) if beating else state.left
        state = state._replace(workers=placed(state.workers, at, request, job), left=left)
        if not state.chain:
            yield self.now, state, not beating
            return
        for what, after, good in self._perform(state, (at, request), job, (COMES,)):
            yield what, after, good and not beating

    def _beats(self, job: Job) -> bool:
        return self.actors.beating[job[0]] if job else False

    def _left_its_mark(self, job: Job) -> bool:
        """Tell whether it makes a difference that this job was there.

        One that only holds a delivery and has looked around leaves, when it dies, the state in
        which it never had the delivery, and one thing less that may go wrong from there.
        """
        if not job:
            return False
        position, owns, copy = job
        return owns or copy >= 0 or self.actors.beating[position] or self.actors.kept[position] > 0

    def _crash(self, state: State, at: int) -> Step:
        excused, delayed = state.excused, list(state.delayed)
        for job in state.workers[at]:
            if job:
                excused |= 1 << self.actors.kept[job[0]] & ~1
                delayed += [job[2]] if job[2] >= 0 else []
        changed = state._replace(
            excused=excused,
            delayed=tuple(sorted(delayed)),
            workers=(*state.workers[:at], self._nothing, *state.workers[at + 1 :]),
            left=spend(state, CRASH),
        )
        return self.now, changed, False

    def _arrive(self, state: State, copy: int) -> Step:
        """Let a delayed copy of somebody who is gone reach the server."""
        self.now = ("delayed", copy)
        delayed = list(state.delayed)
        delayed.remove(copy)
        state = state._replace(delayed=tuple(delayed))
        if self.effects.may_arrive(state.chain, copy):
            chain = self.effects.extended(state, self.effects.copies[copy][0], own=False)
            state = disowned(state)._replace(chain=chain)
        return self.now, state, False

    # --- a step of one actor ---------------------------------------------------------------------

    def _perform(
        self, state: State, at: tuple[int, ...], actor: Job | Wish, said: Said = ()
    ) -> Iterator[Step]:
        """Yield what may come of the command an actor waits for, and of those after it that count.

        `at` is worker and request, or only the number of a canceller.
        """
        assert actor, "somebody is there"
        position, owns, copy = actor[:3]
        late = bool(state.flags & IS_LATE)
        self.now = ("does", at, (*said, (position, "")))
        for effect in self.effects.of(state, position, owns, copy):
            done = (*said, (position, effect.note))
            self.now = ("does", at, done)
            changed = disowned(state) if effect.writes else state
            owning = owns or effect.writes
            following, excused = position, state.excused
            if effect.answer is not None:
                following = self.actors.step(position, (*effect.answer, late))
                if self._asks_for_head(following):
                    head = self.effects.raw_head(effect.chain, owning)
                    following = self.actors.step(following, (*head, late))
                    claims = self.actors.stored[following]
                    demand(owning or not claims, "stored is stored", "it took another's link")
                excused |= 1 << self.actors.leaves[following] & ~1
            changed = changed._replace(
                chain=effect.chain,
                lane=effect.lane,
                files=effect.files,
                excused=excused,
                left=effect.left,
            )
            after = (following, owning, effect.delayed)
            if not (effect.silent or self._at_once(changed, following)):
                yield self.now, self._put(changed, at, after), effect.good
                continue
            for what, later, good in self._perform(changed, at, after, done):
                yield what, later, good and effect.good
            if changed.left[CRASH] and not effect.silent and len(at) == 2:
                self.now = ("does", at, (*done, DIES))
                yield self._crash(self._put(changed, at, after), at[0])

    def _at_once(self, state: State, position: int) -> bool:
        """Tell whether a command may be performed with the one before it, dying between the two.

        What is up to a link never changes; a delivery may come at any time anyway; of a closed
        chain nobody cares when its request is acked; the first attempt has no files to tidy.
        """
        match self.actors.asks[position]:
            case ReadHistory() | HandBack():
                return True
            case Settle():
                gone = not state.lane >> (self.actors.role[position].stored.seq - 1) & 1
                return gone or self.chains.closed[state.chain]
            case Polish(attempt=attempt):
                return attempt == 1
        return False

    def _asks_for_head(self, position: int) -> bool:
        asks = self.actors.asks[position]
        return isinstance(asks, Question) and asks.what == "head"

    def _put(self, state: State, at: tuple[int, ...], actor: tuple[int, bool, int]) -> State:
        """Put an actor back where it was, or let it go if it has ended."""
        ended = self.actors.asks[actor[0]] is None
        if ended and actor[2] >= 0:
            state = state._replace(delayed=tuple(sorted((*state.delayed, actor[2]))))
        first = at[0]
        if len(at) > 1:
            job: Job = () if ended else actor
            return state._replace(workers=placed(state.workers, first, at[-1], job))
        there = state.wishes[first][3]
        others = (*state.wishes[:first], *state.wishes[first + 1 :])
        if ended:
            self._check_answer(state, self.actors.answer[actor[0]], there=there)
            return state._replace(wishes=others)
        return state._replace(wishes=tuple(sorted((*others, (*actor, there)))))

    def _check_answer(self, state: State, answer: str, *, there: bool) -> None:
        head = self.chains.head(state.chain)
        kind = kind_of(head) if head is not None else "nothing"
        closed = self.chains.closed[state.chain]
        most, left = self.config.faults, state.left
        agrees = {
            "cancelled": kind == "cancelled",
            "already_completed": closed and kind != "cancelled",
            "not_found": not there,
            "internal": left[LOST] < most.lost or left[DELAYED] < most.delayed,
        }
        demand(
            agrees.get(answer, False),
            "the answer agrees",
            f"{answer} was answered, the head is {kind}",
        )

    def _role(self, kind: Literal["run", "refuse", "cancel"], request: int, now: datetime) -> Role:
        stored = self._stored[request]
        if kind == "run":
            return Role(kind, stored, self.config.engines, now)
        return Role(kind, msgspec.structs.replace(stored, request=None), (), now)

    # --- rules about a state ---------------------------------------------------------------------

    def settled(self, state: State) -> State:
        """Return the one state that stands for all that are alike. Raises: Violation."""
        chain, published = state.chain, bool(state.flags & IS_PUBLISHED)
        demand(
            self.chains.closed[chain] or bool(state.lane) or not published,
            "no request is lost",
            "it is in no lane and its chain is open",
        )
        named = self.chains.files[chain]
        demand(not named & ~state.files, "the outputs exist", "a file of `completed` is gone")
        if self.is_quiet(state):
            left = state.files & ~named & ~state.excused
            demand(not left, "no other files", f"files are left of attempts {left:b} (bits)")
        workers, delayed = state.workers, state.delayed
        if any(job and job[2] >= 0 for jobs in workers for job in jobs):
            workers = tuple(tuple(self._current(chain, job) for job in jobs) for jobs in workers)
        if delayed:
            delayed = tuple(copy for copy in delayed if self.effects.may_arrive(chain, copy))
        unable = self.config.unable
        return state._replace(
            delayed=delayed,
            workers=(*sorted(workers[:unable]), *sorted(workers[unable:])),
            excused=state.excused & state.files & ~named,
        )

    def _current(self, chain: int, job: Job) -> Job:
        """Forget a delayed copy that the server would refuse for ever."""
        if not job or job[2] < 0 or self.effects.may_arrive(chain, job[2]):
            return job
        return job[0], job[1], -1

    def is_quiet(self, state: State) -> bool:
        """Tell whether all is done: the chain closed, the lanes empty, nobody at work."""
        return (
            self.chains.closed[state.chain]
            and not state.lane
            and not any(any(jobs) for jobs in state.workers)
        )
