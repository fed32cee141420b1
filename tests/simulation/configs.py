"""The worlds that are searched: small enough for every change, and larger ones by hand.

What can go wrong adds up fast, so each world mixes only a few things and goes to the bottom of
these. The names are those of `--config`.
"""

from typing import Final

from tests.simulation.state import Config, Faults

TWO: Final = ("sketch", "other")
ANY: Final = ("retry", "other", "give up")

QUICK: Final = (
    Config(name="mixed", faults=Faults(crash=1, lost=1, cancel=1, engine=1)),
    Config(name="crashes", faults=Faults(crash=2, lost=1, engine=1)),
    Config(name="frozen", faults=Faults(frozen=2, crash=1, lost=1, engine=1)),
    Config(name="overtaken", faults=Faults(frozen=1, crash=1, lost=1, cancel=1)),
    Config(name="delayed", faults=Faults(delayed=1, frozen=1, crash=1, lost=1)),
    Config(name="three-workers", workers=3, faults=Faults(frozen=1, crash=1, lost=1)),
    Config(name="lost-workers", engines=TWO, faults=Faults(crash=4)),
    Config(name="tries", workers=1, engines=TWO, remedies=ANY, faults=Faults(engine=7)),
    Config(
        name="tries-and-crash",
        workers=1,
        engines=TWO,
        remedies=ANY,
        faults=Faults(engine=3, crash=1, stop=1),
    ),
    Config(
        name="no-slot",
        workers=1,
        engines=TWO,
        passes=("cloud", "too_big", "late"),
        faults=Faults(engine=2, crash=1, stop=1),
    ),
    Config(name="stop", faults=Faults(stop=2, crash=1, lost=1)),
    Config(name="two-cancels", faults=Faults(cancel=2, lost=1)),
    Config(name="cancel-early", published_later=True, faults=Faults(cancel=1, crash=1, lost=1)),
    Config(name="duplicates", requests=2, faults=Faults(frozen=1, crash=1)),
    Config(
        name="second-request",
        requests=2,
        removed_first=True,
        faults=Faults(frozen=1, crash=1, lost=1, cancel=1),
    ),
    Config(name="one-cannot-read", unable=1, faults=Faults(frozen=1, crash=1, lost=1, stop=1)),
    Config(name="none-can-read", unable=2, faults=Faults(delayed=1, crash=1, lost=1, cancel=1)),
    Config(name="deadline", deadline=True, faults=Faults(crash=1, lost=1)),
)
"""Searched by the tests."""

LARGE: Final = (
    Config(name="mixed-large", faults=Faults(crash=2, lost=1, cancel=1, engine=1)),
    Config(name="frozen-large", faults=Faults(frozen=2, crash=1, lost=2, cancel=1)),
    Config(
        name="three-workers-large",
        workers=3,
        faults=Faults(frozen=1, crash=1, lost=1, cancel=1),
    ),
    Config(
        name="tries-large",
        workers=1,
        engines=TWO,
        remedies=ANY,
        faults=Faults(engine=4, crash=2, stop=1),
    ),
    Config(
        name="no-slot-large",
        engines=TWO,
        passes=("cloud", "too_big", "late"),
        faults=Faults(engine=2, crash=1, stop=1),
    ),
    Config(name="two-cancels-large", faults=Faults(cancel=2, crash=1, lost=1)),
    Config(name="duplicates-large", requests=2, faults=Faults(frozen=1, crash=1, lost=1)),
    Config(name="duplicates-cancel", requests=2, faults=Faults(crash=1, cancel=1)),
    Config(name="deadline-large", deadline=True, faults=Faults(crash=1, lost=1, cancel=1)),
)
"""Searched by `make protocol`."""
