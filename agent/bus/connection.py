"""The connection to nats-server: reconnects for ever, says what it cannot reach.

Every call has a time limit and ends in an answer, a refusal (`ApiError`) or `NoAnswer`; what no
answer means is for the caller to decide. Source: nats-py 2.16.0, nats-server 2.15.1.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, Self

import msgspec
import nats.errors
import structlog
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from agent.bus.errors import ApiError, BusError, NoAnswer, NoResponders, raise_refusal
from agent.bus.login import (
    CLIENT,
    NOBODY,
    Login,
    LoginError,
    ProvenClient,
    client_for,
    may_read_streams,
    refusal,
)
from agent.bus.places import (
    BACKOFF_FIRST_S,
    BACKOFF_MAX_S,
    CONNECT_TIMEOUT_S,
    backoff,
    places,
    reachable,
)

__all__ = ["ApiError", "Bus", "BusError", "NoAnswer", "NoResponders", "PubAck", "connect"]

CALL_TIMEOUT_S: Final = 5.0
API_PREFIX: Final = "$JS.API"
REFUSALS_MAX: Final = 5
"""In a row, over some 4 s: a key that is being rotated is good again by then."""
SERVER_CERTIFICATE: Final = "server.pem"
WHO_AM_I: Final = "$SYS.REQ.USER.INFO"

log = structlog.get_logger()

Callback = Callable[[Msg], Awaitable[None]]


class PubAck(msgspec.Struct):
    """The server's word that a message is stored, or that it was stored before."""

    stream: str
    seq: int
    duplicate: bool = False


_pub_ack: Final = msgspec.json.Decoder(PubAck)


class Bus:
    """One connection of one process."""

    def __init__(self, nc: ProvenClient, name: str) -> None:
        """Wrap an open client; use `connect`."""
        self.nc = nc
        self.name = name
        self.permission_errors = 0
        self.may_read = True
        self.closing = False
        self.cut_off = asyncio.Event()
        self.appends_refused = 0
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

    async def stay(self) -> None:
        """Wait until the server throws us out for good, as it does when a key is taken away.

        Raises: LoginError then; nats-py 2.16.0 never comes back from that by itself.
        """
        await self.cut_off.wait()
        raise LoginError("the server has cut us off: the key of this process is good no more")

    def certificates(self) -> dict[str, float]:
        """Return when the server's certificate ends, in seconds since 1970; none without TLS."""
        ends_s = self.nc.certificate_ends_s
        return {} if ends_s is None else {SERVER_CERTIFICATE: ends_s}

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
        raise_refusal(answer.data)
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
        raise_refusal(answer.data)
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
        self.closing = True
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
    urls: Sequence[str],
    name: str,
    *,
    role: str = CLIENT,
    patience_s: float | None = None,
    login: Login = NOBODY,
) -> Bus:
    """Connect to the first server that answers, and stay connected.

    Waits for a server with backoff, saying which it cannot reach; `patience_s` ends the wait.
    Afterwards reconnects for ever. The inbox is named after `role`, so that permissions can.
    Raises: NoAnswer when `patience_s` is over; LoginError if a key cannot be used.
    """
    client_for(login, role)  # What cannot be read is said before anybody waits for a server.
    loop = asyncio.get_running_loop()
    end_s = None if patience_s is None else loop.time() + patience_s
    pause_s = BACKOFF_FIRST_S
    while True:
        reason = await reachable(urls)
        if reason is None:
            try:
                return await _log_in(urls, name, role, login)
            except NoAnswer as error:  # A port that is open and says nothing is no server yet.
                reason = str(error)
        if end_s is not None and loop.time() + pause_s > end_s:
            raise NoAnswer(f"cannot reach nats-server at {places(urls)}: {reason}")
        log.warning(
            "bus.unreachable", servers=places(urls), reason=reason, again_in_s=round(pause_s, 2)
        )
        await asyncio.sleep(pause_s * random.uniform(0.8, 1.2))  # noqa: S311 - jitter, no secret
        pause_s = min(pause_s * 2, BACKOFF_MAX_S)


async def _log_in(urls: Sequence[str], name: str, role: str, login: Login) -> Bus:
    """Open one client. Raises: NoAnswer if no server takes it within 5 s; LoginError."""
    nc, secured = client_for(login, role)
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
        "closed_cb": trouble.on_closed,
        "reconnected_cb": trouble.on_back,
        "reconnect_to_server_handler": backoff,
    }
    try:
        async with asyncio.timeout(CALL_TIMEOUT_S) as trouble.limit:
            await nc.connect(**options, **secured)
    except (TimeoutError, nats.errors.Error, OSError) as error:
        await bus.close()
        reason = trouble.refusal or str(error) or type(error).__name__
        raise NoAnswer(f"cannot log in: {reason}") from error
    trouble.limit = None
    if login.named:
        bus.may_read = await _may_read(bus)
    return bus


async def _may_read(bus: Bus) -> bool:
    """Ask what this key may do: an agent may not read the streams, and never tries to."""
    try:
        return may_read_streams((await bus.request(WHO_AM_I, timeout_s=CONNECT_TIMEOUT_S)).data)
    except NoAnswer as error:
        log.warning("bus.rights_unknown", reason=str(error))
        return True


class _Trouble:
    """Turns the client's callbacks into log lines, counts and wake-ups."""

    def __init__(self, bus: Bus, urls: Sequence[str]) -> None:
        self._bus = bus
        self._urls = urls
        self._failures = 0
        self._refusals = 0
        self.refusal = ""
        self.limit: asyncio.Timeout | None = None

    async def on_error(self, error: Exception) -> None:
        self.refusal = refusal(error)
        if self.refusal and self.limit is not None and not self.limit.expired():
            self.limit.reschedule(0.0)  # It would be refused again: whoever waits decides.
            return
        if self.refusal and self.limit is None:
            self._refusals += 1
            if self._refusals >= REFUSALS_MAX:
                self._bus.cut_off.set()
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
                    servers=places(self._urls),
                    reason=self.refusal or str(error) or type(error).__name__,
                    failures=self._failures,
                )
            return
        log.warning("bus.error", reason=str(error) or type(error).__name__)

    async def on_lost(self) -> None:
        if not self._bus.nc.is_closed:
            log.warning("bus.lost", servers=places(self._urls), action="reconnecting")

    async def on_closed(self) -> None:
        if not self._bus.closing:
            reason = str(self._bus.nc.last_error)
            log.error("bus.cut_off", servers=places(self._urls), reason=reason)
            self._bus.cut_off.set()

    async def on_back(self) -> None:
        self._failures = self._refusals = 0
        log.info("bus.back", servers=places(self._urls))
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
