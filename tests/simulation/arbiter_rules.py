"""What must hold for each decision of the arbiter, computed from what is true in the world.

Nothing here uses the arbiter's own arithmetic: a mistake would hide itself.
"""

from itertools import combinations
from typing import Any, Final

from tests.simulation.violation import demand

RESERVE_MIB: Final = 2048
NEED_MIB: Final = {"sdxl": 12288, "sd15": 6144}
SIZES_MIB: Final = {"large": 14336, "small": 3072}
ANSWERS: Final = ("Wait", "Grant", "ToCloud", "Refuse")


def check(
    world: Any, state: Any, arbiter: Any, event: str, args: tuple[Any, ...], said: tuple[Any, ...]
) -> None:
    """Check all that was decided in answer to one event."""
    kinds = [type(decision).__name__ for decision in said]
    for decision in said:
        demand(bool(decision.reason), "every decision has its reason", str(decision))
    if event == "request":
        answered = {d.job for d in said if type(d).__name__ in ANSWERS}
        demand(args[0].job in answered, "every request is answered", str(kinds))
    waits = {one.ask.job for one in arbiter.waiting}
    for number, standing in enumerate(state.jobs):
        held = arbiter.lease is not None and arbiter.lease.ask.job == f"j{number}"
        ended = {d.job for d in said if type(d).__name__ in ("ToCloud", "Refuse", "Revoke")}
        is_known = held or f"j{number}" in waits or f"j{number}" in ended
        if standing in ("asked", "runs"):
            demand(is_known, "no job is lost", f"j{number} {standing} {kinds}")
        else:
            demand(not held, "nobody holds the card who has no use for it", f"j{number}")
    acts = [d for d in said if type(d).__name__ in ("FreeComfyUI", "UnloadModels", "Reload")]
    demand(not acts or arbiter.lease is None, "nothing is done to the card in a lease", str(kinds))
    demand(len(acts) <= 1, "one thing at a time", str(kinds))
    demand(state.has_card or arbiter.lease is None, "no lease without a card", str(kinds))
    again = {"free_failed": "FreeComfyUI", "unload_failed": "UnloadModels"}.get(event)
    demand(again not in kinds, "plan B is another rule", str(kinds))
    for decision in said:
        match type(decision).__name__:
            case "UnloadModels":
                _check_unload(world, state, arbiter, decision, said)
            case "Reload":
                has_failed = bool({"free", "slow"} & (set(world.config.faults) - state.left))
                is_freed = not state.held or has_failed
                demand(is_freed, "ComfyUI frees before the LLM comes back", state.held)
            case "ClearDebt":
                _check_cleared(world, state, kinds)
            case "Preempt":
                _check_preempt(world, state, arbiter, decision)
    if event == "reading":
        _check_paying(arbiter, args[-1])
    _check_critical(world, state, arbiter, args[-1])


def _check_paying(arbiter: Any, now: Any) -> None:
    """Check that a debt is being paid where the card is idle and nobody waits."""
    is_idle = not (arbiter.waiting or arbiter.lease or arbiter.act or arbiter.lost)
    pauses = (arbiter._pay_at, arbiter._free_pause)
    is_free_to = all(moment is None or moment <= now for moment in pauses)
    is_owed = arbiter.debt is not None and is_idle and is_free_to and arbiter._fresh(now)
    demand(not is_owed, "the LLM comes back when nobody waits", str(arbiter.debt))


def check_grant(world: Any, state: Any, grant: Any) -> None:
    """Check a grant against what is true now, unless nobody could know it."""
    busy = [f"j{n}" for n, job in enumerate(state.jobs) if job == "runs" and f"j{n}" != grant.job]
    demand(not busy, "one lease at a time", f"{busy} and {grant.job}")
    demand(state.has_card, "no grant without a card", grant.job)
    demand(state.call is None, "no grant while memory is moved", grant.job)
    job = world.config.jobs[int(grant.job[1:])]
    if grant.downgraded:
        allowed = job.quality in ("draft", "standard")
        demand(allowed, "high quality is never downgraded", grant.job)
    demand((grant.model != job.need.model) == grant.downgraded, "a downgrade is told", grant.model)
    if not state.surprised:
        inside = NEED_MIB[grant.model] if state.held == grant.model else 0
        room = world.free_mib(state) + inside - RESERVE_MIB
        demand(
            grant.vram_mib <= room, "leases and reserve fit the card", f"{grant.model} in {room}"
        )


def _check_preempt(world: Any, state: Any, arbiter: Any, decision: Any) -> None:
    """Check who is interrupted for whom."""
    job, by = (world.config.jobs[int(name[1:])] for name in (decision.job, decision.by))
    demand(by.priority == "CRITICAL", "only a CRITICAL preempts", decision.by)
    demand(job.priority in ("MEDIUM", "LOW"), "only MEDIUM and LOW are preempted", decision.job)
    times = state.preempted[int(decision.job[1:])]
    demand(times < 2, "a job is preempted at most twice", f"{decision.job} {times}")
    demand(state.cut == "", "a job is interrupted once at a time", state.cut)
    demand(arbiter.lease.ask.job == decision.job, "who draws is preempted", decision.job)
    demand(decision.rest_s > 5, "a run that is nearly over is not preempted", str(decision.rest_s))
    need = by.need.vram_mib
    reach = 24576 - world.config.others_mib - RESERVE_MIB
    demand(need <= reach, "nothing is thrown away in vain", f"{decision.by} needs {need}")


def _check_critical(world: Any, state: Any, arbiter: Any, now: Any) -> None:
    """Check that no CRITICAL waits behind a long run of MEDIUM or LOW where all would fit."""
    lease = arbiter.lease
    if lease is None or world.config.models or world.config.others_mib or lease.preempted_by:
        return
    waits = any(one.ask.priority == "CRITICAL" for one in arbiter.waiting)
    rest_s = abs(10.0 - (now - lease.granted_at).total_seconds())
    may_cut = lease.ask.priority in ("MEDIUM", "LOW") and lease.ask.preempted < 2
    is_known = arbiter._fresh(now) is not None and state.has_card
    behind = waits and may_cut and rest_s > 5 and is_known
    demand(not behind, "a CRITICAL does not wait behind a lower run", lease.ask.job)


def check_end(models: tuple[str, ...], state: Any) -> None:
    """Check that the tenants have back what they had."""
    demand(set(models) <= state.listed, "the LLM is back at the end", str(sorted(state.listed)))
    demand(not state.stopping, "the LLM is back at the end", f"{sorted(state.stopping)} will leave")
    demand(state.debt is None, "no debt is stored at the end", str(state.debt))
    if state.partial:
        demand(state.alerted, "a partial offload is alarmed", str(sorted(state.partial)))


def _check_unload(
    world: Any, state: Any, arbiter: Any, decision: Any, said: tuple[Any, ...]
) -> None:
    """Check that it may be, must be, is the least that suffices, and is written before."""
    kinds = [type(d).__name__ for d in said]
    before = said[: said.index(decision)]
    written = [d for d in before if type(d).__name__ == "WriteDebt"]
    owed = {one.model for one in written[-1].debt.owed} if written else set()
    chosen = {one.model for one in decision.models}
    demand(chosen <= owed, "the debt is written before the unload", str(kinds))
    if state.debt is not None and "ClearDebt" not in kinds:
        earlier = {one.model for one in state.debt.owed}
        demand(earlier <= owed, "a debt is not forgotten", f"{earlier} and {owed}")
    ask = next(one.ask for one in arbiter.waiting if one.ask.job == decision.job)
    waited_s = (decision.debt.unloaded_at - ask.stored_at).total_seconds()
    is_past = waited_s > ask.max_wait_s
    demand(
        is_past or ask.priority in ("CRITICAL", "HIGH"),
        "MEDIUM and LOW wait before an unload",
        f"{decision.job} after {waited_s} s",
    )
    if not state.surprised:
        # What ComfyUI would give back counts, unless it has refused to.
        inside = NEED_MIB[state.held] if state.held else 0
        if {"free", "slow"} & (set(world.config.faults) - state.left):
            inside = inside if state.held == ask.need.model else 0
        free_mib = world.free_mib(state) + state.lag_mib
        lacks = ask.need.vram_mib + RESERVE_MIB - free_mib - inside
        demand(lacks > 0, "nothing is unloaded that would have fitted", decision.job)
        size = {name: SIZES_MIB[name] // (1 + (name in state.partial)) for name in state.listed}
        able = [
            (count, sum(size[name] for name in names))
            for count in range(1, len(size) + 1)
            for names in combinations(sorted(size), count)
            if sum(size[name] for name in names) >= lacks
        ]
        least = min(able, default=None)
        mine = (len(chosen), sum(size.get(name, 0) for name in chosen))
        demand(mine == least, "as few and as small as suffice", f"{sorted(chosen)}, {least}")


def _check_cleared(world: Any, state: Any, kinds: list[str]) -> None:
    """Check that what was owed is there to stay."""
    there = state.listed - state.stopping
    gone = set(world.config.models) - there
    demand(state.surprised or not gone, "a debt is cleared when it is paid", str(sorted(gone)))
    if state.partial and not state.alerted:
        demand("Alert" in kinds, "a partial offload is alarmed", str(sorted(state.partial)))
