"""The world of the arbiter's search: a card, ComfyUI, two tenants, jobs, and what may go wrong.

It holds what is true; the arbiter knows only what it is told. Time jumps to the next moment at
which the arbiter may decide otherwise. A call that has not been answered when the arbiter gives it
up is given up by its caller too.
"""

import copy
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

from agent.core.card import Card, ComfyUI, Loaded, Reading, Tenant
from tests.simulation.arbiter_rules import check, check_end, check_grant
from tests.simulation.arbiter_state import (
    SIZES_MIB,
    START,
    TENANT_OF,
    TOTAL_MIB,
    Config,
    Node,
    State,
    Step,
    ended,
    key,
    spent,
    with_job,
)


class World:
    """Steps of one configuration with one build of the arbiter."""

    def __init__(self, config: Config, arbiter: type[Any]) -> None:
        self.config = config
        self.build = arbiter

    def first(self) -> Node:
        state = State(
            listed=frozenset(self.config.models),
            partial=frozenset(),
            stopping=frozenset(),
            held=self.config.held,
            jobs=("new",) * len(self.config.jobs),
            call=None,
            debt=None,
            left=frozenset(self.config.faults),
            has_card=True,
            surprised=False,
            alerted=False,
            preempted=(0,) * len(self.config.jobs),
        )
        return Node(state, self.build(), START)

    def free_mib(self, state: State) -> int:
        """Return what NVML would show as free."""
        taken = sum(SIZES_MIB[name] // (1 + (name in state.partial)) for name in state.listed)
        held = {"": 0, "sdxl": 12288, "sd15": 6144}[state.held]
        return max(0, TOTAL_MIB - self.config.others_mib - taken - held - state.lag_mib)

    def after(self, node: Node) -> Iterator[Step]:
        """Yield all that may happen next."""
        state = node.state
        for number, standing in enumerate(state.jobs):
            yield from self._job(node, number, standing)
        if state.call is not None:
            yield from self._call(node, state.call)
        yield self._measured(node)
        yield from self._outside(node)
        yield from self._time(node)

    def is_quiet(self, node: Node) -> bool:
        """Tell whether everything has come to its end; then the models have to be back."""
        arbiter, state = node.arbiter, node.state
        over = all(job not in ("new", "asked", "runs") for job in state.jobs)
        if not over or arbiter.debt or arbiter.act or arbiter.waiting or arbiter.lease:
            return False
        if not state.has_card or state.call is not None:
            return False
        check_end(self.config.models, state)
        return True

    # --- what may happen -----------------------------------------------------------------------

    def _job(self, node: Node, number: int, standing: str) -> Iterator[Step]:
        state, name = node.state, f"j{number}"
        if standing == "new":
            ask = self.config.jobs[number].ask(name, node.now, state.preempted[number])
            asked = with_job(state, number, "asked")
            yield f"{name} asks", self._tell(node, asked, "request", ask), True
        if standing == "runs":
            model = node.arbiter.lease.need.model
            drawn = ended(state, number, "drawn")._replace(held=model)
            yield f"{name} is drawn", self._tell(node, drawn, "release", name), True
            if "oom" in state.left:
                out = ended(state, number, "asked")._replace(held=model)
                yield f"{name} OOM", self._tell(node, spent(out, "oom"), "oom", name), False
            if state.cut == name:
                counts = list(state.preempted)
                counts[number] += 1
                cut = ended(state, number, "new")._replace(held=model, preempted=tuple(counts))
                yield f"{name} is interrupted", self._tell(node, cut, "release", name), True
        if standing in ("asked", "runs") and "cancel" in state.left:
            cancelled = spent(ended(state, number, "cancelled"), "cancel")
            yield f"{name} cancelled", self._tell(node, cancelled, "cancel", name), False

    def _call(self, node: Node, call: Any) -> Iterator[Step]:
        state = node.state._replace(call=None)
        match type(call).__name__:
            case "FreeComfyUI":
                done = state._replace(held="")
                yield "freed", self._tell(node, done, "freed", call.number), True
                yield from self._failing(node, state, "free", call)
            case "UnloadModels":
                names = frozenset(one.model for one in call.models)
                gone = state._replace(
                    listed=state.listed - names,
                    partial=state.partial - names,
                    stopping=state.stopping - names,
                )
                yield "unloaded", self._tell(node, gone, "unloaded", call.number), True
                if "lag" in state.left:
                    lag = spent(gone._replace(lag_mib=sum(SIZES_MIB[n] for n in names)), "lag")
                    yield "lag", self._tell(node, lag, "unloaded", call.number), False
                if "busy" in state.left:
                    busy = spent(state._replace(stopping=state.stopping | names), "busy")
                    yield "busy", self._tell(node, busy, "unloaded", call.number), False
                yield from self._failing(node, state, "unload", call)
            case "Reload":
                names = frozenset(one.model for one in call.models)
                again = frozenset(one.model for one in call.again)
                # Loading a model that is loaded changes nothing but that it stays.
                full = self._loaded(state, names, again, whole=True)
                yield "reloaded", self._tell(node, full, "reloaded", call.number), True
                if "partial" in state.left:
                    slow = spent(self._loaded(state, names, again, whole=False), "partial")
                    yield "slowly", self._tell(node, slow, "reloaded", call.number), False
                if "hollow" in state.left:
                    hollow = spent(state, "hollow")
                    yield "hollow", self._tell(node, hollow, "reloaded", call.number), False
                yield from self._failing(node, state, "reload", call)

    def _failing(self, node: Node, state: State, what: str, call: Any) -> Iterator[Step]:
        if what in state.left:
            failed = spent(state, what)
            event = f"{what}_failed"
            yield event, self._tell(node, failed, event, call.number, "it failed"), False

    def _loaded(
        self, state: State, names: frozenset[str], again: frozenset[str], *, whole: bool
    ) -> State:
        fresh = (names - state.listed) | again
        without = state._replace(listed=state.listed - fresh, partial=state.partial - fresh)
        needed = sum(SIZES_MIB[name] for name in fresh)
        is_whole = whole and needed <= self.free_mib(without)
        return without._replace(
            listed=without.listed | names,
            partial=without.partial if is_whole else without.partial | fresh,
            stopping=without.stopping - names,
        )

    def _measured(self, node: Node) -> Step:
        now = node.now + timedelta(microseconds=1)
        state = node.state
        loaded: dict[str, list[Loaded]] = {name: [] for name in TENANT_OF.values()}
        for name in sorted(state.listed):
            size = SIZES_MIB[name]
            vram = size // (1 + (name in state.partial))
            loaded[TENANT_OF[name]].append(Loaded(name=name, size_mib=size, vram_mib=vram))
        held_mib = {"": 0, "sdxl": 12288, "sd15": 6144}[state.held]
        card = Card(total_mib=TOTAL_MIB, free_mib=self.free_mib(state))
        reading = Reading(
            taken_at=now,
            card=card if state.has_card else None,
            comfyui=ComfyUI(held=(state.held,) if state.held else (), held_mib=held_mib),
            tenants=tuple(
                Tenant(name=name, loaded=tuple(models)) for name, models in loaded.items()
            ),
        )
        known = state._replace(surprised=False)
        return "measured", self._tell(node._replace(now=now), known, "reading", reading), True

    def _outside(self, node: Node) -> Iterator[Step]:
        state = node.state
        if state.lag_mib:
            yield "memory is free", node._replace(state=state._replace(lag_mib=0)), True
        for name in sorted(state.stopping):
            gone = state._replace(
                listed=state.listed - {name},
                partial=state.partial - {name},
                stopping=state.stopping - {name},
                surprised=True,
            )
            yield f"the chat with {name} ends", node._replace(state=gone), True
        away = sorted(set(self.config.models) - state.listed)
        if "chat" in state.left and away:
            full = self._loaded(state, frozenset(away[:1]), frozenset(), whole=True)
            yield (
                "a chat begins",
                node._replace(state=spent(full, "chat")._replace(surprised=True)),
                False,
            )
        if "lost" in state.left and state.has_card:
            lost = spent(state, "lost")._replace(has_card=False, held="")
            yield "card lost", self._tell(node, lost, "card_lost", "it is gone"), False
        if not state.has_card:
            back = state._replace(has_card=True)
            yield "card back", self._tell(node, back, "card_back"), True
        if "crash" in state.left and any(job != "new" for job in state.jobs):
            redelivered = tuple("new" if job in ("asked", "runs") else job for job in state.jobs)
            dead = spent(state, "crash")._replace(jobs=redelivered, call=None, cut="")
            yield "crash", node._replace(state=dead, arbiter=self.build(debt=state.debt)), False

    # --- how the arbiter takes it --------------------------------------------------------------

    def _tell(self, node: Node, state: State, event: str, *args: object) -> Node:
        """Tell the arbiter, check what it decides, and begin to perform it."""
        arbiter = copy.copy(node.arbiter)
        said = getattr(arbiter, event)(*args, node.now)
        check(self, state, arbiter, event, (*args, node.now), said)
        for decision in said:
            state = self._perform(state, decision)
        if arbiter.act is None or (state.call and state.call.number != arbiter.act.number):
            state = state._replace(call=None)
        return Node(state, arbiter, node.now)

    def _perform(self, state: State, decision: Any) -> State:
        match type(decision).__name__:
            case "Grant":
                check_grant(self, state, decision)
                return with_job(state, int(decision.job[1:]), "runs")
            case "ToCloud":
                return with_job(state, int(decision.job[1:]), "cloud")
            case "Refuse" | "Revoke":
                return ended(state, int(decision.job[1:]), "refused")
            case "Preempt":
                return state._replace(cut=decision.job)
            case "WriteDebt":
                return state._replace(debt=decision.debt)
            case "ClearDebt":
                return state._replace(debt=None)
            case "FreeComfyUI" | "UnloadModels" | "Reload":
                return state._replace(call=decision)
            case "Alert" if decision.what == "partial_offload":
                return state._replace(alerted=True)
        return state

    def _time(self, node: Node) -> Iterator[Step]:
        """Let time pass, freely where nobody owes an answer, else once: something is slow."""
        moment, state = self._next_moment(node), node.state
        if moment is None or state.lag_mib:  # Memory takes less than any of the arbiter's times.
            return
        is_slow = state.call is not None or key(self._measured(node)[1]) != key(node)
        if not is_slow:
            yield "time passes", self._tell(node._replace(now=moment), state, "tick"), True
        elif "slow" in state.left:
            late = spent(state, "slow")._replace(call=None)
            yield "too slow", self._tell(node._replace(now=moment), late, "tick"), False

    def _next_moment(self, node: Node) -> datetime | None:
        """Return the next moment at which time alone may change a decision."""
        later = [moment for moment in self._moments(node.arbiter) if moment > node.now]
        return min(later) if later else None

    def _moments(self, arbiter: Any) -> Iterator[datetime]:
        for waiting in arbiter.waiting:
            bound = timedelta(seconds=waiting.ask.max_wait_s + 1)
            yield waiting.ask.stored_at + bound
        pauses = (arbiter._free_pause, arbiter._unload_pause, arbiter._lower_again)
        for moment in (*pauses, arbiter._turn_until, arbiter._pay_at):
            if moment is not None and (arbiter.waiting or arbiter.debt):
                yield moment
        if arbiter.act is not None:
            yield arbiter.act.until
        if arbiter.debt is not None:
            yield arbiter.debt.unloaded_at + timedelta(seconds=120)
        if arbiter._wanted_at is not None:
            yield arbiter._wanted_at + timedelta(seconds=5)
        if arbiter._starved_at is not None:
            yield arbiter._starved_at + timedelta(seconds=600)
