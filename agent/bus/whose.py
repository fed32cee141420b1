"""Whose request an id is, where the asker does not say: two agents may use the same one.

Order: the lanes before the chains, because a request leaves its lane only after its last link is
stored. Must not keep what it read.
"""

from typing import Final

import msgspec

from agent.bus.connection import ApiError, Bus
from agent.bus.lanes import find_waiting
from agent.bus.submit import REQUESTER_DEFAULT
from contracts import subjects
from contracts.errors import ContractError, ErrorCode
from contracts.subjects import Identity

NAMES_SHOWN_MAX: Final = 10


class _Filter(msgspec.Struct):
    subjects_filter: str


class _State(msgspec.Struct):
    subjects: dict[str, int] | None = None


class _StreamAnswer(msgspec.Struct):
    state: _State


async def find(bus: Bus, request_id: str, requester: str | None) -> Identity | None:
    """Return whose request this is; None if no such request is known.

    1. The caller names the requester: that one or none. 2. The request of "user", who has no
    agent id to name. 3. The one agent that has used this id.
    Raises: ContractError(ambiguous_id) if several have, or for a name that is none; BusError.
    """
    own = subjects.identity(requester or REQUESTER_DEFAULT, request_id)
    if await _exists(bus, own):
        return own  # 1, 2
    if requester is not None:
        return None
    return the_one(await _agents(bus, request_id), request_id)  # 3


def the_one(found: set[Identity], request_id: str) -> Identity | None:
    """Return the only one, None where there is none. Raises: ContractError(ambiguous_id)."""
    if len(found) > 1:
        names = ", ".join(sorted(who.requester for who in found)[:NAMES_SHOWN_MAX])
        raise ContractError(
            ErrorCode.AMBIGUOUS_ID,
            f"{len(found)} agents have a request {request_id}: {names}; name the requester",
            "$.requester",
        )
    return next(iter(found), None)


async def _exists(bus: Bus, who: Identity) -> bool:
    if await find_waiting(bus, who) is not None:
        return True
    query = {"last_by_subj": subjects.chain_filter(who)}
    try:
        await bus.api(f"STREAM.MSG.GET.{subjects.STREAM_EVENTS}", query)
    except ApiError as error:
        if error.not_found:
            return False
        raise
    return True


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
