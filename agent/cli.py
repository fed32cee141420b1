# PYTHON_ARGCOMPLETE_OK
"""The command line: parses, runs one command, turns what went wrong into a line and an exit code.

It knows no command; `agent.commands` has them. Nobody sees a traceback for what can be expected.
"""

import importlib
import os
import sys
from argparse import Namespace
from collections.abc import Callable, Sequence
from typing import cast

from agent.commands import arguments, exits


def main(argv: Sequence[str] | None = None) -> int:
    """Run `mmg` with these arguments (default: those of the process); return the exit code."""
    parser = arguments.build()
    if "_ARGCOMPLETE" in os.environ:
        importlib.import_module("argcomplete").autocomplete(parser)
    try:
        parsed = parser.parse_args(argv)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else exits.USAGE
    try:
        return _run(parsed)
    except KeyboardInterrupt:
        print("mmg: interrupted", file=sys.stderr)
        return exits.INTERRUPTED
    except BrokenPipeError:
        # Whoever read stdout has left, as `head` does; there is nobody to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return exits.FAILED


def _run(parsed: Namespace) -> int:
    """Load the command and run it; explain what it could not do."""
    faults = importlib.import_module("agent.commands.faults")
    expected = cast("tuple[type[Exception], ...]", faults.EXPECTED)
    explain = cast("Callable[[Exception], int]", faults.explain)
    try:
        module = importlib.import_module(f"agent.commands.{parsed.module}")
        run = cast("Callable[[Namespace], int]", module.run)
        return run(parsed)
    except BrokenPipeError:
        raise  # It is an OSError too, and `main` knows better what it means.
    except ExceptionGroup as group:
        if group.split(expected)[1] is not None:
            raise
        return explain(group)
    except expected as error:
        return explain(error)
