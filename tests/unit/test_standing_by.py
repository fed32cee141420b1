"""Goal: a worker without its card keeps no request from one that has a card.

Method: a clock made for tests, slots whose only card is lost, jobs that have found no engine.
"""

from datetime import UTC, datetime
from typing import Any

import pytest

from agent.core.job import StoredRequest
from agent.slots import HeldSlot, Slots
from agent.standing_by import SHUT_S, STUCK_S, StandingBy
from contracts.requests import Priority, Request
from contracts.subjects import Identity

NOON = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)


class HandClock:
    """A clock that stands still until it is set."""

    def __init__(self) -> None:
        self.passed_s = 100.0

    def now(self) -> datetime:
        return NOON

    def monotonic_s(self) -> float:
        return self.passed_s


class LostCard:
    """A keeper whose card is another worker's, until it is found."""

    def __init__(self) -> None:
        self.lost = "w1 has this card"


class Job:
    """A job that has found no engine."""

    def __init__(self, slots: Slots, seq: int, priority: Priority = Priority.LOW) -> None:
        self.stored = StoredRequest(
            who=Identity("L2-01", f"r{seq}"),
            priority=priority,
            seq=seq,
            stored_at=NOON,
            request=Request(type="image", prompt="p"),
        )
        self.slot = HeldSlot(slots, self.stored)
        self.handed_back = False
        self.slot.waits_for_an_engine(stuck=True)


class Rig:
    """A worker that stands by."""

    def __init__(self) -> None:
        self.clock = HandClock()
        self.card = LostCard()
        keepers: Any = {"comfyui": self.card}
        self.slots = Slots({}, keepers, self.clock)
        self.standing_by = StandingBy(self.slots)

    def back(self, *jobs: Job) -> list[str]:
        return [one.job for one in self.standing_by.goes_back(jobs)]


@pytest.fixture
def rig() -> Rig:
    return Rig()


def test_those_that_found_no_engine_for_a_while_go_back_in_their_order(rig: Rig) -> None:
    jobs = [Job(rig.slots, seq) for seq in (3, 1, 2)]
    rig.clock.passed_s += STUCK_S - 0.1
    assert rig.back(*jobs) == []
    rig.clock.passed_s += 0.1
    assert rig.back(*jobs) == ["L2-01.r1#1", "L2-01.r2#2", "L2-01.r3#3"]


def test_their_lanes_are_left_alone_until_another_worker_has_looked(rig: Rig) -> None:
    lanes = (Priority.HIGH, Priority.LOW)
    job = Job(rig.slots, 1)
    assert rig.standing_by.open(lanes) == lanes
    rig.clock.passed_s += STUCK_S
    assert rig.back(job)
    assert rig.standing_by.open(lanes) == (Priority.HIGH,)
    rig.clock.passed_s += SHUT_S
    assert rig.standing_by.open(lanes) == lanes


def test_with_a_card_or_an_engine_nobody_goes_back(rig: Rig) -> None:
    job, gone = Job(rig.slots, 1), Job(rig.slots, 2)
    gone.handed_back = True
    rig.clock.passed_s += STUCK_S
    assert rig.back(gone) == []
    job.slot.stuck_since_s = None  # As after `take`: an engine may begin it.
    assert rig.back(job) == []
    job.slot.waits_for_an_engine(stuck=True)
    rig.clock.passed_s += STUCK_S
    rig.card.lost = ""
    assert rig.back(job) == []


def test_a_pause_before_a_retry_is_not_being_stuck(rig: Rig) -> None:
    job = Job(rig.slots, 1)
    job.slot.stuck_since_s = None
    job.slot.waits_for_an_engine(stuck=False)
    rig.clock.passed_s += STUCK_S
    assert rig.back(job) == []
