"""What happens to a request after its chain has ended: facts in the stream, and pins.

Facts are kept as long as the stream keeps messages. A pin has to outlast that, so it lies in the
state bucket as well, and there it counts. Must not delete a picture.
"""

from datetime import datetime
from typing import Final
from uuid import uuid4

import msgspec

from agent.bus import history, state
from agent.bus.connection import Bus
from agent.clock import Clock
from contracts import subjects
from contracts.events import AssetFact
from contracts.subjects import Identity

PINNED: Final = "pinned"
UNPINNED: Final = "unpinned"
PRUNED: Final = "pruned"
RATED: Final = "rated"
WEBHOOK_RETRIED: Final = "webhook_retried"
UNPINNED_KEPT_S: Final = 3600
"""A key that says "not pinned" says no more than none: it ends by itself."""


class Pin(msgspec.Struct, frozen=True, kw_only=True):
    """Whether the pictures of a request stay for good, as kept in the state bucket."""

    pinned: bool
    by: str
    at: datetime


async def pin(bus: Bus, who: Identity, by: str, clock: Clock, reason: str = "") -> AssetFact:
    """Keep the pictures of a request for good. Raises: BusError."""
    await state.write(bus, pin_key(who), Pin(pinned=True, by=by, at=clock.now()))
    return await tell(bus, who, PINNED, by=by, clock=clock, reason=reason)


async def unpin(bus: Bus, who: Identity, by: str, clock: Clock, reason: str = "") -> AssetFact:
    """Let the pictures of a request go when their time has come. Raises: BusError."""
    told = Pin(pinned=False, by=by, at=clock.now())
    await state.write(bus, pin_key(who), told, ttl_s=UNPINNED_KEPT_S)
    return await tell(bus, who, UNPINNED, by=by, clock=clock, reason=reason)


async def rate(
    bus: Bus, who: Identity, rating: int, by: str, clock: Clock, reason: str
) -> AssetFact:
    """Keep what a person thinks of the pictures, from 1 to 5; the last word counts.

    Raises: BusError.
    """
    fact = AssetFact(
        id=str(uuid4()),
        request_id=who.request_id,
        requester=who.requester,
        kind=RATED,
        by=by,
        at=clock.now(),
        reason=reason,
        rating=rating,
    )
    await bus.store(subjects.asset_fact(who, RATED), msgspec.json.encode(fact))
    return fact


async def is_pinned(bus: Bus, who: Identity) -> bool | None:
    """Tell from the stream's leader whether it is pinned; None: nobody said. Raises: BusError."""
    found = await state.read_as(bus, pin_key(who), Pin)
    return None if found is None else found.pinned


async def pinned(bus: Bus) -> set[Identity]:
    """Return all that are pinned. Raises: BusError."""
    found: set[Identity] = set()
    wanted = subjects.state("pin.>")
    async for batch in history.batches(bus, f"KV_{subjects.BUCKET_STATE}", wanted):
        for message in batch:
            _, agent, request_id = message.subject.rsplit(".", maxsplit=2)
            if msgspec.json.decode(message.data, type=Pin).pinned:
                found.add(Identity(agent, request_id))
    return found


async def tell(
    bus: Bus, who: Identity, kind: str, *, by: str, clock: Clock, reason: str = ""
) -> AssetFact:
    """Store one fact and return it. Raises: BusError."""
    fact = AssetFact(
        id=str(uuid4()),
        request_id=who.request_id,
        requester=who.requester,
        kind=kind,
        by=by,
        at=clock.now(),
        reason=reason,
    )
    await bus.store(subjects.asset_fact(who, kind), msgspec.json.encode(fact))
    return fact


def pin_key(who: Identity) -> str:
    """Return the key in the state bucket."""
    return f"pin.{who}"
