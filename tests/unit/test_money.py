"""Goal: the books never say less than was spent, and no budget is passed by what was foreseen.

Method: any order of purchases by several workers over several days, played against a plain tally;
then each rule by name.
"""

from datetime import date, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import json, structs

from agent.core import money
from agent.core.faults import CancelledFault, EngineDownFault, HangFault
from agent.core.money import (
    Books,
    BudgetExceededFault,
    Hold,
    Limits,
    PaidCancelledFault,
    Refusal,
    UnknownOutcomeFault,
    hold_for,
    micro,
    reserve,
)
from contracts.errors import ErrorCode

TODAY = date(2026, 11, 20)
TOMORROW = TODAY + timedelta(days=1)
LIMITS = Limits(day_usd=1.0, request_usd=0.5, requester_usd=0.75)
FREE = Limits()


def hold(request: str = "a.r1", usd: float = 0.1, attempt: int = 1, worker: str = "w1") -> Hold:
    return hold_for(request, attempt, "stability", worker=worker, usd=usd)


def held(books: Books, one: Hold, limits: Limits = FREE, today: date = TODAY) -> Books:
    after = reserve(books, one, limits, today)
    assert isinstance(after, Books)
    return after


def bought(books: Books, one: Hold, usd: float, today: date = TODAY) -> Books:
    return money.settle(held(books, one, today=today), one.id, usd, today)


def refusal(books: Books, one: Hold, limits: Limits = LIMITS) -> Refusal:
    after = reserve(books, one, limits, TODAY)
    assert isinstance(after, Refusal)
    return after


# --- any order ------------------------------------------------------------------------------------

USD = st.floats(0, 0.4)
ACTS = st.lists(
    st.one_of(
        st.tuples(st.just("reserve"), st.sampled_from(["a.r1", "a.r2", "b.r1"]), USD),
        st.tuples(st.just("settle"), st.integers(0, 9), USD),
        st.tuples(st.just("refund"), st.integers(0, 9), st.just(0.0)),
        st.tuples(st.just("forfeit"), st.integers(0, 9), st.just(0.0)),
        st.tuples(st.just("lost"), st.sampled_from(["w1", "w2"]), st.just(0.0)),
        st.tuples(st.just("day"), st.integers(-1, 2), st.just(0.0)),
    ),
    max_size=40,
)


class Tally:
    """What really happened, day by day: the books are compared with it."""

    def __init__(self) -> None:
        self.books = Books()
        self.today = TODAY
        self.open: list[Hold] = []
        self.spent: dict[tuple[str, str], float] = {}
        self.dearer = 0.0
        self.number = 0
        self.doubts: list[tuple[str, int]] = []

    def add(self, kind: str, name: str, usd: float) -> None:
        key = (max(self.today.isoformat(), self.books.day), f"{kind}.{name}")
        self.spent[key] = self.spent.get(key, 0.0) + usd

    def end(self, one: Hold, usd: float) -> None:
        self.open.remove(one)
        self.dearer += max(0.0, usd - one.amount / money.MICRO)
        for kind, name in (("day", ""), ("requester", one.requester), ("request", one.request)):
            self.add(kind, name, usd)

    def doubt(self, one: Hold, amount: int) -> None:
        if amount:
            self.doubts.append((one.id, amount))

    def of(self, kind: str, name: str = "") -> float:
        return self.spent.get((self.books.day, f"{kind}.{name}"), 0.0)

    def act(self, what: str, which: object, usd: float) -> None:
        books, today = self.books, self.today
        if what == "reserve":
            self.number += 1
            one = hold(str(which), usd, self.number, f"w{self.number % 2 + 1}")
            after = reserve(books, one, LIMITS, today)
            if isinstance(after, Books):
                self.open.append(one)
                self.books = after
                self.check_limits(one)
        elif what == "day":
            assert isinstance(which, int)
            self.today += timedelta(days=which)
        elif what == "lost":
            self.books = money.forfeit_lost(books, str(which), today)
            for one in [one for one in self.open if one.worker == which]:
                self.doubt(one, one.amount)
                self.end(one, one.amount / money.MICRO)
        elif self.open:
            assert isinstance(which, int)
            one = self.open[which % len(self.open)]
            if what == "settle":
                doubt_usd = usd / 2 if which % 2 else 0.0
                self.books = money.settle(books, one.id, usd, today, doubt_usd=doubt_usd)
                self.doubt(one, micro(doubt_usd))
                self.end(one, usd)
            elif what == "refund":
                self.books = money.refund(books, one.id, today)
                self.open.remove(one)
            else:
                self.books = money.forfeit(books, one.id, today)
                self.doubt(one, one.amount)
                self.end(one, one.amount / money.MICRO)

    def check_limits(self, one: Hold) -> None:
        """Right after a purchase no budget is passed."""
        books = self.books
        assert books.spent_usd + books.held_usd <= 1.0 + 1e-9
        of_request = books.requests.get(one.request, 0) + books.before.get(one.request, 0)
        of_request += sum(each.amount for each in books.holds if each.request == one.request)
        assert of_request <= micro(0.5)


@given(acts=ACTS)
def test_the_books_never_say_less_than_was_spent_and_no_budget_is_passed(acts):
    tally = Tally()
    for act in acts:
        tally.act(*act)
        books = tally.books
        assert [one.id for one in books.holds] == [one.id for one in tally.open]
        assert books.spent_usd >= tally.of("day") - 1e-9
        assert books.spent_usd + books.held_usd <= 1.0 + tally.dearer + 1e-5
        assert books.spent_usd <= tally.of("day") + 1e-5
        for name, amount in books.requesters.items():
            assert amount / money.MICRO >= tally.of("requester", name) - 1e-9
        for name, amount in books.requests.items():
            assert amount / money.MICRO >= tally.of("request", name) - 1e-9
        assert [(one.id, one.amount) for one in books.unknown] == tally.doubts
        assert sum(books.requesters.values()) == sum(books.requests.values()) == books.spent
        assert json.decode(json.encode(books), type=Books) == books


@given(usd=st.floats(0, 1000), other=st.floats(0, 1000))
def test_amounts_are_rounded_up_and_never_by_more_than_a_millionth(usd, other):
    assert usd <= micro(usd) / money.MICRO + 1e-9
    assert micro(usd) / money.MICRO <= usd + 1.1e-6
    assert micro(usd) <= micro(usd + other)


# --- each rule ------------------------------------------------------------------------------------


def test_a_part_of_a_millionth_counts_as_a_whole_one():
    assert [micro(usd) for usd in (0.0000001, 0.0000015, 0.000002, 0.04)] == [1, 2, 2, 40_000]


def test_a_price_is_held_until_it_is_settled_at_what_it_cost():
    books = held(Books(), hold(usd=0.10))
    assert (books.spent_usd, books.held_usd) == (0.0, 0.10)
    books = money.settle(books, hold().id, 0.03, TODAY)
    assert (books.spent_usd, books.held_usd) == (0.03, 0.0)
    assert books.requesters == {"a": 30_000}
    assert books.requests == {"a.r1": 30_000}


def test_a_refund_leaves_no_trace():
    books = bought(Books(), hold("a.r2"), 0.1)
    assert money.refund(held(books, hold()), hold().id, TODAY) == books


def test_what_is_told_twice_counts_once():
    once = held(Books(), hold())
    assert held(once, hold()) == once
    assert reserve(once, hold(), Limits(day_usd=0.0), TODAY) == once
    ended = money.settle(once, hold().id, 0.2, TODAY)
    assert money.settle(ended, hold().id, 0.2, TODAY) == ended
    assert money.refund(ended, hold().id, TODAY) == ended
    assert money.forfeit(ended, hold().id, TODAY) == ended


@pytest.mark.parametrize(
    ("scope", "before", "asked"),
    [
        ("day", [("b.r1", 0.5), ("c.r1", 0.4)], ("d.r1", 0.11)),
        ("request", [("a.r1", 0.4)], ("a.r1", 0.11)),
        ("requester", [("a.r1", 0.4), ("a.r2", 0.3)], ("a.r3", 0.06)),
    ],
)
def test_each_budget_refuses_by_name_what_would_pass_it_spent_or_held(scope, before, asked):
    spent = booked = Books()
    for number, (request, usd) in enumerate(before, start=1):
        spent = bought(spent, hold(request, usd, number), usd)
        booked = held(booked, hold(request, usd, number))
    for books in (spent, booked):
        found = refusal(books, hold(asked[0], asked[1], attempt=9))
        assert found.scope == scope
        assert "stability would cost $0." in found.reason
        fault = found.fault()
        assert (fault.body().code, fault.detail) == (ErrorCode.BUDGET_EXCEEDED, scope)


def test_a_budget_may_be_reached_to_the_last_millionth():
    limits = Limits(day_usd=0.3)
    books = held(held(Books(), hold(usd=0.1)), hold(usd=0.2, attempt=2), limits)
    assert books.held_usd == pytest.approx(0.3)
    assert refusal(books, hold(usd=0.000001, attempt=3), limits).scope == "day"


def test_a_budget_of_nothing_allows_nothing_and_none_allows_all():
    assert refusal(Books(), hold(), Limits(day_usd=0.0)).scope == "day"
    assert held(Books(), hold(usd=1e6)).held_usd == 1e6


def test_a_new_day_starts_with_nothing_spent_and_keeps_what_is_held():
    books = held(bought(Books(), hold("a.r2"), 0.3), hold())
    after = money.rolled(books, TOMORROW)
    assert (after.spent, after.requesters, after.holds) == (0, {}, books.holds)
    settled = money.settle(after, hold().id, 0.2, TOMORROW)
    assert (settled.day, settled.spent_usd) == ("2026-11-21", 0.2)


def test_a_request_that_lives_over_midnight_keeps_its_budget():
    books = bought(Books(), hold(usd=0.4), 0.4)
    after = reserve(books, hold(usd=0.2, attempt=2), LIMITS, TOMORROW)
    assert isinstance(after, Refusal)
    assert after.scope == "request"
    later = reserve(books, hold(usd=0.2, attempt=2), LIMITS, TOMORROW + timedelta(days=1))
    assert isinstance(later, Books)


def test_a_worker_with_a_slow_clock_does_not_bring_yesterday_back():
    books = money.rolled(bought(Books(), hold(), 0.3), TOMORROW)
    books = bought(books, hold("a.r2"), 0.2, TODAY)
    assert (books.day, books.spent_usd) == ("2026-11-21", 0.2)


def test_what_a_lost_worker_held_counts_as_spent_and_that_of_others_stays():
    books = held(held(Books(), hold()), hold("b.r1", 0.2, worker="w2"))
    after = money.forfeit_lost(books, "w1", TODAY)
    assert (after.spent_usd, after.held_usd) == (0.1, 0.2)
    assert money.forfeit(after, "b.r1.1.stability", TODAY).spent_usd == pytest.approx(0.3)


def test_the_memory_of_requests_has_a_bound_and_forgets_the_oldest(monkeypatch):
    monkeypatch.setattr(money, "REQUESTS_MAX", 3)
    books = Books()
    for number in (1, 2, 3, 1, 4):
        books = bought(books, hold(f"a.r{number}", attempt=len(books.requests)), 0.01)
    assert list(books.requests) == ["a.r3", "a.r1", "a.r4"]
    assert books.spent_usd == pytest.approx(0.05)


@pytest.mark.parametrize(
    ("error", "counted"),
    [
        (UnknownOutcomeFault("lost", spent_usd=0.08), (0.08, 0.08)),
        (BudgetExceededFault("empty"), (0.0, 0.0)),
        (PaidCancelledFault("stopped", spent_usd=0.03), (0.03, 0.0)),
        (PaidCancelledFault("stopped", spent_usd=0.03, doubt_usd=0.01), (0.03, 0.01)),
        (CancelledFault("stopped by an engine that does not say"), (0.5, 0.5)),
        (HangFault("too long"), (0.5, 0.5)),
        (EngineDownFault("not said"), (0.5, 0.5)),
        (RuntimeError("broke"), (0.5, 0.5)),
    ],
)
def test_an_error_that_does_not_say_what_it_cost_counts_as_all_that_was_held(error, counted):
    assert money.spent_by(error, 0.5) == counted


def test_what_nobody_knows_is_listed_with_its_amount_and_what_is_known_is_not():
    books = bought(Books(), hold("a.r1"), 0.1)
    assert books.unknown == ()
    lost = hold("a.r2", 0.2)
    books = money.forfeit(held(books, lost), lost.id, TODAY)
    cut = hold("a.r3", 0.3)
    books = money.settle(held(books, cut), cut.id, 0.3, TODAY, doubt_usd=0.1)
    listed = [(one.id, one.request, one.engine, one.amount) for one in books.unknown]
    assert listed == [
        (lost.id, "a.r2", "stability", micro(0.2)),
        (cut.id, "a.r3", "stability", micro(0.1)),
    ]
    assert books.spent == micro(0.6)


def test_the_list_of_unknown_ends_is_bounded_and_lives_on_over_midnight(monkeypatch):
    monkeypatch.setattr(money, "UNKNOWN_MAX", 2)
    books = Books()
    for number in (1, 2, 3):
        books = held(books, hold(f"a.r{number}"))
        books = money.forfeit(books, hold(f"a.r{number}").id, TODAY)
    books = money.rolled(books, TODAY + timedelta(days=1))
    listed = [(one.request, one.day) for one in books.unknown]
    assert listed == [("a.r2", TODAY.isoformat()), ("a.r3", TODAY.isoformat())]
    assert books.spent == 0


def test_a_hold_is_named_after_its_attempt_and_engine():
    one = hold_for("L2-01.r1", 2, "openai", worker="w1", usd=0.05)
    assert (one.id, one.requester, one.amount) == ("L2-01.r1.2.openai", "L2-01", 50_000)
    assert structs.replace(one, amount=0) != one
