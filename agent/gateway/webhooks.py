"""Tells each requester that wants it, at its own address, how its request has ended.

At least once: a receiver knows a repetition by its `webhook-id`. The server keeps what is to be
told, so a gateway may be killed at any point and another one goes on. No job ever waits for it.
"""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from typing import Final
from urllib.parse import urlsplit

import msgspec
import nats.errors
import structlog
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from agent.bus import chain, facts, hooks, state
from agent.bus.connection import Bus, BusError
from agent.bus.ends import End, Ends
from agent.clock import Clock, SystemClock
from agent.core import webhook
from agent.core.webhook import Hook
from agent.gateway.hook_door import HookDoor
from agent.gateway.keys import KeyFileError
from agent.gateway.posting import TRY_S, post
from agent.gateway.settings import GatewaySettings
from contracts import subjects, trace
from contracts.events import TERMINAL_KINDS, AssetFact
from contracts.subjects import Identity

TRIES_AT_ONCE: Final = 16
TRIES_OF_A_HOST: Final = 4
"""A receiver that takes its time does not keep all others waiting."""
HOST_BUSY_S: Final = 1.0
LOOK_S: Final = 2.0
"""A bell may be lost, and the next try of what has failed rings none."""
PAUSE_S: Final = 5.0
LEFT_S: Final = 600.0
"""How long an end stays with the server before it is looked at again, though it is not due."""

log = structlog.get_logger()


class _Told(msgspec.Struct):
    """What of a terminal link stands around it when it is sent."""

    id: str
    kind: str
    at: datetime


class Webhooks:
    """What one gateway does for webhooks. Order: `run` for as long as the process lives."""

    def __init__(
        self,
        bus: Bus,
        settings: GatewaySettings,
        *,
        clock: Clock | None = None,
        left_s: float = LEFT_S,
        limit_s: float = TRY_S,
    ) -> None:
        """Touch nothing yet. Units: `left_s` as LEFT_S, `limit_s` for one try."""
        self._bus = bus
        self._allowed = settings.hooks.allowed
        self._door = HookDoor(bus, settings)
        self._clock = clock or SystemClock()
        self._left_s = left_s
        self._limit_s = limit_s
        self._bell = asyncio.Event()
        self._free = asyncio.Semaphore(TRIES_AT_ONCE)
        self._hosts: Counter[str] = Counter()
        self._away = False
        self.counts: Counter[str] = Counter()
        """How tries of this gateway ended, by the state of the webhook after them."""

    async def run(self) -> None:
        """Tell for ever; a bus that is away is waited for."""
        async with asyncio.TaskGroup() as group:
            while True:
                try:
                    async with Ends(self._bus) as ends, self._listening():
                        await self._take(ends, group)
                except (BusError, nats.errors.Error, OSError) as error:
                    if not self._away:
                        log.warning("webhook.waits", reason=str(error))
                    self._away = True
                    await asyncio.sleep(PAUSE_S)

    async def _take(self, ends: Ends, group: asyncio.TaskGroup) -> None:
        """Pull and tell for ever. Raises: BusError, NoConsumerError."""
        while True:
            self._bell.clear()
            await self._free.acquire()
            end = None
            try:
                end = await ends.next()
            finally:
                if end is None:
                    self._free.release()
            self._away = False
            if end is None:
                await self._wait()
                continue
            group.create_task(self._settle(end), name=f"webhook {end.who}")

    async def _settle(self, end: End) -> None:
        """Do with one end what is to be done; what cannot be settled now comes back by itself."""
        try:
            await self._tell(end)
        except (BusError, KeyFileError) as error:
            log.warning("webhook.unsettled", request=str(end.who), reason=str(error))
        except state.StaleRevisionError:
            with suppress(BusError):
                await end.later(HOST_BUSY_S)  # Another gateway was handed the same end.
        finally:
            self._free.release()

    async def _tell(self, end: End) -> None:
        """Settle one end.

        1. A request without a webhook, or one that is settled: nothing to tell. 2. Not due, or its
        receiver is busy with others: later. 3. Otherwise one try, whose outcome is written down
        before the server is told: a crash in between repeats the try at worst.

        Raises: BusError, StaleRevisionError, KeyFileError.
        """
        found = None if end.who is None else await hooks.read(self._bus, end.who)
        if end.who is None or found is None:
            await end.ack()  # 1
            return
        hook, revision = self._as_asked(end, found[0]), found[1]
        if hook.state != "waiting":
            await end.ack()  # 1
            return
        now = self._clock.now()
        host = urlsplit(hook.url).netloc
        if not webhook.is_due(hook, now) or self._hosts[host] >= TRIES_OF_A_HOST:
            await end.later(max(self._pause_s(hook, now), 0.0) or HOST_BUSY_S)  # 2
            return
        self._hosts[host] += 1
        try:
            answer = await self._try(end, end.who, hook)
        finally:
            self._hosts[host] -= 1
        if answer is None:
            await end.ack()  # 1
            return
        after = webhook.after(hook, answer, self._clock.now(), random.random())  # noqa: S311
        await hooks.write(self._bus, end.who, after, revision)
        self.counts[after.state] += 1
        _log(end.who, after)
        if after.state == "waiting":
            await end.later(self._pause_s(after, self._clock.now()))
        else:
            await end.ack()

    def _as_asked(self, end: End, hook: Hook) -> Hook:
        """Return the hook as it stands, or begun anew where a person asked for that since."""
        if not end.subject.endswith(facts.WEBHOOK_RETRIED) or hook.state == "delivered":
            return hook
        try:
            asked_at = msgspec.json.decode(end.data, type=AssetFact).at
        except msgspec.DecodeError:
            return hook
        return webhook.again(hook, asked_at) if asked_at > hook.at else hook

    async def _try(self, end: End, who: Identity, hook: Hook) -> webhook.Answer | None:
        """Send once; None where no terminal link is left to be told. Raises: BusError."""
        data, of = end.data, end.trace
        if end.subject.endswith(facts.WEBHOOK_RETRIED):
            links = await chain.read_chain(self._bus, who)
            data, of = (links[-1].data, links[-1].trace) if links else (b"", None)
        try:
            head = msgspec.json.decode(data, type=_Told)
        except msgspec.DecodeError as error:
            log.warning("webhook.no_end", request=str(who), reason=str(error))
            return None
        if head.kind not in TERMINAL_KINDS:
            return None
        secrets = await self._door.secrets_of(who.requester)
        if not secrets:
            reason = f"no secret signs for {who.requester}: set MMG_WEBHOOK_SECRET, or add a key"
            return webhook.Answer(reason=reason, never=True)
        body = webhook.payload(head.kind, head.at, data)
        headers = webhook.headers(head.id, self._clock.now(), body, secrets) | trace.headers(of)
        return await post(hook.url, body, headers, self._allowed, self._limit_s)

    def _pause_s(self, hook: Hook, now: datetime) -> float:
        due_in_s = 0.0 if hook.due_at is None else (hook.due_at - now).total_seconds()
        return min(due_in_s, self._left_s)

    async def _wait(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(min(LOOK_S, self._left_s)):
                await self._bell.wait()

    @asynccontextmanager
    async def _listening(self) -> AsyncIterator[None]:
        """Let each end of a chain, and a connection that is back, ring the bell."""

        async def ring(_: Msg) -> None:
            self._bell.set()

        subscriptions: list[Subscription] = []
        self._bus.on_reconnect.append(self._bell.set)
        try:
            subscriptions += [await self._bus.subscribe(one, ring) for one in subjects.EVENT_ENDS]
            yield
        finally:
            self._bus.on_reconnect.remove(self._bell.set)
            for subscription in subscriptions:
                with suppress(nats.errors.Error, OSError):
                    await self._bus.unsubscribe(subscription)


def _log(who: Identity, hook: Hook) -> None:
    """Write one line about a try; the address itself is not for the log: it may hold a token."""
    told = {"request": str(who), "host": urlsplit(hook.url).netloc, "tries": hook.tries}
    match hook.state:
        case "delivered":
            log.info("webhook.delivered", **told)
        case "waiting":
            due_at = None if hook.due_at is None else hook.due_at.isoformat()
            log.warning("webhook.failed", reason=hook.reason, again_at=due_at, **told)
        case "undeliverable":
            log.error("webhook.undeliverable", reason=hook.reason, **told)
