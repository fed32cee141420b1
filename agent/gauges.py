"""What a worker is at this moment, as gauges: read from its report when somebody scrapes.

Nothing is pushed and nothing remembered but how often each decision was taken. It must not ask
the bus or an engine; the report measures the card, where that is quick.
"""

from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from datetime import datetime
from typing import Final
from urllib.parse import urlsplit

from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from agent.core.leases import Grant, Measure, Preempt, Wait
from agent.core.replaying import named
from agent.core.scheduler import Night
from agent.gpu.keeper import Moment
from agent.metrics import Figures
from agent.readiness import Readiness
from agent.tools import Tools
from contracts.requests import Priority
from contracts.status import CardState, EngineState, MoneyState, WorkerReport

MIB: Final = 1024**2
STATES: Final = ("ready", "paused", "closed", "stopping")


class Decisions:
    """How often each decision about the cards was taken."""

    def __init__(self) -> None:
        """Begin with none."""
        self.taken: Counter[tuple[str, str, str]] = Counter()
        self.lost_s = 0.0

    def heard(self, moment: Moment) -> None:
        """Count what a keeper was told to do; it calls this."""
        for decision in moment.decisions:
            if isinstance(decision, Measure):
                continue
            rule = decision.rule if isinstance(decision, Grant | Wait) else ""
            self.taken[_place(moment.card), named(decision), str(rule)] += 1
            if isinstance(decision, Preempt):
                self.lost_s += decision.lost_s


class WorkerGauges(Collector):
    """The gauges of one worker. Order: `look` before each scrape.

    `certificates`: file names with when they expire; without it, what the bus has seen.
    """

    def __init__(
        self,
        report: Callable[[], Awaitable[WorkerReport]],
        tools: Tools,
        readiness: Readiness,
        *,
        night: Night | None = None,
        certificates: Callable[[], Mapping[str, float]] | None = None,
    ) -> None:
        """Read `report` at each scrape. Outside of `night` LOW sleeps, and has no bound."""
        self._report = report
        self._told: WorkerReport | None = None
        self._tools = tools
        self._readiness = readiness
        self._night = night
        self._certificates = certificates or tools.bus.certificates
        self.decisions = Decisions()
        for keeper in tools.slots.keepers.values():
            keeper.on_decided.append(self.decisions.heard)

    async def look(self) -> None:
        """Let the worker report how it stands."""
        self._told = await self._report()

    def collect(self) -> Iterator[Metric]:
        """Turn the report into gauges; nothing before the first one."""
        report = self._told
        if report is None:
            return
        figures = Figures()
        figures.gauge(
            "mmg_build_info",
            "The version of this program.",
            1,
            role="worker",
            version=report.version,
        )
        _work(figures, report)
        for engine in report.engine_states:
            _engine(figures, engine)
        _money(figures, report.money)
        for card in report.cards:
            _card(figures, card, report.at)
        self._own(figures, report.at)
        yield from figures.families()

    def _own(self, figures: Figures, now: datetime) -> None:
        """Add what the report does not have."""
        bus, disk = self._tools.bus, self._readiness.disk
        figures.gauge("mmg_bus_connected", "Whether nats-server is reachable.", bus.connected)
        figures.counter(
            "mmg_bus_permission_errors",
            "What the server did not let this process do.",
            bus.permission_errors,
        )
        figures.counter(
            "mmg_appends_refused",
            "Links that the server refused because somebody else had gone on with the chain.",
            bus.appends_refused,
        )
        figures.gauge(
            "mmg_clock_offset_seconds",
            "How far the server's clock is ahead of this machine's.",
            self._tools.clock.offset_s,
        )
        if disk is not None:
            free, total = disk
            figures.gauge("mmg_assets_free_bytes", "Free on the disk of the assets.", free)
            figures.gauge("mmg_assets_size_bytes", "Size of the disk of the assets.", total)
        for priority, bound_s in self._tools.slots.bounds.items():
            if (
                priority is Priority.LOW
                and self._night is not None
                and not self._night.is_open(now)
            ):
                continue
            figures.gauge(
                "mmg_class_max_wait_seconds",
                "What a request of the class may wait before it counts as late.",
                bound_s,
                priority=priority,
            )
        for (server, decision, rule), count in sorted(self.decisions.taken.items()):
            figures.counter(
                "mmg_card_decisions",
                "Decisions of the arbiter, by kind and by the rule that fitted.",
                count,
                server=server,
                decision=decision,
                rule=rule,
            )
        figures.counter(
            "mmg_preempted_run_seconds",
            "Seconds of drawing thrown away for a CRITICAL request.",
            self.decisions.lost_s,
        )
        figures.certificates(self._certificates())


def _place(url: str) -> str:
    """Return host and port of a server: an address may hold a password."""
    return urlsplit(url).netloc.rpartition("@")[2] or url


def _work(figures: Figures, report: WorkerReport) -> None:
    for state in STATES:
        figures.gauge(
            "mmg_worker_state",
            "The state of this worker: the one that is 1.",
            report.state == state,
            state=state,
        )
    for state, jobs in (("working", report.running), ("waiting", report.waiting)):
        figures.gauge(
            "mmg_jobs",
            "Requests in the hands of this worker: in work, or waiting here for a slot.",
            len(jobs),
            state=state,
        )
    for slot in report.slots:
        for state, count in (("size", slot.size), ("taken", slot.taken), ("waiting", slot.waiting)):
            figures.gauge(
                "mmg_slots",
                "Slots of a kind: how many there are, are taken, and are waited for.",
                count,
                kind=slot.kind,
                state=state,
            )


def _engine(figures: Figures, engine: EngineState) -> None:
    name = engine.name
    figures.gauge("mmg_engine_up", "Whether the engine answers.", engine.up, engine=name)
    figures.gauge("mmg_engine_ready", "Whether it would get a job.", engine.ready, engine=name)
    figures.gauge(
        "mmg_breaker_open",
        "Whether the breaker of the engine keeps jobs away, or lets one try.",
        engine.breaker.state != "closed",
        engine=name,
    )
    figures.gauge(
        "mmg_breaker_faults",
        "Faults in a row that were counted.",
        engine.breaker.faults,
        engine=name,
    )


def _money(figures: Figures, money: MoneyState) -> None:
    figures.gauge("mmg_spent_usd", "Spent today (UTC), by all workers.", money.spent_usd)
    figures.gauge("mmg_held_usd", "Set aside for calls under way.", money.held_usd)
    if money.day_limit_usd is not None:
        figures.gauge("mmg_day_limit_usd", "What may be spent on one day.", money.day_limit_usd)


def _card(figures: Figures, card: CardState, now: datetime) -> None:
    name = card.uuid or _place(card.server)
    figures.gauge(
        "mmg_card_available",
        "Whether this worker can use the card: not lost, and not another worker's.",
        card.state != "missing",
        card=name,
    )
    figures.gauge("mmg_card_leased", "Whether a job draws.", card.lease is not None, card=name)
    owed = card.debt.models if card.debt is not None else ()
    absent_s = (now - card.debt.unloaded_at).total_seconds() if card.debt is not None else 0.0
    figures.gauge(
        "mmg_llm_absent_seconds",
        "Since when models of a tenant have been off the card for our sake; 0: none is.",
        max(0.0, absent_s),
        card=name,
    )
    figures.gauge("mmg_llm_owed_models", "Models that have to come back.", len(owed), card=name)
    if card.temperature_c is not None:
        figures.gauge("mmg_card_temperature_celsius", "Of the card.", card.temperature_c, card=name)
    if card.total_mib is not None and card.free_mib is not None:
        _memory(figures, card, name)


def _memory(figures: Figures, card: CardState, name: str) -> None:
    """Add who holds what. Memory that nobody answers for counts only while nobody draws."""
    assert card.total_mib is not None, "called for a card that was measured"
    assert card.free_mib is not None, "called for a card that was measured"
    other_mib = card.other_mib or 0
    holders = {"free": card.free_mib, "comfyui": card.comfyui.held_mib, "other": other_mib}
    for tenant in card.tenants:
        holders[tenant.name] = sum(model.vram_mib for model in tenant.models)
    for holder, mib in holders.items():
        figures.gauge(
            "mmg_card_memory_bytes",
            "Memory of the card, by who holds it; `other` is nobody that we know.",
            mib * MIB,
            card=name,
            holder=holder,
        )
    figures.gauge("mmg_card_size_bytes", "Memory of the card.", card.total_mib * MIB, card=name)
    if card.lease is None and card.act is None and card.comfyui.foreign == 0:
        figures.gauge(
            "mmg_card_idle_other_bytes",
            "Memory that nobody answers for while nobody draws: it should not grow.",
            other_mib * MIB,
            card=name,
        )
