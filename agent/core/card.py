"""The card as measured: who holds how much of it, and what would have to go. Pure.

MiB throughout. It must not decide anything: `agent.core.arbiter` does.
"""

from collections.abc import Iterable, Iterator
from datetime import datetime
from itertools import combinations
from math import inf
from typing import Final

import msgspec

SLACK_MIB: Final = 256
"""What may stay on the card after a program has freed all it can: its context."""


class Card(msgspec.Struct, frozen=True, kw_only=True):
    """Memory of one card as NVML tells it, everybody's programs included."""

    total_mib: int
    free_mib: int


class Loaded(msgspec.Struct, frozen=True, kw_only=True):
    """One model of a tenant.

    Units: `size_mib` all of it, `vram_mib` its part on the card. `expires_at` None: it stays until
    somebody unloads it. Source: `/api/ps` of Ollama 0.33; less on the card than its size means
    that the rest runs on the CPU, slowly.
    """

    name: str
    size_mib: int
    vram_mib: int
    expires_at: datetime | None = None

    @property
    def is_partial(self) -> bool:
        """Whether some of it is not on the card."""
        return self.vram_mib < self.size_mib


class Tenant(msgspec.Struct, frozen=True, kw_only=True):
    """A program beside ComfyUI that holds models and can unload and reload them on request.

    One that does not answer may hold anything: nothing of it counts as unloaded.
    """

    name: str
    loaded: tuple[Loaded, ...] = ()
    answers: bool = True


class ComfyUI(msgspec.Struct, frozen=True, kw_only=True):
    """What ComfyUI holds: `held` by the names of models that requests use.

    `held_mib` is what it would give back when asked to free. `foreign` counts running and pending
    prompts that are not ours.
    """

    held: tuple[str, ...] = ()
    held_mib: int = 0
    foreign: int = 0
    on_cpu: bool = False


class Occupancy(msgspec.Struct, frozen=True, kw_only=True):
    """What a ComfyUI says of itself; `card` is its device, everybody's programs included."""

    comfyui: ComfyUI
    card: Card | None = None


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """One measured picture of the card; old as soon as taken.

    `taken_at` is when measuring began. `card` None: there is no card or no NVML, `missing` says
    why. `comfyui` None: it does not answer.
    """

    taken_at: datetime
    card: Card | None
    comfyui: ComfyUI | None
    tenants: tuple[Tenant, ...] = ()
    missing: str = ""

    @property
    def on_cpu(self) -> bool:
        """Whether ComfyUI draws on the CPU, so that the card does not matter."""
        return self.comfyui is not None and self.comfyui.on_cpu


class Owed(msgspec.Struct, frozen=True, kw_only=True):
    """A model that was unloaded for a job. `keep_alive_s` None: it was to stay for good."""

    tenant: str
    model: str
    vram_mib: int
    keep_alive_s: int | None


class DebtError(Exception):
    """The debt cannot be read or written now."""


class Debt(msgspec.Struct, frozen=True, kw_only=True):
    """The models that have to come back. Kept in `mmg_state`, so that it outlives a worker."""

    owed: tuple[Owed, ...]
    unloaded_at: datetime


def room_mib(reading: Reading, model: str, reserve_mib: int) -> int:
    """Return what a job with this model may use as things stand.

    If ComfyUI holds the model, the job runs inside what ComfyUI has already.
    """
    if reading.card is None:
        return 0
    comfyui = reading.comfyui
    inside = comfyui.held_mib if comfyui is not None and model in comfyui.held else 0
    return reading.card.free_mib + inside - reserve_mib


def room_after_free_mib(reading: Reading, reserve_mib: int) -> int:
    """Return what a job may use once ComfyUI has freed all it holds."""
    if reading.card is None:
        return 0
    given_back = reading.comfyui.held_mib if reading.comfyui is not None else 0
    return reading.card.free_mib + given_back - reserve_mib


def smallest_set(reading: Reading, missing_mib: int) -> tuple[Owed, ...] | None:
    """Return the models whose unload frees that much: as few as suffice, of these the smallest.

    None: all of them together would not do, or nothing is missing.
    """
    known = [
        owed(tenant, model, reading.taken_at)
        for tenant, model in _models(reading)
        if model.vram_mib > 0
    ]
    known.sort(key=lambda one: (-one.vram_mib, one.tenant, one.model))
    if missing_mib <= 0 or sum(one.vram_mib for one in known) < missing_mib:
        return None
    count, freed = 0, 0
    while freed < missing_mib:  # The largest ones tell how few can do it.
        freed += known[count].vram_mib
        count += 1
    able = (
        chosen
        for chosen in combinations(known, count)
        if sum(one.vram_mib for one in chosen) >= missing_mib
    )
    return min(able, key=lambda chosen: sum(one.vram_mib for one in chosen))


def owed(tenant: Tenant, model: Loaded, now: datetime) -> Owed:
    """Return what is owed for a model: with the rest of its keep-alive, at least a second.

    Source: Ollama takes a keep-alive of 0 for an unload.
    """
    rest = None
    if model.expires_at is not None:
        rest = max(1, round((model.expires_at - now).total_seconds()))
    return Owed(tenant=tenant.name, model=model.name, vram_mib=model.vram_mib, keep_alive_s=rest)


def loaded(reading: Reading, one: Owed) -> Loaded | None:
    """Return an owed model as its tenant lists it, or None."""
    for tenant, model in _models(reading):
        if (tenant.name, model.name) == (one.tenant, one.model):
            return model
    return None


def is_gone(reading: Reading, one: Owed) -> bool:
    """Tell whether its tenant answers and does not list it any more."""
    answers = any(tenant.name == one.tenant and tenant.answers for tenant in reading.tenants)
    return answers and loaded(reading, one) is None


def merged(debt: Debt | None, more: Iterable[Owed], now: datetime) -> Debt:
    """Return the debt with more models, unloaded now.

    One that is owed already keeps its first keep-alive.
    """
    before = debt.owed if debt is not None else ()
    known = {(one.tenant, one.model) for one in before}
    added = tuple(one for one in more if (one.tenant, one.model) not in known)
    return Debt(owed=(*before, *added), unloaded_at=now)


def expiry_wait_s(reading: Reading, missing_mib: int, now: datetime) -> float:
    """Return after how long enough models will have expired by themselves; infinite: never."""
    if missing_mib <= 0:
        return 0.0
    leaving = sorted(
        (model.expires_at, model.vram_mib)
        for _, model in _models(reading)
        if model.expires_at is not None
    )
    for expires_at, vram_mib in leaving:
        missing_mib -= vram_mib
        if missing_mib <= 0:
            return max(0.0, (expires_at - now).total_seconds())
    return inf


def tenants_mib(reading: Reading) -> int:
    """Return what all tenants hold on the card."""
    return sum(model.vram_mib for _, model in _models(reading))


def held_by_tenants(reading: Reading) -> str:
    """Say who holds what on the card, for people."""
    listed = [
        f"{tenant.name} {model.name} {gb(model.vram_mib)}" for tenant, model in _models(reading)
    ]
    return ", ".join(listed) or "no known program"


def names(models: Iterable[Owed]) -> str:
    """Name models, for people."""
    return ", ".join(one.model for one in models)


def gb(mib: int) -> str:
    """Write MiB as people read them."""
    return f"{mib / 1024:.1f} GB"


def _models(reading: Reading) -> Iterator[tuple[Tenant, Loaded]]:
    for tenant in reading.tenants:
        for model in tenant.loaded:
            yield tenant, model
