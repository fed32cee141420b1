"""The cards over the last hour: who held how much, the lease, the debt; for the dashboard's strip.

Samples what workers report, thinly while nobody looks. Kept in memory only: it is a picture for
people, not a record. Must not decide anything.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Iterable
from datetime import datetime
from typing import Final

import msgspec

from agent.bus import overview
from agent.bus.connection import Bus, BusError
from contracts.events import Instant
from contracts.status import CardState, WorkerReport

EVERY_S: Final = 10.0
CLOSEST_S: Final = 2.0
"""While somebody looks there is a reading each second; the strip needs no more than these."""
KEPT: Final = 900
"""Samples of one card: half an hour while somebody looks, two and a half while nobody does."""
CARDS_MAX: Final = 16


class Held(msgspec.Struct, frozen=True, kw_only=True):
    """What one program held. Units: MiB."""

    name: str
    mib: int


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """One card at one instant; `held` names ComfyUI, each model of a tenant, and the others.

    Units: MiB. `lease` is the job that had the card, `debt_mib` what was to come back.
    """

    at: Instant
    total_mib: int
    free_mib: int
    reserve_mib: int
    held: tuple[Held, ...]
    lease: str | None
    lease_model: str | None
    debt_mib: int
    act: str | None


class Track(msgspec.Struct, frozen=True, kw_only=True):
    """The samples of one card, the oldest first."""

    card: str
    name: str
    worker: str
    samples: tuple[Sample, ...]


class Strip:
    """The recent past of all cards."""

    def __init__(self, bus: Bus) -> None:
        """Begin empty."""
        self._bus = bus
        self._names: dict[str, tuple[str, str]] = {}
        self._samples: dict[str, deque[Sample]] = {}

    @property
    def tracks(self) -> tuple[Track, ...]:
        """What was sampled, one track for each card."""
        return tuple(
            Track(card=card, name=name, worker=worker, samples=tuple(self._samples[card]))
            for card, (name, worker) in self._names.items()
        )

    async def run(self) -> None:
        """Sample until cancelled; a bus that is away leaves a gap."""
        while True:
            if self._bus.connected:
                with contextlib.suppress(BusError):
                    self.take(await overview.ask_reports(self._bus))
            await asyncio.sleep(EVERY_S)

    def take(self, reports: Iterable[WorkerReport]) -> None:
        """Keep what workers say of their cards, unless that was kept just now."""
        for report in reports:
            for card in report.cards:
                self._keep(report, card)

    def _keep(self, report: WorkerReport, card: CardState) -> None:
        if card.total_mib is None or card.free_mib is None:
            return
        key = card.uuid or f"{report.worker} {card.server}"
        if key not in self._names and len(self._names) >= CARDS_MAX:
            return
        if card.state != "ready" and key in self._names:
            return  # A worker that stands by sees the card, too; who has it tells more.
        self._names[key] = (card.name or "card", report.worker)
        kept = self._samples.setdefault(key, deque(maxlen=KEPT))
        if not kept or _apart_s(kept[-1].at, report.at) >= CLOSEST_S:
            kept.append(_sample(card, report.at))


def _sample(card: CardState, at: datetime) -> Sample:
    held = [Held(name="ComfyUI", mib=card.comfyui.held_mib)]
    for tenant in card.tenants:
        held += [Held(name=one.name, mib=one.vram_mib) for one in tenant.models]
    if card.other_mib is not None:
        held.append(Held(name="other programs", mib=card.other_mib))
    return Sample(
        at=at,
        total_mib=card.total_mib or 0,
        free_mib=card.free_mib or 0,
        reserve_mib=card.reserve_mib,
        held=tuple(one for one in held if one.mib > 0),
        lease=None if card.lease is None else card.lease.job,
        lease_model=None if card.lease is None else card.lease.model,
        debt_mib=0 if card.debt is None else sum(one.vram_mib for one in card.debt.models),
        act=None if card.act is None else card.act.kind,
    )


def _apart_s(before: datetime, after: datetime) -> float:
    return abs((after - before).total_seconds())
