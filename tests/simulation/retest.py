"""Unit tests run against edited code: does one of them notice?

Only tests that take nothing but their parameters; those of hypothesis draw at random and are left
out, so that the verdict is always the same.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from types import ModuleType
from typing import Any

from tests.simulation.edited import BENCH, edited
from tests.simulation.source import Edit


def failing(files: Sequence[str], edit: Edit) -> tuple[str | None, int]:
    """Return the first test that fails on the edited code, and how many cases were run."""
    users = (BENCH, *(f"tests.unit.{file}" for file in files))
    count = 0
    with edited(edit, users) as modules:
        for name in users[1:]:
            for test, case in cases(modules[name]):
                count += 1
                if not _passes(test, case):
                    return test.__name__, count
    return None, count


def cases(module: ModuleType) -> Iterator[tuple[Callable[..., None], dict[str, Any]]]:
    """Yield each test of a file with each set of its parameters."""
    for name, test in list(vars(module).items()):
        if not name.startswith("test_") or hasattr(test, "hypothesis"):
            continue
        marks = [mark for mark in getattr(test, "pytestmark", ()) if mark.name == "parametrize"]
        taken = test.__code__.co_argcount + test.__code__.co_kwonlyargcount
        for values in product(*(_sets(mark) for mark in marks)):
            case = {key: value for one in values for key, value in one.items()}
            if len(case) == taken:
                yield test, case


def _sets(mark: Any) -> list[dict[str, Any]]:
    """Return the sets of parameters of one `parametrize`."""
    names, rows = mark.args[0], mark.args[1]
    if isinstance(names, str):
        names = [name.strip() for name in names.split(",")]
    if len(names) == 1:
        return [{names[0]: row} for row in rows]
    return [dict(zip(names, row, strict=True)) for row in rows]


def _passes(test: Callable[..., None], case: dict[str, Any]) -> bool:
    try:
        test(**case)
    except Exception:  # noqa: BLE001 - whatever a test says of edited code, it noticed
        return False
    except BaseException:
        if "_pytest" in type(sys.exception()).__module__:  # what pytest.raises raises
            return False
        raise
    return True
