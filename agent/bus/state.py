"""The state bucket: the few facts that must outlive a worker, one key each.

Written whole, read from the leader. Who needs compare-and-set passes the revision it has seen.
"""

from typing import TypeVar

import msgspec

from agent.bus.connection import ApiError, Bus
from contracts import subjects

T = TypeVar("T")


class _Message(msgspec.Struct):
    seq: int
    data: bytes = b""


class _Answer(msgspec.Struct):
    message: _Message


class Entry(msgspec.Struct, frozen=True):
    """A value's bytes and the revision to name when it is changed."""

    data: bytes
    revision: int


class StaleRevisionError(Exception):
    """Somebody else changed the key first."""


async def read(bus: Bus, key: str) -> Entry | None:
    """Read a key; None if it was never written. Raises: BusError."""
    query = {"last_by_subj": subjects.state(key)}
    try:
        data = await bus.api(f"STREAM.MSG.GET.KV_{subjects.BUCKET_STATE}", query)
    except ApiError as error:
        if error.not_found:
            return None
        raise
    message = msgspec.json.decode(data, type=_Answer).message
    return Entry(message.data, message.seq)


async def read_as(bus: Bus, key: str, kind: type[T]) -> T | None:
    """Read a key as a struct; None if absent or written by something newer. Raises: BusError."""
    entry = await read(bus, key)
    if entry is None:
        return None
    try:
        return msgspec.json.decode(entry.data, type=kind)
    except msgspec.DecodeError:
        return None


async def write(
    bus: Bus,
    key: str,
    value: msgspec.Struct,
    revision: int | None = None,
    *,
    ttl_s: int | None = None,
) -> int:
    """Write a key and return its new revision.

    `revision`: only if the key is still at it (0: absent). `ttl_s`: it then ends by itself, without
    a marker. Raises: StaleRevisionError, BusError.
    """
    headers: dict[str, str] = {}
    if ttl_s is not None:
        headers["Nats-TTL"] = f"{ttl_s}s"
    if revision is not None:
        headers["Nats-Expected-Last-Subject-Sequence"] = str(revision)
    try:
        ack = await bus.store(subjects.state(key), msgspec.json.encode(value), headers or None)
    except ApiError as error:
        if error.stale:
            raise StaleRevisionError(key) from error
        raise
    return ack.seq
