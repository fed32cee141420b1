"""Lanes: one request at a time, the most urgent first, and what wakes a worker.

Pulls with no_wait and one message, never long-polls, never abandons a pull: a message that
answers late is handed back. Source: nats-server 2.15.1, measured: four parallel long-polls
deliver two requests at once, a cancelled one swallows the next message of its lane.
"""

import asyncio
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Final

import msgspec
import structlog
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from agent.bus.connection import API_PREFIX, ApiError, Bus, NoAnswer
from contracts import codec, subjects, trace
from contracts.requests import Priority
from contracts.subjects import Identity
from contracts.trace import Trace

PULL_TIMEOUT_S: Final = 3.0
SAFETY_SWEEP_S: Final = 1.0
LOOK_AGAIN_S: Final = (0.010, 0.050)
"""A bell may be heard before its message can be pulled: 1 % on one replica, 30 % on three."""

LEFT_MAX: Final = 10_000
"""Bells that are left to others at a time; further ones count at once."""

log = structlog.get_logger()

_PULL_ONE: Final = b'{"batch":1,"no_wait":true}'


class Delivery:
    """One hand-over of a stored request; whoever writes the chain's head may settle it."""

    def __init__(self, bus: Bus, msg: Msg) -> None:
        """Wrap a message pulled from a lane."""
        self._bus = bus
        self._reply = msg.reply
        self.subject: str = msg.subject
        self.data: bytes = msg.data
        self.headers: dict[str, str] = dict(msg.headers or {})
        metadata = msg.metadata
        self.seq: int = metadata.sequence.stream
        self.num_delivered: int = metadata.num_delivered
        self.stored_at: datetime = metadata.timestamp

    async def ack(self) -> None:
        """Take the request out of its lane for ever."""
        await self._bus.publish(self._reply, b"+ACK")

    async def nak(self) -> None:
        """Give the request back: it is delivered again at once and keeps its place."""
        await self._bus.publish(self._reply, b"-NAK")

    async def term(self, reason: str) -> None:
        """Take the request out of its lane; `reason` shows in the server's advisory."""
        await self._bus.publish(self._reply, b"+TERM " + reason.encode()[:200])

    async def in_progress(self) -> None:
        """Say that the work goes on: the server waits another ack_wait."""
        await self._bus.publish(self._reply, b"+WPI")


class Lanes:
    """The lanes as one worker sees them. One `next` at a time."""

    def __init__(self, bus: Bus, patience_s: Callable[[], float] = lambda: 0.0) -> None:
        """Nothing is subscribed before `open`.

        `patience_s` says for each bell how long it is left to others before it counts here.
        """
        self._bus = bus
        self._patience_s = patience_s
        self._left: dict[Identity, asyncio.TimerHandle] = {}
        self._inbox = bus.new_inbox()
        self._serial = 0
        self._waiting: tuple[str, asyncio.Future[Msg]] | None = None
        self._subscriptions: list[Subscription] = []
        self._rung = asyncio.Event()
        self._expected = 0

    async def open(self) -> None:
        """Listen for pulled messages and for everything that may bring work."""
        self._subscriptions.append(await self._bus.subscribe(f"{self._inbox}.*", self._on_pulled))
        self._subscriptions.append(await self._bus.subscribe(subjects.QUEUED_ALL, self._on_bell))
        for subject in subjects.EVENT_HANDED_BACK:
            self._subscriptions.append(await self._bus.subscribe(subject, self._on_handed_back))
        self._bus.on_reconnect.append(self.wake)
        await self._bus.flush()

    async def close(self) -> None:
        """Stop listening; messages not yet handed out come back after ack_wait."""
        for subscription in self._subscriptions:
            await self._bus.unsubscribe(subscription)
        self._subscriptions.clear()
        if self.wake in self._bus.on_reconnect:
            self._bus.on_reconnect.remove(self.wake)
        for who in tuple(self._left):
            self.taken(who)

    def taken(self, who: Identity | None) -> None:
        """Forget a bell that is still left to others: one of them has the request."""
        timer = None if who is None else self._left.pop(who, None)
        if timer is not None:
            timer.cancel()

    def wake(self) -> None:
        """Make a running `wait` return, because something else than a bell changed."""
        self._rung.set()

    async def wait(self, timeout_s: float | None = None) -> None:
        """Wait for a bell, a `wake`, or the next safety sweep; `timeout_s`: at most so long.

        No safety sweep while a bell is left to others: it would take what they are asking for.
        """
        pause_s = SAFETY_SWEEP_S if timeout_s is None else timeout_s
        while not await self._is_rung(pause_s):
            if timeout_s is not None or not self._left:
                return

    async def _is_rung(self, timeout_s: float) -> bool:
        try:
            async with asyncio.timeout(timeout_s):
                await self._rung.wait()
        except TimeoutError:
            return False
        else:
            return True
        finally:
            self._rung.clear()

    async def next(self, order: Sequence[Priority] = subjects.LANES) -> Delivery | None:
        """Pull the first request found in `order`; None if every lane is empty.

        After a bell that finds nothing it looks again twice, because a bell can be early.
        """
        delivery = await self._sweep(order)
        for pause_s in LOOK_AGAIN_S:
            if delivery is not None or self._expected == 0:
                break
            await self.wait(pause_s)  # A further bell ends the pause.
            delivery = await self._sweep(order)
        self._expected = 0 if delivery is None else max(0, self._expected - 1)
        return delivery

    async def _sweep(self, order: Sequence[Priority]) -> Delivery | None:
        for priority in order:
            if not self._bus.connected:
                return None  # A pull would be buffered and answered after anybody waits for it.
            msg = await self._pull(priority)
            if msg is not None:
                return Delivery(self._bus, msg)
        return None

    async def _pull(self, priority: Priority) -> Msg | None:
        """Ask one lane for one message; None if it has none or the server does not answer."""
        self._serial += 1
        inbox = f"{self._inbox}.{self._serial}"
        future: asyncio.Future[Msg] = asyncio.get_running_loop().create_future()
        self._waiting = (priority.lane, future)
        subject = f"{API_PREFIX}.CONSUMER.MSG.NEXT.{subjects.STREAM_REQUESTS}"
        try:
            await self._bus.publish(
                f"{subject}.{subjects.durable(priority)}", _PULL_ONE, reply=inbox
            )
            async with asyncio.timeout(PULL_TIMEOUT_S):
                msg = await future
        except (TimeoutError, NoAnswer):
            log.warning("lanes.no_answer", lane=priority.lane, waited_s=PULL_TIMEOUT_S)
            return None
        finally:
            self._waiting = None
        status = (msg.headers or {}).get("Status")
        if status is None:
            return msg
        if status != "404":
            log.warning("lanes.refused", lane=priority.lane, status=status)
        return None

    async def _on_pulled(self, msg: Msg) -> None:
        """Match an answer to the waiting pull; hand a message nobody waits for back."""
        status = (msg.headers or {}).get("Status")
        if status is not None:
            mine = msg.subject == f"{self._inbox}.{self._serial}"
            if mine and self._waiting is not None and not self._waiting[1].done():
                self._waiting[1].set_result(msg)
            return
        lane = msg.subject.split(".")[2]
        if self._waiting is not None and self._waiting[0] == lane and not self._waiting[1].done():
            self._waiting[1].set_result(msg)
            return
        log.info("lanes.late", subject=msg.subject)
        await Delivery(self._bus, msg).nak()

    async def _on_bell(self, msg: Msg) -> None:
        self._leave(subjects.parse_queued(msg.subject))

    async def _on_handed_back(self, msg: Msg) -> None:
        self._leave(subjects.parse_pair(msg.subject))

    def _leave(self, who: Identity | None) -> None:
        """Leave a bell to others for a moment, if that is wished."""
        pause_s = self._patience_s()
        if pause_s <= 0 or who is None or len(self._left) >= LEFT_MAX:
            self._ring(who)
        elif who not in self._left:
            loop = asyncio.get_running_loop()
            self._left[who] = loop.call_later(pause_s, self._ring, who)

    def _ring(self, who: Identity | None) -> None:
        if who is not None:
            self._left.pop(who, None)
        self._expected += 1
        self._rung.set()


class _ConsumerConfig(msgspec.Struct):
    ack_wait: int


class _Consumer(msgspec.Struct):
    config: _ConsumerConfig


class _StoredMessage(msgspec.Struct):
    seq: int
    subject: str
    data: bytes = b""
    hdrs: bytes = b""
    time: datetime | None = None


class _StoredAnswer(msgspec.Struct):
    message: _StoredMessage


class Waiting(msgspec.Struct, frozen=True, kw_only=True):
    """A request that lies in a lane."""

    seq: int
    subject: str
    data: bytes
    stored_at: datetime | None
    trace: Trace | None


async def ack_wait_s(bus: Bus) -> float:
    """Read from the consumer how long the server waits for a sign of life. Raises: BusError."""
    durable = subjects.durable(Priority.CRITICAL)
    data = await bus.api(f"CONSUMER.INFO.{subjects.STREAM_REQUESTS}.{durable}")
    return msgspec.json.decode(data, type=_Consumer).config.ack_wait / 1e9


async def find_waiting(bus: Bus, who: Identity) -> Waiting | None:
    """Read the request of this identity from whatever lane it lies in. Raises: BusError."""
    return await _stored(bus, {"last_by_subj": subjects.request_any_lane(who)})


async def read_waiting(bus: Bus, seq: int) -> Waiting | None:
    """Read the stored request `seq`; None once it is settled. Raises: BusError."""
    return await _stored(bus, {"seq": seq})


async def remove(bus: Bus, seq: int) -> None:
    """Take a request out that the server no longer hands out to anybody. Raises: BusError."""
    await bus.api(f"STREAM.MSG.DELETE.{subjects.STREAM_REQUESTS}", {"seq": seq})


async def in_lane(bus: Bus, seq: int) -> bool:
    """Tell whether the stored request `seq` has not been settled yet. Raises: BusError."""
    return await _stored(bus, {"seq": seq}) is not None


async def ring(bus: Bus, priority: Priority, who: Identity) -> None:
    """Ring the doorbell of a request that was handed back. Raises: NoAnswer."""
    await bus.publish(subjects.queued(priority, who))


async def _stored(bus: Bus, query: dict[str, object]) -> Waiting | None:
    try:
        data = await bus.api(f"STREAM.MSG.GET.{subjects.STREAM_REQUESTS}", query)
    except ApiError as error:
        if error.not_found:
            return None
        raise
    message = msgspec.json.decode(data, type=_StoredAnswer).message
    return Waiting(
        seq=message.seq,
        subject=message.subject,
        data=message.data,
        stored_at=message.time,
        trace=trace.read(codec.decode_headers(message.hdrs)),
    )
