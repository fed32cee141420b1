"""Mutants of the arbiter: each takes one rule out of the real code, and the search has to notice.

`python -m tests.simulation.arbiter_mutants [NAME ...]` prints which invariant found each of them
and after how many states; exits 1 if one survives.
"""

# ruff: noqa: T201 - printing is the work of a command

import importlib
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import msgspec

from tests.simulation.arbiter_search import WORLDS, search
from tests.simulation.search import Found
from tests.simulation.source import Edit

CARD: Final = "agent.core.card"
ACTS: Final = "agent.core.acts"
SCHEDULER: Final = "agent.core.scheduler"
PREEMPTION: Final = "agent.core.preemption"
LINE: Final = "agent.core.line"
ADMISSION: Final = "agent.core.admission"
TENDING: Final = "agent.core.tending"
ARBITER: Final = "agent.core.arbiter"
ORDER: Final = (
    CARD,
    "agent.core.leases",
    SCHEDULER,
    "agent.core.standing",
    ADMISSION,
    PREEMPTION,
    ACTS,
    TENDING,
    LINE,
    ARBITER,
)
"""Modules that may be edited; a later one may import an earlier one."""


class Mutant(msgspec.Struct, frozen=True, kw_only=True):
    """One rule less: where, what stands there, what it becomes, and the worlds to search."""

    name: str
    module: str
    old: str
    new: str
    worlds: tuple[str, ...] = ("calls fail",)


def _mutant(name: str, module: str, old: str, new: str, *worlds: str) -> Mutant:
    return Mutant(name=name, module=module, old=old, new=new, worlds=worlds or ("calls fail",))


MUTANTS: Final = (
    _mutant(
        "reserve ignored",
        CARD,
        "return reading.card.free_mib + inside - reserve_mib",
        "return reading.card.free_mib + inside",
        "the small one suffices",
    ),
    _mutant(
        "what is held counts for any model",
        CARD,
        "if comfyui is not None and model in comfyui.held else 0",
        "if comfyui is not None else 0",
        "free, then unload",
    ),
    _mutant(
        "rule 1 without measuring",
        ADMISSION,
        "if not case.is_held or case.room_mib < case.need.vram_mib:",
        "if not case.is_held:",
        "chat",
    ),
    _mutant(
        "rule 3 missing",
        ADMISSION,
        "        not case.has_others\n",
        "        True\n",
        "small fits",
        "lower class and draft",
        "busy",
    ),
    _mutant(
        "comfyui's models do not go before an llm",
        ADMISSION,
        "    can_free = case.has_others and not case.at.is_free_paused\n",
        "    can_free = False\n",
        "free, then unload",
    ),
    _mutant(
        "rule 4 for everyone at once",
        ADMISSION,
        "    if is_past and (",
        "    if True and (",
        "lower classes",
    ),
    _mutant(
        "rule 4 for nobody past the wait",
        ADMISSION,
        "    if is_past and (",
        "    if False and (",
        "lower classes",
    ),
    _mutant(
        "all models unloaded",
        CARD,
        "    return min(able, key=lambda chosen: sum(one.vram_mib for one in chosen))",
        "    return tuple(known)",
    ),
    _mutant(
        "the largest set",
        CARD,
        "    return min(able, key=",
        "    return max(able, key=",
        "smaller of two",
    ),
    _mutant(
        "unloaded in vain",
        CARD,
        "if missing_mib <= 0 or sum(one.vram_mib for one in known) < missing_mib:\n"
        "        return None",
        "if missing_mib <= 0:\n        return None\n"
        "    if sum(one.vram_mib for one in known) < missing_mib:\n        return tuple(known)",
        "in vain",
    ),
    _mutant(
        "high quality downgraded",
        ADMISSION,
        "    return ask.smaller is not None and ask.quality in MAY_SHRINK",
        "    return ask.smaller is not None",
        "downgrade",
    ),
    _mutant(
        "a downgrade is not told",
        ADMISSION,
        "return Admit(need=smaller, downgraded=True, rule=5",
        "return Admit(need=smaller, downgraded=False, rule=5",
        "downgrade",
    ),
    _mutant(
        "busy card granted",
        ADMISSION,
        "if (busy := at.busy or _foreign(ask, reading)) is not None:",
        "if (busy := _foreign(ask, reading)) is not None:",
    ),
    _mutant(
        "old reading granted on",
        TENDING,
        "reading.taken_at <= self._changed_at:",
        "False:",
    ),
    _mutant(
        "lease not counted as a change",
        TENDING,
        "        self.lease, self._changed_at = None, now\n",
        "        self.lease = None\n",
        "two models",
    ),
    _mutant(
        "unlisted taken for unloaded",
        ACTS,
        "return gone and free_mib >= act.goal_mib",
        "return gone or free_mib >= act.goal_mib",
        "memory lags",
    ),
    _mutant(
        "act over without its answer",
        ACTS,
        "    if not act.answered:\n        return False\n",
        "",
        "calls fail",
        "busy",
    ),
    _mutant(
        "no deadline",
        TENDING,
        "        elif now >= act.until:\n",
        "        elif False:\n",
        "slow answers",
    ),
    _mutant(
        "failed unload not paused",
        TENDING,
        "self._unload_pause = after(now, PAUSE_S)",
        "self._unload_pause = None",
    ),
    _mutant(
        "failed free not paused",
        TENDING,
        "self._free_pause = after(now, PAUSE_S)",
        "self._free_pause = None",
        "free, then unload",
    ),
    _mutant(
        "debt not written",
        ARBITER,
        "        said.append(WriteDebt(debt=debt, reason=reason))\n",
        "",
    ),
    _mutant(
        "debt written after the unload",
        ARBITER,
        "        said.append(WriteDebt(debt=debt, reason=reason))\n",
        "        self._late = WriteDebt(debt=debt, reason=reason)\n",
    ),
    _mutant(
        "second debt forgets the first",
        CARD,
        "    before = debt.owed if debt is not None else ()\n",
        "    before = ()\n",
        "chat",
        "all calls, one job",
        "free, then unload",
        "calls fail",
    ),
    _mutant(
        "debt never paid",
        ARBITER,
        "        if not self.waiting:\n            self._pay(now, said)\n",
        "",
    ),
    _mutant(
        "debt paid under a lease",
        TENDING,
        "if self.lease is not None or self.act is not None or is_before(",
        "if self.act is not None or is_before(",
    ),
    _mutant(
        "cleared before it is loaded",
        TENDING,
        "        if lacking := missing(act.models, reading):\n",
        "        if lacking := ():\n",
        "hollow reload",
    ),
    _mutant(
        "a stopping model taken for back",
        ACTS,
        "and not model.is_partial and key(one) in gone",
        "and not model.is_partial",
        "busy, cancelled",
    ),
    _mutant(
        "what was seen gone is kept at a new unload",
        ARBITER,
        "        self._gone -= {key(one) for one in models}\n",
        "",
        "chat, then busy",
    ),
    _mutant(
        "partial offload not alarmed",
        TENDING,
        'said.append(Alert(what="partial_offload", reason=reason))',
        "pass",
        "chat",
    ),
    _mutant(
        "failed reload clears the debt",
        TENDING,
        "                pause_s = min(BACKOFF_MAX_S, BACKOFF_S * 2**self._failed)\n",
        "                self._clear('never mind', said)\n                pause_s = 1.0\n",
    ),
    _mutant(
        "debt of an earlier worker not paid",
        TENDING,
        "        self.debt = debt\n        self.waiting",
        "        self.debt = None\n        self.waiting",
        "crash",
    ),
    _mutant(
        "comfyui keeps its model when the llm comes back",
        ACTS,
        "        if comfyui.held and not comfyui.foreign and may_free:  # 2\n",
        "        if False:  # 2\n",
        "all calls, one job",
    ),
    _mutant(
        "oom ends the job",
        ARBITER,
        "        self.waiting = (*self.waiting, Waiting(ask=again, number=first))\n",
        "",
        "out of memory",
    ),
    _mutant(
        "lost card granted",
        TENDING,
        "        self.lost, self.act, self._changed_at = reason, None, now\n",
        "        self.act = None\n",
        "card lost",
    ),
    _mutant(
        "lost card keeps its lease",
        TENDING,
        "            said.append(Revoke(job=self.lease.ask.job, reason=reason))\n"
        "            self.lease = None\n",
        "            pass\n",
        "card lost",
    ),
    _mutant(
        "cancel keeps the lease",
        ARBITER,
        "        return self.release(job, now)\n",
        "        self._forget(job)\n        return self._settle(now)\n",
        "cancel",
    ),
    _mutant(
        "cancel keeps the wish",
        ARBITER,
        "        return self.release(job, now)\n",
        "        return self._settle(now)\n",
        "cancel",
    ),
)


def load(mutant: Mutant) -> type[Any]:
    """Return the arbiter with one edit. Asserts that the edit hits exactly once."""
    edit = Edit(mutant.module, mutant.old, mutant.new)
    package = importlib.import_module("agent.core")
    saved = {name: importlib.import_module(name) for name in ORDER}
    modules = dict(saved)
    try:
        for name in ORDER[ORDER.index(edit.module) :]:
            modules[name] = _compiled(name, str(saved[name].__file__), edit)
            sys.modules[name] = modules[name]
            setattr(package, name.rpartition(".")[2], modules[name])
    finally:
        for name, module in saved.items():
            sys.modules[name] = module
            setattr(package, name.rpartition(".")[2], module)
    arbiter: type[Any] = modules[ARBITER].Arbiter
    return arbiter


def _compiled(name: str, path: str, edit: Edit) -> ModuleType:
    text = Path(path).read_text()
    if name == edit.module:
        assert text.count(edit.old) == 1, f"found {text.count(edit.old)} times: {edit.old!r}"
        text = text.replace(edit.old, edit.new)
    module = ModuleType(name)
    sys.modules[name] = module  # msgspec looks for annotations there.
    exec(compile(text, f"{path} (searched)", "exec"), module.__dict__)  # noqa: S102 - our own text
    return module


def hunt(mutant: Mutant) -> Found:
    """Search the mutant's worlds until one of them finds it; the last search if none does."""
    arbiter = load(mutant)
    worlds = {config.name: config for config in WORLDS}
    found = None
    for name in mutant.worlds:
        found = search(worlds[name], arbiter)
        if found.rule is not None:
            break
    assert found is not None, "every mutant names a world"
    return found


def main() -> int:
    """Hunt all mutants, or those that are named; return the exit code."""
    chosen = [m for m in MUTANTS if not sys.argv[1:] or m.name in sys.argv[1:]]
    survived, began = 0, time.perf_counter()
    for mutant in chosen:
        found = hunt(mutant)
        survived += found.rule is None
        verdict = found.rule or "SURVIVED"
        print(
            f"{mutant.name:<48} {verdict:<48} {found.name:<24} {found.states:>6} states", flush=True
        )
        if len(chosen) == 1:
            print(*found.trace, sep="\n")
    seconds = time.perf_counter() - began
    print(f"{len(chosen)} mutants, {survived} survived, {seconds:.1f} s")
    return 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main())
