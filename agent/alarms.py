"""What people should know of cards, money and breakers: conditions turned into alerts.

It watches what keepers and the turnstile know; it must not change anything there. An alert about
something that happened once, and not about how things are, is cleared after ten minutes.
"""

import asyncio
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Final

import structlog

from agent.alerts import Alerts
from agent.clock import Clock
from agent.core import replaying
from agent.core.acts import Act
from agent.core.breaker import CLOSED
from agent.core.leases import Alert, ClearDebt
from agent.engines.protocol import EngineJob
from agent.gpu.by_hand import is_by_hand
from agent.gpu.keeper import Keeper, Moment
from agent.tools import Tools

LOOK_EVERY_S: Final = 5.0
PASSES_S: Final = 600.0
"""After so long an alert about something that happened is cleared."""
BREAKER_S: Final = 300.0
"""A breaker that has not been closed for so long is told."""
ORPHANS_S: Final = 60.0
"""By then everything that is watched was judged, so what else is raised is over."""
PASSING: Final = frozenset({"free_failed", "unload_failed", "tenant_grew"})
FAILED: Final = {"freeing": "free_failed", "unloading": "unload_failed"}
"""The alert about an act that failed, which the next one that succeeds ends."""
CARD: Final = (
    "card_lost",
    "card_unknown",
    "free_failed",
    "unload_failed",
    "reload_failed",
    "partial_offload",
    "tenant_grew",
    "critical_starves",
)

log = structlog.get_logger()


class Alarms:
    """Order: `run` in a task; what keepers tell before it runs is kept."""

    def __init__(self, tools: Tools, alerts: Alerts, trial: EngineJob) -> None:
        """Watch the cards of these tools; `trial` is a usual picture, to ask for its price."""
        self._tools = tools
        self._alerts = alerts
        self._trial = trial
        self._clock: Clock = tools.clock
        self._began_at = tools.clock.now()
        self._wake = asyncio.Event()
        self._since: dict[tuple[str, str], tuple[str, datetime]] = {}
        self._open_since: dict[str, datetime] = {}
        for keeper in tools.slots.keepers.values():
            keeper.on_decided.append(self._hear)

    async def run(self) -> None:
        """Judge whenever a card tells something, and every few seconds, until cancelled."""
        while True:
            await self.run_once()
            try:
                async with asyncio.timeout(LOOK_EVERY_S):
                    await self._wake.wait()
            except TimeoutError:
                log.debug("alarms.unasked")
            self._wake.clear()

    async def run_once(self) -> None:
        """Judge all once: raise what holds, clear what is over."""
        for name, keeper in self._tools.slots.keepers.items():
            self._judge_card(name, keeper)
        for what in CARD:
            words = [words for (kind, _), (words, _) in self._since.items() if kind == what]
            await self._alerts.set(what, "; ".join(words) or None)
        await self._judge_breakers()
        await self._alerts.set("budget_spent", self._spent())
        if self._is_past(self._began_at, ORPHANS_S):
            await self._alerts.end_orphans()

    # --- the card ------------------------------------------------------------------------------

    def _hear(self, moment: Moment) -> None:
        """Take in what the arbiter of a card has just decided."""
        keeper = self._tools.slots.keepers[moment.card]
        if any(card == moment.card for _, card in self._since):
            self._wake.set()  # It may be over with this very event.
        failed = set[str]()
        for decision in moment.decisions:
            match decision:
                case Alert(what=what, reason=reason):
                    failed.add(what)
                    if _is_news(what, keeper):
                        self._since[what, moment.card] = (reason, moment.at)
                        self._wake.set()
                case ClearDebt():
                    self._end("reload_failed", moment.card)
        before, after = moment.before["act"], keeper.arbiter.act
        if isinstance(before, Act) and (after is None or after.number != before.number):
            ended = FAILED.get(before.kind)
            if ended is not None and ended not in failed:
                self._end(ended, moment.card)

    def _judge_card(self, name: str, keeper: Keeper) -> None:
        """End what is over on one card."""
        state = replaying.remember(keeper.arbiter)
        if keeper.arbiter.lost is None:
            self._end("card_lost", name)
        elif _is_news("card_lost", keeper):
            now = self._clock.now()
            self._since.setdefault(("card_lost", name), (keeper.arbiter.lost, now))
        if not state["is_unknown"]:
            self._end("card_unknown", name)
        if not state["has_starved"]:
            self._end("critical_starves", name)
        if keeper.arbiter.debt is None:
            self._end("reload_failed", name)
        if keeper.reading is not None and not any(
            model.is_partial for tenant in keeper.reading.tenants for model in tenant.loaded
        ):
            self._end("partial_offload", name)
        for what in PASSING:
            found = self._since.get((what, name))
            if found is not None and self._is_past(found[1], PASSES_S):
                self._end(what, name)

    def _end(self, what: str, card: str) -> None:
        if self._since.pop((what, card), None) is not None:
            self._wake.set()

    def _is_past(self, since: datetime, seconds: float) -> bool:
        return self._clock.now() >= since + timedelta(seconds=seconds)

    # --- money and breakers --------------------------------------------------------------------

    async def _judge_breakers(self) -> None:
        breakers: Mapping[str, object] = self._tools.turnstile.breakers
        for name in self._tools.engines:
            found = self._tools.turnstile.breakers.get(name, CLOSED)
            if name not in breakers or found.until is None:
                self._open_since.pop(name, None)
                await self._alerts.set(f"breaker_{name}", None)
                continue
            since = self._open_since.setdefault(name, self._clock.now())
            if self._is_past(since, BREAKER_S):
                minutes = (self._clock.now() - since).total_seconds() / 60
                reason = f"{name} has had no jobs for {minutes:.0f} min: {found.faults} faults"
                await self._alerts.set(f"breaker_{name}", f"{reason} in a row")

    def _spent(self) -> str | None:
        """Say that the money of the day does not suffice for a picture anywhere, or None."""
        turnstile = self._tools.turnstile
        limit_usd = turnstile.limits.day_usd
        prices = [
            engine.price_usd(self._trial)
            for engine in self._tools.engines.values()
            if engine.slot == "cloud"
        ]
        if limit_usd is None or not prices:
            return None
        books = turnstile.books
        used_usd = books.spent_usd + books.held_usd
        if used_usd + min(prices) <= limit_usd:
            return None
        return (
            f"${used_usd:.2f} of the day's ${limit_usd:.2f} are spent or held, and the cheapest"
            f" picture costs ${min(prices):.3f}: no cloud draws before 00:00 UTC"
        )


def _is_news(what: str, keeper: Keeper) -> bool:
    """Tell whether people should hear it.

    1. A card that was never this worker's is not lost: there is none, or another worker has it.
    2. A tenant that grows while an operator loads its model does as it was told.
    """
    if what == "card_lost":
        return bool(keeper.meter.card_id)
    lease = keeper.arbiter.lease
    return not (what == "tenant_grew" and lease is not None and is_by_hand(lease.ask.job))
