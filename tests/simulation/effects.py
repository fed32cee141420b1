"""What may come of each command: the server, the lanes, the disk and the engines.

The server accepts an append whose expectation is the last sequence of the chain, and an ack from
whoever ever held the delivery (nats-server 2.15.1: also a stale one). `agent.worker` is modelled
in one point: a head that is asked for and not there is `Unknown` to a job.
"""

from collections.abc import Iterator
from typing import Final

from agent.core.job import StoredRequest
from agent.core.steps import (
    AskLane,
    Command,
    Discard,
    Draw,
    FindRequest,
    HandBack,
    Keep,
    Polish,
    ReadHead,
    ReadHistory,
    Settle,
    TakeSlot,
    WaitUntil,
)
from contracts.events import Failed, Output, Started
from tests.simulation.actor import Question
from tests.simulation.automaton import Answer, Automaton
from tests.simulation.chains import Chains, check_given_up
from tests.simulation.state import (
    DELAYED,
    ENGINE,
    IS_PUBLISHED,
    LOST,
    STOP,
    Config,
    Effect,
    State,
    spend,
)
from tests.simulation.violation import demand

LOSABLE: Final = (ReadHead, ReadHistory, AskLane, FindRequest)


class Effects:
    """All effects of commands in one configuration."""

    def __init__(
        self,
        config: Config,
        chains: Chains,
        actors: Automaton,
        stored: tuple[StoredRequest, ...],
    ) -> None:
        self.config = config
        self.chains = chains
        self.actors = actors
        self.stored = stored
        self.copies: list[tuple[int, int | None]] = []
        """Delayed appends: the link and the sequence it expects."""

    def of(self, state: State, position: int, owns: bool, copy: int) -> Iterator[Effect]:
        """Yield what may come of what the actor at `position` asks for."""
        still = Effect(
            "", None, state.chain, False, copy, state.lane, state.files, state.left, True
        )
        asks = self.actors.asks[position]
        if isinstance(asks, Question):
            yield from self._append(state, still, position, owns)
        elif isinstance(asks, LOSABLE):
            yield still._replace(answer=self._read(state, asks, position, owns))
            if state.left[LOST]:
                left = spend(state, LOST)
                yield still._replace(note="no answer", answer=("unknown",), left=left, good=False)
        elif isinstance(asks, Settle):
            yield from self._settle(state, still, position)
        elif isinstance(asks, TakeSlot | WaitUntil | Draw):
            drawing = isinstance(asks, Draw)
            yield still._replace(answer=("drawn",) if drawing else ("done",), silent=True)
            yield from self._interrupted(state, still, owns, drawing=drawing)
            if drawing:
                yield from self._faulted(state, still, self.config.remedies)
            elif isinstance(asks, TakeSlot):
                yield from self._without_slot(state, still)
        else:
            yield from self._at_disk(state, still, asks)

    def _read(self, state: State, asks: Command, position: int, owns: bool) -> Answer:
        match asks:
            case ReadHead() if not state.chain:
                wish = self.actors.role[position].kind == "cancel"
                return ("no chain",) if wish else ("unknown",)
            case ReadHead():
                return ("head", *self._head(state.chain, owns))
            case ReadHistory(upto=upto):
                return ("links", self.chains.upto(state.chain, upto))
            case AskLane(seq=seq):
                return ("waits", bool(state.lane >> (seq - 1) & 1))
        here = [stored for stored in self.stored if state.lane >> (stored.seq - 1) & 1]
        return ("found", here[-1]) if here else ("not found",)

    def _at_disk(self, state: State, still: Effect, asks: Command) -> Iterator[Effect]:
        match asks:
            case Keep(attempt=attempt):
                yield still._replace(answer=("kept", attempt), files=state.files | 1 << attempt)
                yield from self._faulted(state, still, ("retry",))
            case Discard(outputs=outputs):
                yield still._replace(answer=("done",), files=state.files & ~_bits(outputs))
            case Polish(outputs=outputs, attempt=attempt):
                files = state.files & _bits(outputs) if attempt > 1 else state.files
                yield still._replace(answer=("done",), files=files)
            case HandBack():
                yield still._replace(answer=("done",))  # Delivered again at any time, see World.
            case _:
                raise AssertionError(f"nobody answers {asks}")

    def _settle(self, state: State, still: Effect, position: int) -> Iterator[Effect]:
        seq = self.actors.role[position].stored.seq
        yield still._replace(answer=("done",), lane=state.lane & ~(1 << (seq - 1)))
        if state.left[LOST]:
            left = spend(state, LOST)
            yield still._replace(note="lost", answer=("done",), left=left, good=False)

    def _append(self, state: State, still: Effect, position: int, owns: bool) -> Iterator[Effect]:
        """Let the server judge an append by its last sequence; then see to the answer."""
        expected, link = self.actors.asks[position].expected, self.actors.link[position]
        current = expected in (None, self.chains.seq[state.chain])
        lost = still._replace(left=spend(state, LOST), good=False) if state.left[LOST] else None
        if current:
            chain = self.extended(state, link, own=owns)
            answer = ("stored", self.chains.seq[chain])
            yield still._replace(note="stored", answer=answer, chain=chain, writes=True)
            if lost is not None:
                unheard = lost._replace(chain=chain, writes=True)
                yield unheard._replace(note="stored, answer lost; asks again", answer=("lost",))
                yield unheard._replace(note="stored, answer lost; gives up", answer=("over",))
        else:
            yield still._replace(note="refused", answer=("refused",))
        if lost is not None:
            yield lost._replace(note="lost on the way; gives up", answer=("over",))
        if current and state.left[DELAYED] and still.delayed < 0:
            copy = self._copy(link, expected)
            late = still._replace(delayed=copy, left=spend(state, DELAYED), good=False)
            yield late._replace(note="delayed; asks again", answer=("lost",))
            yield late._replace(note="delayed; gives up", answer=("over",))
        if still.delayed >= 0 and self.may_arrive(state.chain, still.delayed):
            chain = self.extended(state, self.copies[still.delayed][0], own=owns)
            note = "the delayed copy arrives"
            yield still._replace(note=note, chain=chain, writes=True, delayed=-1)

    def _interrupted(
        self, state: State, still: Effect, owns: bool, *, drawing: bool
    ) -> Iterator[Effect]:
        interrupted = still._replace(good=False)
        if state.left[STOP]:
            for why in ("stop", "preempted") if drawing else ("stop",):
                yield interrupted._replace(
                    note=why, answer=("interrupted", why), left=spend(state, STOP)
                )
        if state.chain and not owns:
            yield interrupted._replace(note="overtaken", answer=("interrupted", "overtaken"))

    def _without_slot(self, state: State, still: Effect) -> Iterator[Effect]:
        """Let the arbiter say that this candidate gets no slot; each time counts as a fault."""
        if not state.left[ENGINE]:
            return
        passed = still._replace(left=spend(state, ENGINE), good=False)
        for why in self.config.passes:
            yield passed._replace(note=f"no slot: {why}", answer=("elsewhere", why))

    def _faulted(self, state: State, still: Effect, remedies: tuple[str, ...]) -> Iterator[Effect]:
        if not state.left[ENGINE]:
            return
        broken = still._replace(left=spend(state, ENGINE), good=False)
        for what in remedies:
            yield broken._replace(note=f"fault: {what}", answer=("faulted", what))

    def raw_head(self, chain: int, owns: bool) -> Answer:
        """Answer `chain.append`'s question for the head after a refusal."""
        return ("raw head", *self._head(chain, owns)) if chain else ("no raw head",)

    def _head(self, chain: int, owns: bool) -> tuple[int, int, bool]:
        return self.chains.seq[chain], self.chains.of[chain][-1], owns

    def extended(self, state: State, link: int, *, own: bool) -> int:
        """Store a link; `own`: its writer wrote the head too. Raises: Violation."""
        chain = self.chains.extended(state.chain, link)
        added, head = self.chains.links[link], self.chains.head(state.chain)
        demand(bool(state.flags & IS_PUBLISHED), "a chain has a request", "nothing was stored")
        if own and isinstance(added, Started):
            demand(
                not isinstance(head, Started),
                "nobody takes over from itself",
                "a job started after its own start",
            )
        if isinstance(added, Failed):
            before = [self.chains.links[number] for number in self.chains.of[state.chain]]
            check_given_up(before, added, self.config.engines)
        return chain

    def may_arrive(self, chain: int, copy: int) -> bool:
        """Tell whether the server would still store a delayed copy."""
        return self.copies[copy][1] in (None, self.chains.seq[chain])

    def _copy(self, link: int, expected: int | None) -> int:
        if (link, expected) not in self.copies:
            self.copies.append((link, expected))
        return self.copies.index((link, expected))


def _bits(outputs: tuple[Output, ...]) -> int:
    """Return the attempts these files are of."""
    return sum(1 << int(output.file_path) for output in outputs)
