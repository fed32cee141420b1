"""Goal: the rules of CONTRIBUTING.md that a machine can read are kept, in every file of ours.

Method: each rule is a function from one file to findings, printed as `file:line: what to do`.
They run over the repository, and over small bad sources that show each rule able to fail.
"""

import ast
import re
import sys
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[2]
CODE = ("agent", "contracts", "ops")
OURS = (*CODE, "tests", "workflows")

ALL = ("agent", "contracts")
SHELL = ("contracts", "agent.core", "agent.clock")
RUNNING = (*SHELL, "agent.assets", "agent.bus", "agent.logs", "agent.metrics", "agent.tracing")
DESK = (
    *RUNNING,
    "agent.alarms",
    "agent.alerts",
    "agent.card_report",
    "agent.control",
    "agent.decisions",
    "agent.dispatch",
    "agent.engines.protocol",
    "agent.gpu",
    "agent.loading",
    "agent.models",
    "agent.readiness",
    "agent.report",
    "agent.slots",
    "agent.tenants",
    "agent.tools",
    "agent.worker",
)
# Who may import whom: a part, and what of ours it may import besides itself.
MAY_IMPORT: dict[str, tuple[str, ...]] = {
    "contracts": (),
    "agent.core": ("contracts",),
    **dict.fromkeys(("agent.clock", "agent.crash_point", "agent.embedded"), ()),
    **dict.fromkeys(("agent.assets", "agent.bus", "agent.config", "agent.engines"), SHELL),
    **dict.fromkeys(("agent.gpu", "agent.ollama"), (*SHELL, "agent.tenants")),
    **dict.fromkeys(("agent.logs", "agent.metrics", "agent.tenants", "agent.tracing"), SHELL),
    "agent.styles": SHELL,
    "agent.workflows": SHELL,
    **dict.fromkeys(("agent.telling", "agent.turnstile"), (*RUNNING, "agent.engines.protocol")),
    "agent.places": RUNNING,
    "agent.slots": (*RUNNING, "agent.gpu.keeper", "agent.places"),
    "agent.standing_by": (*RUNNING, "agent.slots"),
    **dict.fromkeys(("agent.prompting", "agent.presence", "agent.deliveries"), RUNNING),
    "agent.job_line": RUNNING,
    "agent.decisions": (*SHELL, "agent.gpu.keeper"),
    "agent.tools": (
        *RUNNING,
        "agent.decisions",
        "agent.engines.protocol",
        "agent.prompting",
        "agent.slots",
        "agent.turnstile",
    ),
    "agent.drawing": (
        *RUNNING,
        "agent.engines.protocol",
        "agent.slots",
        "agent.telling",
        "agent.tools",
    ),
    "agent.pictures": (*RUNNING, "agent.drawing", "agent.prompting", "agent.tools"),
    "agent.scribe": (*RUNNING, "agent.job_line", "agent.tools"),
    "agent.worker": (
        *RUNNING,
        "agent.crash_point",
        "agent.drawing",
        "agent.engines.protocol",
        "agent.job_line",
        "agent.pictures",
        "agent.prompting",
        "agent.scribe",
        "agent.slots",
        "agent.telling",
        "agent.tools",
    ),
    "agent.backstop": RUNNING,
    "agent.gauges": (*RUNNING, "agent.gpu.keeper", "agent.readiness", "agent.tools"),
    "agent.monitor": (*RUNNING, "agent.gauges"),
    "agent.watchdog": (),
    "agent.alerts": RUNNING,
    "agent.readiness": (*RUNNING, "agent.alerts", "agent.tools"),
    # What operators see and do at one worker.
    **dict.fromkeys(
        ("agent.alarms", "agent.card_report", "agent.control", "agent.desk", "agent.loading"),
        DESK,
    ),
    **dict.fromkeys(("agent.models", "agent.report"), DESK),
    "agent.dispatch": (
        *RUNNING,
        "agent.deliveries",
        "agent.presence",
        "agent.readiness",
        "agent.slots",
        "agent.standing_by",
        "agent.tools",
        "agent.worker",
    ),
    "agent.ledger": (*SHELL, "agent.bus"),
    "agent.retention": (*RUNNING, "agent.ledger"),
    "agent.gateway": (*RUNNING, "agent.ledger"),
    "agent.client": ("contracts", "agent.bus"),
    "agent.site": (*SHELL, "agent.bus"),
    "agent.quota": (*RUNNING, "agent.backstop"),
    **dict.fromkeys(("agent.__main__", "agent.app", "agent.building", "agent.cli"), ALL),
    **dict.fromkeys(("agent.commands", "agent.doctor"), ALL),
    "ops": (*ALL, "tests.chaos.servers", "tests.simulation"),
}
EXCEPT = {"agent.gateway": ("agent.core.arbiter",)}
ONLY_MSGSPEC = ("contracts", "agent.core")
INDEPENDENT = {"tests/chaos/auditor.py": ("nats",)}

IMPURE = ("asyncio", "logging", "os", "pathlib", "random", "secrets", "socket", "structlog", "time")
CLOCK_CALLS = {"now", "today", "utcnow"}
FORBIDDEN = {"manager", "util", "utils", "helper", "helpers", "common", "base", "misc"}
FORBIDDEN |= {"service", "handler", "processor", "data", "info"}
FILE_LINES, FUNCTION_LINES, LINE_COLUMNS, PARAMETERS, NESTING = 400, 60, 100, 6, 3

SUBJECT = re.compile(
    r"""["']mmg\.(?:request|chain|event|progress|preview|queued|idle|cancel|snapshot|rpc|worker"""
    r"""|asset|alert)"""
)
MACHINE_PATH = re.compile(r"(?<![\w.])/(?:work|root|home)/|\b[A-Za-z]:\\(?!n)")
OPEN_END = re.compile(r"\b(?:TO" + r"DO|FIX" + r"ME)\b(?!.*#\d)")

Function = ast.FunctionDef | ast.AsyncFunctionDef
BLOCKS = (ast.If, ast.For, ast.AsyncFor, ast.While, ast.Try, ast.Match)


class Source(NamedTuple):
    """One text file of ours; `tree` is empty unless it is Python."""

    path: str
    text: str
    tree: ast.Module
    module: str
    top: str

    def lines(self) -> Iterator[tuple[int, str]]:
        return enumerate(self.text.splitlines(), start=1)


Findings = Iterator[tuple[int, str]]
Rule = Callable[[Source], Findings]


def source(path: str, text: str) -> Source:
    tree = ast.parse(text if path.endswith(".py") else "", path)
    module = path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    return Source(path, text, tree, module, module.split(".", maxsplit=1)[0])


def sources(folder: Path, ignored: tuple[str, ...]) -> Iterator[Source]:
    for entry in sorted(folder.iterdir()):
        if any(fnmatch(entry.name, pattern) for pattern in ignored) or entry.is_symlink():
            continue
        if entry.is_dir():
            yield from sources(entry, ignored)
        elif b"\0" not in (raw := entry.read_bytes()):  # a picture or an archive has one
            path = entry.relative_to(ROOT).as_posix()
            yield source(path, raw.decode("utf-8", errors="replace"))


@pytest.fixture(scope="module")
def repository() -> list[Source]:
    ignored = [line.strip().strip("/") for line in (ROOT / ".gitignore").read_text().splitlines()]
    return list(sources(ROOT, (".git", *filter(None, ignored))))


def within(module: str, parts: tuple[str, ...]) -> bool:
    return any(module == part or module.startswith(f"{part}.") for part in parts)


def imports(tree: ast.Module) -> Findings:
    """Each imported name in full, without those as harmless as `from agent import __version__`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names = (alias.name for alias in node.names if not alias.name.startswith("__"))
            yield from ((node.lineno, f"{node.module}.{name}") for name in names)


def import_rule(src: Source) -> Findings:
    if src.top not in CODE:
        return
    part = next((part for part in MAY_IMPORT if within(src.module, (part,))), None)
    if part is None and src.module != "agent":
        yield 1, "is in no part of MAY_IMPORT; add it there with what it may import"
        return
    allowed = (*MAY_IMPORT[part], part) if part else ()
    for line, name in imports(src.tree):
        top = name.split(".")[0]
        if top in OURS and (not within(name, allowed) or within(name, EXCEPT.get(part or "", ()))):
            yield line, f"{src.module} may not import {name}; pass it in, or move it"
        if part in ONLY_MSGSPEC and top not in {*OURS, *sys.stdlib_module_names, "msgspec"}:
            yield line, f"{part} may not import {top}; only the standard library and msgspec"


def independence(src: Source) -> Findings:
    """Who judges the program shares no line with it: a mistake would hide itself."""
    for line, name in imports(src.tree) if src.path in INDEPENDENT else ():
        top = name.split(".")[0]
        if top not in sys.stdlib_module_names and top not in INDEPENDENT[src.path]:
            yield line, f"an auditor may not import {top}; read the wire and the disk yourself"


def purity(src: Source) -> Findings:
    in_core = within(src.module, ("agent.core",))
    for line, name in imports(src.tree) if in_core else ():
        if within(name, IMPURE):
            yield line, f"the core may not import {name}; take its result as an argument"
    for node in ast.walk(src.tree) if in_core else ():
        match node:
            case ast.AsyncFunctionDef() | ast.Await() | ast.AsyncFor() | ast.AsyncWith():
                yield node.lineno, "the core may not wait; a shell awaits and hands in the result"
            case ast.Call(func=ast.Attribute(attr=attr)) if attr in CLOCK_CALLS:
                yield node.lineno, "the core may not read a clock; take the time as an argument"
            case ast.Call(func=ast.Name(id="open" | "print" | "input" as name)):
                yield node.lineno, f"the core may not {name}; return a value"


def sizes(src: Source) -> Findings:
    if (count := len(src.text.splitlines())) > FILE_LINES:
        yield count, f"{count} lines, at most {FILE_LINES}; split the module by what it is about"
    if src.top not in CODE:
        return
    for line, text in src.lines():
        if len(text) > LINE_COLUMNS and "://" not in text:
            yield line, f"{len(text)} columns, at most {LINE_COLUMNS}; break the line"
    for node in ast.walk(src.tree):
        if isinstance(node, Function):
            yield from function_size(node, src.text.splitlines())


def function_size(node: Function, lines: list[str]) -> Findings:
    body = node.body[1:] if ast.get_docstring(node) is not None else node.body
    code = lines[body[0].lineno - 1 : node.end_lineno] if body else []
    count = sum(1 for line in code if line.strip() and not line.lstrip().startswith("#"))
    if count > FUNCTION_LINES:
        yield node.lineno, f"{node.name} has {count} lines, at most {FUNCTION_LINES}; split it"
    arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    count = sum(1 for argument in arguments if argument.arg not in ("self", "cls"))
    if count > PARAMETERS:
        yield node.lineno, f"{node.name} takes {count} parameters, at most {PARAMETERS}; group them"
    if (deep := max(depth(statement) for statement in node.body)) > NESTING:
        yield node.lineno, f"{node.name} nests {deep} deep, at most {NESTING}; split it"


def depth(node: ast.AST, *, is_elif: bool = False) -> int:
    """How deep branches and loops nest; `with` is a scope and `elif` is no deeper than its `if`."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.expr):
        return 0  # a function inside is measured on its own
    inner = 0
    for child in ast.iter_child_nodes(node):
        chained = isinstance(node, ast.If) and isinstance(child, ast.If) and node.orelse == [child]
        inner = max(inner, depth(child, is_elif=chained))
    return inner + (isinstance(node, BLOCKS) and not is_elif)


def names(src: Source) -> Findings:
    found = [(1, part) for part in src.path.removesuffix(".py").split("/")]
    found += [(n.lineno, n.name) for n in ast.walk(src.tree) if isinstance(n, ast.ClassDef)]
    for line, name in found:
        words = {word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name)}
        for word in sorted(words & FORBIDDEN):
            yield line, f"{name}: the word {word!r} says nothing; name it by what it does"


def subjects(src: Source) -> Findings:
    if src.top in CODE and src.path != "contracts/subjects.py":
        for line, text in src.lines():
            if SUBJECT.search(text):
                yield line, "a subject is written out; build it with contracts.subjects"


def sleeps(src: Source) -> Findings:
    for node in ast.walk(src.tree) if src.top == "tests" else ():
        match node:
            case ast.Call(
                func=ast.Attribute(attr="sleep") | ast.Name(id="sleep"),
                args=[ast.Constant(value=int() | float() as seconds), *_],
            ) if seconds > 0:
                yield node.lineno, "a test may not sleep; wait for a fact, with a deadline"


def docstrings(src: Source) -> Findings:
    if not ast.get_docstring(src.tree):
        yield 1, "the module has no docstring; say its role and what it must not do"


def no_code_in_workflows(src: Source) -> Findings:
    if src.top == "workflows":
        yield 1, "workflows/ holds no Python; put code into agent/engines"


def machine_paths(src: Source) -> Findings:
    for line, text in src.lines():
        if found := MACHINE_PATH.search(text):
            yield line, f"{found[0]!r} exists on one machine only; use a relative path or a setting"


def open_ends(src: Source) -> Findings:
    if not src.path.endswith((".md", ".json", ".lock")):
        for line, text in src.lines():
            if OPEN_END.search(text):
                yield line, "open work without an issue; write its number behind it, as #12"


OF_PYTHON: tuple[Rule, ...] = (import_rule, independence, purity, sizes, names, subjects, sleeps)
OF_PYTHON += (docstrings, no_code_in_workflows)
OF_ANY_TEXT: tuple[Rule, ...] = (machine_paths, open_ends)


def findings(rule: Rule, src: Source) -> list[str]:
    applies = rule in OF_ANY_TEXT or src.path.endswith(".py")
    return [f"{src.path}:{line}: {what}" for line, what in rule(src)] if applies else []


@pytest.mark.parametrize("rule", OF_PYTHON + OF_ANY_TEXT, ids=lambda rule: rule.__name__)
def test_the_repository_keeps_the_rule(rule, repository):
    found = [finding for src in repository for finding in findings(rule, src)]
    if found:
        pytest.fail("\n".join(found), pytrace=False)


NESTED = "def f():\n for a in b:\n  if a:\n   try:\n    if b: pass\n   finally: pass"
BAD: list[tuple[Rule, str, str, str]] = [
    (import_rule, "contracts/x.py", "import agent.bus", "contracts.x may not import agent.bus"),
    (import_rule, "contracts/x.py", "import aiohttp", "only the standard library"),
    (import_rule, "agent/core/x.py", "from structlog import get_logger", "only the standard"),
    (import_rule, "agent/core/x.py", "from agent import bus", "may not import agent.bus"),
    (import_rule, "agent/gpu.py", "def f():\n    from agent import ollama", "agent.ollama"),
    (import_rule, "agent/worker/x.py", "import agent.engines.sketch", "agent.engines.sketch"),
    (import_rule, "agent/gateway/x.py", "from agent.core import arbiter", "core.arbiter"),
    (import_rule, "agent/gateway/x.py", "import agent.worker", "may not import agent.worker"),
    (import_rule, "agent/client.py", "from agent.core.job import Job", "agent.core.job"),
    (import_rule, "agent/app.py", "import tests.doubles", "may not import tests.doubles"),
    (import_rule, "agent/__init__.py", "import agent.client", "may not import agent.client"),
    (import_rule, "agent/extra.py", "", "add it there"),
    (independence, "tests/chaos/auditor.py", "from agent import bus", "may not import agent"),
    (independence, "tests/chaos/auditor.py", "import tests.rig", "may not import tests"),
    (purity, "agent/core/x.py", "from os import path", "may not import os.path"),
    (purity, "agent/core/x.py", "async def f(): pass", "may not wait"),
    (purity, "agent/core/x.py", "x = datetime.datetime.now()", "may not read a clock"),
    (purity, "agent/core/x.py", "print(1)", "may not print"),
    (sizes, "tests/x.py", "\n" * 401, "401 lines"),
    (sizes, "agent/x.py", "x = '" + "y" * 100 + "'", "106 columns"),
    (sizes, "agent/x.py", "def f():" + "\n    x = 1" * 61, "f has 61 lines"),
    (sizes, "agent/x.py", "def f(self, a, b, c, d, e, g, h): pass", "takes 7 parameters"),
    (sizes, "ops/x.py", NESTED, "nests 4 deep"),
    (names, "agent/bus_utils.py", "", "'utils'"),
    (names, "agent/x.py", "class HTTPServiceError: pass", "'service'"),
    (subjects, "agent/x.py", 'x = f"mmg.request.{a}"', "contracts.subjects"),
    (sleeps, "tests/x.py", "asyncio.sleep(0.1)", "may not sleep"),
    (docstrings, "tests/x.py", "x = 1", "no docstring"),
    (no_code_in_workflows, "workflows/__init__.py", "", "no Python"),
    (machine_paths, "README.md", "see /" + "home/me/x", "one machine only"),
    (machine_paths, "README.md", "see C:" + "\\Temp", "one machine only"),
    (open_ends, "Makefile", "# TO" + "DO: more", "without an issue"),
]


@pytest.mark.parametrize(("rule", "path", "text", "what"), BAD)
def test_each_rule_can_fail(rule, path, text, what):
    assert [finding for finding in findings(rule, source(path, text)) if what in finding]


GOOD: list[tuple[str, str]] = [
    ("agent/app.py", '"""App."""\nimport agent.worker, agent.gateway.relay, contracts.events'),
    ("agent/cli.py", '"""Cli."""\nfrom agent import __version__'),
    ("agent/core/x.py", '"""X."""\nimport re\nimport msgspec\nfrom contracts import errors'),
    ("agent/worker.py", '"""W."""\nfrom agent.engines.protocol import EngineJob'),
    ("agent/AGENT.md", "listens to 'mmg.request.*'; TO" + "DO"),
    ("tests/x.py", '"""X."""\nasyncio.sleep(0)\nx = 1  # TO' + "DO: wait for #12"),
    ("ops/x.py", '"""X."""\ndef f(): \n if a: pass\n elif b: pass\n elif c: pass\n elif d: pass'),
]


@pytest.mark.parametrize(("path", "text"), GOOD)
def test_no_rule_finds_fault_with_good_source(path, text):
    assert not [f for rule in OF_PYTHON + OF_ANY_TEXT for f in findings(rule, source(path, text))]
