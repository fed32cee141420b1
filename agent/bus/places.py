"""Where the servers are: which can be reached, which is tried next, and how they are named.

It must not log in.
"""

import asyncio
import random
from collections.abc import Sequence
from typing import Any, Final
from urllib.parse import SplitResult, urlsplit

BACKOFF_FIRST_S: Final = 0.25
BACKOFF_MAX_S: Final = 5.0
CONNECT_TIMEOUT_S: Final = 2.0


async def reachable(urls: Sequence[str]) -> str | None:
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


def backoff(servers: Any, _server_info: Any) -> tuple[Any, float]:
    """Choose the server tried least and a pause that doubles with its failures, with jitter."""
    server = min(servers, key=lambda s: s.reconnects)
    if server.reconnects == 0:
        return server, 0.0
    pause_s = min(BACKOFF_FIRST_S * 2 ** (server.reconnects - 1), BACKOFF_MAX_S)
    return server, pause_s * random.uniform(0.8, 1.2)  # noqa: S311 - jitter, no secret


def _split(url: str) -> SplitResult:
    return urlsplit(url if "//" in url else f"nats://{url}")


def places(urls: Sequence[str]) -> str:
    """Name servers without user names or passwords."""
    parts = [_split(url) for url in urls]
    return ", ".join(f"{part.hostname}:{part.port or 4222}" for part in parts)
