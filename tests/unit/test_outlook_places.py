"""Goal: who waits for a place on the CPU or in the cloud hears when it should start, and why.

Method: wishes and the times at which places become free in, outlooks out.
"""

from datetime import UTC, datetime, timedelta
from math import inf

import pytest

from agent.core import scheduler
from agent.core.outlook import Outlook, outlook_of_places
from agent.core.scheduler import Night, Rules, Starts, Wish
from contracts.requests import Priority

NOW = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)


def wish(job: str, priority: Priority = Priority.HIGH, *, seq: int = 1, run_s: float = 10) -> Wish:
    return Wish(
        job=job,
        priority=priority,
        requester=job,
        seq=seq,
        stored_at=NOW - timedelta(seconds=1),
        max_wait_s=scheduler.MAX_WAIT_S[priority],
        run_s=run_s,
    )


def looks(
    *wishes: Wish, ready_s: tuple[float, ...], rules: Rules | None = None
) -> dict[str, Outlook]:
    turns = scheduler.order(wishes, NOW, Starts(), rules or Rules())
    return {one.job: one for one in outlook_of_places("cloud", wishes, turns, ready_s)}


def test_each_gets_the_place_that_is_free_first_and_holds_it_for_its_run():
    found = looks(
        wish("a", seq=1, run_s=10),
        wish("b", seq=2, run_s=4),
        wish("c", seq=3),
        wish("d", seq=4),
        ready_s=(7.0, 2.0),
    )
    assert [found[job].start_s for job in "abcd"] == [2.0, 7.0, 11.0, 12.0]
    assert [found[job].place for job in "abcd"] == [1, 2, 3, 4]
    for one in found.values():
        assert one.early_s <= one.start_s <= one.late_s


@pytest.mark.parametrize(
    ("ready_s", "words"),
    [((3.0,), "the one place of this worker is taken"), ((3.0, 4.0), "all 2 places")],
)
def test_the_sentence_says_what_is_taken_which_rule_holds_and_what_would_help(ready_s, words):
    one = looks(wish("a"), ready_s=ready_s)["a"]
    assert words in one.sentence
    assert f"Order, rule {one.rule}: " in one.sentence
    assert "more places (MMG_SLOTS)" in one.sentence


def test_without_any_place_no_end_is_in_sight():
    assert looks(wish("a"), ready_s=())["a"].start_s == inf


def test_who_sleeps_waits_for_its_hour_and_takes_no_place_from_others():
    night = Rules(night=Night(from_hour=22, to_hour=6))
    found = looks(
        wish("low", Priority.LOW, seq=1), wish("high", seq=2), ready_s=(5.0,), rules=night
    )
    assert found["high"].start_s == 5.0
    assert found["low"].start_s == 10 * 3600
    assert found["low"].sentence.startswith("it waits for its hour")
