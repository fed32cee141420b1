"""Copies streams into files while they are in use, and makes them again on an empty server.

The server packs a stream as it is at one instant, consumers and sequences included; the bytes are
its own and nothing here looks into them. It must not decide which streams are worth keeping.
Source: ADR-8 and nats-server 2.15.1, `STREAM.SNAPSHOT` and `STREAM.RESTORE`.
"""

import asyncio
from pathlib import Path
from typing import BinaryIO, Final

import msgspec
import structlog
from nats.aio.msg import Msg

from agent.bus.connection import ApiError, Bus, BusError, NoAnswer

CHUNK_BYTES: Final = 128 * 1024
SILENCE_S: Final = 15.0
"""How long the next piece may take: the server checks a whole stream before the first one."""
PIECES_MAX: Final = 64
_DONE: Final = ("", "204")

log = structlog.get_logger()


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """What belongs to a packed stream: how it is configured, and how far it was."""

    config: msgspec.Raw
    state: msgspec.Raw


class _Answer(msgspec.Struct):
    config: msgspec.Raw
    state: msgspec.Raw


class _Accepted(msgspec.Struct):
    deliver_subject: str


class _Count(msgspec.Struct):
    messages: int = 0


async def save(bus: Bus, stream: str, folder: Path) -> int:
    """Write `<stream>.json` and `<stream>.packed`; return how many messages are in them.

    Raises: BusError, OSError. A file that is there is overwritten only at the end.
    """
    pieces: asyncio.Queue[Msg] = asyncio.Queue(PIECES_MAX)
    inbox = bus.new_inbox()
    heard = await bus.subscribe(inbox, pieces.put)
    packed = folder / f"{stream}.packed"
    partial = packed.with_suffix(".partial")
    try:
        body = {"deliver_subject": inbox, "chunk_size": CHUNK_BYTES, "jsck": True}
        answer = await bus.api(f"STREAM.SNAPSHOT.{stream}", body, timeout_s=SILENCE_S)
        told = msgspec.json.decode(answer, type=_Answer)
        with await asyncio.to_thread(partial.open, "wb") as out:
            await _receive(bus, stream, pieces, out)
    finally:
        await bus.unsubscribe(heard)
    kept = msgspec.json.encode(Kept(config=told.config, state=told.state))
    await asyncio.to_thread((folder / f"{stream}.json").write_bytes, kept)
    await asyncio.to_thread(partial.replace, packed)
    return msgspec.json.decode(told.state, type=_Count).messages


async def _receive(bus: Bus, stream: str, pieces: asyncio.Queue[Msg], out: BinaryIO) -> None:
    """Write pieces until the server says that there are no more. Raises: BusError, OSError."""
    while True:
        try:
            async with asyncio.timeout(SILENCE_S):
                piece = await pieces.get()
        except TimeoutError as error:
            raise NoAnswer(f"no more of {stream} within {SILENCE_S:.0f} s") from error
        if not piece.data:
            status = (piece.headers or {}).get("Status", "")
            if status not in _DONE:
                words = (piece.headers or {}).get("Description", "the copy broke off")
                raise BusError(f"{stream}: {words} ({status})")
            return
        await asyncio.to_thread(out.write, piece.data)
        if piece.reply:  # The server goes on sending only when it hears that pieces arrive.
            await bus.publish(piece.reply)


async def restore(bus: Bus, stream: str, folder: Path) -> int:
    """Make a stream from its two files; return how many messages it has.

    Raises: BusError, also where the stream is there already; OSError, msgspec.DecodeError.
    """
    text = await asyncio.to_thread((folder / f"{stream}.json").read_bytes)
    kept = msgspec.json.decode(text, type=Kept)
    answer = await bus.api(f"STREAM.RESTORE.{stream}", kept)
    where = msgspec.json.decode(answer, type=_Accepted).deliver_subject
    with await asyncio.to_thread((folder / f"{stream}.packed").open, "rb") as packed:
        while piece := await asyncio.to_thread(packed.read, CHUNK_BYTES):
            await _send(bus, where, piece)
        done = await _send(bus, where, b"")
    found = msgspec.json.decode(done, type=_Answer)
    return msgspec.json.decode(found.state, type=_Count).messages


async def _send(bus: Bus, where: str, piece: bytes) -> bytes:
    """Send one piece and wait until the server has it. Raises: BusError."""
    data = (await bus.request(where, piece, timeout_s=SILENCE_S)).data
    if data:
        refusal = msgspec.json.decode(data, type=_Refusal).error
        if refusal is not None:
            raise ApiError(refusal.code, refusal.err_code, refusal.description)
    return data


class _Words(msgspec.Struct):
    code: int = 0
    err_code: int = 0
    description: str = ""


class _Refusal(msgspec.Struct):
    error: _Words | None = None
