"""Goal: nothing that only Unix has is used where Windows would run it.

Method: the sources of agent, contracts and ops are read; the few places that may differ say how
they do without. Nothing here was run on Windows: ops/windows.md says so.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.rig import ROOT

ONLY_UNIX = {"fcntl", "grp", "posix", "pty", "pwd", "resource", "syslog", "termios", "tty"}
CALLS = {"fork", "forkpty", "getuid", "geteuid", "getgid", "killpg", "mkfifo", "nice", "setsid"}
CALLS |= {"add_signal_handler", "remove_signal_handler", "chown", "fchmod", "getloadavg"}
SIGNALS = {"SIGALRM", "SIGCHLD", "SIGHUP", "SIGKILL", "SIGQUIT", "SIGUSR1", "SIGUSR2"}
ALLOWED = {
    # NOTIFY_SOCKET is set by systemd and nobody else.
    ("agent/watchdog.py", "AF_UNIX"),
}
SOURCES = sorted(
    path
    for top in ("agent", "contracts", "ops")
    for path in (ROOT / top).rglob("*.py")
    if "__pycache__" not in path.parts
)


def unportable(tree: ast.Module) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                found = [alias.name for alias in names if alias.name in ONLY_UNIX]
            case ast.ImportFrom(module=str(module)):
                found = [module] if module in ONLY_UNIX else []
            case ast.Attribute(attr=attr) if attr in CALLS | SIGNALS | {"AF_UNIX"}:
                found = [attr]
            case _:
                found = []
        yield from ((getattr(node, "lineno", 0), name) for name in found)


def guarded(tree: ast.Module) -> set[int]:
    """Return the lines under `if os.name ...` or `if sys.platform ...`: they have an else."""
    lines: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If | ast.IfExp):
            asked = ast.unparse(node.test)
            if "os.name" in asked or "sys.platform" in asked:
                lines |= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return lines


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_source_asks_for_nothing_that_only_unix_has(path: Path):
    name = path.relative_to(ROOT).as_posix()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = [
        f"{name}:{line}: {what}"
        for line, what in unportable(tree)
        if (name, what) not in ALLOWED and line not in guarded(tree)
    ]
    assert found == []


@pytest.mark.parametrize(
    "text",
    ["import fcntl", "import os\nos.fork()", "import signal\nsignal.SIGUSR1", "from pwd import x"],
)
def test_the_search_finds_what_it_should(text):
    assert list(unportable(ast.parse(text)))


def test_what_is_guarded_by_the_name_of_the_system_may_differ():
    tree = ast.parse("import os\nif os.name != 'nt':\n    os.setsid()")
    assert [line for line, _ in unportable(tree) if line not in guarded(tree)] == []
