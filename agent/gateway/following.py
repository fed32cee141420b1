"""One follower of one request: the chain first, then live, each link once and in order.

It sends what `send` takes and returns how the story ended. Must not know WebSockets.
"""

import asyncio
import zlib
from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple, Protocol

import msgspec
import structlog

from agent.bus.chain import StoredLink, read_chain
from agent.bus.connection import Bus, BusError
from agent.bus.snapshot import DIRECT_GET_LAG_S
from agent.gateway.lookup import last_progress
from agent.gateway.relay import Feed
from contracts import codec
from contracts.events import TERMINAL_KINDS, LinkHead
from contracts.subjects import Identity

LOOK_AGAIN_S: Final = 1.0
"""Pause before the chain is asked for again when nobody answered."""
SAFETY_LOOK_S: Final = 30.0
"""A live message may be lost without a gap behind it, for instance the last one: so the chain is
read now and then even when nothing is heard."""

PLACE_EVERY_S: Final = 1.0
HANDED_BACK: Final = ("released", "preempted")

log = structlog.get_logger()

Send = Callable[[bytes], Awaitable[None]]


class Places(Protocol):
    """Who knows where requests wait."""

    def place(self, who: Identity) -> int | None:
        """Return the place of a request, None where it does not wait. Asked often: it is quick."""

    def frame(self, who: Identity, place: int) -> bytes:
        """Return what tells a follower its place."""


class Sending(NamedTuple):
    """How a follower reaches its client. `binary` None: it wants no previews."""

    text: Send
    binary: Send | None = None
    places: Places | None = None


class Follower:
    """Reads history, takes live links, and knows what is the next one."""

    def __init__(self, bus: Bus, who: Identity, feed: Feed, after: int, sending: "Sending") -> None:
        """Skip what the client has: links up to `after`."""
        self._bus = bus
        self._who = who
        self._feed = feed
        self._after = after
        self._send = sending.text
        self._sending = sending
        self._place: int | None = None
        self._place_at_s = float("-inf")
        self._known = 0
        self._kind = ""
        self._look_at_s = 0.0
        self._joined = False
        self._progress_id = ""
        self.sent = 0

    @property
    def ended(self) -> bool:
        """Whether the terminal link was reached."""
        return self._kind in TERMINAL_KINDS

    async def run(self) -> None:
        """Send until the terminal link is sent. Ended from outside by a cancellation.

        1. Something may have been missed -> read the chain, and once more a little later: a
        direct get may lag. 2. It is time to look -> read the chain. 3. Something came live -> send
        it. 4. Otherwise wait.
        """
        loop = asyncio.get_running_loop()
        while not self.ended:
            if self._feed.missed:
                await self._catch_up(DIRECT_GET_LAG_S)  # 1
            elif loop.time() >= self._look_at_s:
                await self._catch_up(SAFETY_LOOK_S)  # 2
            elif not (
                await self._take_link()
                or await self._take_progress()
                or await self._take_preview()
                or await self._tell_place()
            ):  # 3
                await self._feed.wait(min(self._look_at_s - loop.time(), self._place_due_s()))  # 4

    async def _take_link(self) -> bool:
        """Send the oldest live link; a gap before it makes the next look read the chain."""
        taken = self._feed.take_link()
        if taken is None:
            return False
        head, data = taken
        if head.n > self._known + 1:
            self._feed.missed = True
        elif head.n == self._known + 1:
            await self._show(head, data)
        return True

    async def _take_progress(self) -> bool:
        """Send the newest progress if it belongs to the link before and that began an attempt."""
        found = self._feed.take_progress(self._known)
        if found is None:
            return False
        progress, data = found
        if self._kind == "started" and progress.id != self._progress_id:
            self._progress_id = progress.id
            await self._send(data)
        return True

    async def _take_preview(self) -> bool:
        """Send the newest preview, where the client wants them and a picture is being drawn."""
        data = self._feed.take_preview()
        if data is None:
            return False
        if self._kind == "started" and self._sending.binary is not None:
            await self._sending.binary(data)
        return True

    async def _tell_place(self) -> bool:
        """Say where the request waits, when that has changed, at most once a second."""
        places, now_s = self._sending.places, asyncio.get_running_loop().time()
        if places is None or not self._waits or now_s < self._place_at_s + PLACE_EVERY_S:
            return False
        # Followers that came together would else look together for ever.
        early_s = 0.0 if self._place is not None else self._own_share() * PLACE_EVERY_S
        self._place_at_s = now_s - early_s
        place = places.place(self._who)
        if place is None or place == self._place:
            return False
        self._place = place
        await self._send(places.frame(self._who, place))
        return True

    def _own_share(self) -> float:
        """Return a number from 0 to 1 that is another one for each request."""
        return zlib.crc32(str(self._who).encode()) / 2**32

    def _place_due_s(self) -> float:
        """Return after how long the place should be looked at again. Units: seconds."""
        if not self._waits or self._sending.places is None:
            return SAFETY_LOOK_S
        return max(0.0, self._place_at_s + PLACE_EVERY_S - asyncio.get_running_loop().time())

    @property
    def _waits(self) -> bool:
        return self._joined and self._kind in ("", *HANDED_BACK)

    async def _show(self, head: LinkHead, data: bytes) -> None:
        self._known, self._kind = head.n, head.kind
        if head.n > self._after:
            await self._send(data)
            self.sent += 1

    async def _catch_up(self, look_again_s: float) -> None:
        """Read the chain and send what is new; links missing in it are missing for ever.

        While nobody answers it is asked again each second, or when the connection is back.
        """
        links = await self._read()
        for link in links:
            try:
                head = codec.decode_head(link.data)
            except msgspec.DecodeError as error:
                log.warning("relay.unreadable", subject=link.subject, reason=str(error))
                continue
            if head.n > self._known and not self.ended:
                await self._show(head, link.data)
        self._look_at_s = asyncio.get_running_loop().time() + look_again_s
        if not self._joined:
            self._joined = True
            await self._show_last_progress()

    async def _read(self) -> list[StoredLink]:
        while True:
            self._feed.missed = False
            try:
                return await read_chain(self._bus, self._who)
            except BusError as error:
                log.info("relay.history_awaited", request=str(self._who), reason=str(error))
            await self._feed.wait(LOOK_AGAIN_S)

    async def _show_last_progress(self) -> None:
        """Give a late joiner the progress that was told last, unless a newer one was heard."""
        if self._kind != "started" or self._feed.has_progress:
            return
        try:
            found = await last_progress(self._bus, self._who)
        except BusError as error:
            log.info("relay.progress_unknown", request=str(self._who), reason=str(error))
            return
        if found is not None and not self._feed.has_progress:
            self._feed.offer_progress(*found)
