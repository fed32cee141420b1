"""The code that is searched: compiled from its own files, as it stands or with one edit.

`agent.bus.chain` is compiled anew in any case, because here its clock is ours and nobody logs.
The other modules are the real ones, unless an edit concerns them or one they import.
"""

import importlib
from collections.abc import Callable, Coroutine
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import msgspec

from agent.core.cancel import Cancelling
from agent.core.links import Author
from agent.core.steps import Outcome
from agent.core.story import Story

CHAIN: Final = "agent.bus.chain"
ORDER: Final = (
    "agent.core.job",
    "agent.core.links",
    "agent.core.choosing",
    "agent.core.story",
    "agent.core.cancel",
    CHAIN,
)
"""Modules that may be edited; a later one may import an earlier one."""


class Edit(msgspec.Struct, frozen=True):
    """One change of the text of a module; `old` must be found there exactly once."""

    module: str
    old: str
    new: str


class Clock:
    """The loop of `chain.append`: time stands still until patience is over."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def time(self) -> float:
        return self.now_s


class Code(msgspec.Struct, frozen=True):
    """What the actors run."""

    story: type[Story]
    cancelling: type[Cancelling]
    author: type[Author]
    append: Callable[..., Coroutine[Any, Any, Outcome]]
    clock: Clock


def load(edits: tuple[Edit, ...] = ()) -> Code:
    """Return the code with these edits. Asserts that each of them hits."""
    clock = Clock()
    compiled: dict[str, dict[str, Any]] = {}
    for name in ORDER:
        mine = [edit for edit in edits if edit.module == name]
        if not (mine or compiled or name == CHAIN):
            continue
        names = _compile(name, mine)
        for other, theirs in compiled.items():
            _rebind(names, other, theirs)
        compiled[name] = names
    chain = compiled[CHAIN]
    chain["asyncio"] = SimpleNamespace(get_running_loop=lambda: clock, sleep=_at_once)
    chain["log"] = SimpleNamespace(warning=_silent, error=_silent)
    story = compiled.get("agent.core.story", {})
    cancel = compiled.get("agent.core.cancel", {})
    links = compiled.get("agent.core.links", {})
    return Code(
        author=links.get("Author", Author),
        story=story.get("Story", Story),
        cancelling=cancel.get("Cancelling", Cancelling),
        append=chain["append"],
        clock=clock,
    )


def _compile(name: str, edits: list[Edit]) -> dict[str, Any]:
    path = importlib.import_module(name).__file__
    assert path is not None, "our modules are files"
    text = Path(path).read_text()
    for edit in edits:
        assert text.count(edit.old) == 1, f"found {text.count(edit.old)} times: {edit.old!r}"
        text = text.replace(edit.old, edit.new)
    names: dict[str, Any] = {"__name__": name, "__file__": path}
    exec(compile(text, f"{path} (searched)", "exec"), names)  # noqa: S102 - our own text
    return names


def _rebind(names: dict[str, Any], other: str, theirs: dict[str, Any]) -> None:
    """Let `names` use what was compiled anew instead of what it imported."""
    for name, value in names.items():
        if getattr(value, "__module__", None) == other and name in theirs:
            names[name] = theirs[name]


async def _at_once(_delay_s: float) -> None:
    """Take no time: pauses are the world's to choose."""


def _silent(*_args: object, **_fields: object) -> None:
    """Log nothing."""
