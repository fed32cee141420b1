"""All mutants: `python -m tests.simulation.mutants [NAME ...]`.

Each takes one guard or one named rule out of the real code, and what proves that code has to
notice: the search of the protocol, the search of the arbiter, or unit tests. Prints what found each
of them and after how many states or cases; exits 1 if one survives.
"""

# ruff: noqa: T201 - printing is the work of a command

import sys
import time
from collections.abc import Callable
from typing import Any, Final

from tests.simulation import (
    arbiter_mutants,
    card_mutants,
    order_mutants,
    protocol_mutants,
    retested,
    spending_mutants,
)
from tests.simulation.search import Found

Hunt = Callable[[Any], Found]

KINDS: Final[dict[str, tuple[tuple[Any, ...], Hunt]]] = {
    "the protocol, searched": (protocol_mutants.MUTANTS, protocol_mutants.hunt),
    "the arbiter, searched": (arbiter_mutants.MUTANTS, arbiter_mutants.hunt),
    "order and waiting room, tested": (order_mutants.MUTANTS, retested.hunt),
    "card and cloud, tested": (card_mutants.MUTANTS, retested.hunt),
    "routing and money, tested": (spending_mutants.MUTANTS, retested.hunt),
}


def main() -> int:
    """Hunt all mutants, or those that are named; return the exit code."""
    names, began = sys.argv[1:], time.perf_counter()
    hunted = survived = 0
    for kind, (all_of_it, hunt) in KINDS.items():
        chosen = [one for one in all_of_it if not names or one.name in names]
        if chosen:
            print(f"--- {kind}")
        for one in chosen:
            found = hunt(one)
            hunted, survived = hunted + 1, survived + (found.rule is None)
            verdict = found.rule or "SURVIVED"
            print(f"{one.name:<52} {found.states:>6}  {verdict}", flush=True)
            if names:
                print(*found.trace, sep="\n")
    print(f"{hunted} mutants, {survived} survived, {time.perf_counter() - began:.1f} s")
    return 1 if survived or not hunted else 0


if __name__ == "__main__":
    sys.exit(main())
