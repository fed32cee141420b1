"""How long one decision takes: of the worker, whose room holds 16, and of the gateway about 20,000.

Run: python -m ops.bench.decision [--json PATH]. The pure core alone, called as the shells call it.
A worker looks at its waiting room only: with 10 waiting it holds 10, with 20,000 it holds 16. The
gateway knows all that wait. Times are CPU time of the thread: a decision waits for nobody, and what
else runs on the machine does not count.
"""

import random
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Final

from agent.core.arbiter import Arbiter
from agent.core.board import Board, Entry
from agent.core.card import Card, ComfyUI, Loaded, Reading, Tenant
from agent.core.leases import Ask, Need
from agent.core.promise import Pace, Rest
from agent.core.scheduler import MAX_WAIT_S, Rules, Starts, Wish, order
from agent.core.standing import Settings
from agent.core.waiting_room import SIZE, Held, overfull, pull_next
from contracts.requests import Priority, Quality
from contracts.subjects import Identity
from ops.bench.rows import Row, at_most, p99, report

FEW: Final = 10
MANY: Final = 20_000
TIMES: Final = 3_000
LANES: Final = tuple(Priority)
AT: Final = datetime(2026, 1, 1, tzinfo=UTC)


def timed(decide: Callable[[], object]) -> list[float]:
    """Return the milliseconds of CPU of each call."""
    took = []
    for _ in range(TIMES):
        began = time.thread_time()
        decide()
        took.append(1000 * (time.thread_time() - began))
    return took


def wishes(count: int) -> list[Wish]:
    """Return so many who wait, of all classes and some requesters."""
    return [
        Wish(
            job=f"job-{number}",
            priority=LANES[number % len(LANES)],
            requester=f"L2-{number % 5}",
            seq=number,
            stored_at=AT - timedelta(seconds=number),
            max_wait_s=MAX_WAIT_S[LANES[number % len(LANES)]],
        )
        for number in range(count)
    ]


def place(waiting: int) -> list[float]:
    """Decide who gets a place on the CPU or in the cloud, and which lanes are pulled."""
    line = wishes(min(waiting, SIZE))
    held = [Held(job=one.job, priority=one.priority, seq=one.seq, slot="cpu") for one in line]

    def decide() -> None:
        order(line, AT, Starts(), Rules(), running={"L2-1": 1})
        overfull(held)
        pull_next(held, {"cpu": 1})

    return timed(decide)


def card(waiting: int) -> list[float]:
    """Decide about the card: the job on it ends, it is measured, the next one gets it; all over."""
    arbiter, now = Arbiter(Settings()), AT
    took: list[float] = []

    def measured() -> Reading:
        loaded = Loaded(name="llama", size_mib=8192, vram_mib=8192, expires_at=None)
        return Reading(
            taken_at=now,
            card=Card(total_mib=24576, free_mib=16384),
            comfyui=ComfyUI(),
            tenants=(Tenant(name="ollama", loaded=(loaded,)),),
        )

    for one in wishes(min(waiting, SIZE) + 1):
        arbiter.request(asked(one), now)
    arbiter.reading(measured(), now)
    for _ in range(TIMES):
        now += timedelta(milliseconds=100)
        lease = arbiter.lease
        assert lease is not None, "somebody always has the card here"
        began = time.thread_time()
        arbiter.release(lease.ask.job, now)
        released = time.thread_time()
        now += timedelta(milliseconds=10)  # Only what was measured afterwards counts.
        arbiter.reading(measured(), now)
        read = time.thread_time()
        arbiter.request(lease.ask, now)
        took += [1000 * (released - began), 1000 * (read - released)]
        took.append(1000 * (time.thread_time() - read))
    return took


def asked(wish: Wish) -> Ask:
    """Turn a wish into one for the card."""
    return Ask(
        job=wish.job,
        priority=wish.priority,
        quality=Quality.STANDARD,
        need=Need(model="sdxl-1.0", vram_mib=12288),
        stored_at=wish.stored_at,
        max_wait_s=wish.max_wait_s,
        requester=wish.requester,
        seq=wish.seq,
    )


def gateway(waiting: int) -> list[float]:
    """Find a request's place among all that wait, and when it should start."""
    every, board, pace = entries(waiting), Board(), Pace()
    board.load(every)
    for seconds in (4.0, 5.0, 6.0):
        pace.learn(seconds)
    choose = random.Random(1)  # noqa: S311 - no secret

    def decide() -> None:
        found = board.place(choose.choice(every).who)
        assert found is not None, "all of them wait"
        pace.expect(found - 1, (Rest(1.0, 0.5), Rest(2.0, 0.5)))

    return timed(decide)


def running(waiting: int) -> list[float]:
    """Find those that are worked on among all that wait."""
    board = Board()
    board.load(entries(waiting))
    return timed(board.running)


def entries(waiting: int) -> list[Entry]:
    """Return so many that wait, of all classes."""
    return [
        Entry(
            who=Identity("bench", f"r{number}"),
            priority=LANES[number % len(LANES)],
            seq=number,
            stored_at=AT,
        )
        for number in range(waiting)
    ]


async def measure() -> list[Row]:
    """Time each decision at both depths."""
    rows = []
    for words, who, decide in (
        ("who gets a place, which lanes are pulled", "worker, room of 16", place),
        ("who gets the card", "worker, room of 16", card),
        ("place and expected start", "gateway, all that wait", gateway),
        ("who is worked on, twice a second at most", "gateway, all that wait", running),
    ):
        few, many = decide(FEW), decide(MANY)
        rows.append(
            Row(
                what=f"decision: {words}, {MANY:,} waiting, p99",
                who=who,
                figure=p99(many),
                unit="ms",
                floor=p99(few),
                floor_of=f"{FEW} waiting",
                target=at_most(1.0, "figure"),
            )
        )
    return rows


if __name__ == "__main__":
    report(__doc__, measure)
