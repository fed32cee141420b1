"""Ending a server as the kernel ends a killed process: it listens no more, all is reset."""

import asyncio
import contextlib
import socket
import struct
from typing import Any, cast

from aiohttp import web

LINGER_NOT = struct.pack("ii", 1, 0)
"""SO_LINGER: closing sends a reset instead of an end, as the kernel does for a killed process."""
PASSES = 5
"""Of the loop, until whoever was accepted before is known as a connection (asyncio needs three)."""


async def killed(runner: web.AppRunner) -> None:
    """End a server; nobody who connects meanwhile is left over."""
    for site in list(runner.sites):
        await site.stop()
    for _ in range(PASSES):
        await asyncio.sleep(0)
    server = runner.server
    for connection in list(server.connections) if server is not None else []:
        reset(connection.transport)
    await runner.cleanup()


def reset(transport: asyncio.BaseTransport | None) -> None:
    """End a connection as the kernel does for a killed process."""
    if transport is None:
        return
    raw = transport.get_extra_info("socket")
    if raw is not None:
        with contextlib.suppress(OSError):
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_NOT)
    cast("Any", transport).abort()
