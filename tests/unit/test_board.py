"""Goal: the place of a request is right whatever was heard, in whatever order and how often.

Method: a property over any sequence of events, compared with a list that is sorted anew; small
cases for what comes late or twice.
"""

from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from agent.core.board import Board, Entry, Run
from agent.core.promise import Calibration, Expected, Pace, Rest
from agent.core.rate import CALLERS_MAX, Rates
from agent.core.reasons import NOBODY, Standing, reason
from contracts.requests import Priority
from contracts.subjects import LANES, Identity

AT = datetime(2026, 3, 2, 9, 15, tzinfo=UTC)
RUN = Run(started_at=AT, engine="sketch", model="sketch", worker="w1", reason="only engine")


def entry(name: str, seq: int, priority: Priority = Priority.MEDIUM) -> Entry:
    return Entry(who=Identity("L2-01", name), priority=priority, seq=seq, stored_at=AT)


class Model:
    """The plain truth: a dictionary, sorted for each question."""

    def __init__(self) -> None:
        self.known: dict[Identity, Entry] = {}
        self.running: set[Identity] = set()

    def waiting(self) -> list[Identity]:
        rows = [one for one in self.known.values() if one.who not in self.running]
        rows.sort(key=lambda one: (LANES.index(one.priority), one.seq))
        return [one.who for one in rows]


EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["stored", "began", "back", "ended"]),
        st.integers(0, 5),
        st.sampled_from(LANES),
    ),
    max_size=40,
)


@given(EVENTS)
def test_places_are_those_of_the_sorted_list_after_any_events(events):
    board, model = Board(), Model()
    for seq, (what, number, priority) in enumerate(events, start=1):
        made = entry(f"r{number}", seq, priority)
        who, known = made.who, model.known.get(made.who)
        match what:
            case "stored":
                board.stored(made)
                model.known.setdefault(who, made)
            case "began":
                board.began(who, RUN, 1)
                model.running |= {who} if known else set()
            case "back":
                board.handed_back(who)
                model.running.discard(who)
            case _:
                board.ended(who, known.seq if known else seq)
                model.known.pop(who, None)
                model.running.discard(who)
        order = model.waiting()
        assert [one.who for one in board.waiting()] == order
        assert [board.place(one) for one in order] == list(range(1, len(order) + 1))
        assert board.count() == len(order)
        assert len(board) == len(model.known)
        assert {one.who for one in board.running()} == model.running & set(model.known)


@given(st.sets(st.integers(1, 60), min_size=1), st.data())
def test_behind_any_place_comes_the_rest_of_the_list(seqs, data):
    board = Board()
    board.load([entry(f"r{seq}", seq, LANES[seq % 4]) for seq in seqs])
    everybody = list(board.waiting())
    at = data.draw(st.integers(0, len(everybody) - 1))
    after = (everybody[at].priority, everybody[at].seq)
    assert list(board.waiting(after)) == everybody[at + 1 :]
    assert board.before(after[0], after[1] + 1) == at + 1


def test_a_bell_that_comes_after_the_end_brings_nothing_back_and_a_new_one_does():
    board = Board()
    board.ended(entry("r1", 7).who, 7)
    board.stored(entry("r1", 7))
    assert len(board) == 0
    board.stored(entry("r1", 8))
    assert board.place(entry("r1", 8).who) == 1


def test_the_end_of_an_earlier_request_does_not_end_the_one_of_the_same_name_behind_it():
    board = Board()
    board.stored(entry("r1", 9))
    board.ended(entry("r1", 9).who, 4)
    assert board.place(entry("r1", 9).who) == 1


def test_what_nobody_has_told_before_is_counted_as_a_gap():
    board = Board()
    board.began(entry("r1", 1).who, RUN, 1)
    assert (board.gaps, len(board)) == (1, 0)
    board.load([])
    assert board.gaps == 0


def test_one_that_is_next_with_nobody_at_work_starts_now():
    assert Pace().expect(0, []) == Expected(start_s=0.0, early_s=0.0, late_s=0.5)


def test_expectations_follow_the_runs_that_were_made_and_their_spread():
    pace = Pace()
    for _ in range(30):
        pace.learn(4.0)
    steady = pace.expect(10, [Rest(3.0, pace.error_s)])
    assert steady.start_s == 43.0
    assert steady.late_s - steady.early_s < 2.0
    for seconds in (1.0, 9.0) * 20:
        pace.learn(seconds)
    unsteady = pace.expect(10, [Rest(3.0, pace.error_s)])
    assert unsteady.late_s - unsteady.early_s > 10 * (steady.late_s - steady.early_s) / 2


RESTS = st.lists(st.builds(Rest, st.floats(0, 1e6), st.floats(0, 1e6)), max_size=8)


@given(st.integers(0, 10_000), RESTS)
def test_a_later_place_is_never_expected_earlier_and_bands_hold_their_middle(before, rests):
    pace = Pace()
    one, next_one = pace.expect(before, rests), pace.expect(before + 1, rests)
    assert 0 <= one.early_s <= one.start_s <= one.late_s
    assert one.start_s <= next_one.start_s


def test_calibration_counts_the_promises_that_held():
    assert Calibration().share is None
    told = Calibration()
    for name, waited_s in (("a", 5.0), ("b", 11.0), ("c", 9.9), ("not promised", 1.0)):
        if name != "not promised":
            told.promise(name, Expected(start_s=7.0, early_s=4.0, late_s=10.0))
        told.began(name, waited_s)
    told.promise("d", Expected(start_s=7.0, early_s=4.0, late_s=10.0))
    told.forget("d")
    told.began("d", 7.0)
    assert (told.judged, told.kept, told.share) == (3, 2, 66.7)


def test_a_minute_of_requests_may_come_at_once_and_then_one_each_two_seconds():
    rates = Rates()
    assert [rates.take("a", 30, 100.0) for _ in range(30)] == [0] * 30
    assert rates.take("a", 30, 100.0) == 2
    assert rates.take("b", 30, 100.0) == 0
    assert rates.take("a", 30, 101.0) == 1
    assert rates.take("a", 30, 102.0) == 0
    assert rates.take("a", 30, 102.0) == 2


@given(st.lists(st.floats(0, 30), min_size=1, max_size=200))
def test_no_minute_has_more_than_twice_its_allowance(pauses):
    rates, now_s, let = Rates(), 0.0, []
    for pause_s in pauses:
        now_s += pause_s
        if rates.take("a", 6, now_s) == 0:
            let.append(now_s)
    for at_s in let:
        assert sum(at_s <= other < at_s + 60 for other in let) <= 12


def test_who_asks_after_the_wait_that_was_named_is_let_in():
    rates, now_s = Rates(), 0.0
    for _ in range(60):
        rates.take("a", 60, now_s)
    for _ in range(20):
        now_s += rates.take("a", 60, now_s)
        assert rates.take("a", 60, now_s) == 0


def test_callers_are_forgotten_beyond_a_bound():
    rates = Rates()
    for number in range(CALLERS_MAX + 10):
        rates.take(f"caller {number}", 30, float(number))
    assert len(rates._buckets) == CALLERS_MAX


def test_each_reason_to_wait_has_its_sentence_and_the_first_one_counts():
    ready, closed = ("ready", ""), ("closed", "disk full")
    paused = Standing(paused="by ada (a new card)", states=(ready,))
    assert "paused by ada (a new card); undo: mmg resume" in reason(paused, 1, 1)
    assert reason(Standing(), 1, 1) == NOBODY
    assert "closed (disk full)" in reason(Standing(states=(closed, closed)), 0, 0)
    busy = Standing(states=(closed, ready))
    assert reason(busy, 2, 3).startswith("2 of higher classes and 3 of its own class come before")
    assert reason(busy, 0, 1).startswith("1 of its own class comes before")
    assert "it is next" in reason(busy, 0, 0)


def test_the_first_place_is_that_of_the_run_that_ends_first():
    pace = Pace()
    pace.learn(10.0)
    assert pace.expect(0, [Rest(8.0, 1.0), Rest(2.0, 0.5)]) == Expected(
        start_s=2.0, early_s=1.5, late_s=2.5
    )
    assert pace.expect(0, [Rest(0.0, 1.0)]).start_s == 0.0
    assert pace.expect(2, [Rest(10.0, 1.0), Rest(10.0, 1.0)]).start_s == 20.0
