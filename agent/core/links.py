"""Builds the links of a chain. Pure: the same place, time and nonce give the same link.

The id of a link is drawn from its writer's nonce, so that two writers of the same place never
share one, and a writer that asks again offers the very same bytes.
"""

from datetime import datetime, timedelta
from typing import TypedDict
from uuid import UUID, uuid5

import msgspec
from msgspec import UNSET, UnsetType

from agent.core.job import History, Place, StoredRequest
from agent.core.routing import Candidate
from contracts.errors import ErrorBody, ErrorCode, error_body
from contracts.events import (
    Completed,
    Expired,
    Failed,
    Output,
    Preempted,
    Progress,
    Released,
    Retrying,
    Started,
)
from contracts.requests import Request


class Author(msgspec.Struct, frozen=True, kw_only=True):
    """Who writes: the worker's name, and a nonce of its own for each job it carries."""

    worker: str
    nonce: UUID

    def link_id(self, n: int, kind: str, attempt: int) -> str:
        """Return the id of the link this author writes at place `n`."""
        return str(uuid5(self.nonce, f"{n} {kind} {attempt}"))


class Made(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a successful try. Units: seconds, US dollars (all attempts), MiB.

    `downgraded`: a smaller model than the request would have got was used.
    """

    model_used: str
    seed: int
    cost_usd: float
    vram_mib: int | None
    drawn_s: float
    downgraded: bool = False


class _Fields(TypedDict):
    """The fields every link carries, ready to be passed to a link's class."""

    id: str
    n: int
    request_id: str
    requester: str
    message: str
    progress_percent: int
    at: datetime
    attempt: int
    request_seq: int
    request: Request | UnsetType | None
    requested_at: datetime | UnsetType


class Pen(msgspec.Struct, frozen=True, kw_only=True):
    """Everything a link needs that does not depend on its kind.

    `percent` is the last progress that was told: a link never tells less in the same attempt.
    """

    stored: StoredRequest
    author: Author
    place: Place
    now: datetime
    percent: int = 0

    def fields(
        self, kind: str, message: str, *, attempt: int | None = None, percent: int | None = None
    ) -> _Fields:
        """Return the shared fields of the link after `place`.

        The first link of a chain also carries the request, without its webhook address, and the
        time it was stored.
        """
        first = self.place.n == 0
        number = self.place.attempt if attempt is None else attempt
        n = self.place.n + 1
        return _Fields(
            id=self.author.link_id(n, kind, number),
            n=n,
            request_id=self.stored.who.request_id,
            requester=self.stored.who.requester,
            message=message,
            progress_percent=self.percent if percent is None else percent,
            at=self.now,
            attempt=number,
            request_seq=self.stored.seq,
            request=self._shown() if first else UNSET,
            requested_at=self.stored.stored_at if first else UNSET,
        )

    def started(self, candidate: Candidate, server: str | None = None) -> Started:
        """Return the start of the next attempt; `server` is the peer of the slot that was taken."""
        attempt = self.place.attempt + 1
        return Started(
            **self.fields("started", f"Started on {candidate.engine}.", attempt=attempt, percent=0),
            engine=candidate.engine,
            model=candidate.model,
            workflow=candidate.workflow,
            reason=candidate.reason,
            worker=self.author.worker,
            server=server,
            queue_time_seconds=round(self.stored.waited_s(self.now), 3),
        )

    def completed(self, started: Started, made: Made, outputs: tuple[Output, ...]) -> Completed:
        """Return the good end."""
        message = "1 picture." if len(outputs) == 1 else f"{len(outputs)} pictures."
        return Completed(
            **self.fields("completed", message, percent=100),
            generation_time_seconds=round(made.drawn_s, 3),
            queue_time_seconds=started.queue_time_seconds,
            model_used=made.model_used,
            engine=started.engine,
            cost_usd=made.cost_usd,
            seed=made.seed,
            vram_used_gb=None if made.vram_mib is None else round(made.vram_mib / 1024, 2),
            downgraded=made.downgraded,
            retry_count=self.place.attempt - 1,
            reason=started.reason,
            outputs=outputs,
            output=outputs[0] if outputs else None,
        )

    def retrying(self, error: ErrorBody, delay_s: float, next_engine: str) -> Retrying:
        """Return the pause after a failed try; `delay_s` 0 means at once, on another engine."""
        when = "at once" if delay_s == 0 else f"in {delay_s:.0f} s"
        return Retrying(
            **self.fields("retrying", f"{error.message}; tries {next_engine} {when}."),
            error=error,
            delay_s=round(delay_s, 3),
            due_at=self.now + timedelta(seconds=delay_s),
            next_engine=next_engine,
        )

    def failed(self, error: ErrorBody, history: History, *, dead: bool) -> Failed:
        """Return the bad end; `dead` makes it a dead letter."""
        fields = self.fields("failed", error.message)
        fields["request"] = self._shown()
        return Failed(**fields, error=error, faults=history.faults, dead=dead)

    def unreadable(self, error: ErrorBody, raw: bytes) -> Failed:
        """Return the answer to a request that breaks the contract, with its own bytes."""
        fields = self.fields("failed", error.message)
        return Failed(**fields, error=error, raw_bytes=raw)

    def expired(self, deadline_s: int) -> Expired:
        """Return the end of a request that did not start in time."""
        error = error_body(
            ErrorCode.EXPIRED, f"it did not start within {deadline_s} s", "$.deadline_s"
        )
        return Expired(**self.fields("expired", error.message), error=error)

    def preempted(self, by: str, reason: str) -> Preempted:
        """Return the hand-back of a request whose card a more urgent one needs."""
        return Preempted(
            **self.fields("preempted", "Interrupted for a more urgent request; queued again."),
            by=by,
            reason=reason,
        )

    def dry(self, candidates: tuple[Candidate, ...], seed: int) -> Completed:
        """Return the end of a dry run: what would have been done, and that nothing was."""
        first = candidates[0]
        reason = "; then ".join(f"{one.engine} ({one.model}): {one.reason}" for one in candidates)
        return Completed(
            **self.fields("completed", f"Dry run: {first.engine} would draw it.", percent=100),
            generation_time_seconds=0.0,
            queue_time_seconds=round(self.stored.waited_s(self.now), 3),
            model_used=first.model,
            engine=first.engine,
            cost_usd=0.0,
            seed=seed,
            vram_used_gb=None,
            downgraded=False,
            retry_count=0,
            reason=f"dry run, nothing was drawn: {reason}",
            outputs=(),
            output=None,
        )

    def released(self, reason: str) -> Released:
        """Return the hand-back of a request whose worker stops."""
        return Released(
            **self.fields("released", "Given back to its lane."),
            by=self.author.worker,
            reason=reason,
        )

    def progress(self, step: tuple[int, int], message: str, eta_s: float | None) -> Progress:
        """Return a progress message of the attempt at `place`: no link, so it takes no place."""
        done, steps = step
        fields = self.fields("progress", message)
        return Progress(
            id=str(uuid5(self.author.nonce, f"progress {self.place.n} {done}")),
            n=self.place.n,
            request_id=fields["request_id"],
            requester=fields["requester"],
            message=message,
            progress_percent=self.percent,
            at=self.now,
            attempt=self.place.attempt,
            step=done,
            steps=steps,
            eta_s=eta_s,
        )

    def _shown(self) -> Request | None:
        request = self.stored.request
        return None if request is None else msgspec.structs.replace(request, webhook_url=None)
