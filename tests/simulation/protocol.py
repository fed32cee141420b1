"""Search the protocol: `python -m tests.simulation.protocol [--config NAME | --all] [--verbose]`.

Without an option it searches the small worlds. Prints a line for each, the shortest trace to a
violation if there is one, and exits 1 then. `docs/protocol.md` says what is modelled.
"""

# ruff: noqa: T201 - printing is the work of a command

import argparse
import sys

from tests.simulation.configs import LARGE, QUICK
from tests.simulation.search import Found, Search
from tests.simulation.source import Code, load
from tests.simulation.state import Config
from tests.simulation.world import World


def search(config: Config, code: Code | None = None, *, check: bool = False) -> Found:
    """Search one world to its end, or to the first violation."""
    return Search(World(config, code or load(), check=check)).run()


def line(found: Found) -> str:
    """Return what is told of one search."""
    verdict = "no violation" if found.rule is None else f"VIOLATION: {found.rule}"
    return (
        f"{found.name:<20} {found.states:>8} states {found.steps:>9} steps"
        f" {found.seconds:6.1f} s  {verdict}"
    )


def main() -> int:
    """Search what was asked for; return the exit code."""
    parser = argparse.ArgumentParser(description="Search the protocol exhaustively.")
    known = {config.name: config for config in (*QUICK, *LARGE)}
    parser.add_argument("--config", choices=sorted(known), help="search only this world")
    parser.add_argument("--all", action="store_true", help="search the large worlds too")
    parser.add_argument("--verbose", action="store_true", help="print bounds; check merged states")
    options = parser.parse_args()
    chosen = (
        (known[options.config],) if options.config else (*QUICK, *(LARGE if options.all else ()))
    )
    code, broken, states, seconds = load(), 0, 0, 0.0
    for config in chosen:
        found = search(config, code, check=options.verbose)
        print(line(found), flush=True)
        if options.verbose:
            print(f"  {config}\n  {found.positions} positions of actors")
        for number, step in enumerate(found.trace, 1):
            print(f"  {number:>2}. {step}")
        broken += found.rule is not None
        states, seconds = states + found.states, seconds + found.seconds
    print(f"{len(chosen)} worlds, {states} states, {seconds:.1f} s, {broken} with a violation")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
