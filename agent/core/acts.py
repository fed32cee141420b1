"""What is done to the card before a grant and after it, and what is left to pay. Pure.

It must not decide who gets the card (`agent.core.admission`) or remember anything.
"""

from collections.abc import Set as AbstractSet
from datetime import datetime
from typing import Literal

import msgspec
from msgspec.structs import replace

from agent.core.card import SLACK_MIB, Debt, Owed, Reading, is_gone, loaded, owed

Kind = Literal["freeing", "unloading", "reloading"]
Key = tuple[str, str]


class Act(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that is under way on the card; nobody is granted meanwhile.

    It has gone on since `begun_at`; `until` is its deadline, `goal_mib` what NVML must show as
    free at its end, `answered` whether who performs it said that it was accepted.
    """

    kind: Kind
    number: int
    begun_at: datetime
    until: datetime
    goal_mib: int = 0
    models: tuple[Owed, ...] = ()
    answered: bool = False


class Paid(msgspec.Struct, frozen=True, kw_only=True):
    """The models came back by themselves."""


class FreeFirst(msgspec.Struct, frozen=True, kw_only=True):
    """ComfyUI frees before the models come back."""

    goal_mib: int


class LoadBack(msgspec.Struct, frozen=True, kw_only=True):
    """These are loaded; of them `again` are loaded now, with a part on the CPU."""

    models: tuple[Owed, ...]
    again: tuple[Owed, ...]


def key(one: Owed) -> Key:
    """Return what an owed model is known by."""
    return one.tenant, one.model


def is_done(act: Act, reading: Reading) -> bool:
    """Tell whether it was answered and a reading taken after it began shows its end.

    Freeing: ComfyUI answers, holds nothing, and NVML shows the memory. Unloading: no tenant lists
    the models, and NVML shows the memory. Reloading: nothing else; whether
    all is back is looked at afterwards.
    """
    if not act.answered:
        return False
    free_mib = reading.card.free_mib if reading.card is not None else 0
    match act.kind:
        case "freeing":
            comfyui = reading.comfyui
            return comfyui is not None and not comfyui.held and free_mib >= act.goal_mib
        case "unloading":
            gone = all(is_gone(reading, one) for one in act.models)
            return gone and free_mib >= act.goal_mib
        case "reloading":
            return True


def has_let_go(act: Act, reading: Reading) -> bool:
    """Tell whether ComfyUI has freed all, whatever became of the memory."""
    comfyui = reading.comfyui
    return act.kind == "freeing" and act.answered and comfyui is not None and not comfyui.held


def missing(models: tuple[Owed, ...], reading: Reading) -> tuple[Owed, ...]:
    """Return which of them no tenant lists."""
    return tuple(one for one in models if loaded(reading, one) is None)


def partial(models: tuple[Owed, ...], reading: Reading) -> tuple[Owed, ...]:
    """Return which of them run partly on the CPU."""
    found = ((one, loaded(reading, one)) for one in models)
    return tuple(one for one, model in found if model is not None and model.is_partial)


def payment(
    debt: Debt, reading: Reading, gone: AbstractSet[Key], *, may_free: bool, has_failed: bool
) -> Paid | FreeFirst | LoadBack | None:
    """Say what comes next to pay the debt; None: wait.

    `may_free`: no freeing has failed of late. `has_failed`: one for this very payment has.

    1. A model seen gone and now back in full was loaded by somebody else: nothing to do. One that
       was never seen gone may still be about to go (Ollama unloads a busy model when its chat
       ends), so it is loaded too: that takes the wish back.
    2. ComfyUI holds anything -> it frees first.
    3. It cannot: prompts of people run, or freeing failed for a job of late. If the models do not
       fit beside it -> wait.
    4. Load them; where freeing for this failed, those that are away, as well as they fit: a slow
       LLM is better than none. One that is slow already waits until ComfyUI frees.
    """
    due = tuple(one for one in debt.owed if not _is_back(one, reading, gone))
    if not due:
        return Paid()  # 1
    card, comfyui = reading.card, reading.comfyui
    if card is not None and comfyui is not None:
        if comfyui.held and not comfyui.foreign and may_free:  # 2
            return FreeFirst(goal_mib=card.free_mib + comfyui.held_mib - SLACK_MIB)
        is_in_the_way = bool(comfyui.foreign) or (bool(comfyui.held) and not has_failed)
        lacks = sum(one.vram_mib for one in missing(due, reading))
        if is_in_the_way and lacks > card.free_mib:  # 3
            return None
        if comfyui.held:
            due = missing(due, reading)
    if not due:
        return None
    return LoadBack(models=due, again=partial(due, reading))  # 4


def eased(reading: Reading, hopeless: AbstractSet[Key]) -> tuple[Owed, ...]:
    """Return the models that run partly on the CPU although they would fit without ComfyUI's.

    Without those that were slow also when ComfyUI held nothing: somebody chose that for them.
    """
    card, comfyui = reading.card, reading.comfyui
    if card is None or comfyui is None or not comfyui.held or comfyui.foreign:
        return ()
    room = card.free_mib + comfyui.held_mib - SLACK_MIB
    found: list[Owed] = []
    for tenant in reading.tenants:
        for model in tenant.loaded:
            one = replace(owed(tenant, model, reading.taken_at), vram_mib=model.size_mib)
            lacks = model.size_mib - model.vram_mib
            if model.is_partial and lacks <= room and key(one) not in hopeless:
                found.append(one)
                room -= lacks
    return tuple(found)


def _is_back(one: Owed, reading: Reading, gone: AbstractSet[Key]) -> bool:
    model = loaded(reading, one)
    return model is not None and not model.is_partial and key(one) in gone
