"""What tests of metrics share: the report of a worker and the figures of a bus, made by hand.

Each number in them is known; nothing runs.
"""

from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
from prometheus_client.parser import text_string_to_metric_families

from agent import metrics
from agent.bus import measuring
from agent.core.replaying import Happening
from agent.core.scheduler import Night
from agent.gateway.gauges import Gauges
from agent.gauges import WorkerGauges
from agent.gpu.keeper import Moment
from contracts.requests import Priority
from contracts.status import WorkerReport

NOW = datetime(2026, 3, 2, 9, 15, tzinfo=UTC)
REPORT = Path(__file__).with_name("worker_report.json")


def shown(*collectors: Any) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Return every sample by its name and labels."""
    text = metrics.Exposition(*collectors).text().decode()
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


class Decider:
    """A keeper, as far as a scrape needs one."""

    def __init__(self) -> None:
        """Begin with nobody who hears."""
        self.on_decided: list[Any] = []

    def decide(self, *decisions: Any) -> None:
        moment = Moment(
            at=NOW,
            card="http://user:hush@gpu:8188",
            event=Happening(name="tick"),
            before={},
            decisions=decisions,
        )
        for hear in self.on_decided:
            hear(moment)


def report(**changes: Any) -> WorkerReport:
    told = msgspec.json.decode(REPORT.read_bytes(), type=WorkerReport)
    return msgspec.structs.replace(told, **changes)


def gauges(
    told: WorkerReport, keeper: Decider | None = None, night: Night | None = None
) -> WorkerGauges:
    keepers = {"one": keeper or Decider()}
    bounds = {Priority.HIGH: 30.0, Priority.LOW: 600.0}
    tools: Any = SimpleNamespace(
        slots=SimpleNamespace(keepers=keepers, bounds=bounds),
        bus=SimpleNamespace(connected=True, permission_errors=2, appends_refused=3),
        clock=SimpleNamespace(offset_s=-1.5),
    )
    readiness: Any = SimpleNamespace(disk=(5 * 10**9, 10**11))
    shows = WorkerGauges(
        _nobody, tools, readiness, night=night, certificates=lambda: {"ca.pem": 1.9e9}
    )
    shows._told = told
    return shows


async def _nobody() -> WorkerReport:
    raise AssertionError("the report is at hand")


def measured() -> measuring.Figures:
    """Return what a bus with one request and one event says."""
    place = {"consumer_seq": 3, "stream_seq": 4}
    stream = {
        "config": {"max_bytes": 2 * 1024**3, "max_msgs": -1},
        "state": {"messages": 1, "bytes": 900, "first_seq": 1, "last_seq": 1},
        "ts": NOW.isoformat(),
    }
    consumer = {"name": "lane-high", "delivered": place, "ack_floor": place, "num_pending": 1}
    lane = measuring.LaneFigures(priority=Priority.HIGH, stored=1, waiting=1, oldest_s=2.5)
    return measuring.Figures(
        streams={"MMG_EVENTS": msgspec.convert(stream, measuring.StreamFigures)},
        consumers={"MMG_EVENTS": (msgspec.convert(consumer, measuring.ConsumerFigures),)},
        lanes=(lane,),
    )


def gateway_gauges() -> Gauges:
    """Return the gauges of a gateway that has looked at all there is."""
    bus: Any = SimpleNamespace(connected=True, permission_errors=0, appends_refused=1)
    sockets: Any = SimpleNamespace(count=2, opened=5, dropped=1)
    shows = Gauges(bus, sockets, None, certificates=lambda: {"ca.pem": 1.9e9})
    shows.projection = SimpleNamespace(behind=7)  # type: ignore[assignment] # all it is asked for
    shows.webhooks = {"delivered": 4}
    shows._figures = measured()
    shows._dead, shows._raised = 2, ("tenant_grew", "card_lost")
    return shows


def every_name() -> set[str]:
    """Return the name of every series that worker and gateway show, sooner or later."""
    found = {name for name, _ in shown(gauges(report())) | shown(gateway_gauges())}
    for counted in metrics.WORKER:
        for family in counted.collect():
            parts = ("_bucket", "_count", "_sum") if family.type == "histogram" else ("_total",)
            found |= {f"{family.name}{part}" for part in parts}
    return found
