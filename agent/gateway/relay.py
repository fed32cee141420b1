"""The relay: what the bus says live, handed to whoever follows that request in this process.

One subscription for all links, one for progress, one for doorbells, however many followers there
are. It never waits for a follower: a feed that is full is ended. It must not read history; the
follower does, after it has its feed.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Final, Literal

import msgspec
import nats.errors
import structlog
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from agent.bus.connection import Bus
from contracts import codec, subjects
from contracts.events import LinkHead, Progress
from contracts.requests import Priority
from contracts.subjects import Identity

FEED_LINKS_MAX: Final = 256
FEED_BYTES_MAX: Final = 4 * 1024 * 1024
"""Links kept for one follower that is busy; one more and it is too slow."""

TOO_SLOW: Final = 1013
GOING_AWAY: Final = 1001

log = structlog.get_logger()


class Heard(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that the bus said. A stored request has its lane and sequence, the others bytes.

    `lost`: the connection is back, and something may have been said meanwhile.
    """

    what: Literal["stored", "link", "progress", "preview", "alert", "lost"]
    who: Identity | None = None
    priority: Priority | None = None
    seq: int = 0
    stored_at: datetime | None = None
    data: bytes = b""


class Feed:
    """What one follower has not taken yet: links in the order heard, and the newest progress.

    `end_code` is set once nothing more comes: the follower was too slow, or the gateway stops.
    """

    def __init__(self, *, wants_previews: bool = False) -> None:
        """Begin empty; `missed` asks the follower to read the chain first."""
        self.wants_previews = wants_previews
        self.missed = True
        self.end_code: int | None = None
        self.on_end: Callable[[], None] | None = None
        self._links: deque[tuple[LinkHead, bytes]] = deque()
        self._links_bytes = 0
        self._progress: tuple[Progress, bytes] | None = None
        self._preview: bytes | None = None
        self._changed = asyncio.Event()

    @property
    def has_progress(self) -> bool:
        """Whether progress waits to be taken."""
        return self._progress is not None

    def offer(self, head: LinkHead, data: bytes) -> None:
        """Keep a link for the follower, or end the feed of one that is too slow."""
        if self.end_code is not None:
            return
        self._links.append((head, data))
        self._links_bytes += len(data)
        if len(self._links) > FEED_LINKS_MAX or self._links_bytes > FEED_BYTES_MAX:
            self.end(TOO_SLOW)
        self._changed.set()

    def offer_progress(self, progress: Progress, data: bytes) -> None:
        """Keep progress in place of what was kept before: only the newest is worth anything."""
        if self.end_code is None:
            self._progress = (progress, data)
            self._changed.set()

    def offer_preview(self, data: bytes) -> None:
        """Keep a preview in place of what was kept before, where somebody wants them."""
        if self.end_code is None and self.wants_previews:
            self._preview = data
            self._changed.set()

    def take_preview(self) -> bytes | None:
        """Take the newest preview."""
        found, self._preview = self._preview, None
        return found

    def reread(self) -> None:
        """Say that links may have been missed."""
        self.missed = True
        self._changed.set()

    def end(self, code: int) -> None:
        """End the feed and interrupt a follower that is stuck in sending."""
        if self.end_code is not None:
            return
        self.end_code = code
        self._links.clear()
        self._progress, self._preview = None, None
        self._changed.set()
        if self.on_end is not None:
            self.on_end()

    async def wait(self, timeout_s: float) -> None:
        """Wait until something came, at most `timeout_s`."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._changed.wait()
        except TimeoutError:
            return
        finally:
            self._changed.clear()

    def take_link(self) -> tuple[LinkHead, bytes] | None:
        """Take the oldest link."""
        if not self._links:
            return None
        head, data = self._links.popleft()
        self._links_bytes -= len(data)
        return head, data

    def take_progress(self, n: int) -> tuple[Progress, bytes] | None:
        """Take the progress of link `n`; that of a later link waits for it, older is dropped."""
        if self._progress is None or self._progress[0].n > n:
            return None
        found, self._progress = self._progress, None
        return found if found[0].n == n else None


async def unsubscribe(subscription: Subscription) -> None:
    """End a subscription; one whose connection has ended is at its end already."""
    with contextlib.suppress(nats.errors.Error, OSError):
        await subscription.unsubscribe()


class Relay:
    """The subscriptions of one gateway and the feeds of its followers."""

    def __init__(self, bus: Bus) -> None:
        """Nothing is subscribed before `start`."""
        self._bus = bus
        self._feeds: dict[Identity, set[Feed]] = {}
        self._bells: dict[str, set[asyncio.Event]] = {}
        self._subscriptions: list[Subscription] = []
        self._ears: list[Callable[[Heard], None]] = []
        self.stopping = False

    def hear(self, ear: Callable[[Heard], None]) -> None:
        """Tell `ear` of everything that is heard. It must not wait."""
        self._ears.append(ear)

    def _tell(self, heard: Heard) -> None:
        for ear in self._ears:
            ear(heard)

    async def start(self) -> None:
        """Subscribe. Raises: BusError."""
        for subject, callback in (
            (subjects.EVENTS_ALL, self._on_link),
            (subjects.PROGRESS_ALL, self._on_progress),
            (subjects.QUEUED_ALL, self._on_queued),
            (subjects.PREVIEW_ALL, self._on_preview),
            (subjects.ALERT_ALL, self._on_alert),
        ):
            self._subscriptions.append(await self._bus.subscribe(subject, callback))
        self._bus.on_reconnect.append(self._on_reconnect)

    async def stop(self) -> None:
        """End all feeds and release who waits for a request; then unsubscribe."""
        self.stopping = True
        for feeds in list(self._feeds.values()):
            for feed in list(feeds):
                feed.end(GOING_AWAY)
        for request_id in list(self._bells):
            self._ring(request_id)
        if self._on_reconnect in self._bus.on_reconnect:
            self._bus.on_reconnect.remove(self._on_reconnect)
        subscriptions, self._subscriptions = self._subscriptions, []
        for subscription in subscriptions:
            await unsubscribe(subscription)

    @contextlib.contextmanager
    def follow(self, who: Identity, *, previews: bool = False) -> Iterator[Feed]:
        """Give a feed of one request. Order: before its history is read."""
        feed = Feed(wants_previews=previews)
        self._feeds.setdefault(who, set()).add(feed)
        if self.stopping:
            feed.end(GOING_AWAY)
        try:
            yield feed
        finally:
            self._feeds[who].discard(feed)
            if not self._feeds[who]:
                del self._feeds[who]

    @contextlib.contextmanager
    def listen(self, request_id: str) -> Iterator[asyncio.Event]:
        """Give a bell that rings when a request of this id is stored, by whomever."""
        bell = asyncio.Event()
        self._bells.setdefault(request_id, set()).add(bell)
        try:
            yield bell
        finally:
            self._bells[request_id].discard(bell)
            if not self._bells[request_id]:
                del self._bells[request_id]

    def _ring(self, request_id: str) -> None:
        for bell in self._bells.get(request_id, ()):
            bell.set()

    async def _on_link(self, msg: Msg) -> None:
        who = subjects.parse_pair(msg.subject)
        if who is None:
            return
        self._ring(who.request_id)
        self._tell(Heard(what="link", who=who, data=msg.data))
        feeds = self._feeds.get(who)
        if not feeds:
            return
        try:
            head = codec.decode_head(msg.data)
        except msgspec.DecodeError as error:
            log.warning("relay.unreadable", subject=msg.subject, reason=str(error))
            return
        for feed in list(feeds):
            feed.offer(head, msg.data)

    async def _on_progress(self, msg: Msg) -> None:
        who = subjects.parse_pair(msg.subject)
        if who is None:
            return
        self._tell(Heard(what="progress", who=who, data=msg.data))
        feeds = self._feeds.get(who)
        if not feeds:
            return
        try:
            progress = codec.decode_progress(msg.data)
        except msgspec.DecodeError as error:
            log.warning("relay.unreadable", subject=msg.subject, reason=str(error))
            return
        for feed in list(feeds):
            feed.offer_progress(progress, msg.data)

    async def _on_preview(self, msg: Msg) -> None:
        who = subjects.parse_pair(msg.subject)
        if who is None:
            return
        self._tell(Heard(what="preview", who=who, data=msg.data))
        for feed in list(self._feeds.get(who, ())):
            feed.offer_preview(msg.data)

    async def _on_alert(self, msg: Msg) -> None:
        self._tell(Heard(what="alert", data=msg.data))

    async def _on_queued(self, msg: Msg) -> None:
        who = subjects.parse_queued(msg.subject)
        if who is None:
            return
        self._ring(who.request_id)
        heard = _stored(who, msg)
        if heard is not None:
            self._tell(heard)

    def _on_reconnect(self) -> None:
        """Links may have been stored while nothing was heard."""
        self._tell(Heard(what="lost"))
        for feeds in self._feeds.values():
            for feed in feeds:
                feed.reread()


def _stored(who: Identity, msg: Msg) -> Heard | None:
    """Read a bell that the server rang; one that a worker rang for what it gave back has nothing.

    Source: nats-server 2.15.1: a republished message has these headers.
    """
    headers = msg.headers or {}
    lane = msg.subject.split(".")[2]
    try:
        return Heard(
            what="stored",
            who=who,
            priority=Priority(lane.upper()),
            seq=int(headers["Nats-Sequence"]),
            stored_at=msgspec.convert(headers["Nats-Time-Stamp"], datetime),
        )
    except (KeyError, ValueError):
        return None
