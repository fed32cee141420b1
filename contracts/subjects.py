"""Every subject, stream and durable of mmg: built and parsed here and nowhere else.

Must not talk to a server. A token matches `[A-Za-z0-9_-]{1,64}`; an agent id has `.` where its
token has `-`, and no `-` of its own, so both directions lose nothing.
"""

import re
from typing import Final

import msgspec

from contracts.errors import ContractError, ErrorCode
from contracts.requests import Priority

STREAM_REQUESTS: Final = "MMG_REQUESTS"
STREAM_EVENTS: Final = "MMG_EVENTS"
STREAM_PROGRESS: Final = "MMG_PROGRESS"
BUCKET_STATE: Final = "mmg_state"

LANES: Final[tuple[Priority, ...]] = (
    Priority.CRITICAL,
    Priority.HIGH,
    Priority.MEDIUM,
    Priority.LOW,
)
"""Lanes in the order in which they are served."""

_BY_LANE: Final = {priority.lane: priority for priority in LANES}

REQUEST_SUBJECTS: Final = tuple(f"mmg.request.{lane.lane}.*.*" for lane in LANES)
EVENT_STREAM_SUBJECTS: Final = ("mmg.chain.>", "mmg.asset.>", "mmg.alert.>")
PROGRESS_SUBJECTS: Final = ("mmg.progress.>",)

REQUESTS_ALL: Final = "mmg.request.>"
QUEUED_ALL: Final = "mmg.queued.>"
CHAIN_ALL: Final = "mmg.chain.>"
EVENTS_ALL: Final = "mmg.event.>"
EVENT_HANDED_BACK: Final = ("mmg.event.*.*.released", "mmg.event.*.*.preempted")
PROGRESS_ALL: Final = "mmg.progress.>"
SNAPSHOT_ALL: Final = "mmg.snapshot.*.*"
IDLE: Final = "mmg.idle"
"""A worker with a free slot and nothing to pull: others give back what they hold for theirs."""
WORKER_ALL: Final = "mmg.worker.*"
CANCEL_ALL: Final = "mmg.cancel.*.*"
DEAD_ALL: Final = "mmg.chain.*.*.failed"
DISMISSED_ALL: Final = "mmg.asset.*.*.dismissed"
ENDS: Final = (
    *(f"mmg.chain.*.*.{kind}" for kind in ("completed", "failed", "expired", "cancelled")),
    "mmg.asset.*.*.webhook_retried",
)
"""The links that close chains, and a person's wish that one is told again: what webhooks tell."""
DURABLE_ENDS: Final = "webhooks"
EVENT_ENDS: Final = tuple(
    f"mmg.event.*.*.{kind}" for kind in ("completed", "failed", "expired", "cancelled")
)
REQUESTS_ANY: Final = "mmg.request.*.*.*"
CANCELLED_ALL: Final = "mmg.chain.*.*.cancelled"
"""The only links that are written without work on the request: whoever is asked to cancel may."""
ASSET_ALL: Final = "mmg.asset.*.*.*"
ALERT_ALL: Final = "mmg.alert.*"
PREVIEW_ALL: Final = "mmg.preview.*.*"
RPC_ALL: Final = "mmg.rpc.>"
STATE_ALL: Final = f"$KV.{BUCKET_STATE}.>"
EVENT_OVERTAKING: Final = ("mmg.event.*.*.cancelled", "mmg.event.*.*.started")
"""Links that somebody else may write after ours while we still draw."""

ADVISORY_MAX_DELIVERIES: Final = f"$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.{STREAM_REQUESTS}.*"

_REQUEST_PARTS: Final = 5
_PAIR_PARTS_MIN: Final = 4
_TOKEN: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_AGENT_ID: Final = re.compile(r"[A-Za-z0-9_.]{1,64}")

TOKEN_PATTERN: Final = _TOKEN.pattern
"""What an agent token and a request id match from end to end."""

QUEUE_SNAPSHOT: Final = "mmg-snapshot"
"""The queue group of those who answer snapshots: one of them answers each question."""

QUEUE_CANCEL: Final = "mmg-cancel"
QUEUE_ADVISORY: Final = "mmg-advisory"


class Identity(msgspec.Struct, frozen=True, order=True):
    """Agent token and request id: what names one request everywhere."""

    agent: str
    request_id: str

    def __str__(self) -> str:
        """Return `<agent>.<request_id>`, the form used in file names and logs."""
        return f"{self.agent}.{self.request_id}"

    @property
    def requester(self) -> str:
        """The agent id, as people write it."""
        return self.agent.replace("-", ".")


_PARAMETERS: Final = Identity("{agent}", "{request_id}")


def identity(agent_id: str, request_id: str) -> Identity:
    """Build an identity from an agent id and a request id.

    Raises: ContractError(invalid_request) naming the one that does not fit.
    """
    if not _AGENT_ID.fullmatch(agent_id):
        raise ContractError(
            ErrorCode.INVALID_REQUEST,
            f"requester {agent_id[:80]!r} must match [A-Za-z0-9_.]{{1,64}}",
            "$.requester",
        )
    return checked(agent_id.replace(".", "-"), request_id)


def checked(agent: str, request_id: str) -> Identity:
    """Build an identity from two tokens.

    Raises: ContractError(invalid_request) naming the one that does not fit.
    """
    for value, path in ((agent, "$.requester"), (request_id, "$.request_id")):
        if not _TOKEN.fullmatch(value):
            raise ContractError(
                ErrorCode.INVALID_REQUEST,
                f"{path[2:]} {value[:80]!r} must match [A-Za-z0-9_-]{{1,64}} in a subject",
                path,
            )
    return Identity(agent, request_id)


def durable(priority: Priority) -> str:
    """Return the name of the pull consumer of a lane."""
    return f"lane-{priority.lane}"


def lane_filter(priority: Priority) -> str:
    """Return the subjects of one lane."""
    return f"mmg.request.{priority.lane}.*.*"


def request(priority: Priority, who: Identity) -> str:
    """Return where a request is published."""
    return f"mmg.request.{priority.lane}.{who.agent}.{who.request_id}"


def request_any_lane(who: Identity) -> str:
    """Return the filter that finds a request in whatever lane it lies."""
    return f"mmg.request.*.{who.agent}.{who.request_id}"


def requests_any_lane(agent: str) -> str:
    """Return the filter that finds all requests of one agent."""
    return f"mmg.request.*.{agent}.*"


def request_any_agent(request_id: str) -> str:
    """Return the filter that finds a request id in any lane, whoever sent it.

    Raises: ContractError(invalid_request) if the id does not fit.
    """
    return f"mmg.request.*.*.{checked('any', request_id).request_id}"


def requests_of(agent: str, priority: Priority) -> str:
    """Return where one agent may publish requests of one priority."""
    return f"mmg.request.{priority.lane}.{agent}.*"


def questions_of(agent: str) -> tuple[str, ...]:
    """Return where one agent may ask about its own requests."""
    return f"mmg.cancel.{agent}.*", f"mmg.snapshot.{agent}.*"


def answers_of(agent: str) -> tuple[str, ...]:
    """Return what one agent may hear: about its own requests, and nothing else."""
    return f"mmg.event.{agent}.*.*", f"mmg.progress.{agent}.*", f"mmg.preview.{agent}.*"


def chain(who: Identity, kind: str) -> str:
    """Return where a link is appended; only workers and gateways may."""
    return f"mmg.chain.{who.agent}.{who.request_id}.{kind}"


def chain_filter(who: Identity) -> str:
    """Return the subjects of one chain: also the fence of every append to it."""
    return f"mmg.chain.{who.agent}.{who.request_id}.*"


def chain_any_agent(request_id: str) -> str:
    """Return the subjects of the chains of a request id, whoever sent it.

    Raises: ContractError(invalid_request) if the id does not fit.
    """
    return f"mmg.chain.*.{checked('any', request_id).request_id}.*"


def dead_any_agent(request_id: str) -> str:
    """Return the subjects of the bad ends of a request id, whoever sent it.

    Raises: ContractError(invalid_request) if the id does not fit.
    """
    return f"mmg.chain.*.{checked('any', request_id).request_id}.failed"


def event(who: Identity, kind: str) -> str:
    """Return the subject on which the server republishes a stored link."""
    return f"mmg.event.{who.agent}.{who.request_id}.{kind}"


def event_filter(who: Identity) -> str:
    """Return the reply subject of a request: subscribe here."""
    return f"mmg.event.{who.agent}.{who.request_id}.*"


def progress(who: Identity) -> str:
    """Return where step progress of a request is published."""
    return f"mmg.progress.{who.agent}.{who.request_id}"


def preview(who: Identity) -> str:
    """Return where pictures of how far a request is are published, if it asked for them."""
    return f"mmg.preview.{who.agent}.{who.request_id}"


def queued(priority: Priority, who: Identity) -> str:
    """Return the doorbell of a request."""
    return f"mmg.queued.{priority.lane}.{who.agent}.{who.request_id}"


def snapshot(who: Identity) -> str:
    """Return where the state of one request is asked for (request-reply)."""
    return f"mmg.snapshot.{who.agent}.{who.request_id}"


def template_request() -> str:
    """Return the address of requests with its parameters in braces, as AsyncAPI writes it."""
    return request_any_lane(_PARAMETERS).replace("*", "{priority}")


def template_queued() -> str:
    """Return the address of the doorbell with its parameters in braces."""
    return f"mmg.queued.{{priority}}.{_PARAMETERS}"


def template_chain() -> str:
    """Return the address of stored links with its parameters in braces."""
    return chain(_PARAMETERS, "{kind}")


def template_event() -> str:
    """Return the address of republished links with its parameters in braces."""
    return event(_PARAMETERS, "{kind}")


def template_progress() -> str:
    """Return the address of step progress with its parameters in braces."""
    return progress(_PARAMETERS)


def template_snapshot() -> str:
    """Return the address where snapshots are asked for, with its parameters in braces."""
    return snapshot(_PARAMETERS)


def cancel(who: Identity) -> str:
    """Return where the end of one request is asked for (request-reply)."""
    return f"mmg.cancel.{who.agent}.{who.request_id}"


def worker(name: str) -> str:
    """Return the subject of one worker's presence."""
    return f"mmg.worker.{name}"


def rpc(verb: str, worker: str | None = None) -> str:
    """Return where operators ask: every worker, or with a name that one."""
    return f"mmg.rpc.{verb}" if worker is None else f"mmg.rpc.{verb}.{worker}"


def parse_verb(subject: str) -> str | None:
    """Read the verb of an operator's question; None where it is none."""
    parts = subject.split(".")
    return parts[2] if len(parts) > 2 and parts[:2] == ["mmg", "rpc"] else None  # noqa: PLR2004


def alert(name: str) -> str:
    """Return where an alert is raised and cleared."""
    return f"mmg.alert.{name}"


def asset_fact(who: Identity, kind: str) -> str:
    """Return where what happens after a chain has ended is told."""
    return f"mmg.asset.{who.agent}.{who.request_id}.{kind}"


def state(key: str) -> str:
    """Return the subject of one key of the state bucket."""
    return f"$KV.{BUCKET_STATE}.{key}"


def parse_request(subject: str) -> tuple[Priority, Identity]:
    """Read priority and identity from a request's subject.

    Raises: ContractError(invalid_request) if it is no such subject or a token does not fit.
    """
    parts = subject.split(".")
    if len(parts) != _REQUEST_PARTS or parts[:2] != ["mmg", "request"]:
        raise ContractError(ErrorCode.INVALID_REQUEST, f"{subject!r} is no request subject")
    priority = _BY_LANE.get(parts[2])
    if priority is None:
        raise ContractError(
            ErrorCode.INVALID_REQUEST, f"{parts[2][:40]!r} is no priority", "$.priority"
        )
    return priority, checked(parts[3], parts[4])


def parse_pair(subject: str) -> Identity | None:
    """Read the identity at tokens 3 and 4 of an event, progress, snapshot or chain subject.

    Returns None for a subject that carries no well-formed pair: such traffic is not ours.
    """
    parts = subject.split(".")
    if len(parts) < _PAIR_PARTS_MIN or parts[0] != "mmg":
        return None
    if not (_TOKEN.fullmatch(parts[2]) and _TOKEN.fullmatch(parts[3])):
        return None
    return Identity(parts[2], parts[3])


def parse_queued(subject: str) -> Identity | None:
    """Read the identity from a doorbell; None for a subject that carries no well-formed pair."""
    parts = subject.split(".")
    if len(parts) != _REQUEST_PARTS or not all(_TOKEN.fullmatch(part) for part in parts[3:]):
        return None
    return Identity(parts[3], parts[4])


def raw_pair(subject: str) -> Identity | None:
    """Read agent and id from a request subject without judging their spelling.

    For the one case where a stored request breaks the token rule: its sender still gets its
    `failed` link, on the subject that belongs to the request and to nothing else. Returns None
    where no printable ASCII subject can be made.
    """
    parts = subject.split(".")
    if len(parts) != _REQUEST_PARTS or not all(
        p.isascii() and p.isprintable() and p for p in parts[3:]
    ):
        return None
    return Identity(parts[3], parts[4])
