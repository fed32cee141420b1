"""`mmg` with one rule broken: `python -m tests.chaos.mutant NAME worker`.

A check that cannot fail proves nothing: each of these builds must be caught by the auditor or by
the deadline of a trial.
"""

import sys
from collections.abc import Generator

from agent import cli
from agent.bus.connection import Bus, PubAck
from agent.bus.lanes import Delivery
from agent.core.job import place_after
from agent.core.steps import Append, Command, Event, Settle, Stored, Superseded, Told
from agent.core.story import Story
from agent.worker import Job
from contracts.events import Link, LinkHead, Started, kind_of
from tests.chaos import slow_worker

Ending = Generator[Command, Told, Superseded | None]


def ack_first() -> None:
    """Take the request out of its lane before its end is stored."""

    def end(self: Story, link: Link) -> Ending:
        yield from self._settle(kind_of(link))
        outcome = yield from self._ask(Append(link, self.place.seq))
        if isinstance(outcome, Stored):
            self.place = place_after(outcome.seq, link)
            self.ended = kind_of(link)
            return None
        return outcome if isinstance(outcome, Superseded) else None

    ack = Delivery.ack

    async def ack_at_once(self: Delivery) -> None:
        await ack(self)
        await self._bus.flush()

    Story._end = end  # type: ignore[method-assign]
    Delivery.ack = ack_at_once  # type: ignore[method-assign]


def ack_superseded() -> None:
    """Take a request out of its lane although another worker carries it."""

    def unless_lost(
        self: Story, outcome: Started | Event | None
    ) -> Generator[Command, Told, Started | None]:
        if isinstance(outcome, Superseded):
            self.ended = "superseded"
            yield from self._ask(Settle("ack", "superseded"))
        return outcome if isinstance(outcome, Started) else None

    Story._unless_lost = unless_lost  # type: ignore[method-assign]


def no_fence() -> None:
    """Append without saying which link is expected to be the last one.

    And hear of no overtaking, as if those messages were lost: the fence alone has to hold.
    """
    store = Bus.store

    async def unfenced(
        self: Bus,
        subject: str,
        data: bytes,
        headers: dict[str, str] | None = None,
        timeout_s: float = 5.0,
    ) -> PubAck:
        kept = {k: v for k, v in (headers or {}).items() if "Expected" not in k}
        return await store(self, subject, data, kept, timeout_s)

    def deaf(self: Job, head: LinkHead) -> bool:
        return False

    Bus.store = unfenced  # type: ignore[method-assign]
    Job.is_overtaken = deaf  # type: ignore[method-assign]


def keep_files() -> None:
    """Leave the files of an attempt that lost on the disk."""
    run = Story._try

    def without_discard(self: Story, started: Started) -> Generator[Command, Told, Started | None]:
        steps = run(self, started)
        command = next(steps)
        while True:
            told = yield command
            try:
                command = steps.send(told)
                while type(command).__name__ == "Discard":
                    command = steps.send(told)
            except StopIteration as stop:
                following: Started | None = stop.value
                return following

    Story._try = without_discard  # type: ignore[method-assign]


MUTANTS = {
    "ack-first": ack_first,
    "ack-superseded": ack_superseded,
    "no-fence": no_fence,
    "keep-files": keep_files,
}


def bend(name: str) -> None:
    """Break one rule of this process."""
    MUTANTS[name]()


if __name__ == "__main__":
    bend(sys.argv[1])
    slow_worker.bend()
    sys.exit(cli.main(sys.argv[2:]))
