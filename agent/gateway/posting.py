"""One signed POST to an address that somebody else chose.

What only this machine can reach is not reached through it: each address is judged when its socket
is made, so a name that changes in between gains nothing. Source: aiohttp 3.14.5, tried: a resolver
of our own is not asked for addresses written as numbers, `socket_factory` sees them all.
"""

import asyncio
import socket
import ssl
from collections.abc import Collection, Mapping
from typing import Final

import aiohttp
from aiohttp.abc import AbstractCookieJar
from aiohttp.connector import AddrInfoType

from agent.core import webhook_url
from agent.core.webhook import Answer

TRY_S: Final = 15.0
HEADER_BYTES_MAX: Final = 8192
JSON: Final = "application/json"
AGENT: Final = "mmg-webhooks"


class ForbiddenAddressError(OSError):
    """A name leads to an address that must not be connected to."""


async def post(
    url: str,
    body: bytes,
    headers: Mapping[str, str],
    allowed: Collection[str],
    limit_s: float = TRY_S,
) -> Answer:
    """Send `body` once, and say what came back; never raises for what the receiver does.

    No redirect is followed, no proxy and no cookie is used, and nothing but the head of the answer
    is read. Units: `limit_s` for all of it, the name included.
    """
    reason = webhook_url.refusal(url, allowed)
    if reason is not None:
        return Answer(reason=reason, never=True)
    guard = _Guard(anything=webhook_url.is_allowed(url, allowed))
    connector = aiohttp.TCPConnector(
        limit=1, force_close=True, use_dns_cache=False, socket_factory=guard.make
    )
    told = {"Content-Type": JSON, "User-Agent": AGENT, **headers}
    try:
        async with (
            asyncio.timeout(limit_s),
            aiohttp.ClientSession(
                connector=connector,
                cookie_jar=_no_cookies(),
                timeout=aiohttp.ClientTimeout(total=limit_s),
                max_line_size=HEADER_BYTES_MAX,
                max_field_size=HEADER_BYTES_MAX,
                auto_decompress=False,
                trust_env=False,
            ) as session,
            session.post(url, data=body, headers=told, allow_redirects=False) as response,
        ):
            response.close()  # Its body is nobody's business, however long it is.
            return Answer(status=response.status, retry_after=response.headers.get("Retry-After"))
    except TimeoutError:
        return Answer(reason=f"no answer within {limit_s:g} s")
    except (aiohttp.ClientError, ssl.SSLError, OSError, ValueError) as error:
        if guard.refused is not None:
            return Answer(reason=guard.refused)
        return Answer(reason=f"{type(error).__name__}: {error}")


class _Guard:
    """Makes sockets to public addresses only; `refused` says why it did not make the last one."""

    def __init__(self, *, anything: bool) -> None:
        """`anything`: an operator allows the host, wherever its name leads."""
        self._anything = anything
        self.refused: str | None = None

    def make(self, address: AddrInfoType) -> socket.socket:
        """Make the socket for one address. Raises: ForbiddenAddressError."""
        family, kind, protocol, _, where = address
        if not self._anything:
            self.refused = webhook_url.address_refusal(str(where[0]))
        if self.refused is not None:
            raise ForbiddenAddressError(self.refused)
        made = socket.socket(family=family, type=kind, proto=protocol)
        made.setblocking(False)
        return made


def _no_cookies() -> AbstractCookieJar:
    return aiohttp.DummyCookieJar()
