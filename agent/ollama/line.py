"""The line to Ollama: sends a call, reads a bounded answer, says in words what went wrong.

It follows no redirect, takes no proxy from the environment and sends no POST twice (aiohttp
3.14.5 repeats a GET that was reset, once). It must not know what a model is.
"""

from typing import Any, Final

import aiohttp
import msgspec

from agent.tenants import TenantError

CONNECT_S: Final = 2.0
ANSWER_BYTES_MAX: Final = 1024 * 1024
ERROR_LENGTH_MAX: Final = 200
_CHUNK: Final = 64 * 1024
_OK: Final = 200


class RefusedError(TenantError):
    """Ollama answered with an error; `status` and its own words."""

    def __init__(self, status: int, words: str) -> None:
        """Keep the status apart from the words."""
        super().__init__(f"Ollama answered HTTP {status}: {words}")
        self.status = status
        self.words = words


class _Refusal(msgspec.Struct, frozen=True):
    error: str = ""


class Line:
    """One server's address. Order: `open` first, `close` last."""

    def __init__(self, url: str) -> None:
        """Nothing is opened before `open`."""
        self.url = url.rstrip("/")
        self._session: aiohttp.ClientSession | None = None

    async def open(self) -> None:
        """Make the session; no connection yet.

        Each call has its own connection: on one that is kept, a server that restarted would look
        like one that is away.
        """
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(force_close=True),
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
        )

    async def close(self) -> None:
        """Close all connections; calls under way end with an error."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def get(self, path: str, timeout_s: float) -> bytes:
        """Ask something. Raises: TenantError, RefusedError."""
        return await self._ask("GET", path, None, timeout_s)

    async def post(self, path: str, body: dict[str, Any], timeout_s: float) -> bytes:
        """Ask for something to be done. Raises: TenantError, RefusedError."""
        return await self._ask("POST", path, body, timeout_s)

    async def _ask(
        self, method: str, path: str, body: dict[str, Any] | None, timeout_s: float
    ) -> bytes:
        if self._session is None:
            raise TenantError("Ollama is not connected: the worker is stopping")
        payload = msgspec.json.encode(body) if body is not None else None
        headers = {"Content-Type": "application/json"} if payload is not None else {}
        try:
            async with self._session.request(
                method,
                f"{self.url}{path}",
                data=payload,
                headers=headers,
                timeout=aiohttp.ClientTimeout(total=timeout_s, sock_connect=CONNECT_S),
                allow_redirects=False,
            ) as answer:
                text = await _bounded(answer)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise TenantError(f"Ollama at {self.url}: {_how(error, timeout_s)}") from error
        if answer.status != _OK:
            raise RefusedError(answer.status, _words(text))
        return text


async def _bounded(answer: aiohttp.ClientResponse) -> bytes:
    body = bytearray()
    async for chunk in answer.content.iter_chunked(_CHUNK):
        body += chunk
        if len(body) > ANSWER_BYTES_MAX:
            raise aiohttp.ClientPayloadError("the answer is too large")
    return bytes(body)


def _words(text: bytes) -> str:
    """Return what an error says: Ollama's own `{"error": ...}`, or what a proxy wrote."""
    try:
        words = msgspec.json.decode(text, type=_Refusal).error
    except msgspec.DecodeError:
        words = text.decode(errors="replace")
    return " ".join(words.split())[:ERROR_LENGTH_MAX] or "no reason given"


def _how(error: Exception, timeout_s: float) -> str:
    """Say in a few words how a call failed."""
    if isinstance(error, TimeoutError):
        return f"no answer within {timeout_s:.0f} s"
    if isinstance(error, aiohttp.ClientConnectorError):
        return f"no connection ({error.os_error.strerror or type(error.os_error).__name__})"
    if isinstance(error, aiohttp.ClientPayloadError):
        return f"the answer broke off ({error})"
    return f"connection broken ({type(error).__name__})"
