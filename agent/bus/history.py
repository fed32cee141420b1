"""What a stream keeps on some subjects, oldest first, read in batches by direct get.

No consumer and nothing left behind on the server; on a replicated stream it may lag behind the
leader. It must not know what the messages mean. Source: ADR-31; nats-server 2.15.1 also ends a
batch early by its size in bytes, and then says how many messages are left.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Mapping, Sequence
from datetime import datetime
from typing import Final

import msgspec
from nats.aio.msg import Msg

from agent.bus.connection import API_PREFIX, ApiError, Bus, NoAnswer, NoResponders

BATCH: Final = 1000
ANSWER_S: Final = 5.0


class StoredMessage(msgspec.Struct, frozen=True, kw_only=True):
    """One message as the stream keeps it; `headers` hold what the server added, too."""

    seq: int
    subject: str
    data: bytes
    stored_at: datetime
    headers: Mapping[str, str] = msgspec.field(default_factory=dict)


async def read(
    bus: Bus, stream: str, wanted: str, limit: int, first: int = 1
) -> list[StoredMessage]:
    """Return the first `limit` messages on the subjects `wanted` from sequence `first` on.

    Raises: NoResponders without such a stream, NoAnswer, ApiError.
    """
    found: list[StoredMessage] = []
    size = min(limit, BATCH)
    async with contextlib.aclosing(batches(bus, stream, wanted, size, first)) as reading:
        async for batch in reading:
            found += batch
            if len(found) >= limit:
                break
    return found[:limit]


async def read_last(bus: Bus, stream: str, wanted: Sequence[str]) -> list[StoredMessage]:
    """Return the last message on each subject that one of `wanted` fits; at most 1024 of them.

    Raises: as `read`. Source: ADR-31, `multi_last`.
    """
    if not wanted:
        return []
    found, _ = await _ask(bus, stream, {"multi_last": list(wanted)})
    return found


async def batches(
    bus: Bus, stream: str, wanted: str, size: int = BATCH, first: int = 1
) -> AsyncGenerator[list[StoredMessage], None]:
    """Yield all messages on the subjects `wanted` from sequence `first` on, some at a time.

    Raises: as `read`.
    """
    seq, left = first, 1
    while left:
        query = {"seq": seq, "batch": size, "next_by_subj": wanted}
        batch, left = await _ask(bus, stream, query)
        if not batch:
            return
        yield batch
        seq = batch[-1].seq + 1


async def _ask(bus: Bus, stream: str, query: dict[str, object]) -> tuple[list[StoredMessage], int]:
    """Return one batch and how many messages are left behind it."""
    inbox = bus.new_inbox()
    done: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    batch: list[StoredMessage] = []

    async def collect(msg: Msg) -> None:
        headers = msg.headers or {}
        status = headers.get("Status")
        if done.done():
            return
        if status in ("204", "404"):
            done.set_result(int(headers.get("Nats-Num-Pending", "0")))
        elif status is not None:
            done.set_exception(_refusal(stream, status, headers.get("Description", "")))
        else:
            batch.append(_stored(msg, headers))

    subscription = await bus.subscribe(inbox, collect)
    try:
        subject = f"{API_PREFIX}.DIRECT.GET.{stream}"
        await bus.publish(subject, msgspec.json.encode(query), reply=inbox)
        async with asyncio.timeout(ANSWER_S):
            left = await done
    except TimeoutError as error:
        raise NoAnswer(f"no history from {stream} within {ANSWER_S} s") from error
    finally:
        await bus.unsubscribe(subscription)
    return batch, left


def _stored(msg: Msg, headers: dict[str, str]) -> StoredMessage:
    return StoredMessage(
        seq=int(headers["Nats-Sequence"]),
        subject=headers["Nats-Subject"],
        data=msg.data,
        stored_at=msgspec.convert(headers["Nats-Time-Stamp"], datetime),
        headers=headers,
    )


def _refusal(stream: str, status: str, description: str) -> ApiError | NoResponders:
    if status == "503":
        return NoResponders(f"no stream {stream}; run `mmg provision`")
    return ApiError(int(status), 0, description)
