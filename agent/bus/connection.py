"""The connection to nats-server: reconnects for ever, says what it cannot reach.

Every call has a time limit and ends in an answer, a refusal (`ApiError`) or `NoAnswer`; what no
answer means is for the caller to decide. Source: nats-py 2.16.0, nats-server 2.15.1.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, Self
from urllib.parse import SplitResult, urlsplit

import msgspec
import nats.errors
import structlog
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from agent.bus.errors import ApiError, BusError, NoAnswer, NoResponders

__all__ = ["ApiError", "Bus", "BusError", "NoAnswer", "NoResponders", "PubAck", "connect"]

CALL_TIMEOUT_S: Final = 5.0
BACKOFF_FIRST_S: Final = 0.25
BACKOFF_MAX_S: Final = 5.0
CONNECT_TIMEOUT_S: Final = 2.0
API_PREFIX: Final = "$JS.API"

log = structlog.get_logger()

Callback = Callable[[Msg], Awaitable[None]]


class _WireError(msgspec.Struct):
    code: int = 0
    err_code: int = 0
    description: str = ""


class _Envelope(msgspec.Struct):
    error: _WireError | None = None


class PubAck(msgspec.Struct):
    """The server's word that a message is stored, or that it was stored before."""

    stream: str
    seq: int
    duplicate: bool = False


_envelope: Final = msgspec.json.Decoder(_Envelope)
_pub_ack: Final = msgspec.json.Decoder(PubAck)


class Bus:
    """One connection of one process."""

    def __init__(self, nc: Client, name: str) -> None:
        """Wrap an open client; use `connect`."""
        self.nc = nc
        self.name = name
        self.permission_errors = 0
        self.on_reconnect: list[Callable[[], None]] = []

    async def __aenter__(self) -> Self:
        """Return the bus itself."""
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Close the connection."""
        await self.close()

    @property
    def connected(self) -> bool:
        """Whether the server is reachable right now."""
        return bool(self.nc.is_connected)

    @property
    def server_version(self) -> str:
        """The version the server told at connect."""
        version = self.nc.connected_server_version
        return f"{version.major}.{version.minor}.{version.patch}"

    async def request(
        self,
        subject: str,
        data: bytes = b"",
        headers: dict[str, str] | None = None,
        timeout_s: float = CALL_TIMEOUT_S,
    ) -> Msg:
        """Ask and wait for one answer.

        Raises: NoResponders if nobody listens, NoAnswer if none came within `timeout_s`.
        """
        before = _cancellations()
        try:
            answer = await self.nc.request(subject, data, timeout=timeout_s, headers=headers)
        except nats.errors.NoRespondersError as error:
            raise NoResponders(f"nobody answers on {subject}") from error
        except (TimeoutError, nats.errors.Error, OSError) as error:
            reason = type(error).__name__
            raise NoAnswer(f"no answer on {subject} within {timeout_s} s ({reason})") from error
        except asyncio.CancelledError as error:
            raise _unless_ours(error, f"the question on {subject} was dropped") from error
        if _cancellations() > before:
            # nats-py 2.16.0 waits with wait_for: Python 3.11 then loses a cancellation that comes
            # together with the answer, and the task would go on for ever.
            raise asyncio.CancelledError
        return answer

    async def api(self, verb: str, body: object = None, timeout_s: float = CALL_TIMEOUT_S) -> bytes:
        """Call the JetStream API, for instance `STREAM.INFO.X`; return the answer's bytes.

        Raises: ApiError on a refusal, NoAnswer or NoResponders without an answer.
        """
        payload = b"" if body is None else msgspec.json.encode(body)
        answer = await self.request(f"{API_PREFIX}.{verb}", payload, timeout_s=timeout_s)
        _raise_refusal(answer.data)
        return answer.data

    async def store(
        self,
        subject: str,
        data: bytes,
        headers: dict[str, str] | None = None,
        timeout_s: float = CALL_TIMEOUT_S,
    ) -> PubAck:
        """Publish into a stream and wait for the server's word that it is stored.

        Raises: ApiError on a definite refusal, NoResponders if no stream listens on the subject,
        NoAnswer if it is not known whether the message is stored.
        """
        answer = await self.request(subject, data, headers=headers, timeout_s=timeout_s)
        _raise_refusal(answer.data)
        try:
            return _pub_ack.decode(answer.data)
        except msgspec.DecodeError as error:
            raise NoAnswer(f"an answer on {subject} that is no PubAck") from error

    async def publish(
        self,
        subject: str,
        data: bytes = b"",
        headers: dict[str, str] | None = None,
        *,
        reply: str = "",
    ) -> None:
        """Publish without waiting for anybody; lost while disconnected for long.

        Raises: NoAnswer if not even the client's buffer could take it.
        """
        try:
            await self.nc.publish(subject, data, reply=reply, headers=headers)
        except (nats.errors.Error, OSError) as error:
            raise NoAnswer(f"cannot publish on {subject}: {error}") from error

    async def respond(self, msg: Msg, data: bytes, headers: dict[str, str] | None = None) -> None:
        """Answer a question, but only into an inbox; a refusal is logged, the asker is at fault.

        The asker chooses the reply subject: without this check it could make us publish a link of
        somebody else. `_R_.` is what the server makes of a reply that crosses accounts.
        """
        if not msg.reply.startswith(("_INBOX", "_R_.")):
            log.warning("bus.reply_refused", subject=msg.subject, reply=msg.reply[:100])
            return
        try:
            await self.publish(msg.reply, data, headers)
        except NoAnswer as error:
            log.warning("bus.reply_lost", subject=msg.subject, reason=str(error))

    async def subscribe(self, subject: str, callback: Callback, queue: str = "") -> Subscription:
        """Call `callback` for each message on `subject`, one after the other."""
        return await self.nc.subscribe(subject, queue=queue, cb=callback)

    async def unsubscribe(self, subscription: Subscription) -> None:
        """End a subscription; on a connection that is closed it has ended already."""
        if not self.nc.is_closed:
            await subscription.unsubscribe()

    def new_inbox(self) -> str:
        """Return a fresh subject for answers, under this process's own inbox prefix."""
        return self.nc.new_inbox()

    async def flush(self, timeout_s: float = CALL_TIMEOUT_S) -> None:
        """Wait until the server has everything published so far. Raises: NoAnswer."""
        before = _cancellations()
        try:
            await self.nc.flush(timeout=int(timeout_s) or 1)
        except (TimeoutError, nats.errors.Error, OSError) as error:
            raise NoAnswer(f"the server did not answer a flush: {error}") from error
        except asyncio.CancelledError as error:
            raise _unless_ours(error, "the flush was dropped") from error
        if _cancellations() > before:  # Lost like that of a request.
            raise asyncio.CancelledError

    async def close(self) -> None:
        """Flush what can be flushed and close; never raises."""
        if self.nc.is_connected:
            try:
                await self.flush(1.0)
            except NoAnswer as error:
                log.warning("bus.close_unflushed", reason=str(error))
        else:
            # nats-py 2.16.0 writes what it buffered to the dead socket, raises, and leaves its
            # subscription tasks running. Nobody waits for this data any more.
            self.nc._pending = []  # noqa: SLF001
            self.nc._pending_data_size = 0  # noqa: SLF001
        try:
            await self.nc.close()
        except (nats.errors.Error, OSError) as error:
            log.warning("bus.close_failed", reason=str(error))
        except asyncio.CancelledError as error:
            log.warning("bus.close_failed", reason=str(_unless_ours(error, "dropped")))


async def connect(
    urls: Sequence[str], name: str, *, role: str = "client", patience_s: float | None = None
) -> Bus:
    """Connect to the first server that answers, and stay connected.

    Waits for a server with backoff, saying which it cannot reach; `patience_s` ends the wait.
    Afterwards reconnects for ever. The inbox is named after `role`, so that permissions can.
    Raises: NoAnswer when `patience_s` is over.
    """
    loop = asyncio.get_running_loop()
    end_s = None if patience_s is None else loop.time() + patience_s
    pause_s = BACKOFF_FIRST_S
    while True:
        reason = await _reachable(urls)
        if reason is None:
            try:
                return await _log_in(urls, name, role)
            except NoAnswer as error:  # A port that is open and says nothing is no server yet.
                reason = str(error)
        if end_s is not None and loop.time() + pause_s > end_s:
            raise NoAnswer(f"cannot reach nats-server at {_places(urls)}: {reason}")
        log.warning(
            "bus.unreachable", servers=_places(urls), reason=reason, again_in_s=round(pause_s, 2)
        )
        await asyncio.sleep(pause_s * random.uniform(0.8, 1.2))  # noqa: S311 - jitter, no secret
        pause_s = min(pause_s * 2, BACKOFF_MAX_S)


async def _log_in(urls: Sequence[str], name: str, role: str) -> Bus:
    """Open one client. Raises: NoAnswer if no server takes it within 5 s."""
    nc = Client()
    bus = Bus(nc, name)
    trouble = _Trouble(bus, urls)
    options: dict[str, Any] = {
        "servers": list(urls),
        "name": name,
        "inbox_prefix": f"_INBOX_{role}".encode(),
        "max_reconnect_attempts": -1,
        "reconnect_time_wait": BACKOFF_FIRST_S,
        "ping_interval": 10,
        "max_outstanding_pings": 2,
        "connect_timeout": CONNECT_TIMEOUT_S,
        "error_cb": trouble.on_error,
        "disconnected_cb": trouble.on_lost,
        "reconnected_cb": trouble.on_back,
        "reconnect_to_server_handler": _backoff,
    }
    try:
        async with asyncio.timeout(CALL_TIMEOUT_S):
            await nc.connect(**options)
    except (TimeoutError, nats.errors.Error, OSError) as error:
        await bus.close()
        raise NoAnswer(f"cannot log in: {str(error) or type(error).__name__}") from error
    return bus


async def _reachable(urls: Sequence[str]) -> str | None:
    """Return None if a server's port accepts a connection, else why the first one does not."""
    reasons = [reason for url in urls if (reason := await _probe(url))]
    return None if len(reasons) < len(urls) else reasons[0]


async def _probe(url: str) -> str | None:
    """Return None if the server's port accepts a connection, else the reason why not."""
    parts = _split(url)
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            _, writer = await asyncio.open_connection(parts.hostname, parts.port or 4222)
    except TimeoutError:
        return f"no answer within {CONNECT_TIMEOUT_S} s"
    except OSError as error:
        return error.strerror or str(error)
    writer.close()
    return None


def _backoff(servers: Any, _server_info: Any) -> tuple[Any, float]:
    """Choose the server tried least and a pause that doubles with its failures, with jitter."""
    server = min(servers, key=lambda s: s.reconnects)
    if server.reconnects == 0:
        return server, 0.0
    pause_s = min(BACKOFF_FIRST_S * 2 ** (server.reconnects - 1), BACKOFF_MAX_S)
    return server, pause_s * random.uniform(0.8, 1.2)  # noqa: S311 - jitter, no secret


class _Trouble:
    """Turns the client's callbacks into log lines, counts and wake-ups."""

    def __init__(self, bus: Bus, urls: Sequence[str]) -> None:
        self._bus = bus
        self._urls = urls
        self._failures = 0
        self.refused = False

    async def on_error(self, error: Exception) -> None:
        self.refused = self.refused or "authorization violation" in str(error).lower()
        if "permissions violation" in str(error).lower():
            self._bus.permission_errors += 1
            log.error("bus.forbidden", reason=str(error), count=self._bus.permission_errors)
            return
        if isinstance(error, OSError | TimeoutError | nats.errors.Error) and not (
            self._bus.nc.is_connected
        ):
            self._failures += 1
            if self._failures & (self._failures - 1) == 0:  # Each power of two: no log storm.
                log.warning(
                    "bus.unreachable",
                    servers=_places(self._urls),
                    reason=str(error) or type(error).__name__,
                    failures=self._failures,
                )
            return
        log.warning("bus.error", reason=str(error) or type(error).__name__)

    async def on_lost(self) -> None:
        if not self._bus.nc.is_closed:
            log.warning("bus.lost", servers=_places(self._urls), action="reconnecting")

    async def on_back(self) -> None:
        self._failures = 0
        log.info("bus.back", servers=_places(self._urls))
        for wake in self._bus.on_reconnect:
            wake()


def _cancellations() -> int:
    """Return how often the current task was asked to end."""
    task = asyncio.current_task()
    return 0 if task is None else task.cancelling()


def _unless_ours(error: asyncio.CancelledError, reason: str) -> NoAnswer:
    """Return what it means that a future was cancelled, unless it was our task: then raise that.

    Let through, a future that nats-py drops with a connection would look like a stop.
    """
    task = asyncio.current_task()
    if task is None or task.cancelling() > 0:
        raise error
    return NoAnswer(reason)


def _split(url: str) -> SplitResult:
    return urlsplit(url if "//" in url else f"nats://{url}")


def _places(urls: Sequence[str]) -> str:
    """Name servers without user names or passwords."""
    parts = [_split(url) for url in urls]
    return ", ".join(f"{part.hostname}:{part.port or 4222}" for part in parts)


def _raise_refusal(data: bytes) -> None:
    try:
        error = _envelope.decode(data).error
    except msgspec.DecodeError:
        return
    if error is not None:
        raise ApiError(error.code, error.err_code, error.description)
