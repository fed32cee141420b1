"""Code with one edit: the module that is edited, and all that import it, compiled anew.

Nothing of the edit stays behind: the real modules are put back when the block ends.
"""

import ast
import importlib
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Final

from tests.simulation.source import Edit

CORE: Final = Path(__file__).parents[2] / "agent" / "core"
BENCH: Final = "tests.simulation.card_bench"


@contextmanager
def edited(edit: Edit, users: Sequence[str] = ()) -> Iterator[dict[str, ModuleType]]:
    """Yield the edited module and those of the core that import it, then `users`, by name.

    Asserts that the edit hits exactly once.
    """
    names = (*_dependent(edit.module), *users)
    saved = {name: importlib.import_module(name) for name in names}
    try:
        for name in names:
            _install(name, _compiled(name, str(saved[name].__file__), edit))
        yield {name: sys.modules[name] for name in names}
    finally:
        for name, module in saved.items():
            _install(name, module)


@cache
def _dependent(module: str) -> tuple[str, ...]:
    """Return a module of the core and those that import it, each after all that it imports."""
    imports = {
        f"agent.core.{path.stem}": _imports(path)
        for path in CORE.glob("*.py")
        if path.stem != "__init__"
    }
    order: list[str] = []

    def visit(name: str) -> bool:
        if name in order or name == module:
            return True
        found = [visit(other) for other in sorted(imports[name])]
        if any(found):
            order.append(name)
        return any(found)

    for name in sorted(imports):
        visit(name)
    return (module, *order)


def _imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "agent.core":
            found |= {f"agent.core.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("agent.core."):
            found.add(str(node.module))
    return found


def _compiled(name: str, path: str, edit: Edit) -> ModuleType:
    text = Path(path).read_text()
    if name == edit.module:
        assert text.count(edit.old) == 1, f"found {text.count(edit.old)} times: {edit.old!r}"
        text = text.replace(edit.old, edit.new)
    module = ModuleType(name)
    module.__file__ = path
    sys.modules[name] = module  # msgspec looks for annotations there.
    exec(compile(text, f"{path} (searched)", "exec"), module.__dict__)  # noqa: S102 - our own text
    return module


def _install(name: str, module: ModuleType) -> None:
    sys.modules[name] = module
    package, _, last = name.rpartition(".")
    setattr(sys.modules[package], last, module)
