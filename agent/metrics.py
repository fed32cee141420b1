"""What this process counts, under the names that operators see.

Base units, no label that could grow without bound: priorities, engines, installed models, codes.
What is true only at this moment is not kept here; `agent.gauges` and `agent.gateway.gauges` read
it from the living objects when somebody asks. Must not serve anything; `agent.monitor` does.
"""

from collections.abc import Iterator, Mapping
from typing import Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from agent.core.steps import Event, Faulted
from contracts.errors import HTTP_STATUS
from contracts.events import (
    Completed,
    Failed,
    Link,
    Preempted,
    Released,
    Started,
    is_terminal,
    kind_of,
)
from contracts.requests import Priority

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
BUCKETS_S: Final = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300, 600)
"""Of waits and runs. The bounds of the classes (30, 120, 600) and of a slow run (120) are in it."""
_REFUSED: Final = "refused"
_KINDS: Final = ("completed", "failed", "expired", "cancelled", _REFUSED)

# The time at which a series began, as a second series, is worth nothing here.
disable_created_metrics()  # type: ignore[no-untyped-call] # prometheus-client 0.26 left it bare

REQUESTS_REFUSED: Final = Counter(
    "mmg_requests_refused_total",
    "Requests on the bus that break the contract, answered with a failed link.",
    ["code"],
    registry=None,
)
REQUESTS_UNSPEAKABLE: Final = Counter(
    "mmg_requests_unspeakable_total",
    "Messages whose subject has no place for an answer; dropped with a log line.",
    registry=None,
)
JOBS_ENDED: Final = Counter(
    "mmg_jobs_ended_total",
    "Jobs this worker has let go of, by how they ended.",
    ["ended"],
    registry=None,
)
REQUESTS_ENDED: Final = Counter(
    "mmg_requests_ended_total",
    "Chains that this worker has closed, by their last link; refused: it broke the contract.",
    ["kind", "priority"],
    registry=None,
)
DEAD_LETTERS: Final = Counter(
    "mmg_requests_given_up_total",
    "Requests whose tries were spent: dead letters written by this worker.",
    registry=None,
)
REQUESTS_QUEUED_AGAIN: Final = Counter(
    "mmg_requests_queued_again_total",
    "Requests that went back to their lane after they had begun, preempted or released.",
    ["kind"],
    registry=None,
)
REDELIVERIES: Final = Counter(
    "mmg_redeliveries_total",
    "Deliveries of requests that the server had handed out before.",
    registry=None,
)
FAULTS: Final = Counter(
    "mmg_faults_total",
    "Tries that went wrong, by engine and code.",
    ["engine", "code"],
    registry=None,
)
DOWNGRADES: Final = Counter(
    "mmg_downgrades_total",
    "Requests completed with a smaller model than they asked for.",
    registry=None,
)
WAIT_SECONDS: Final = Histogram(
    "mmg_wait_seconds",
    "From the moment a request was stored to its first start.",
    ["priority", "engine", "model"],
    buckets=BUCKETS_S,
    registry=None,
)
RUN_SECONDS: Final = Histogram(
    "mmg_run_seconds",
    "What an engine took for the pictures of a completed request.",
    ["priority", "engine", "model"],
    buckets=BUCKETS_S,
    registry=None,
)

WORKER: Final[tuple[Collector, ...]] = (
    REQUESTS_REFUSED,
    REQUESTS_UNSPEAKABLE,
    JOBS_ENDED,
    REQUESTS_ENDED,
    DEAD_LETTERS,
    REQUESTS_QUEUED_AGAIN,
    REDELIVERIES,
    FAULTS,
    DOWNGRADES,
    WAIT_SECONDS,
    RUN_SECONDS,
)
"""What a worker counts."""

# A series that appears with its first event hides that event from `increase`: these begin at 0.
for _priority in Priority:
    for _kind in _KINDS:
        REQUESTS_ENDED.labels(_kind, _priority)
for _kind in ("preempted", "released"):
    REQUESTS_QUEUED_AGAIN.labels(_kind)


def note_link(link: Link, priority: Priority) -> None:
    """Count a link that this worker has stored."""
    match link:
        case Started(n=1):
            observed = WAIT_SECONDS.labels(priority, link.engine, link.model)
            observed.observe(link.queue_time_seconds)
        case Completed():
            observed = RUN_SECONDS.labels(priority, link.engine, link.model_used)
            observed.observe(link.generation_time_seconds)
            DOWNGRADES.inc(link.downgraded)
        case Failed(dead=True):
            DEAD_LETTERS.inc()
        case Preempted() | Released():
            REQUESTS_QUEUED_AGAIN.labels(kind_of(link)).inc()
    if is_terminal(link):
        refused = isinstance(link, Failed) and link.error.code in HTTP_STATUS
        REQUESTS_ENDED.labels(_REFUSED if refused else kind_of(link), priority).inc()


def note_event(event: Event, engine: str) -> None:
    """Count what became of a step, if it was a fault."""
    if isinstance(event, Faulted):
        FAULTS.labels(engine, event.fault.code).inc()


class Figures:
    """Families of gauges and counters while they are being read, in the order of their names."""

    def __init__(self) -> None:
        """Begin with none."""
        self._families: dict[str, Metric] = {}

    def gauge(self, name: str, text: str, value: float, **labels: str) -> None:
        """Add what is so at this moment."""
        family = self._families.get(name)
        if family is None:
            family = GaugeMetricFamily(name, text, labels=list(labels))
            self._families[name] = family
        assert isinstance(family, GaugeMetricFamily), f"{name} is a gauge everywhere"
        family.add_metric(list(labels.values()), value)

    def counter(self, name: str, text: str, value: float, **labels: str) -> None:
        """Add what has been counted since the start; `name` is without `_total`."""
        family = self._families.get(name)
        if family is None:
            family = CounterMetricFamily(name, text, labels=list(labels))
            self._families[name] = family
        assert isinstance(family, CounterMetricFamily), f"{name} is a counter everywhere"
        family.add_metric(list(labels.values()), value)

    def certificates(self, expiring: Mapping[str, float]) -> None:
        """Add when each certificate expires. Units: seconds since 1970, by the file's name."""
        for file, at_s in sorted(expiring.items()):
            self.gauge(
                "mmg_certificate_expires_timestamp_seconds",
                "When a certificate of the bus expires.",
                at_s,
                file=file,
            )

    def families(self) -> Iterator[Metric]:
        """Yield what was added."""
        for name in sorted(self._families):
            yield self._families[name]


class Exposition:
    """What one process shows: what it counts, what it is at this moment, and its own size."""

    def __init__(self, *collectors: Collector) -> None:
        """Show these."""
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        for collector in collectors:
            self._registry.register(collector)

    def text(self) -> bytes:
        """Return all of it in the text format of Prometheus. Order: on the event loop."""
        return generate_latest(self._registry)
