"""The line to a provider: sends a call once and knows whether it left.

It never sends anything twice, follows no redirect, takes no proxy from the environment and says no
word of the key. Source: aiohttp 3.14.5.
"""

from collections.abc import Callable
from http import HTTPStatus
from types import SimpleNamespace
from typing import Any, Final

import aiohttp
import msgspec

from agent.engines.cloud.faults import CloudAwayFault, UnknownOutcomeFault
from agent.engines.cloud.provider import Answer, Call

CONNECT_TIMEOUT_S: Final = 10.0
PROBE_TIMEOUT_S: Final = 5.0
BODY_BYTES_MAX: Final = 256 * 1024 * 1024
_CHUNK: Final = 64 * 1024
_BROKEN: Final = (aiohttp.ClientError, TimeoutError, OSError)

IN_DOUBT: Final[frozenset[int]] = frozenset(
    {
        HTTPStatus.REQUEST_TIMEOUT,
        HTTPStatus.BAD_GATEWAY,
        HTTPStatus.GATEWAY_TIMEOUT,
        *range(520, 528),
    }
)
"""Answers of something in front of the provider, which may be at work all the same."""


class Line:
    """One provider's address and key. Order: `open` first, `close` last."""

    def __init__(self, title: str, url: str, key: str, timeout_s: float) -> None:
        """Nothing is opened before `open`."""
        self._title = title
        self._url = url.rstrip("/")
        self._headers = {"Authorization": f"Bearer {key}", "Accept": "application/json"}
        self._timeout_s = timeout_s
        self._session: aiohttp.ClientSession | None = None

    def __repr__(self) -> str:
        """Show the address only."""
        return f"Line({self._url!r})"

    async def open(self) -> None:
        """Make the session; no connection yet.

        Each call has its own connection: on one that is kept, the end of the peer could not be
        told from the end of a call that was paid for.
        """
        trace = aiohttp.TraceConfig()
        trace.on_connection_create_end.append(_connected)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(force_close=True, limit=32),
            trust_env=False,
            trace_configs=[trace],
        )

    async def close(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def post(self, call: Call, on_sent: Callable[[], None]) -> Answer:
        """Send a paid call, once; `on_sent` is called when it may have arrived.

        Raises: CloudAwayFault if it did not leave, UnknownOutcomeFault if it may have arrived and
        its end is not known.
        """
        sent = False

        def note() -> None:
            nonlocal sent
            sent = True
            on_sent()

        limit = aiohttp.ClientTimeout(total=self._timeout_s, sock_connect=CONNECT_TIMEOUT_S)
        try:
            answer = await self._ask("POST", call.path, limit, note, _payload(call))
        except _BROKEN as error:
            how = _how(error)
            if not sent:
                raise CloudAwayFault(f"{self._title} cannot be reached: {how}") from error
            raise UnknownOutcomeFault(
                f"{self._title} was asked and the answer is lost: {how}; it is not asked again",
                spent_usd=call.usd,
            ) from error
        if answer.status in IN_DOUBT:
            raise UnknownOutcomeFault(
                f"{self._title} was asked and answered HTTP {answer.status}, which leaves open"
                " whether it drew; it is not asked again",
                spent_usd=call.usd,
            )
        return answer

    async def get(self, path: str) -> Answer:
        """Ask something that costs nothing. Raises: CloudAwayFault."""
        limit = aiohttp.ClientTimeout(total=PROBE_TIMEOUT_S)
        try:
            return await self._ask("GET", path, limit, lambda: None, {})
        except _BROKEN as error:
            raise CloudAwayFault(f"{self._title} cannot be reached: {_how(error)}") from error

    async def _ask(
        self,
        method: str,
        path: str,
        limit: aiohttp.ClientTimeout,
        on_sent: Callable[[], None],
        payload: dict[str, Any],
    ) -> Answer:
        """Ask once and read the whole answer."""
        assert self._session is not None, "the line was opened"
        async with self._session.request(
            method,
            f"{self._url}{path}",
            headers=self._headers | payload.pop("headers", {}),
            timeout=limit,
            allow_redirects=False,
            trace_request_ctx=on_sent,
            **payload,
        ) as answer:
            body = bytearray()
            async for chunk in answer.content.iter_chunked(_CHUNK):
                body += chunk
                if len(body) > BODY_BYTES_MAX:
                    raise aiohttp.ClientPayloadError("the answer is too large")
            headers = {name.lower(): value for name, value in answer.headers.items()}
            return Answer(status=answer.status, headers=headers, body=bytes(body))


async def _connected(
    _session: aiohttp.ClientSession,
    context: SimpleNamespace,
    _params: aiohttp.TraceConnectionCreateEndParams,
) -> None:
    """Note that the peer is there: from here on a call may arrive."""
    context.trace_request_ctx()


def _payload(call: Call) -> dict[str, Any]:
    """Return the body of a call; a form without files is not multipart unless told to be."""
    if call.form is not None:
        form = aiohttp.FormData(default_to_multipart=True)
        for name, value in call.form:
            form.add_field(name, value)
        return {"data": form}
    return {
        "data": msgspec.json.encode(call.body),
        "headers": {"Content-Type": "application/json"},
    }


def _how(error: Exception) -> str:
    """Say in a few words how a connection failed, without address or header."""
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, aiohttp.ClientConnectorError):
        return f"no connection ({error.os_error.strerror or type(error.os_error).__name__})"
    return f"connection broken ({type(error).__name__})"
