"""Whose request an id is, and what became of it: asked of the streams each time.

Order: the lanes before the chains, because a request leaves its lane only after its last link is
stored. Must not keep what it read.
"""

from typing import Final

import msgspec
import structlog

from agent.bus.connection import ApiError, Bus
from agent.bus.lanes import find_waiting
from agent.bus.submit import REQUESTER_DEFAULT
from agent.gateway.problems import Problem, bus_away, problem
from contracts import codec, subjects
from contracts.errors import ErrorCode
from contracts.events import Progress
from contracts.subjects import Identity

STREAMS: Final = (subjects.STREAM_REQUESTS, subjects.STREAM_EVENTS, subjects.STREAM_PROGRESS)
READY_TIMEOUT_S: Final = 2.0

log = structlog.get_logger()


class _Filter(msgspec.Struct):
    subjects_filter: str


class _State(msgspec.Struct):
    subjects: dict[str, int] | None = None


class _StreamAnswer(msgspec.Struct):
    state: _State


class _Stored(msgspec.Struct):
    data: bytes = b""


class _StoredAnswer(msgspec.Struct):
    message: _Stored


async def find(bus: Bus, request_id: str, requester: str | None) -> Identity | None:
    """Return whose request this is; None if no such request is known.

    1. The caller names the requester: that one or none. 2. The request of "user", who has no
    agent id to name. 3. The one agent that has used this id.
    Raises: Problem(ambiguous_id) if several have; ContractError for a name that is none; BusError.
    """
    require(bus)
    own = subjects.identity(requester or REQUESTER_DEFAULT, request_id)
    if await _exists(bus, own):
        return own  # 1, 2
    if requester is not None:
        return None
    agents = await _agents(bus, request_id)
    if len(agents) > 1:
        names = ", ".join(sorted(agent.requester for agent in agents)[:10])
        raise problem(
            ErrorCode.AMBIGUOUS_ID,
            f"{len(agents)} agents have a request {request_id}: {names}; name one with ?requester=",
            "$.requester",
        )
    return next(iter(agents), None)  # 3


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


async def _exists(bus: Bus, who: Identity) -> bool:
    if await find_waiting(bus, who) is not None:
        return True
    return await _last(bus, subjects.STREAM_EVENTS, subjects.chain_filter(who)) is not None


async def _last(bus: Bus, stream: str, subject: str) -> bytes | None:
    """Return the last message on a subject as the stream's leader has it, unread."""
    try:
        answer = await bus.api(f"STREAM.MSG.GET.{stream}", {"last_by_subj": subject})
    except ApiError as error:
        if error.not_found:
            return None
        raise
    return msgspec.json.decode(answer, type=_StoredAnswer).message.data


async def _agents(bus: Bus, request_id: str) -> set[Identity]:
    """Return everybody who has a request of this id, in a lane or as a chain."""
    waiting = await _subjects(bus, subjects.STREAM_REQUESTS, subjects.request_any_agent(request_id))
    chains = await _subjects(bus, subjects.STREAM_EVENTS, subjects.chain_any_agent(request_id))
    found = [subjects.raw_pair(subject) for subject in waiting]
    found += [subjects.parse_pair(subject) for subject in chains]
    return {who for who in found if who is not None}


async def _subjects(bus: Bus, stream: str, wanted: str) -> list[str]:
    data = await bus.api(f"STREAM.INFO.{stream}", _Filter(subjects_filter=wanted))
    return list(msgspec.json.decode(data, type=_StreamAnswer).state.subjects or {})
