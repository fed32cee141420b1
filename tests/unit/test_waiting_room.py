"""Goal: which lanes are pulled and who goes back, so that no class hides another one.

Method: what is held in, lanes and jobs out; properties with hypothesis, and a worker that pulls
until it may not.
"""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.waiting_room import LANES, SIZE, Held, give_back, overfull, pull_next
from contracts.requests import Priority

NONE_FREE = {"gpu": 0, "cpu": 0, "cloud": 0}


def room(text, slot="gpu"):
    """Hold jobs by the first letters of their classes, stored in this order."""
    lanes = {lane[0]: lane for lane in LANES}
    return [
        Held(job=f"{letter}{seq}", priority=Priority(lanes[letter]), seq=seq, slot=slot)
        for seq, letter in enumerate(text)
    ]


def lanes(held, free=None, size=SIZE):
    return "".join(pull.lane[0] for pull in pull_next(held, free or NONE_FREE, size))


def gone(given_back):
    return [one.job for one in given_back]


# --- which lane is pulled ----------------------------------------------------------------------


def test_an_empty_room_is_filled_from_every_lane_the_highest_first():
    pulls = pull_next([], {"gpu": 1})
    assert [pull.lane for pull in pulls] == list(LANES)
    assert {pull.rule for pull in pulls} == {1}
    assert lanes([]) == "CHML"


def test_one_place_is_kept_for_the_head_of_each_lane():
    """Else sixteen HIGH would hide a LOW that is past its bound."""
    assert lanes(room("H" * 12)) == "CHML"
    assert lanes(room("H" * 13)) == "CML"
    assert lanes(room("H" * 13 + "CM")) == "CL"
    pull = pull_next(room("H" * 13 + "CM"), NONE_FREE)[-1]
    assert (pull.lane, pull.rule) == (Priority.LOW, 2)


def test_a_higher_class_is_always_pulled_and_the_lowest_and_latest_goes_back():
    full = room("CHM" + "L" * 13)
    assert lanes(full) == "CHM"
    pull = pull_next(full, NONE_FREE)[0]
    assert pull.rule == 3
    assert "the latest of LOW goes back for a CRITICAL" in pull.reason
    more = Held(job="new", priority=Priority.HIGH, seq=99, slot="gpu")
    assert gone(overfull([*full, more])) == ["L15"]


def test_the_head_of_a_lower_lane_does_not_go_back_while_another_class_has_more():
    full = room("CML" + "H" * 13)
    assert lanes(full) == "C"
    more = Held(job="new", priority=Priority.CRITICAL, seq=99, slot="gpu")
    assert gone(overfull([*full, more])) == ["H15"]


def test_a_full_room_of_one_class_and_heads_pulls_no_more_of_its_own():
    assert lanes(room("CHM" + "C" * 12)) == "L"
    assert lanes(room("HML" + "C" * 13)) == ""


def test_without_a_room_a_lane_is_pulled_only_for_a_free_slot():
    assert lanes([], {"cpu": 1}, size=0) == "CHML"
    assert lanes([], {"cpu": 0}, size=0) == ""
    held = room("H", slot="cloud")
    assert lanes(held, {"cpu": 1}, size=0) == ""
    assert overfull(held, size=0) == ()


def test_a_room_in_its_size_gives_nobody_back():
    assert overfull(room("H" * 16)) == ()
    assert len(overfull(room("H" * 18))) == 2


# --- who goes back -----------------------------------------------------------------------------


def test_all_are_given_back_in_their_order_when_the_worker_stops():
    held = list(reversed(room("LHCM")))
    assert gone(give_back(held, "drain")) == ["L0", "H1", "C2", "M3"]


def test_those_that_wait_for_the_card_go_back_when_it_is_lost():
    held = [*room("HL"), Held(job="sent", priority=Priority.HIGH, seq=9, slot="cloud")]
    assert gone(give_back(held, "card_lost")) == ["H0", "L1"]


def test_an_idle_worker_gets_every_second_and_not_the_one_that_is_about_to_start():
    held = room("HHHHL")
    starts = ["H3", "H0", "L4", "H1", "H2"]
    assert gone(give_back(held, "idle", order=starts)) == ["H0", "H1"]
    assert gone(give_back(room("H"), "idle")) == []
    assert gone(give_back([], "idle", busy=("gpu",))) == []


def test_an_idle_worker_gets_the_next_to_start_too_while_somebody_draws_here():
    held = room("HHHHL")
    starts = ["H3", "H0", "L4", "H1", "H2"]
    assert gone(give_back(held, "idle", order=starts, busy=("gpu",))) == ["H2", "H3", "L4"]
    assert gone(give_back(room("H"), "idle", busy=("gpu",))) == ["H0"]
    assert gone(give_back(room("H"), "idle", busy=("cloud",))) == []


def test_an_idle_worker_gets_only_what_its_free_slot_can_do():
    held = [*room("HH"), *room("LLL", slot="cloud")]
    assert gone(give_back(held, "idle", kinds=("cloud",))) == ["L1"]


# --- properties --------------------------------------------------------------------------------

ROOMS = st.text("CHML", max_size=20).map(room)
SIZES = st.sampled_from([4, 8, SIZE])


@given(ROOMS, SIZES)
def test_who_goes_back_is_never_of_a_higher_class_than_who_stays_but_for_the_heads(held, size):
    back = set(gone(overfull(held, size)))
    assert len(back) == max(0, len(held) - size)
    stays = [one for one in held if one.job not in back]
    for lane in {one.priority for one in held}:
        assert any(one.priority is lane for one in stays), "each lane keeps one"
    for one in held:
        if one.job in back:
            same = [other.seq for other in stays if other.priority is one.priority]
            assert max(same) < one.seq, "the latest of its lane goes"


def filled(stored, size):
    """Pull while it is allowed. What goes back stands in its lane again, so this might not end."""
    waiting: dict[Priority, list[Held]] = {lane: [] for lane in LANES}
    for one in room("".join(stored)):
        waiting[one.priority].append(one)
    held: list[Held] = []
    pulls = 0
    while lane := next((p.lane for p in pull_next(held, NONE_FREE, size) if waiting[p.lane]), None):
        held.append(waiting[lane].pop(0))
        back = set(gone(overfull(held, size)))
        for one in [one for one in held if one.job in back]:
            waiting[one.priority].append(one)
            waiting[one.priority].sort(key=lambda one: one.seq)
        held = [one for one in held if one.job not in back]
        pulls += 1
        assert pulls <= 4 * len(stored) + 4
    return held


@given(st.lists(st.sampled_from("CHML"), max_size=60), SIZES)
def test_a_worker_that_pulls_while_it_may_comes_to_rest_and_holds_each_lanes_head(stored, size):
    held = filled(stored, size)
    assert len(held) == min(size, len(stored)) or len({one.priority for one in held}) < len(LANES)
    for lane in {one.priority for one in room("".join(stored))}:
        heads = [one.seq for one in room("".join(stored)) if one.priority is lane]
        assert heads[0] in [one.seq for one in held if one.priority is lane]


@pytest.mark.parametrize(
    "stored", ["H" * 40 + "L", "L" * 40 + "H" * 40 + "CM", "M" * 16 + "C" * 20]
)
def test_the_head_of_every_lane_is_held_whatever_stands_in_the_others(stored):
    assert {one.priority[0] for one in filled(stored, SIZE)} == set(stored)
