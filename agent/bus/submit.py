"""Put a request into its lane, once: what the gateway and the client library both do.

Says whether the request is new, joins one that is known, or is refused; never leaves it open
which of them. Must not follow the request afterwards.
"""

import secrets
from collections.abc import Callable
from datetime import datetime
from typing import Final

import msgspec
import structlog

from agent.bus import control
from agent.bus.chain import read_chain
from agent.bus.connection import ApiError, Bus, BusError, NoAnswer, NoResponders, PubAck
from agent.bus.overview import stored_of
from agent.bus.snapshot import ask_snapshot, read_snapshot
from agent.clock import Clock, SystemClock
from contracts import CONTRACT_VERSION, codec, subjects, trace
from contracts.errors import ContractError, ErrorCode
from contracts.events import Snapshot, Status
from contracts.requests import Priority, Request
from contracts.subjects import Identity
from contracts.trace import Trace

log = structlog.get_logger()

REQUESTER_DEFAULT: Final = "user"
ASKS_MAX: Final = 2
"""How often the server is asked to store one request; the message id makes that one request."""

_RANDOM_BYTES: Final = 4
_ANSWER_S: Final = 3.0
_REFUSED_STORE: Final = 10077
"""Said of a request that already lies in its lane, and of a lane that is full."""
_TOO_LARGE: Final = 10054


class Submitted(msgspec.Struct, frozen=True, kw_only=True):
    """A request that is known to the bus now.

    `joined`: it was known before, with the same body; then `status` is what became of it.
    """

    who: Identity
    priority: Priority
    status: Status
    joined: bool


class _StoredRequest(msgspec.Struct):
    seq: int
    subject: str
    data: bytes = b""


class _StoredAnswer(msgspec.Struct):
    message: _StoredRequest


class _FirstLink(msgspec.Struct):
    """What the first link says about where its chain comes from."""

    request_seq: int
    request: Request | None = None


def make_request_id(now: datetime, digits: str) -> str:
    """Return an id that sorts by time and is unique by its eight random hex digits."""
    return f"mmg-{now:%Y%m%d-%H%M%S}-{digits}"


def new_request_id(
    clock: Clock | None = None, random_hex: Callable[[int], str] = secrets.token_hex
) -> str:
    """Return a fresh id; the clock and the source of hex digits can be handed in."""
    return make_request_id((clock or SystemClock()).now(), random_hex(_RANDOM_BYTES))


async def submit(
    bus: Bus,
    request: Request,
    *,
    of: Trace | None = None,
    fresh: bool = False,
    clock: Clock | None = None,
    most: int | None = None,
) -> Submitted:
    """Store a checked request in its lane, with the trace it is part `of`. Gaps are filled in.

    `fresh`: the caller has just made the id by `new_request_id`, so nothing earlier can have it.
    The same identity with the same body joins the request that is known. `most`: so many requests
    may one agent have in the queue.
    Raises: ContractError (invalid_request, intake_closed, quota, id_reused, queue_full); BusError
    when the bus is away or not set up; NoAnswer when the request may or may not be stored: with the
    same id it can be sent again.
    """
    made = fresh or request.request_id is None
    filled = msgspec.structs.replace(
        request,
        request_id=request.request_id or new_request_id(clock),
        requester=request.requester or REQUESTER_DEFAULT,
        priority=request.priority or Priority.MEDIUM,
    )
    assert filled.request_id is not None, "just filled in"
    assert filled.requester is not None, "just filled in"
    assert filled.priority is not None, "just filled in"
    who = subjects.identity(filled.requester, filled.request_id)
    await _check_intake(bus)
    if most is not None:
        await _check_quota(bus, who, most)
    ack, again = await _store(bus, filled, who, of, message_id=str(who))
    if ack is None or (ack.duplicate and not again):
        status = await _compare_known(bus, filled, who, full=ack is None)
        if status is not None:
            return Submitted(who=who, priority=filled.priority, status=status, joined=True)
        log.warning("submit.message_id_taken", request=str(who))
        ack, again = await _store(bus, filled, who, of, message_id=None)
        if ack is None:
            raise _reused(who)
    if not made and await _is_known_earlier(bus, filled, who, ack.seq):
        status = await _compare_known(bus, filled, who, full=False)
        return Submitted(
            who=who, priority=filled.priority, status=status or Status.QUEUED, joined=True
        )
    return Submitted(who=who, priority=filled.priority, status=Status.QUEUED, joined=False)


async def _check_intake(bus: Bus) -> None:
    """Refuse while an operator has closed the intake.

    An agent that may not read the state bucket is let through: the switch is a courtesy to people
    who drain a site, not a fence.
    """
    if not bus.may_read:
        return
    try:
        intake = await control.read_intake(bus)
    except BusError as error:
        log.debug("submit.intake_unknown", reason=str(error))
        return
    if intake is not None and not intake.open:
        raise ContractError(
            ErrorCode.INTAKE_CLOSED,
            f"new requests are not taken now ({intake.reason}, by {intake.by}); try again later",
        )


async def _check_quota(bus: Bus, who: Identity, most: int) -> None:
    """Refuse a request beyond the share of its agent, unless it is known already.

    A courtesy that saves the agent a dead request; two at once may both pass, and then the workers
    end what is beyond. Raises: ContractError(quota), BusError.
    """
    stored = await stored_of(bus, who.agent)
    if len(stored) >= most and who not in stored:
        raise ContractError(
            ErrorCode.QUOTA,
            f"{who.requester} has {len(stored)} requests in the queue, as many as one agent may"
            " have; wait until some are done",
        )


async def _store(
    bus: Bus, request: Request, who: Identity, of: Trace | None, *, message_id: str | None
) -> tuple[PubAck | None, bool]:
    """Publish; return the server's word and whether it was asked again for it.

    None is a refusal that means: known already, or no room. The message id lets the server tell
    the second ask from the first; it belongs to all agents together, and nobody owns any of it.
    """
    assert request.priority is not None, "filled in"
    subject = subjects.request(request.priority, who)
    data = codec.encode(request)
    if len(data) > codec.REQUEST_SIZE_MAX_BYTES:
        raise _too_large(len(data))
    for ask in range(1, ASKS_MAX + 1):
        if not bus.connected:
            # Published now it would be stored after the reconnect, when nobody knows of it.
            raise NoAnswer(f"the message bus is away; request {who} was not sent")
        headers = {codec.CONTRACT_HEADER: str(CONTRACT_VERSION)} | trace.headers(of)
        if message_id is not None:
            headers[codec.MESSAGE_ID_HEADER] = message_id
        try:
            ack = await bus.store(subject, data, headers, timeout_s=_ANSWER_S)
        except NoResponders as error:
            raise NoResponders(
                "no stream takes requests on this server: run `mmg provision`"
            ) from error
        except NoAnswer as error:
            if ask == ASKS_MAX or not bus.connected:
                raise NoAnswer(
                    f"the bus did not confirm request {who.request_id}; it may be queued:"
                    " send it again with the same request_id"
                ) from error
        except ApiError as error:
            if error.err_code == _TOO_LARGE:
                raise _too_large(len(data)) from error
            if error.err_code != _REFUSED_STORE:
                raise
            return None, ask > 1
        else:
            return ack, ask > 1
    raise AssertionError("the last ask returns or raises")


def _too_large(size: int) -> ContractError:
    return ContractError(
        ErrorCode.INVALID_REQUEST,
        f"the request has {size} bytes as stored, the limit is {codec.REQUEST_SIZE_MAX_BYTES}"
        " with its headers",
        "$",
    )


async def _compare_known(bus: Bus, request: Request, who: Identity, *, full: bool) -> Status | None:
    """Return the status of the known request if it asks for the same thing.

    `full`: not to be known means that there is no room for it. Else it means that another agent
    has used our message id, by chance or on purpose, or that the request was removed by hand:
    nothing of it is left, and None says that it may be stored anew.
    Raises: ContractError (id_reused, queue_full); BusError.
    """
    known = await _known(bus, who)
    if known is not None:
        if known.request is None or not codec.same_request(known.request, request):
            raise _reused(who)
        return known.status
    if full:
        raise ContractError(
            ErrorCode.QUEUE_FULL, "the queue takes no more requests now; try again later"
        )
    return None


async def _known(bus: Bus, who: Identity) -> Snapshot | None:
    """Read what is known; an agent that may not read asks whoever answers. Raises: BusError."""
    return await (read_snapshot(bus, who) if bus.may_read else ask_snapshot(bus, who, _ANSWER_S))


async def _is_known_earlier(bus: Bus, request: Request, who: Identity, seq: int) -> bool:
    """Tell whether this identity was known before the request just stored as `seq`.

    1. Another request of this identity was stored first, in another lane.
    2. A chain is there that began with another stored request.
    Raises: ContractError(id_reused) if that earlier one asks for something else.
    """
    if not bus.may_read:
        return await _is_known_to_others(bus, who, seq)
    first = await _first_stored(bus, who)
    if first is not None and first.seq < seq:
        earlier = _request_in(first.data)
        if earlier is None or not codec.same_request(earlier, request):
            raise _reused(who)
        return True  # 1
    links = await read_chain(bus, who)
    if not links:
        return False  # A replica that lags at most lacks what has just begun.
    return msgspec.json.decode(links[0].data, type=_FirstLink).request_seq != seq  # 2


async def _is_known_to_others(bus: Bus, who: Identity, seq: int) -> bool:
    """Ask whoever answers whether a chain began with another stored request.

    Where nobody answers it counts as new: the worker finds the chain, and its first end stands.
    """
    try:
        known = await ask_snapshot(bus, who, _ANSWER_S)
    except (NoAnswer, msgspec.DecodeError) as error:
        log.debug("submit.earlier_unknown", request=str(who), reason=str(error))
        return False
    if known is None or not known.chain:
        return False
    return msgspec.json.decode(known.chain[0], type=_FirstLink).request_seq != seq


async def _first_stored(bus: Bus, who: Identity) -> _StoredRequest | None:
    """Return the oldest stored request of this identity in whatever lane."""
    query = {"seq": 1, "next_by_subj": subjects.request_any_lane(who)}
    try:
        data = await bus.api(f"STREAM.MSG.GET.{subjects.STREAM_REQUESTS}", query)
    except ApiError as error:
        if error.not_found:
            return None
        raise
    return msgspec.json.decode(data, type=_StoredAnswer).message


def _request_in(data: bytes) -> Request | None:
    try:
        return codec.decode_request(data)
    except ContractError:
        return None


def _reused(who: Identity) -> ContractError:
    return ContractError(
        ErrorCode.ID_REUSED,
        f"request_id {who.request_id} of {who.requester} belongs to another request; ids are not"
        " reusable",
        "$.request_id",
    )
