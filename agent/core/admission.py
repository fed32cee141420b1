"""The seven rules by which a job gets the card, given all that is known of it. Pure.

It must not remember anything: what has happened so far is in `Standing`, kept by
`agent.core.arbiter`, which also turns verdicts into decisions.
"""

from collections.abc import Callable
from math import inf
from typing import Final

import msgspec

from agent.core.card import (
    SLACK_MIB,
    Reading,
    expiry_wait_s,
    gb,
    held_by_tenants,
    names,
    room_after_free_mib,
    room_mib,
    smallest_set,
)
from agent.core.leases import Ask, Need
from agent.core.scheduler import left_s
from agent.core.standing import Admit, Away, Busy, Free, Hold, Never, Standing, Unload, Verdict
from contracts.requests import Priority, Quality

RUNS_OUT_OF_MEMORY_MAX: Final = 2
"""A model that ran out of memory this often is not tried again for the same job."""
MAY_SHRINK: Final = (Quality.DRAFT, Quality.STANDARD)
LOWER: Final = (Priority.MEDIUM, Priority.LOW)


class _Case(msgspec.Struct, frozen=True, kw_only=True):
    """A job whose turn it is, on a card that is known and idle."""

    ask: Ask
    at: Standing
    reading: Reading
    need: Need
    downgraded: bool

    @property
    def room_mib(self) -> int:
        return room_mib(self.reading, self.need.model, self.at.settings.reserve_mib)

    @property
    def room_after_free_mib(self) -> int:
        return room_after_free_mib(self.reading, self.at.settings.reserve_mib)

    @property
    def is_held(self) -> bool:
        """ComfyUI has the model already."""
        return self.need.model in self._held

    @property
    def has_others(self) -> bool:
        """ComfyUI has models, and not this one."""
        return bool(self._held) and not self.is_held

    @property
    def _held(self) -> tuple[str, ...]:
        return self.reading.comfyui.held if self.reading.comfyui is not None else ()


def admit(ask: Ask, at: Standing) -> Verdict:
    """Decide about one job.

    Before the rules, nobody is granted without a card, a fresh reading, a ComfyUI that answers
    and an idle card; rules 6 and 7 hold there too. If ComfyUI draws on the CPU, the card does not
    matter: rule 0. A model that can never fit on this card, or ran out of memory twice for this
    job, is replaced by the smaller one throughout.

    1. ComfyUI holds the model, and what it has with what is free suffices -> grant.
    2. What is free beside the reserve suffices -> grant.
    3. ComfyUI holds other models and freeing them suffices -> free, then grant.
    4. CRITICAL, HIGH with nothing ahead, or any job past its max wait (MEDIUM and LOW together
       once in ten minutes) -> unload as few models of tenants as suffice, then grant.
    5. Quality draft or standard and the smaller model fits -> grant it.
    6. Cloud allowed, and the expected wait exceeds the class's max wait and what it would wait
       there -> cloud. A CRITICAL stays for a wait of a few seconds: a cloud takes longer to begin
       with. MEDIUM and LOW stay while nobody draws and rule 4 will reach them: only a busy card
       sends them away, or one whose memory nobody can give back.
    7. Otherwise wait.
    """
    reading = at.reading
    if at.lost is not None:
        return _away(ask, at.lost) or Never(why="no_card", reason=at.lost)
    if reading is None:
        return _unknown(ask, at)
    if reading.comfyui is None:
        return _away(ask, "ComfyUI does not answer") or Hold(
            wait_for="comfyui",
            until="ComfyUI answers again",
            reason="ComfyUI does not answer",
        )
    if (busy := at.busy or _foreign(ask, at, reading)) is not None:
        hold = Hold(wait_for=busy.wait_for, until=busy.until, reason=busy.reason)
        if busy.is_brief and at.is_first:
            return hold
        return _cloud(ask, at, busy.rest_s, busy.reason) or hold  # 6, 7
    if reading.on_cpu:
        return Admit(
            need=ask.need, downgraded=False, rule=0, reason="ComfyUI draws on the CPU, not the card"
        )
    never = _hopeless(ask, ask.need, at)
    if never is None:
        need, downgraded = ask.need, False
    elif ask.smaller is not None and can_shrink(ask) and not _hopeless(ask, ask.smaller, at):
        need, downgraded = ask.smaller, True
    else:
        return _away(ask, never.reason) or never
    case = _Case(ask=ask, at=at, reading=reading, need=need, downgraded=downgraded)
    rules: list[Callable[[_Case], Verdict | None]] = [
        _held,
        _fits,
        _free,
        _unload,
        _shrink,
        _wait_away,
    ]
    if at.settings.downgrade_first:
        rules = [_held, _fits, _free, _shrink, _unload, _wait_away]
    for rule in rules:
        verdict = rule(case)
        if verdict is not None:
            return verdict
    return _hold(case)  # 7


def can_shrink(ask: Ask) -> bool:
    """Tell whether the job may be drawn with a smaller model at all."""
    return ask.smaller is not None and ask.quality in MAY_SHRINK


def memory_wait_s(ask: Ask, at: Standing) -> float:
    """Return how long a job is expected to wait for its memory alone; infinite: nobody knows."""
    reading = at.reading
    if at.lost is not None or reading is None or reading.comfyui is None:
        return inf
    case = _Case(ask=ask, at=at, reading=reading, need=ask.need, downgraded=False)
    fits = reading.on_cpu or case.room_mib >= case.need.vram_mib or _shrink(case) is not None
    return 0.0 if fits else _memory_s(case)


def _held(case: _Case) -> Verdict | None:  # 1
    if not case.is_held or case.room_mib < case.need.vram_mib:
        return None
    return _admit(case, 1, f"ComfyUI already holds {case.need.model}")


def _fits(case: _Case) -> Verdict | None:  # 2
    if case.room_mib < case.need.vram_mib:
        return None
    return _admit(
        case,
        2,
        f"{case.need.model} needs {gb(case.need.vram_mib)}, {gb(case.room_mib)} are free"
        f" beside the reserve of {gb(case.at.settings.reserve_mib)}",
    )


def _free(case: _Case) -> Verdict | None:  # 3
    if (
        not case.has_others
        or case.at.free_in_s > 0
        or case.room_after_free_mib < case.need.vram_mib
    ):
        return None
    return Free(
        goal_mib=case.need.vram_mib + case.at.settings.reserve_mib,
        rule=3,
        reason=f"ComfyUI holds other models; without them {case.need.model} fits",
    )


def _unload(case: _Case) -> Verdict | None:  # 4
    why = _may_unload(case.ask, case.at)
    if why is None:
        return None
    can_free = case.has_others and case.at.free_in_s <= 0
    room = case.room_after_free_mib if can_free else case.room_mib
    models = smallest_set(case.reading, case.need.vram_mib - room)
    if models is None:
        return None
    if can_free:  # It costs less than an LLM, and what is measured then decides how few must go.
        return Free(
            goal_mib=room + case.at.settings.reserve_mib - SLACK_MIB,
            rule=4,
            reason=f"ComfyUI's other models go before {names(models)} has to",
        )
    inside = case.room_mib - room_mib(case.reading, "", case.at.settings.reserve_mib)
    return Unload(
        models=models,
        goal_mib=case.need.vram_mib + case.at.settings.reserve_mib - inside,
        reason=f"{why}; {case.need.model} lacks {gb(case.need.vram_mib - room)}"
        f" and {names(models)} is the least that frees so much",
    )


def _shrink(case: _Case) -> Verdict | None:  # 5
    smaller = case.ask.smaller
    if smaller is None or case.downgraded or not can_shrink(case.ask):
        return None
    room = room_mib(case.reading, smaller.model, case.at.settings.reserve_mib)
    reason = f"{case.need.model} does not fit, {smaller.model} does"
    if room >= smaller.vram_mib:
        return Admit(need=smaller, downgraded=True, rule=5, reason=reason)
    holds = case.reading.comfyui is not None and bool(case.reading.comfyui.held)
    if holds and case.at.free_in_s <= 0 and case.room_after_free_mib >= smaller.vram_mib:
        goal_mib = smaller.vram_mib + case.at.settings.reserve_mib
        return Free(goal_mib=goal_mib, rule=5, reason=f"{reason} once ComfyUI has freed")
    return None


def _wait_away(case: _Case) -> Verdict | None:  # 6
    memory_s = _memory_s(case)
    if case.ask.priority in LOWER and memory_s < inf:
        return None
    wait_s = max(case.at.ahead_s, memory_s)
    return _cloud(case.ask, case.at, wait_s, f"{case.need.model} does not fit beside the others")


def _hold(case: _Case) -> Hold:  # 7
    until = "memory of the card becomes free"
    unload_s = _unload_in_s(case.ask, case.at)
    if unload_s > 0 and smallest_set(case.reading, _missing_mib(case)) is not None:
        until += f", or in {unload_s:.0f} s, when a model may be unloaded for it"
    return Hold(
        wait_for="memory",
        until=until,
        reason=f"{case.need.model} needs {gb(case.need.vram_mib)},"
        f" {gb(max(0, case.room_mib))} are free beside the reserve;"
        f" on the card: {held_by_tenants(case.reading)}",
    )


def _missing_mib(case: _Case) -> int:
    """Return what tenants would have to give for the job."""
    return case.need.vram_mib - max(case.room_mib, case.room_after_free_mib)


def _memory_s(case: _Case) -> float:
    """Return how long the job is expected to wait for its memory; infinite: for ever."""
    missing = _missing_mib(case)
    if missing <= 0:
        return case.at.free_in_s
    expiry_s = expiry_wait_s(case.reading, missing, case.at.now)
    if smallest_set(case.reading, missing) is None:
        return expiry_s
    return min(expiry_s, _unload_in_s(case.ask, case.at))


def _unload_in_s(ask: Ask, at: Standing) -> float:
    """Return after how long rule 4 will be open for the job, if it still waits then."""
    if ask.priority is Priority.CRITICAL:
        return at.unload_in_s
    past_s = max(0.0, left_s(ask, at.now, at.settings.rules))
    gate_s = max(at.unload_in_s, at.turn_in_s)
    if ask.priority is Priority.HIGH:
        return max(gate_s, min(at.ahead_s, past_s))
    return max(gate_s, past_s, at.lower_in_s)


def _admit(case: _Case, rule: int, reason: str) -> Admit:
    return Admit(need=case.need, downgraded=case.downgraded, rule=rule, reason=reason)


def _may_unload(ask: Ask, at: Standing) -> str | None:
    """Say why this job may have models unloaded now, or None: the gate of rule 4."""
    if at.unload_in_s > 0:
        return None
    if ask.priority is Priority.CRITICAL:
        return "it is CRITICAL"
    if at.turn_in_s > 0:
        return None
    if ask.priority is Priority.HIGH and at.is_first:
        return "it is HIGH and nothing is ahead"
    is_past = left_s(ask, at.now, at.settings.rules) < 0
    if is_past and (ask.priority is Priority.HIGH or at.lower_in_s <= 0):
        return f"it is {ask.priority} and past its max wait"
    return None


def _hopeless(ask: Ask, need: Need, at: Standing) -> Never | None:
    """Say why this model will not do for the job on this card, or None."""
    assert at.reading is not None, "asked after the gates"
    if at.reading.card is None:
        return None
    most = at.reading.card.total_mib - at.settings.reserve_mib
    if need.vram_mib > most:
        reason = f"{need.model} needs {gb(need.vram_mib)}, this card gives at most {gb(most)}"
        return Never(why="too_big", reason=reason)
    limit = RUNS_OUT_OF_MEMORY_MAX
    if need is ask.smaller and need != ask.need:
        limit += 1
    if ask.ooms >= limit:
        reason = f"{need.model} ran out of memory although ComfyUI had freed before"
        return Never(why="out_of_memory", reason=reason)
    return None


def _unknown(ask: Ask, at: Standing) -> Verdict:
    reason = "nobody can measure the card"
    if at.is_unknown and (away := _away(ask, reason)) is not None:
        return away
    return Hold(wait_for="reading", until="the card is measured", reason=reason)


def _foreign(ask: Ask, at: Standing, reading: Reading) -> Busy | None:
    count = reading.comfyui.foreign if reading.comfyui is not None else 0
    if count == 0:
        return None
    return Busy(
        wait_for="card",
        rest_s=at.ahead_s + count * ask.run_s,
        until="they have finished; prompts of people are never interrupted",
        reason=f"ComfyUI has {count} of other people's prompts",
    )


def _cloud(ask: Ask, at: Standing, wait_s: float, why: str) -> Away | None:
    """Send it away if the whole wait would exceed its bound, and the wait there: rule 6."""
    if left_s(ask, at.now, at.settings.rules) >= wait_s or wait_s <= at.cloud_s:
        return None
    if ask.priority is Priority.CRITICAL and wait_s <= at.settings.preempt_after_s:
        return None
    bound = f"it would wait longer than its {ask.max_wait_s:.0f} s"
    return _away(ask, f"{why}; {bound}" if wait_s < inf else f"{why}; no end is in sight")


def _away(ask: Ask, reason: str) -> Away | None:
    return Away(reason=reason) if ask.cloud else None
