"""What the gateway asks the streams, each time anew, and how it says that they do not answer.

Must not keep what it read.
"""

from typing import Final

import msgspec
import structlog

from agent.bus import whose
from agent.bus.connection import ApiError, Bus
from agent.gateway.problems import Problem, bus_away, problem
from contracts import codec, subjects
from contracts.errors import ErrorCode
from contracts.events import Progress
from contracts.subjects import Identity

STREAMS: Final = (subjects.STREAM_REQUESTS, subjects.STREAM_EVENTS, subjects.STREAM_PROGRESS)
READY_TIMEOUT_S: Final = 2.0

log = structlog.get_logger()


class _Stored(msgspec.Struct):
    data: bytes = b""


class _StoredAnswer(msgspec.Struct):
    message: _Stored


async def find(bus: Bus, request_id: str, requester: str | None) -> Identity | None:
    """Return whose request this is; None if no such request is known.

    Raises: Problem while the bus is away; ContractError(ambiguous_id); BusError.
    """
    require(bus)
    return await whose.find(bus, request_id, requester)


def unknown(request_id: str, requester: str | None) -> Problem:
    """Return the answer for a request that is not known."""
    whose = "" if requester is None else f" of {requester}"
    return problem(ErrorCode.NOT_FOUND, f"no request {request_id}{whose} is known")


def require(bus: Bus) -> None:
    """Raise Problem at once while the bus is away, instead of waiting for an answer."""
    if not bus.connected:
        raise bus_away("it is not connected")


async def require_streams(bus: Bus) -> None:
    """Raise Problem unless the bus is there and set up."""
    require(bus)
    for stream in STREAMS:
        try:
            await bus.api(f"STREAM.INFO.{stream}", timeout_s=READY_TIMEOUT_S)
        except ApiError as error:
            raise bus_away(f"{stream}: {error.description}; run `mmg provision`") from error


async def last_progress(bus: Bus, who: Identity) -> tuple[Progress, bytes] | None:
    """Return the last progress of a request with its own bytes. Raises: BusError."""
    data = await _last(bus, subjects.STREAM_PROGRESS, subjects.progress(who))
    if data is None:
        return None
    try:
        return codec.decode_progress(data), data
    except msgspec.DecodeError as error:
        log.warning("lookup.unreadable", request=str(who), reason=str(error))
        return None


async def _last(bus: Bus, stream: str, subject: str) -> bytes | None:
    """Return the last message on a subject as the stream's leader has it, unread."""
    try:
        answer = await bus.api(f"STREAM.MSG.GET.{stream}", {"last_by_subj": subject})
    except ApiError as error:
        if error.not_found:
            return None
        raise
    return msgspec.json.decode(answer, type=_StoredAnswer).message.data
