"""The events of one request as they come: subscribed, caught up on, in order.

It subscribes before anything else, asks for what it missed, and never publishes a request.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from typing import Final, Self

import msgspec
import nats.errors
import structlog
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from agent.bus.chain import read_chain
from agent.bus.connection import Bus, BusError, NoAnswer, NoResponders
from agent.bus.snapshot import DIRECT_GET_LAG_S, ask_snapshot
from agent.client.order import Event, Order
from contracts import codec, subjects
from contracts.events import Progress
from contracts.subjects import Identity

QUIET_FIRST_S: Final = 2.0
"""Silence after which the state of a request is asked for; it grows to `QUIET_MAX_S`."""
QUIET_MAX_S: Final = 10.0
ASK_TIMEOUT_S: Final = 1.0
MAILBOX_MAX: Final = 256
"""Messages kept between two reads; one more is dropped and read from the chain instead."""

log = structlog.get_logger()


class ChainReader:
    """Asks for what was missed: whoever answers snapshots, else the stream itself."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._may_read = True

    async def read(self, who: Identity) -> tuple[list[bytes], Progress | None]:
        """Return the links known so far and the last progress. Raises: BusError."""
        try:
            snapshot = await ask_snapshot(self._bus, who, ASK_TIMEOUT_S)
        except (NoAnswer, msgspec.DecodeError):
            return await self._read_directly(who), None
        if snapshot is None:
            return [], None
        return [bytes(link) for link in snapshot.chain], snapshot.progress

    async def _read_directly(self, who: Identity) -> list[bytes]:
        if not (self._may_read and self._bus.may_read):
            raise NoResponders("nobody answers snapshots, and reading the stream is forbidden")
        refused_before = self._bus.permission_errors
        try:
            async with asyncio.timeout(ASK_TIMEOUT_S):
                links = await read_chain(self._bus, who)
        except TimeoutError as error:
            self._may_read = self._bus.permission_errors == refused_before
            raise NoAnswer(f"no history of {who} within {ASK_TIMEOUT_S} s") from error
        return [link.data for link in links]


class Events:
    """The events of one request, in order and each once. Made by `Client.follow`."""

    def __init__(self, bus: Bus, reader: ChainReader, who: Identity, after: int) -> None:
        """Nothing is subscribed before the context is entered."""
        self._bus = bus
        self._reader = reader
        self._who = who
        self._order = Order(after)
        self._ready: deque[Event] = deque()
        self._mail: asyncio.Queue[Callable[[], list[Event]]] = asyncio.Queue(MAILBOX_MAX)
        self._subscriptions: list[Subscription] = []
        self._behind = True
        self._quiet_s = QUIET_FIRST_S

    async def __aenter__(self) -> Self:
        """Subscribe. What is published on this connection afterwards is answered to us."""
        event, progress = subjects.event_filter(self._who), subjects.progress(self._who)
        self._subscriptions.append(await self._bus.subscribe(event, self._on_link))
        self._subscriptions.append(await self._bus.subscribe(progress, self._on_progress))
        self._bus.on_reconnect.append(self._on_reconnect)
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Unsubscribe; the request goes on."""
        self._bus.on_reconnect.remove(self._on_reconnect)
        for subscription in self._subscriptions:
            with contextlib.suppress(nats.errors.Error, OSError):
                await subscription.unsubscribe()

    def __aiter__(self) -> Self:
        """Return the events themselves."""
        return self

    async def __anext__(self) -> Event:
        """Return the next event; ends after the terminal link."""
        while not self._ready:
            if self._order.ended:
                raise StopAsyncIteration
            if self._behind:
                await self._catch_up()
            else:
                await self._wait()
        return self._ready.popleft()

    async def _catch_up(self) -> None:
        """Read what was missed; a stream that lags behind is read again a little later."""
        self._behind = False
        if not self._bus.connected:
            return  # The reconnect comes with a wake-up of its own.
        try:
            links, progress = await self._reader.read(self._who)
        except BusError as error:
            log.info("client.not_caught_up", request=str(self._who), reason=str(error))
            return
        self._ready += self._order.read(links)
        if progress is not None:
            self._ready += self._order.progressed(progress)
        if self._order.gap:
            self._quiet_s = DIRECT_GET_LAG_S

    async def _wait(self) -> None:
        """Take one message; none for long means to ask."""
        try:
            async with asyncio.timeout(self._quiet_s):
                take = await self._mail.get()
        except TimeoutError:
            self._quiet_s = min(self._quiet_s * 1.5, QUIET_MAX_S)
            self._behind = True
            return
        self._quiet_s = QUIET_FIRST_S
        self._ready += take()
        self._behind = self._behind or self._order.gap

    async def _on_link(self, msg: Msg) -> None:
        self._put(lambda: self._order.heard(msg.data))

    async def _on_progress(self, msg: Msg) -> None:
        try:
            progress = codec.decode_progress(msg.data)
        except msgspec.DecodeError as error:
            log.info("client.progress_skipped", request=str(self._who), reason=str(error))
            return
        self._put(lambda: self._order.progressed(progress))

    def _on_reconnect(self) -> None:
        self._behind = True
        self._put(list)

    def _put(self, take: Callable[[], list[Event]]) -> None:
        try:
            self._mail.put_nowait(take)
        except asyncio.QueueFull:
            self._behind = True
