"""The one line of the log about a job: everything that a person asks of it afterwards.

It is written once, when the job lets go of its request, and counts what the job has stored. It must
not decide anything, and holds no prompt.
"""

from datetime import datetime

import structlog

from agent.core.job import StoredRequest
from agent.metrics import JOBS_ENDED, note_link
from contracts.events import Completed, Expired, Failed, Link, Started

log = structlog.get_logger()


class JobLine:
    """Gathers what one job stores, then writes its line."""

    def __init__(self, stored: StoredRequest) -> None:
        """Nothing is known yet but the request."""
        self._stored = stored
        self._found: dict[str, object] = {}

    def note(self, link: Link) -> None:
        """Take in a link that the server has stored."""
        note_link(link, self._stored.priority)
        match link:
            case Started():
                self._found |= {
                    "engine": link.engine,
                    "model": link.model,
                    "wait_s": round(link.queue_time_seconds, 3),
                    "reason": link.reason,
                }
            case Completed():
                self._found |= {
                    "model": link.model_used,
                    "run_s": round(link.generation_time_seconds, 3),
                    "vram_gb": link.vram_used_gb,
                    "cost_usd": link.cost_usd,
                    "downgraded": link.downgraded,
                }
            case Failed() | Expired():
                self._found |= {"code": link.error.code, "error": link.error.message}

    def write(self, ended: str, why: str | None, tries: tuple[int, int], now: datetime) -> None:
        """Write it; `tries` are the attempt in hand and how often the server handed it out."""
        attempt, deliveries = tries
        JOBS_ENDED.labels(ended).inc()
        log.info(
            "job.ended",
            ended=ended,
            why=why,
            priority=self._stored.priority,
            attempt=attempt,
            deliveries=deliveries,
            since_request_s=round(self._stored.waited_s(now), 3),
            **self._found,
        )
