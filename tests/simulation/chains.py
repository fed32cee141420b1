"""Every chain that was met, by number, and the rules each link has to keep.

A chain is a tuple of links without ids: who wrote the head is known to the world, and the ids of
links that are no longer the head are never compared by anybody. A link whose id does not depend
on its writer keeps it, so that writers who share an id are mistaken for each other as they would.
"""

from itertools import pairwise
from typing import Final

import msgspec

from agent.core.job import TRIES_MAX
from contracts.events import (
    Cancelled,
    Completed,
    Expired,
    Failed,
    Link,
    Preempted,
    Released,
    Retrying,
    Started,
    is_terminal,
    kind_of,
)
from tests.simulation.violation import demand

FIRST_SEQ: Final = 110
STEP_SEQ: Final = 10
"""Sequences of links are neither places in the chain nor sequences of requests."""


class Chains:
    """The links and chains of one search; number 0 is the empty chain."""

    def __init__(self) -> None:
        self.links: list[Link] = []
        self.ids: list[tuple[str, str]] = []
        self.shared: list[bool] = []
        self.of: list[tuple[int, ...]] = [()]
        self.before: list[int] = [0]
        self.seq: list[int] = [0]
        self.closed: list[bool] = [False]
        self.files: list[int] = [0]
        """Attempts, as bits, whose files the chain's end names."""
        self._link_numbers: dict[Link, int] = {}
        self._chain_numbers: dict[tuple[int, int], int] = {}

    def link_number(self, link: Link, id_of_another: str) -> int:
        """Return the number of a link, given the id the same link has from another writer."""
        shared = link.id == id_of_another
        plain = link if shared else msgspec.structs.replace(link, id="")
        number = self._link_numbers.get(plain)
        if number is None:
            number = self._link_numbers[plain] = len(self.links)
            self.links.append(plain)
            self.ids.append((link.id, id_of_another))
            self.shared.append(shared)
        return number

    def told(self, number: int, writer: int | None) -> Link:
        """Return a link as somebody reads it; `writer` is the reader's nonce if it wrote it."""
        link = self.links[number]
        if self.shared[number]:
            return link
        name = "other" if writer is None else self.ids[number][writer]
        return msgspec.structs.replace(link, id=name)

    def upto(self, chain: int, seq: int) -> int:
        """Return the part of a chain up to a sequence."""
        while self.seq[chain] > seq:
            chain = self.before[chain]
        return chain

    def head(self, chain: int) -> Link | None:
        """Return the last link, without its id."""
        numbers = self.of[chain]
        return self.links[numbers[-1]] if numbers else None

    def extended(self, chain: int, link: int) -> int:
        """Return the chain with one more link. Raises: Violation of a rule about links."""
        number = self._chain_numbers.get((chain, link))
        if number is None:
            before = [self.links[number] for number in self.of[chain]]
            check(before, self.links[link])
            number = self._chain_numbers[chain, link] = len(self.of)
            last = self.links[link]
            self.of.append((*self.of[chain], link))
            self.before.append(chain)
            self.seq.append(FIRST_SEQ + STEP_SEQ * len(before))
            self.closed.append(is_terminal(last))
            self.files.append(
                sum(1 << int(output.file_path) for output in last.outputs)
                if isinstance(last, Completed)
                else 0
            )
        return number

    def shown(self, chain: int) -> str:
        """Return a chain for a person."""
        return " ".join(
            f"{kind_of(self.links[number])}#{self.links[number].attempt}"
            for number in self.of[chain]
        )


def check(before: list[Link], link: Link) -> None:
    """Check one link against the links before it."""
    kind = kind_of(link)
    demand(link.n == len(before) + 1, "n counts from 1", f"{kind} has n={link.n}")
    if before:
        last = before[-1]
        demand(not is_terminal(last), "nothing follows an end", f"{kind} was stored after an end")
        demand(
            link.attempt == last.attempt + isinstance(link, Started),
            "attempts count the starts",
            f"{kind} of attempt {link.attempt} after attempt {last.attempt}",
        )
        demand(
            link.attempt > last.attempt or link.progress_percent >= last.progress_percent,
            "progress never falls in an attempt",
            f"{kind} tells {link.progress_percent} % after {last.progress_percent} %",
        )
    else:
        demand(link.attempt == isinstance(link, Started), "attempts count the starts", kind)
    if isinstance(link, Started):
        _check_start(before, link)
    if isinstance(link, Completed):
        demand(bool(link.outputs), "the outputs exist", "`completed` names none")
    if isinstance(link, Expired):
        demand(not before, "expired is the only link", f"{kind} after {len(before)} links")


def _check_start(before: list[Link], link: Started) -> None:
    lost = lost_workers(before)
    demand(lost < TRIES_MAX, "three lost workers", f"started again after {lost} lost workers")
    tries = failed_tries(before, link.engine)
    demand(tries < TRIES_MAX, "three tries", f"{link.engine} is tried again after {tries} tries")
    demand(
        link.engine not in never_again(before),
        "an engine that gave up stays out",
        f"{link.engine} is tried again",
    )


def check_given_up(before: list[Link], link: Failed, engines: tuple[str, ...]) -> None:
    """Check that a dead letter is one: workers or tries were spent."""
    faulted = [fault.engine for fault in link.faults[-1:] if fault.error.code != "worker_lost"]
    spent = lost_workers(before) >= TRIES_MAX or all(
        failed_tries(before, engine) + faulted.count(engine) >= TRIES_MAX
        or any(f.engine == engine and not f.error.retryable for f in link.faults)
        for engine in engines
    )
    demand(spent or not link.dead, "given up too early", f"dead after {len(link.faults)} faults")


def lost_workers(links: list[Link]) -> int:
    """Count `started` links that nothing but another start, or nothing yet, follows."""
    following: list[Link | None] = [*links[1:], None]
    return sum(
        isinstance(link, Started) and (after is None or isinstance(after, Started))
        for link, after in zip(links, following, strict=False)
    )


def failed_tries(links: list[Link], engine: str) -> int:
    """Count the tries of an engine that a fault or a lost worker ended."""
    following: list[Link | None] = [*links[1:], None]
    return sum(
        isinstance(link, Started)
        and link.engine == engine
        and not isinstance(after, Released | Preempted | Cancelled)
        for link, after in zip(links, following, strict=False)
    )


def never_again(links: list[Link]) -> set[str]:
    """Name the engines that answered what a further try cannot change."""
    return {
        link.engine
        for link, after in pairwise(links)
        if isinstance(link, Started) and isinstance(after, Retrying) and not after.error.retryable
    }
