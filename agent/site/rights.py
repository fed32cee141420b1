"""Who may publish and hear what: each role of ours, and each agent. Exact, and nothing by default.

Pure data from the subjects of the contract. It must not know keys or how a server spells this.
Nobody here may purge, delete a stream or publish where an asker says: answers go to inboxes only.
"""

from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from contracts import subjects
from contracts.requests import Priority

API: Final = "$JS.API"
WHO_AM_I: Final = "$SYS.REQ.USER.INFO"
ACROSS_ACCOUNTS: Final = "_R_.>"
"""What the server makes of the reply subject of a question that comes from another account."""

_STATE: Final = f"KV_{subjects.BUCKET_STATE}"
_STREAMS: Final = (
    subjects.STREAM_REQUESTS,
    subjects.STREAM_EVENTS,
    subjects.STREAM_PROGRESS,
    _STATE,
)
_LANES: Final = tuple(subjects.durable(priority) for priority in subjects.LANES)
_REQUESTS: Final = subjects.STREAM_REQUESTS
_ENDS: Final = f"{subjects.STREAM_EVENTS}.{subjects.DURABLE_ENDS}"


class Rights(msgspec.Struct, frozen=True, kw_only=True):
    """What one user may publish and subscribe to; everything else is refused."""

    publish: tuple[str, ...]
    subscribe: tuple[str, ...]


def inbox(role: str) -> str:
    """Return where a role hears answers; commands of people speak as clients."""
    return f"_INBOX_{'client' if role == 'operator' else role}.>"


_INBOXES: Final = {
    role: inbox(role)
    for role in ("provision", "worker", "gateway", "operator", "monitor", "backup")
}


def _reading() -> tuple[str, ...]:
    """Return the calls that read a stream and leave it as it is."""
    return (
        *(f"{API}.STREAM.INFO.{stream}" for stream in _STREAMS),
        *(f"{API}.STREAM.MSG.GET.{stream}" for stream in _STREAMS),
        *(f"{API}.DIRECT.GET.{stream}" for stream in _STREAMS),
        *(f"{API}.CONSUMER.LIST.{stream}" for stream in _STREAMS),
        *(f"{API}.CONSUMER.INFO.{_REQUESTS}.{lane}" for lane in _LANES),
        f"{API}.CONSUMER.INFO.{_ENDS}",
        WHO_AM_I,
    )


def _answering() -> tuple[str, ...]:
    """Return where the answers to whoever may ask go: never where a payload says."""
    askers = ("gateway", "operator", "monitor")
    return (*(_INBOXES[role] for role in askers), ACROSS_ACCOUNTS)


def _provision() -> Rights:
    """Makes and changes what is designed; deletes nothing, takes nothing, says nothing."""
    return Rights(
        publish=(
            *(
                f"{API}.STREAM.{verb}.{stream}"
                for stream in _STREAMS
                for verb in ("INFO", "CREATE", "UPDATE")
            ),
            *(
                f"{API}.CONSUMER.{verb}.{consumer}"
                for consumer in (*(f"{_REQUESTS}.{lane}" for lane in _LANES), _ENDS)
                for verb in ("INFO", "DURABLE.CREATE")
            ),
            WHO_AM_I,
        ),
        subscribe=(_INBOXES["provision"],),
    )


def _worker() -> Rights:
    """Takes requests, writes their chains, keeps the books; removes single requests it ended."""
    return Rights(
        publish=(
            *_reading(),
            *(f"{API}.CONSUMER.MSG.NEXT.{_REQUESTS}.{lane}" for lane in _LANES),
            *(f"$JS.ACK.{_REQUESTS}.{lane}.>" for lane in _LANES),
            f"{API}.STREAM.MSG.DELETE.{_REQUESTS}",
            subjects.CHAIN_ALL,
            subjects.PROGRESS_ALL,
            subjects.PREVIEW_ALL,
            subjects.QUEUED_ALL,
            subjects.IDLE,
            subjects.WORKER_ALL,
            subjects.ALERT_ALL,
            subjects.STATE_ALL,
            *_answering(),
        ),
        subscribe=(
            _INBOXES["worker"],
            subjects.QUEUED_ALL,
            subjects.EVENTS_ALL,
            subjects.IDLE,
            subjects.WORKER_ALL,
            subjects.CANCEL_ALL,
            subjects.SNAPSHOT_ALL,
            subjects.RPC_ALL,
            subjects.STATE_ALL,
            subjects.ADVISORY_MAX_DELIVERIES,
        ),
    )


def _gateway() -> Rights:
    """Submits, cancels and pauses for those whose keys it knows, relays; draws and ends no work."""
    return Rights(
        publish=(
            *_reading(),
            f"{API}.CONSUMER.MSG.NEXT.{_ENDS}",
            f"$JS.ACK.{_ENDS}.>",
            # A person with an operator's key pauses at the dashboard; who may, the gateway checks.
            *(f"{API}.CONSUMER.PAUSE.{_REQUESTS}.{lane}" for lane in _LANES),
            subjects.REQUESTS_ANY,
            subjects.CANCELLED_ALL,
            subjects.ASSET_ALL,
            subjects.ALERT_ALL,
            subjects.RPC_ALL,
            subjects.STATE_ALL,
            *_answering(),
        ),
        subscribe=(
            _INBOXES["gateway"],
            subjects.QUEUED_ALL,
            subjects.EVENTS_ALL,
            subjects.PROGRESS_ALL,
            subjects.PREVIEW_ALL,
            *subjects.EVENT_STREAM_SUBJECTS[1:],
            subjects.WORKER_ALL,
            subjects.CANCEL_ALL,
            subjects.SNAPSHOT_ALL,
            subjects.STATE_ALL,
        ),
    )


def _operator() -> Rights:
    """Asks, pauses, cancels, replays, dismisses: what the commands of people do."""
    return Rights(
        publish=(
            *_reading(),
            *(f"{API}.CONSUMER.PAUSE.{_REQUESTS}.{lane}" for lane in _LANES),
            subjects.REQUESTS_ANY,
            subjects.CANCELLED_ALL,
            subjects.CANCEL_ALL,
            subjects.SNAPSHOT_ALL,
            subjects.ASSET_ALL,
            subjects.RPC_ALL,
            subjects.STATE_ALL,
        ),
        subscribe=(
            _INBOXES["operator"],
            subjects.EVENTS_ALL,
            subjects.PROGRESS_ALL,
            subjects.PREVIEW_ALL,
            subjects.WORKER_ALL,
            subjects.ALERT_ALL,
            subjects.STATE_ALL,
        ),
    )


def _monitor() -> Rights:
    """Only looks, and at no prompt: figures of streams and consumers, workers, alerts."""
    return Rights(
        publish=(
            f"{API}.INFO",
            f"{API}.STREAM.LIST",
            f"{API}.STREAM.NAMES",
            *(f"{API}.STREAM.INFO.{stream}" for stream in _STREAMS),
            *(f"{API}.CONSUMER.LIST.{stream}" for stream in _STREAMS),
            *(f"{API}.CONSUMER.INFO.{_REQUESTS}.{lane}" for lane in _LANES),
            subjects.rpc("status"),
            subjects.rpc("status", "*"),
            WHO_AM_I,
        ),
        subscribe=(
            _INBOXES["monitor"],
            subjects.WORKER_ALL,
            subjects.ALERT_ALL,
            "$JS.EVENT.ADVISORY.>",
        ),
    )


def _backup() -> Rights:
    """Copies whole streams, and makes one from its copy where there is none; changes nothing.

    Source: nats-server 2.15.1: a restore onto a stream that is there is refused.
    """
    kept = (subjects.STREAM_REQUESTS, subjects.STREAM_EVENTS, _STATE)
    return Rights(
        publish=(
            *(
                f"{API}.STREAM.{verb}.{stream}"
                for stream in kept
                for verb in ("SNAPSHOT", "RESTORE")
            ),
            *(f"$JS.SNAPSHOT.{verb}.{stream}.>" for stream in kept for verb in ("ACK", "RESTORE")),
            WHO_AM_I,
        ),
        subscribe=(_INBOXES["backup"],),
    )


_OF_ROLE: Final[Mapping[str, Callable[[], Rights]]] = {
    "provision": _provision,
    "worker": _worker,
    "gateway": _gateway,
    "operator": _operator,
    "monitor": _monitor,
    "backup": _backup,
}
ROLES: Final = tuple(_OF_ROLE)


def of_role(role: str) -> Rights:
    """Return what a role of ours may do."""
    return _OF_ROLE[role]()


def priorities_up_to(highest: Priority) -> tuple[Priority, ...]:
    """Return a priority and those below it."""
    return subjects.LANES[subjects.LANES.index(highest) :]


def services_of(agent: str, highest: Priority) -> tuple[str, ...]:
    """Return what an agent may publish: requests up to its priority, questions about its own."""
    requests = (subjects.requests_of(agent, one) for one in priorities_up_to(highest))
    return (*requests, *subjects.questions_of(agent))


def of_agent(agent: str, highest: Priority) -> Rights:
    """Return what an agent may do, by its token.

    Its inboxes need no name of their own: nobody else is in its account.
    """
    return Rights(
        publish=(*services_of(agent, highest), WHO_AM_I),
        subscribe=("_INBOX.>", inbox("operator"), *subjects.answers_of(agent)),
    )
