"""Mutants of the arbiter: each takes one rule out of the real code; the search has to notice."""

from typing import Any, Final

import msgspec

from tests.simulation.arbiter_search import WORLDS, search
from tests.simulation.edited import edited
from tests.simulation.search import Found
from tests.simulation.source import Edit

CARD: Final = "agent.core.card"
ACTS: Final = "agent.core.acts"
PREEMPTION: Final = "agent.core.preemption"
LINE: Final = "agent.core.line"
ADMISSION: Final = "agent.core.admission"
TENDING: Final = "agent.core.tending"
ARBITER: Final = "agent.core.arbiter"


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
        "two models",
    ),
    _mutant(
        "comfyui's models do not go before an llm",
        ADMISSION,
        "    can_free = case.has_others and case.at.free_in_s <= 0\n",
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
        "if (busy := at.busy or _foreign(ask, at, reading)) is not None:",
        "if (busy := _foreign(ask, at, reading)) is not None:",
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
        "            self._ease(now, said)\n            self._pay(now, said)\n",
        "            self._ease(now, said)\n",
    ),
    _mutant(
        "debt paid under a lease",
        TENDING,
        "if self.lease is not None or self.act is not None or is_before(now, self._pay_at):",
        "if self.act is not None or is_before(now, self._pay_at):",
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
        "                self._pay_later(now)\n",
        "                self._clear('never mind', said)\n",
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
        "critical never preempts",
        LINE,
        "        if preempt is not None and self._could_start(ask, now):\n",
        "        if False:\n",
        "preempted",
    ),
    _mutant(
        "preempted in vain",
        LINE,
        " and self._could_start(ask, now):",
        ":",
        "preempted in vain",
    ),
    _mutant(
        "high is preempted",
        PREEMPTION,
        "PREEMPTIBLE: Final = (Priority.MEDIUM, Priority.LOW)",
        "PREEMPTIBLE: Final = (Priority.HIGH, Priority.MEDIUM, Priority.LOW)",
        "not preempted",
    ),
    _mutant(
        "preempted again and again",
        PREEMPTION,
        "drawing.preempted >= PREEMPTED_MAX or lease.preempted_by",
        "lease.preempted_by",
        "preempted again and again",
    ),
    _mutant(
        "preempted twice at once",
        PREEMPTION,
        " or lease.preempted_by:  # 3",
        ":  # 3",
        "preempted again and again",
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
    with edited(Edit(mutant.module, mutant.old, mutant.new)) as modules:
        arbiter: type[Any] = modules[ARBITER].Arbiter
        return arbiter


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
