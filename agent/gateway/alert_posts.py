"""Tells alerts to the one address that the operator chose: raised and cleared, signed as webhooks.

Of several gateways one tells each alert. It tries for a minute and then only logs: the alert itself
stays on the bus and in the ledger, and Prometheus shows it. It must not judge alerts.
"""

import asyncio
from collections.abc import Sequence
from typing import Final
from urllib.parse import urlsplit

import msgspec
import structlog
from nats.aio.msg import Msg

from agent.bus.connection import Bus
from agent.clock import Clock, SystemClock
from agent.core import webhook, webhook_url
from agent.gateway.posting import post
from agent.gateway.settings import HookSettings
from contracts import subjects
from contracts.events import Alert

PAUSES_S: Final = (0.0, 2.0, 10.0, 45.0)
"""Before each try; a receiver that is away for longer misses the alert."""
WAITING_MAX: Final = 256
GROUP: Final = "mmg-alert-posts"
_GOOD: Final = range(200, 300)

log = structlog.get_logger()


class AlertPosts:
    """What one gateway tells. Order: `run` for as long as the process lives."""

    def __init__(
        self,
        bus: Bus,
        hooks: HookSettings,
        *,
        clock: Clock | None = None,
        pauses_s: Sequence[float] = PAUSES_S,
    ) -> None:
        """Hear nothing yet; without an address in `hooks` nothing is ever told."""
        self._bus = bus
        self._url = hooks.alert_url
        self._secrets = tuple(webhook.read_secret(text) for text in hooks.secrets)
        self._allowed = hooks.allowed | ({_host(hooks.alert_url)} if hooks.alert_url else set())
        self._clock = clock or SystemClock()
        self._pauses_s = pauses_s
        self._waiting: asyncio.Queue[bytes] = asyncio.Queue(WAITING_MAX)

    async def run(self) -> None:
        """Tell one alert after the other, so that an end never overtakes its beginning."""
        url = self._url
        if url is None:
            return
        heard = await self._bus.subscribe(subjects.ALERT_ALL, self._hear, queue=GROUP)
        try:
            while True:
                await self._tell(url, await self._waiting.get())
        finally:
            await self._bus.unsubscribe(heard)

    async def _hear(self, msg: Msg) -> None:
        try:
            self._waiting.put_nowait(msg.data)
        except asyncio.QueueFull:
            log.warning("alert.not_told", subject=msg.subject, reason=f"{WAITING_MAX} wait")

    async def _tell(self, url: str, data: bytes) -> None:
        """Send one alert, again until it is taken or patience is over."""
        try:
            alert = msgspec.json.decode(data, type=Alert)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            log.warning("alert.unreadable", reason=str(error))
            return
        told = {"alert": alert.name, "state": alert.state}
        body = webhook.payload("alert", alert.at, data)
        name = f"alert-{alert.name}-{alert.state}-{alert.at.timestamp() * 1000:.0f}"
        reason = ""
        for pause_s in self._pauses_s:
            await asyncio.sleep(pause_s)
            headers = webhook.headers(name, self._clock.now(), body, self._secrets)
            answer = await post(url, body, headers, self._allowed)
            if answer.status in _GOOD:
                log.info("alert.told", **told)
                return
            reason = answer.reason or f"it answered {answer.status}"
        log.error("alert.not_told", reason=reason, **told)


def _host(url: str) -> str:
    """Return host and port of an address that an operator wrote: it may be anywhere."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    return (
        f"[{host}]:{webhook_url.port_of(parts)}"
        if ":" in host
        else (f"{host}:{webhook_url.port_of(parts)}")
    )
