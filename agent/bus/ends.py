"""The ends of chains, each handed to one gateway, and again until that gateway settles it.

A durable consumer on the terminal links: what it has handed out and not been told of comes back
after a kill, whoever dies. Pulled one at a time with no_wait, for the reasons in `agent.bus.lanes`.
Must not know what is done with an end.
"""

import asyncio
from typing import Final, Self

import structlog
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from agent.bus.connection import API_PREFIX, Bus, BusError, NoAnswer
from contracts import subjects, trace
from contracts.subjects import Identity
from contracts.trace import Trace

PULL_TIMEOUT_S: Final = 3.0
_PULL_ONE: Final = b'{"batch":1,"no_wait":true}'
_NOTHING: Final = "404"
_NS: Final = 1_000_000_000

log = structlog.get_logger()


class NoConsumerError(BusError):
    """The consumer is not there: nobody has provisioned it."""


class End:
    """One hand-over of a terminal link, or of the wish that it is told again."""

    def __init__(self, bus: Bus, msg: Msg) -> None:
        """Wrap a message that was pulled."""
        self._bus = bus
        self._reply = msg.reply
        self.subject: str = msg.subject
        self.data: bytes = msg.data
        self.who: Identity | None = subjects.parse_pair(msg.subject)
        self.trace: Trace | None = trace.read(msg.headers)

    async def ack(self) -> None:
        """Take it off the list for ever. Raises: NoAnswer."""
        await self._bus.publish(self._reply, b"+ACK")

    async def later(self, delay_s: float) -> None:
        """Have it handed out again, to any gateway, after this time. Raises: NoAnswer."""
        delay_ns = max(0, int(delay_s * _NS))
        await self._bus.publish(self._reply, b'-NAK {"delay":%d}' % delay_ns)


class Ends:
    """What one gateway pulls. Order: `async with`; one `next` at a time."""

    def __init__(self, bus: Bus) -> None:
        """Nothing is subscribed yet."""
        self._bus = bus
        self._inbox = bus.new_inbox()
        self._serial = 0
        self._waiting: asyncio.Future[Msg] | None = None
        self._subscription: Subscription | None = None

    async def __aenter__(self) -> Self:
        """Listen for what is pulled."""
        self._subscription = await self._bus.subscribe(f"{self._inbox}.*", self._on_pulled)
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Stop listening; what was not settled comes back to somebody."""
        if self._subscription is not None:
            await self._bus.unsubscribe(self._subscription)

    async def next(self) -> End | None:
        """Pull one end; None if there is none to be told now.

        Raises: NoConsumerError; NoAnswer while the bus is away.
        """
        if not self._bus.connected:
            raise NoAnswer("the bus is not connected")
        self._serial += 1
        self._waiting = asyncio.get_running_loop().create_future()
        subject = f"{API_PREFIX}.CONSUMER.MSG.NEXT.{subjects.STREAM_EVENTS}.{subjects.DURABLE_ENDS}"
        try:
            await self._bus.publish(subject, _PULL_ONE, reply=f"{self._inbox}.{self._serial}")
            async with asyncio.timeout(PULL_TIMEOUT_S):
                msg = await self._waiting
        except TimeoutError as error:
            raise NoAnswer(f"no answer to a pull within {PULL_TIMEOUT_S} s") from error
        finally:
            self._waiting = None
        status = (msg.headers or {}).get("Status")
        if status is None:
            return End(self._bus, msg)
        if status == _NOTHING:
            return None
        raise NoConsumerError(f"the consumer answers {status}; run `mmg provision`")

    async def _on_pulled(self, msg: Msg) -> None:
        """Match an answer to the waiting pull; an end that nobody waits for is handed back."""
        status = (msg.headers or {}).get("Status")
        waiting = self._waiting if self._waiting is not None and not self._waiting.done() else None
        if status is None:
            if waiting is None:
                log.info("ends.late", subject=msg.subject)
                await End(self._bus, msg).later(0)
                return
            waiting.set_result(msg)
        elif waiting is not None and msg.subject == f"{self._inbox}.{self._serial}":
            waiting.set_result(msg)
