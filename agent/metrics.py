"""The counters of this process, under the names that operators see.

Base units, no label that could grow without bound. Must not serve them; `agent.monitor` does.
"""

from typing import Final

from prometheus_client import CollectorRegistry, Counter, generate_latest

REGISTRY: Final = CollectorRegistry()

REQUESTS_REFUSED: Final = Counter(
    "mmg_requests_refused_total",
    "Requests on the bus that break the contract, answered with a failed link.",
    ["code"],
    registry=REGISTRY,
)
REQUESTS_UNSPEAKABLE: Final = Counter(
    "mmg_requests_unspeakable_total",
    "Messages whose subject has no place for an answer; dropped with a log line.",
    registry=REGISTRY,
)
JOBS_ENDED: Final = Counter(
    "mmg_jobs_ended_total",
    "Jobs this worker has let go of, by how they ended.",
    ["ended"],
    registry=REGISTRY,
)


def exposition() -> bytes:
    """Return all counters in the text format of Prometheus."""
    return generate_latest(REGISTRY)
