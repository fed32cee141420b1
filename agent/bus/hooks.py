"""The webhooks of requests, in the state bucket: links go to every watcher, addresses to nobody.

Whoever writes the first link of a chain keeps the address first, because the request leaves its
lane when the chain has ended. Keys end by themselves. Must not send anything.
"""

from datetime import datetime
from typing import Final

import msgspec
import structlog

from agent.bus import history, state
from agent.bus.connection import Bus, BusError
from agent.core.job import StoredRequest
from agent.core.webhook import Hook
from contracts import subjects
from contracts.subjects import Identity

KEPT_S: Final = 40 * 86_400
"""Longer than the links that a webhook is about are kept."""
DELIVERED_KEPT_S: Final = 3600
"""Long enough for a second gateway that was handed the same end to see that it is delivered."""
ROOM: Final = 0.5
"""The share of the bucket that webhooks may fill: books and debts need the rest."""

log = structlog.get_logger()


class NoRoomError(Exception):
    """Too many webhooks wait to be delivered."""


class _Config(msgspec.Struct):
    max_bytes: int = -1


class _State(msgspec.Struct):
    bytes: int = 0


class _Stream(msgspec.Struct):
    config: _Config
    state: _State


async def keep(bus: Bus, who: Identity, url: str, now: datetime) -> None:
    """Keep the address of a request, unless one is kept already.

    Raises: NoRoomError, BusError.
    """
    await require_room(bus)
    try:
        hook = Hook(url=url, at=now)
        await state.write(bus, key(who), hook, revision=0, ttl_s=KEPT_S)
    except state.StaleRevisionError:
        log.debug("webhook.kept_before", request=str(who))


async def keep_of(bus: Bus, stored: StoredRequest, now: datetime) -> None:
    """Keep the address of a request that has one.

    Order: before each link is appended; later ones mend what the first could not do. Never raises:
    no picture waits for a webhook.
    """
    url = None if stored.request is None else stored.request.webhook_url
    if url is None:
        return
    try:
        await keep(bus, stored.who, url, now)
    except (NoRoomError, BusError) as error:
        log.warning("webhook.not_kept", request=str(stored.who), reason=str(error))


async def require_room(bus: Bus) -> None:
    """Raise NoRoomError where the bucket should take no more webhooks. Raises: BusError."""
    answer = await bus.api(f"STREAM.INFO.KV_{subjects.BUCKET_STATE}")
    bucket = msgspec.json.decode(answer, type=_Stream)
    limit = bucket.config.max_bytes
    if 0 < limit * ROOM <= bucket.state.bytes:
        raise NoRoomError("too many webhooks wait to be delivered")


async def read(bus: Bus, who: Identity) -> tuple[Hook, int] | None:
    """Return the webhook of a request with its revision; None: it has none. Raises: BusError."""
    entry = await state.read(bus, key(who))
    if entry is None:
        return None
    try:
        return msgspec.json.decode(entry.data, type=Hook), entry.revision
    except msgspec.DecodeError as error:
        log.warning("webhook.unreadable", request=str(who), reason=str(error))
        return None


async def write(bus: Bus, who: Identity, hook: Hook, revision: int) -> None:
    """Write what has become of a webhook. Raises: StaleRevisionError, BusError."""
    ttl_s = DELIVERED_KEPT_S if hook.state == "delivered" else KEPT_S
    await state.write(bus, key(who), hook, revision, ttl_s=ttl_s)


async def listed(bus: Bus) -> list[tuple[Identity, Hook]]:
    """Return all webhooks that are kept, the oldest change first. Raises: BusError."""
    found: list[tuple[Identity, Hook]] = []
    wanted = subjects.state("webhook.>")
    async for batch in history.batches(bus, f"KV_{subjects.BUCKET_STATE}", wanted):
        for message in batch:
            _, agent, request_id = message.subject.rsplit(".", maxsplit=2)
            try:
                hook = msgspec.json.decode(message.data, type=Hook)
            except msgspec.DecodeError as error:
                log.warning("webhook.unreadable", key=message.subject, reason=str(error))
                continue
            found.append((Identity(agent, request_id), hook))
    return found


def key(who: Identity) -> str:
    """Return the key in the state bucket."""
    return f"webhook.{who}"
