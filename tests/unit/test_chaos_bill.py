"""Goal: the comparison of books and bill finds what does not add up, and nothing else."""

from agent.core.money import Books, Hold, Unknown
from tests.chaos.bill import balance
from tests.doubles.clouds import Charge

PROMPTS = {"a cube": "a.r1", "a cone": "a.r2"}
UNKNOWN = Unknown(id="a.r2.1.x", request="a.r2", engine="x", day="2026-01-01", amount=40_000)


def books(*, second: int = 40_000, unknown: tuple[Unknown, ...] = (UNKNOWN,)) -> Books:
    spent = {"a.r1": 30_000, "a.r2": second}
    return Books(day="2026-01-01", spent=30_000 + second, requests=spent, unknown=unknown)


def test_what_is_listed_as_unknown_may_be_on_the_bill_or_not():
    first = Charge("m", 0.03, "a cube")
    found = balance(books(), [first], PROMPTS)
    assert found.wrong == ()
    assert (found.unknown, found.never_charged) == (1, 1)
    assert abs(found.books_usd - found.charged_usd - found.unknown_usd) < 1e-9
    assert balance(books(), [first, Charge("m", 0.04, "a cone")], PROMPTS).wrong == ()


def test_money_that_is_still_held_is_unknown_too():
    one = Hold(id="h", request="a.r1", requester="a", engine="x", worker="w", amount=20_000)
    held = Books(day="2026-01-01", holds=(one,))
    assert balance(held, [], PROMPTS).wrong == ()
    assert balance(held, [Charge("m", 0.02, "a cube")], PROMPTS).wrong == ()
    assert balance(held, [Charge("m", 0.03, "a cube")], PROMPTS).wrong


def test_a_bill_above_the_books_below_the_known_or_of_nobody_is_wrong():
    first, second = Charge("m", 0.03, "a cube"), Charge("m", 0.04, "a cone")
    assert balance(books(), [first, second, second], PROMPTS).wrong
    assert balance(books(), [second], PROMPTS).wrong
    assert balance(books(unknown=()), [first], PROMPTS).wrong
    assert balance(books(), [first, Charge("m", 0.01, "a pear")], PROMPTS).wrong
