"""Goal: who is considered first for a slot, rule by rule of the design's section 4.

Method: waiting jobs in, ranked turns out; the clock is a number. Properties with hypothesis.
"""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.scheduler import (
    MAX_WAIT_S,
    ONE_IN,
    RANK,
    Night,
    Rules,
    Starts,
    Wish,
    counted_from,
    left_s,
    order,
)
from contracts.requests import Priority

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
DUE = Starts(count=ONE_IN - 1)


def wish(job, priority="HIGH", waited_s=0.0, **fields):
    fields.setdefault("seq", 1_000_000 - round(waited_s * 100))
    return Wish(
        job=job,
        priority=Priority(priority),
        requester=fields.pop("requester", job),
        stored_at=NOW - timedelta(seconds=waited_s),
        max_wait_s=MAX_WAIT_S[Priority(priority)],
        **fields,
    )


def ranked(*waiting, starts=None, rules=None, now=NOW, **facts):
    return order(waiting, now, starts or Starts(), rules or Rules(), **facts)


def jobs(turns):
    return [turn.job for turn in turns]


# --- rule 1 and rule 4: the classes ------------------------------------------------------------


def test_critical_comes_first_and_the_classes_follow():
    turns = ranked(wish("l", "LOW"), wish("m", "MEDIUM"), wish("c", "CRITICAL"), wish("h"))
    assert jobs(turns) == ["c", "h", "m", "l"]
    assert [turn.rule for turn in turns] == [1, 4, 4, 4]
    assert "3 of higher classes come before LOW" in turns[3].reason


def test_critical_comes_first_although_it_is_the_turn_of_who_is_past_its_bound():
    turns = ranked(wish("old", "LOW", 5000), wish("c", "CRITICAL"), starts=DUE)
    assert jobs(turns) == ["c", "old"]


def test_critical_comes_first_although_a_lower_one_must_start_now():
    assert jobs(ranked(wish("last", "LOW", 595), wish("c", "CRITICAL"))) == ["c", "last"]


# --- rule 2: one start in eight ----------------------------------------------------------------


def test_one_start_in_eight_goes_to_the_one_longest_past_its_bound():
    waiting = [wish("h"), wish("m", "MEDIUM", 200), wish("l", "LOW", 700)]
    assert jobs(ranked(*waiting)) == ["h", "m", "l"]
    assert jobs(ranked(*waiting, starts=Starts(count=7, is_spent=True))) == ["h", "m", "l"]
    first = ranked(*waiting, starts=DUE)[0]
    assert (first.job, first.rule) == ("l", 2)
    assert "100 s past" in first.reason


def played(turns_of, count):
    """Let the first of each order start, and return the rules by which they did."""
    starts, rules = Starts(), []
    for number in range(count):
        turn = turns_of(number, starts)[0]
        rules.append(turn.rule)
        starts = starts.after(turn)
    return rules


def eighths(rules):
    return [place for place, rule in enumerate(rules, 1) if rule == 2]


def test_while_high_waits_it_is_the_eighth_start_of_each_eight():
    rules = played(lambda _, starts: ranked(wish("h"), wish("l", "LOW", 700), starts=starts), 20)
    assert eighths(rules) == [8, 16]


def test_it_is_the_first_start_of_the_eight_at_which_no_high_waits():
    def turns(number, starts):
        upper = wish("m", "MEDIUM") if number in (3, 4, 5, 12) else wish("h")
        return ranked(upper, wish("l", "LOW", 700), starts=starts)

    assert eighths(played(turns, 24)) == [4, 13, 24]


def test_of_eight_starts_no_more_than_one_goes_to_who_is_past_its_bound():
    rules = played(
        lambda _, starts: ranked(wish("m", "MEDIUM"), wish("l", "LOW", 700), starts=starts), 24
    )
    assert eighths(rules) == [1, 9, 17]


def test_a_turn_that_nobody_needs_is_not_saved_up():
    def turns(number, starts):
        return ranked(wish("h"), wish("l", "LOW", 700 if number > 16 else 5), starts=starts)

    assert eighths(played(turns, 32)) == [24, 32]


def test_starts_of_critical_are_not_counted_and_do_not_use_up_the_turn():
    def turns(number, starts):
        upper = wish("c", "CRITICAL") if number == 7 else wish("h")
        return ranked(upper, wish("l", "LOW", 700), starts=starts)

    assert eighths(played(turns, 12)) == [9]


def test_who_starts_because_those_before_it_do_not_fit_does_not_use_up_the_turn():
    turns = ranked(wish("m", "MEDIUM"), wish("l", "LOW", 700))
    assert turns[0].rule == 2
    assert not Starts().after(turns[1]).is_spent
    assert Starts().after(turns[0]).is_spent


# --- rule 3: it must start now -----------------------------------------------------------------


def test_a_lower_one_overtakes_if_it_must_start_now_and_the_higher_one_keeps_its_bound():
    turns = ranked(wish("h", waited_s=5), wish("m", "MEDIUM", 115))
    assert jobs(turns) == ["m", "h"]
    assert turns[0].rule == 3
    assert "(1) keep theirs" in turns[0].reason


@pytest.mark.parametrize(("waited_s", "first"), [(109, "h"), (111, "m"), (120, "m"), (121, "h")])
def test_only_in_the_last_run_before_its_bound_a_lower_one_overtakes(waited_s, first):
    assert ranked(wish("h"), wish("m", "MEDIUM", waited_s))[0].job == first


@pytest.mark.parametrize(("waited_s", "first"), [(20, "m"), (21, "h"), (40, "h")])
def test_no_higher_one_passes_its_bound_because_of_it(waited_s, first):
    assert ranked(wish("h", waited_s=waited_s), wish("m", "MEDIUM", 115))[0].job == first


def test_all_that_are_overtaken_keep_their_bounds_one_behind_the_other():
    waiting = [wish(f"h{n}", waited_s=3 - n) for n in range(3)]
    assert ranked(*waiting[:2], wish("m", "MEDIUM", 115))[0].job == "m"
    assert ranked(*waiting, wish("m", "MEDIUM", 115))[0].job == "h0"


def test_within_a_class_nobody_overtakes_by_its_bound():
    """The first of its class is past its bound, the second could still keep its own."""
    waiting = [wish("h"), wish("m1", "MEDIUM", 125), wish("m2", "MEDIUM", 118)]
    assert jobs(ranked(*waiting)) == ["h", "m1", "m2"]
    behind = [wish("h"), wish("m1", "MEDIUM", 5), wish("m2", "MEDIUM", 118, requester="busy")]
    assert jobs(ranked(*behind, running={"busy": 1})) == ["h", "m1", "m2"]


# --- rule 5: fairness --------------------------------------------------------------------------


def test_no_requester_takes_a_slot_while_another_of_its_class_has_fewer_running_jobs():
    waiting = [wish(f"a{n}", waited_s=9 - n, requester="A") for n in range(3)]
    waiting.append(wish("b", requester="B"))
    turns = ranked(*waiting, running={"A": 2, "B": 1})
    assert jobs(turns) == ["b", "a0", "a1", "a2"]
    assert turns[0].rule == 5
    assert "1 running" in turns[0].reason


def test_fairness_does_not_reach_over_classes():
    turns = ranked(wish("h", requester="A"), wish("m", "MEDIUM", requester="B"), running={"A": 9})
    assert jobs(turns) == ["h", "m"]


def test_two_requesters_take_turns_although_one_asked_much_earlier():
    waiting = [wish(f"a{n}", waited_s=20 - n, requester="A") for n in range(3)]
    waiting += [wish(f"b{n}", waited_s=3 - n, requester="B") for n in range(3)]
    starts, started = Starts(), []
    while waiting:
        turn = ranked(*waiting, starts=starts)[0]
        starts = starts.after(turn)
        started.append(turn.job)
        waiting = [one for one in waiting if one.job != turn.job]
    assert started == ["a0", "b0", "a1", "b1", "a2", "b2"]


# --- rules 6 and 7: the loaded model, and the order of arrival ---------------------------------


def test_one_whose_model_is_loaded_goes_first_within_the_bound_of_those_it_overtakes():
    waiting = [wish("other", waited_s=5, model="sdxl"), wish("mine", model="sd15")]
    turns = ranked(*waiting, held=("sd15",))
    assert jobs(turns) == ["mine", "other"]
    assert turns[0].rule == 6
    assert jobs(ranked(*waiting)) == ["other", "mine"]


@pytest.mark.parametrize(
    ("waited_s", "first"), [(20, "mine"), (21, "other"), (30, "other"), (31, "mine")]
)
def test_nobody_passes_its_bound_because_anothers_model_is_loaded(waited_s, first):
    """Who is past it already loses nothing more: one start in eight is for it."""
    waiting = [wish("other", waited_s=waited_s, model="sdxl"), wish("mine", model="sd15")]
    assert ranked(*waiting, held=("sd15",))[0].job == first


def test_the_loaded_model_is_preferred_neither_over_a_class_nor_over_fairness():
    low = [wish("h", model="sdxl"), wish("m", "MEDIUM", model="sd15")]
    assert ranked(*low, held=("sd15",))[0].job == "h"
    fair = [wish("a", requester="A", model="sdxl"), wish("b", requester="B", model="sd15")]
    assert ranked(*fair, held=("sd15",), running={"B": 1})[0].job == "a"


def test_a_class_is_served_in_the_order_in_which_it_was_stored():
    """The sequence decides, not the clock of who stored it."""
    waiting = [wish("second", waited_s=9, seq=2), wish("first", waited_s=1, seq=1)]
    turns = ranked(*waiting)
    assert jobs(turns) == ["first", "second"]
    assert turns[1].rule == 7
    assert "order in which it was stored" in turns[1].reason


# --- rule 8: the night -------------------------------------------------------------------------

NIGHT = Night(from_hour=22, to_hour=6)


@pytest.mark.parametrize(
    ("hour", "is_open"), [(21.9, False), (22, True), (23.9, True), (5.9, True), (6, False)]
)
def test_a_window_may_go_past_midnight(hour, is_open):
    day = datetime(2026, 1, 1, tzinfo=UTC)
    assert NIGHT.is_open(day + timedelta(hours=hour)) is is_open


def test_the_window_is_in_local_hours():
    local = Night(from_hour=22, to_hour=6, offset_s=2 * 3600)
    assert local.is_open(datetime(2026, 1, 1, 20, 30, tzinfo=UTC))
    assert local.opened(datetime(2026, 1, 1, 20, 30, tzinfo=UTC)).hour == 20


def test_low_waits_for_its_window_and_comes_last_until_then():
    turns = ranked(wish("l", "LOW", 9000), wish("m", "MEDIUM"), rules=Rules(night=NIGHT))
    assert jobs(turns) == ["m", "l"]
    assert [turn.is_asleep for turn in turns] == [False, True]
    assert "10.0 h" in turns[1].reason


def test_without_a_window_low_starts_at_any_hour():
    assert not ranked(wish("l", "LOW"))[0].is_asleep


def test_the_bound_of_low_counts_from_the_opening_of_its_window():
    """Else all LOW of the day would be past their bound at once when it opens."""
    rules, at = Rules(night=NIGHT), NOW.replace(hour=22, minute=5)
    low = wish("l", "LOW", 3600)
    assert counted_from(low, at, rules) == at - timedelta(minutes=5)
    assert left_s(low, at, rules) == 300
    assert left_s(wish("m", "MEDIUM", 3600), NOW, rules) == 120 - 3600
    assert ranked(wish("h"), low, now=at, rules=rules, starts=DUE)[0].job == "h"


# --- properties --------------------------------------------------------------------------------

WISHES = st.lists(
    st.builds(
        wish,
        job=st.uuids().map(str),
        priority=st.sampled_from(list(MAX_WAIT_S)),
        waited_s=st.integers(0, 2000).map(float),
        requester=st.sampled_from("ABC"),
        model=st.sampled_from(["", "sdxl", "sd15"]),
        run_s=st.integers(1, 60).map(float),
    ),
    max_size=16,
)
STARTS = st.builds(
    Starts,
    count=st.integers(0, ONE_IN - 1),
    is_spent=st.booleans(),
    last=st.sampled_from(["", "A", "B"]),
)
HELD = st.sampled_from([(), ("sdxl",), ("sd15",)])


@given(WISHES, STARTS, HELD)
def test_everybody_gets_one_turn_with_a_rule_and_a_sentence(wishes, starts, held):
    turns = ranked(*wishes, starts=starts, held=held)
    assert sorted(jobs(turns)) == sorted(one.job for one in wishes)
    assert all(1 <= turn.rule <= 8 and turn.reason for turn in turns)


@given(WISHES, STARTS, HELD)
def test_no_critical_ever_stands_behind_another_class(wishes, starts, held):
    ranks = [RANK[turn.priority] == 0 for turn in ranked(*wishes, starts=starts, held=held)]
    assert ranks == sorted(ranks, reverse=True)


@given(WISHES, STARTS, HELD)
def test_behind_the_first_the_classes_stand_in_their_order(wishes, starts, held):
    ranks = [RANK[turn.priority] for turn in ranked(*wishes, starts=starts, held=held)[1:]]
    assert ranks == sorted(ranks)


@given(WISHES, STARTS, HELD)
def test_overtaking_costs_no_higher_class_its_bound(wishes, starts, held):
    turns = ranked(*wishes, starts=starts, held=held)
    if not turns or turns[0].rule != 3:
        return
    known = {one.job: one for one in wishes}
    first = known[turns[0].job]
    ahead_s = first.run_s
    for turn in turns[1:]:
        one = known[turn.job]
        if RANK[one.priority] < RANK[first.priority]:
            assert left_s(one, NOW, Rules()) >= ahead_s
        ahead_s += one.run_s
