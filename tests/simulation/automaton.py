"""Actors as an automaton: positions are numbers, answers lead from one to another.

Generators cannot be copied, so a position keeps the answers that lead to it, and is reached again
by playing them. Two actors with the same `Actor.key` are one position.
"""

from collections.abc import Callable
from datetime import timedelta
from typing import Any, Final

import msgspec

from agent.bus.connection import ApiError, NoAnswer, PubAck
from agent.core.faults import Fault, InternalFault, ModelMissingFault, NoEngineFault
from agent.core.job import Head
from agent.core.links import Made
from agent.core.steps import (
    Done,
    Drawn,
    Elsewhere,
    Faulted,
    Found,
    FreeSlot,
    Interrupted,
    Kept,
    Links,
    NoChain,
    NotFound,
    Placed,
    Superseded,
    TakeSlot,
    Unknown,
    Waits,
)
from contracts.events import Output
from tests.simulation.actor import NONCES, NOON, Actor, Role
from tests.simulation.chains import Chains
from tests.simulation.source import Code

Answer = tuple[Any, ...]
"""A word, its arguments, and as the last one whether the deadline has passed."""

LATE: Final = NOON + timedelta(hours=1)
MADE: Final = Made(model_used="m", seed=1, cost_usd=0.0, vram_mib=None, drawn_s=1.0)
FAULTS: Final[dict[str, Fault]] = {
    "retry": InternalFault("it broke"),
    "other": ModelMissingFault("no such model"),
    "give up": NoEngineFault("cannot be done"),
}
TWINS_MAX: Final = 5
"""How many histories of one position are played side by side when keys are checked."""

PLAIN: Final[dict[str, object]] = {
    "refused": ApiError(400, 10071, "wrong last sequence"),
    "no raw head": ApiError(404, 10037, "no message found"),
    "lost": NoAnswer("no answer"),
    "over": NoAnswer("no answer"),
    "no chain": NoChain(),
    "not found": NotFound(),
    "unknown": Unknown("no answer"),
    "done": Done(),
    "drawn": Drawn(MADE, 95),
}
BUILD: Final[dict[str, Callable[[Any], object]]] = {
    "stored": lambda seq: PubAck(stream="", seq=seq),
    "waits": Waits,
    "found": Found,
    "elsewhere": lambda why: Elsewhere(why, why),
    "faulted": lambda what: Faulted(FAULTS[what], 40),
    "interrupted": lambda why: Interrupted(why, why, 40),
    "kept": lambda attempt: Kept((_output(attempt),)),
}


class Automaton:
    """All positions of all actors met so far."""

    def __init__(self, code: Code, chains: Chains, *, check: bool = False) -> None:
        self.code = code
        self.chains = chains
        self.asks: list[Any] = []
        self.link: list[int] = []
        """Number of the link that is to be appended, -1 where there is none."""
        self.role: list[Role] = []
        self.beating: list[bool] = []
        self.kept: list[int] = []
        self.leaves: list[int] = []
        self.stored: list[bool] = []
        """Whether the actor was told last that its link is stored."""
        self.answer: list[str] = []
        self._check = check
        self._paths: list[tuple[Answer, ...]] = []
        self._others: list[list[tuple[Answer, ...]]] = []
        self._numbers: dict[object, int] = {}
        self._roots: dict[Role, int] = {}
        self._next: dict[tuple[int, Answer], int] = {}
        self._live: dict[int, Actor] = {}

    def root(self, role: Role) -> int:
        """Return the first position of an actor."""
        number = self._roots.get(role)
        if number is None:
            actor = Actor(self.code, role, NONCES[0])
            number = self._roots[role] = self._number(actor, ())
        return number

    def step(self, position: int, answer: Answer) -> int:
        """Return the position after an answer. Raises: Violation of an actor's manners."""
        number = self._next.get((position, answer))
        if number is None:
            path = self._paths[position]
            actor = self._live.pop(position, None) or self._play(self.role[position], path, 0)
            self._tell(actor, answer, 0)
            number = self._next[position, answer] = self._number(actor, (*path, answer))
            for other in self._others[position]:
                twin = self._play(self.role[position], (*other, answer), 0)
                assert actor_key(twin) == actor_key(self._actor(number)), "a key merged too much"
        return number

    def _actor(self, position: int) -> Actor:
        return self._play(self.role[position], self._paths[position], 0)

    def _play(self, role: Role, path: tuple[Answer, ...], writer: int) -> Actor:
        actor = Actor(self.code, role, NONCES[writer])
        for answer in path:
            self._tell(actor, answer, writer)
        return actor

    def _number(self, actor: Actor, path: tuple[Answer, ...]) -> int:
        key = actor_key(actor)
        number = self._numbers.get(key)
        if number is not None:
            if (
                self._check
                and path != self._paths[number]
                and len(self._others[number]) < TWINS_MAX
            ):
                self._others[number].append(path)
            return number
        number = self._numbers[key] = len(self.asks)
        self._live[number] = actor
        self.asks.append(actor.asks)
        self.role.append(actor.role)
        self.link.append(self._link(actor, path))
        self.beating.append(actor.beating)
        self.kept.append(actor.kept)
        self.leaves.append(actor.leaves)
        self.stored.append(actor.stored)
        ended_wish = actor.asks is None and actor.role.kind == "cancel"
        self.answer.append(actor.answer if ended_wish else "")
        self._paths.append(path)
        self._others.append([])
        return number

    def _link(self, actor: Actor, path: tuple[Answer, ...]) -> int:
        if actor.append is None:
            return -1
        twin = self._play(actor.role, path, 1)
        assert twin.append is not None, "a nonce decides nothing"
        return self.chains.link_number(actor.append.link, twin.append.link.id)

    def _tell(self, actor: Actor, answer: Answer, writer: int) -> None:
        now = LATE if answer[-1] else NOON
        event = self._build(answer, writer)
        if isinstance(actor.asks, TakeSlot) and answer[0] == "done":
            event = Placed(actor.asks.candidate)
        actor.tell(event, now, over=answer[0] == "over")
        while isinstance(actor.asks, FreeSlot):
            actor.tell(Done(), now)  # Nobody else can tell when.

    def _build(self, answer: Answer, writer: int) -> object:
        """Return what an actor is told."""
        match answer[:-1]:
            case ("raw head", seq, link, own):
                return _message(self._head(seq, link, own, writer))
            case ("head", seq, link, own):
                return Superseded(self._head(seq, link, own, writer))
            case ("links", chain):
                return Links(tuple(self.chains.told(n, None) for n in self.chains.of[chain]))
            case (word,):
                return PLAIN[word]
            case (word, argument):
                return BUILD[word](argument)
        raise AssertionError(f"no such answer: {answer}")

    def _head(self, seq: int, link: int, own: bool, writer: int) -> Head:
        return Head(seq=seq, link=self.chains.told(link, writer if own else None))


def actor_key(actor: Actor) -> object:
    """Return the key of an actor, whose role is in its own attributes but for a canceller's."""
    return (actor.role.stored.seq, actor.key())


def _message(head: Head) -> bytes:
    """Return the head as the server's API gives it."""
    return msgspec.json.encode(
        {"message": {"seq": head.seq, "data": msgspec.json.encode(head.link)}}
    )


def _output(attempt: int) -> Output:
    return Output(
        url="",
        file_path=str(attempt),
        thumbnail_url="",
        file_size_bytes=1,
        width=1,
        height=1,
        format="png",
        sha256="",
    )
