"""The books beside what the clouds charged, request by request.

What the books say beyond the bill must be exactly what they list as unknown: without these, a
request has cost what was charged for it, to the millionth.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from agent.core.money import MICRO, Books
from tests.doubles.clouds import Charge

DUST_USD = 0.00001
"""Each purchase is rounded up to a millionth, ours and theirs."""


@dataclass(frozen=True)
class Balance:
    """Both sides of the whole; `wrong` are sentences about requests that do not add up."""

    books_usd: float
    charged_usd: float
    unknown_usd: float
    unknown: int
    never_charged: int
    wrong: tuple[str, ...]


def balance(books: Books, charges: Iterable[Charge], prompts: Mapping[str, str]) -> Balance:
    """Compare books and bill.

    `prompts`: request, `<agent>.<request_id>`, by what its prompt begins with: a style adds words.
    """
    charged: dict[str, float] = {}
    wrong: list[str] = []
    for charge in charges:
        who = next((who for word, who in prompts.items() if charge.prompt.startswith(word)), None)
        if who is None:
            wrong.append(f"nobody asked for {charge.prompt!r}, charged {charge.usd:.6f}")
            continue
        charged[who] = charged.get(who, 0.0) + charge.usd
    # What is still held when all is over is not known either.
    doubts = [(one.request, one.amount / MICRO) for one in books.unknown]
    doubts += [(one.request, one.amount / MICRO) for one in books.holds]
    never = 0
    for who in {*prompts.values()}:
        listed = sum(usd for name, usd in doubts if name == who)
        held = sum(one.amount / MICRO for one in books.holds if one.request == who)
        ours, theirs = books.request_usd(who) + held, charged.get(who, 0.0)
        if not ours - listed - DUST_USD <= theirs <= ours + DUST_USD:
            wrong.append(f"{who}: books {ours:.6f}, {listed:.6f} of it unknown; bill {theirs:.6f}")
        never += listed > 0 and theirs < ours - DUST_USD
    return Balance(
        books_usd=books.spent_usd + books.held_usd,
        charged_usd=sum(charged.values()),
        unknown_usd=sum(usd for _, usd in doubts),
        unknown=len(doubts),
        never_charged=never,
        wrong=tuple(wrong),
    )
