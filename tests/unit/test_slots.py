"""Goal: a place is held by one job at a time, given in the scheduler's order, and never lost.

Method: real places and a clock made for tests; cancellations come at every moment.
"""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from agent.core.durations import FIRST_S, Durations, Kind
from agent.core.routing import Candidate
from agent.core.scheduler import Night, Rules, Wish
from agent.places import Places
from contracts.requests import Options, Priority, Quality, Request

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)


class Hands:
    """A clock whose hands are set."""

    def __init__(self):
        self.at = NOON

    def now(self):
        return self.at

    def monotonic_s(self):
        return (self.at - NOON).total_seconds()


def wish(job, priority=Priority.MEDIUM, seq=0, requester="a", run_s=10.0):
    return Wish(
        job=job,
        priority=priority,
        requester=requester,
        seq=seq,
        stored_at=NOON,
        max_wait_s=120.0,
        run_s=run_s,
    )


def places(count=1, rules=None):
    return Places([None] * count, Hands(), rules or Rules())


async def settle():
    """Let every task that can run do so."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_a_free_place_is_given_at_once_and_freed_for_the_next():
    kind = places()
    assert await kind.take(wish("one")) is None
    assert (kind.free, list(kind.taken)) == (0, ["one"])
    kind.give("one", None)
    assert (kind.free, kind.size) == (1, 1)


async def test_a_higher_class_gets_the_place_before_one_that_came_earlier():
    kind = places()
    await kind.take(wish("running"))
    got = []

    async def wait(asked):
        await kind.take(asked)
        got.append(asked.job)
        kind.give(asked.job, None)

    async with asyncio.TaskGroup() as group:
        group.create_task(wait(wish("low", Priority.LOW, 1)))
        group.create_task(wait(wish("medium", Priority.MEDIUM, 2)))
        group.create_task(wait(wish("critical", Priority.CRITICAL, 3)))
        await settle()
        kind.give("running", None)
    assert got == ["critical", "medium", "low"]


async def test_no_requester_takes_a_place_while_another_with_fewer_running_waits():
    kind = places(2)
    await kind.take(wish("a1", requester="a"))
    await kind.take(wish("a2", requester="a"))
    got = []

    async def wait(asked):
        await kind.take(asked)
        got.append(asked.job)

    async with asyncio.TaskGroup() as group:
        group.create_task(wait(wish("a3", seq=1, requester="a")))
        group.create_task(wait(wish("b1", seq=2, requester="b")))
        await settle()
        kind.give("a1", None)
        await settle()
        assert got == ["b1"]
        kind.give("a2", None)
    assert got == ["b1", "a3"]


@pytest.mark.parametrize("ticks", range(6))
async def test_a_wait_that_is_cancelled_at_any_moment_leaves_no_place_taken(ticks):
    kind = places()
    await kind.take(wish("first"))
    waiting = asyncio.TaskGroup()
    async with waiting as group:
        task = group.create_task(kind.take(wish("second")))
        await settle()
        kind.give("first", None)
        for _ in range(ticks):
            await asyncio.sleep(0)
        task.cancel()
    if task.cancelled():
        assert (kind.free, kind.waiting) == (1, ())
    else:
        assert list(kind.taken) == ["second"]


async def test_low_waits_for_its_hours_and_starts_when_they_begin():
    hands = Hands()
    kind = Places([None], hands, Rules(night=Night(from_hour=22, to_hour=6)))
    async with asyncio.TaskGroup() as group:
        group.create_task(kind.take(wish("low", Priority.LOW)))
        await settle()
        assert kind.free == 1
        hands.at = NOON + timedelta(hours=11)
        kind.assign()
        await settle()
    assert list(kind.taken) == ["low"]


async def test_it_tells_after_how_long_each_place_could_take_up_a_job():
    kind = places(2)
    await kind.take(wish("one", run_s=10.0))
    kind._clock.at += timedelta(seconds=4)
    assert kind.ready_in_s() == (0.0, 6.0)


def candidate(engine="comfyui"):
    return Candidate(engine=engine, model="m", slot="gpu", reason="", workflow="w")


def request(**options):
    return Request(type="image", prompt="p", options=Options(**options))


KIND = Kind("comfyui", "m", "w")


def test_durations_are_learned_for_each_engine_and_scaled_by_the_work():
    known = Durations()
    assert known.expected(KIND, request())[0] == FIRST_S
    known.learn(KIND, request(), 20.0)
    assert known.expected(KIND, request())[0] == pytest.approx(20.0)
    assert known.expected(KIND, request(count=3))[0] == pytest.approx(60.0)
    high = known.expected(KIND, request(quality=Quality.HIGH))[0]
    assert high == pytest.approx(20.0 * 40 / 25)
    assert known.expected(KIND._replace(engine="sketch"), request())[0] == FIRST_S
    assert known.known(KIND._replace(engine="sketch"), request()) is None


def test_the_error_of_an_expectation_shrinks_with_steady_runs():
    known = Durations()
    known.learn(KIND, request(), 20.0)
    first = known.expected(KIND, request())[1]
    for _ in range(20):
        known.learn(KIND, request(), 20.0)
    assert known.expected(KIND, request())[1] < first / 4


def test_a_run_that_loads_its_model_first_is_expected_to_take_longer():
    known, other = Durations(), KIND._replace(model="n")
    known.learn(KIND, request(), 30.0, "card")  # Cold: the first of this place.
    assert known.expected(KIND, request(), "card")[1] == pytest.approx(30.0), "only a cold one"
    known.learn(KIND, request(), 20.0, "card")
    assert known.expected(KIND, request(), "card")[0] == pytest.approx(20.0)
    assert known.expected(KIND, request(), "another card")[0] == pytest.approx(30.0)
    known.learn(other, request(), 40.0, "card")
    assert known.expected(KIND, request(), "card")[0] == pytest.approx(30.0)
    assert known.expected(KIND, request())[0] == pytest.approx(20.0), "nothing is loaded there"
