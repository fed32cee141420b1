"""What clients of the operators' stream have not been sent, and its bytes, made once for all.

Most keep up: they are written to straight. One whose connection is full keeps what it misses, in
order, and of progress and previews the newest; too much of that ends it.
"""

import asyncio
import struct
from collections import deque
from collections.abc import Callable
from typing import Final, Literal

from aiohttp import WSMsgType

from agent.gateway.relay import TOO_SLOW
from contracts.subjects import Identity

FRAMES_MAX: Final = 4096
BYTES_MAX: Final = 8 * 1024 * 1024
"""What one client may have ahead of it; one more and it is too slow."""

What = Literal["progress", "preview"]
Straight = Callable[[bytes], bool]
"""Writes whole frames at once; False: the connection is full, and nothing was written."""


class Kept:
    """Frames in order, and of progress and previews the newest of each request."""

    def __init__(self) -> None:
        """Begin empty."""
        self.size = 0
        self.newest: dict[tuple[What, Identity], bytes] = {}
        self.frames: deque[tuple[bytes, Identity | None]] = deque()

    def __bool__(self) -> bool:
        """Whether anything is kept."""
        return bool(self.frames or self.newest)

    def add(self, frame: bytes, who: Identity | None = None) -> None:
        """Keep a frame; as a link of `who` it is newer than the progress kept so far."""
        self.frames.append((frame, who))
        self.size += len(frame)
        if who is not None:
            self.newest.pop(("progress", who), None)

    def renew(self, what: What, who: Identity, frame: bytes) -> None:
        """Keep a frame in place of the one before of this kind.

        Their number is bounded by what runs at once; a flood of them is cut.
        """
        self.newest[what, who] = frame
        if len(self.newest) > FRAMES_MAX:
            del self.newest[next(iter(self.newest))]

    def take(self) -> tuple[str, bytes]:
        """Take what is to be sent next: frames in order come before what is only newest."""
        if self.frames:
            frame, _ = self.frames.popleft()
            self.size -= len(frame)
            return "text", frame
        key = next(iter(self.newest))
        return key[0], self.newest.pop(key)


class Tap:
    """One client. `straight` is set once it has its first frame and may be written to."""

    def __init__(self, *, previews: bool) -> None:
        """Begin with nothing kept."""
        self.previews = previews
        self.straight: Straight | None = None
        self.end_code: int | None = None
        self.on_end: Callable[[], None] | None = None
        self._kept = Kept()
        self._changed = asyncio.Event()

    def offer(self, heard: Kept, made: bytes) -> None:
        """Write `made`, the bytes of `heard`; keep it if that cannot be, or end who is too slow."""
        if self.end_code is not None:
            return
        if self.straight is not None and not self._kept and (not made or self.straight(made)):
            return
        for frame, who in heard.frames:
            self._kept.add(frame, who)
        for (what, who), frame in heard.newest.items():
            if what != "preview" or self.previews:
                self._kept.renew(what, who, frame)
        if len(self._kept.frames) > FRAMES_MAX or self._kept.size > BYTES_MAX:
            self.end(TOO_SLOW)
        self._changed.set()

    def end(self, code: int) -> None:
        """End the stream and interrupt a sender that is stuck."""
        if self.end_code is not None:
            return
        self.end_code = code
        self._kept = Kept()
        self._changed.set()
        if self.on_end is not None:
            self.on_end()

    async def take(self) -> tuple[str, bytes]:
        """Wait for what was kept. Order: it is written before anything else is awaited."""
        while not self._kept:
            self._changed.clear()
            await self._changed.wait()
        return self._kept.take()


def frames(heard: Kept, *, previews: bool) -> bytes:
    """Return what was heard as WebSocket frames, for any number of clients."""
    made = [_frame(WSMsgType.TEXT, data) for data, _ in heard.frames]
    for (what, _), data in heard.newest.items():
        if what == "progress":
            made.append(_frame(WSMsgType.TEXT, data))
        elif previews:
            made.append(_frame(WSMsgType.BINARY, data))
    return b"".join(made)


def _frame(kind: WSMsgType, data: bytes) -> bytes:
    """Return one whole frame of a server, neither masked nor compressed. Source: RFC 6455, 5.2."""
    first, size = 0x80 | kind, len(data)
    if size < 126:  # noqa: PLR2004 - the RFC's own number
        return struct.pack("!BB", first, size) + data
    if size < 1 << 16:
        return struct.pack("!BBH", first, 126, size) + data
    return struct.pack("!BBQ", first, 127, size) + data
