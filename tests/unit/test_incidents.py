"""Goal: what is wrong is named, worst first, with the one command that ends it or says more.

Method: what was seen goes in as values, incidents come out.
"""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.incidents import (
    COMMANDS,
    LATE_GRACE_S,
    RANK,
    Letterbox,
    Line,
    Raised,
    Seen,
    Waiting,
    judge,
    line,
)
from agent.core.scheduler import MAX_WAIT_S
from agent.gateway.markdown import render
from contracts.events import Intake, Pause
from contracts.requests import Priority
from contracts.status import MoneyState, WorkerReport
from tests.rig import ROOT

NOW = datetime(2026, 3, 2, 9, 15, tzinfo=UTC)


def ago(seconds: float) -> datetime:
    return NOW - timedelta(seconds=seconds)


def worker(name: str = "w1", state: Any = "ready", reason: str = "", running=()) -> WorkerReport:
    money = MoneyState(
        day="2026-03-02",
        spent_usd=0.0,
        held_usd=0.0,
        day_limit_usd=None,
        request_limit_usd=None,
        requester_limit_usd=None,
        by_requester=(),
        holds=(),
    )
    return WorkerReport(
        worker=name,
        state=state,
        reason=reason,
        running=running,
        engines=("sketch",),
        permission_errors=0,
        at=NOW,
        version="1",
        started_at=NOW,
        cards=(),
        jobs=(),
        waits=(),
        slots=(),
        engine_states=(),
        money=money,
        alerts=(),
        decisions=(),
    )


def raised(name: str, message: str = "it is so", since_s: float = 60, by: str = "w1") -> Raised:
    return Raised(name=name, since=ago(since_s), message=message, by=by)


def seen(**facts) -> Seen:
    return Seen(at=NOW, **{"workers": (worker(),), **facts})


def names(found) -> list[str]:
    return [one.name for one in found]


def stored(*ages_s: float) -> list[Waiting]:
    return [Waiting(job=f"a.{place}", stored_at=ago(age)) for place, age in enumerate(ages_s)]


def test_nothing_is_wrong_when_nothing_is():
    assert judge(seen()) == ()


def test_a_bus_that_is_away_is_all_that_can_be_said():
    found = judge(seen(bus="it is not connected", workers=(), letters=Letterbox(total=3)))
    assert names(found) == ["bus_away"]
    assert "it is not connected" in found[0].sentence


def test_nobody_at_work_is_worse_than_what_was_raised():
    lines = (Line(priority=Priority.HIGH, waiting=3, running=0, bound_s=30),)
    found = judge(seen(workers=(), alerts=(raised("disk"),), lines=lines))
    assert names(found) == ["no_worker", "disk"]
    assert "3 requests will wait" in found[0].sentence
    assert found[0].command == "mmg worker"


def test_an_alert_keeps_its_words_its_time_and_gets_its_command():
    [one] = judge(seen(alerts=(raised("card_lost", "the card does not answer."),)))
    assert (one.level, one.since, one.command) == ("down", ago(60), "mmg gpu")
    assert one.sentence == "The card does not answer."


def test_an_engine_keeps_its_name_at_the_head_of_a_sentence():
    [one] = judge(seen(alerts=(raised("engine_comfyui", "comfyui has been down for 6 min"),)))
    assert one.sentence == "comfyui has been down for 6 min."


def test_an_alert_whose_voice_is_gone_says_so():
    [one] = judge(seen(alerts=(raised("clock", by="w9"),)))
    assert "w9 said so, and does not answer now" in one.sentence


def test_one_closed_worker_of_two_is_a_warning_and_both_are_a_stop():
    closed = worker("w1", "closed", "the disk is full")
    assert [one.level for one in judge(seen(workers=(closed, worker("w2"))))] == ["warn"]
    assert [one.level for one in judge(seen(workers=(closed,)))] == ["down"]


def test_a_paused_worker_is_named_with_the_way_back():
    [one] = judge(seen(workers=(worker("w1", "paused", "paused by ann: lunch"), worker("w2"))))
    assert one.sentence == "w1 is paused by ann: lunch."
    assert one.command == "mmg resume --worker w1"


def test_paused_lanes_say_who_why_and_since_when():
    lines = tuple(
        Line(priority=one, waiting=0, running=0, bound_s=0, paused_until=ago(-99))
        for one in Priority
    )
    pause = Pause(paused=True, by="ann", reason="driver", at=ago(300))
    [one] = judge(seen(lines=lines, pause=pause))
    assert (one.name, one.since, one.command) == ("lanes_paused", ago(300), "mmg resume")
    assert one.sentence.startswith("All classes are paused by ann: driver.")


def test_a_closed_intake_is_named():
    intake = Intake(open=False, by="ann", reason="move", at=ago(10))
    [one] = judge(seen(intake=intake))
    assert (one.name, one.command) == ("intake_closed", "mmg intake on")


def test_a_class_past_its_bound_is_named_but_not_while_it_is_paused():
    late = line(Priority.HIGH, stored(100, 95, 3), frozenset(), 3, NOW)
    [one] = judge(seen(lines=(late,)))
    assert one.sentence == "2 HIGH requests past the bound of the class, which waits 30 s at most."
    assert one.since == ago(70)
    paused = line(Priority.HIGH, stored(100), frozenset(), 1, NOW, paused_until=ago(-60))
    assert names(judge(seen(lines=(paused,)))) == ["lanes_paused"]


def test_more_than_was_looked_at_is_said_as_at_least():
    late = line(Priority.HIGH, stored(100, 95), frozenset(), 9000, NOW)
    assert judge(seen(lines=(late,)))[0].sentence.startswith("At least 2 HIGH requests")


def test_dead_letters_are_for_a_person_and_stop_nothing():
    [one] = judge(seen(letters=Letterbox(total=1, newest_at=ago(5))))
    assert (one.level, one.command) == ("note", "mmg dead list")
    assert one.sentence == "1 request given up, and nobody has looked yet."


def test_who_runs_does_not_wait():
    found = line(Priority.LOW, stored(50, 40), frozenset({"a.0"}), 2, NOW)
    assert (found.waiting, found.running, found.oldest_id) == (1, 1, "a.1")


@given(
    st.lists(st.floats(min_value=0, max_value=2000), max_size=12),
    st.sampled_from(list(Priority)),
)
def test_a_class_counts_exactly_those_past_its_bound(ages_s, priority):
    ages_s.sort(reverse=True)
    found = line(priority, stored(*ages_s), frozenset(), len(ages_s), NOW)
    limit = MAX_WAIT_S[priority] + LATE_GRACE_S
    on_time = [age for age in ages_s if age <= limit - 0.001]
    assert found.waiting == len(ages_s)
    assert found.late == len(ages_s) - len([age for age in ages_s if age <= limit])
    assert (found.late_at is None) == (not on_time) or any(
        abs(age - limit) < 0.01 for age in ages_s
    )


@given(
    st.lists(
        st.tuples(st.sampled_from(["card_lost", "disk", "clock"]), st.integers(1, 999)), max_size=6
    ),
    st.booleans(),
    st.integers(0, 3),
)
def test_the_worst_is_first_and_of_equals_the_oldest(alerts, works, letters):
    found = judge(
        seen(
            workers=(worker(),) if works else (),
            letters=Letterbox(total=letters),
            alerts=tuple(raised(name, since_s=since) for name, since in alerts),
        )
    )
    ranks = [(RANK[one.level], one.since is None, one.since or NOW) for one in found]
    assert ranks == sorted(ranks)


def test_every_incident_has_its_entry_in_the_runbook():
    paused = line(Priority.HIGH, stored(100), frozenset(), 1, NOW, paused_until=ago(-60))
    late = line(Priority.LOW, stored(1000), frozenset(), 1, NOW)
    everything = seen(
        ledger="it is being made",
        lines=(paused, late),
        workers=(worker("w1", "closed", "no"), worker("w2", "paused", "paused by ann: x")),
        intake=Intake(open=False, by="ann", reason="move", at=NOW),
        letters=Letterbox(total=1),
    )
    found = (*judge(everything), *judge(seen(workers=())), *judge(seen(bus="away")))
    page = render((ROOT / "ops" / "runbook.md").read_text(encoding="utf-8"))
    assert len({one.name for one in found}) == 9
    assert [one.name for one in found if f'id="{one.runbook}"' not in page] == []


@pytest.mark.parametrize("alert", ["disk", "card_unknown", "engine_openai", "whatever_comes"])
def test_every_alert_has_a_command(alert):
    [one] = judge(seen(alerts=(raised(alert),)))
    assert one.command in {command for _, command in COMMANDS}
