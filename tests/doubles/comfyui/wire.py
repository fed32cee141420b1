"""What the modules of routes share: what they need of the double, and how connections end."""

import contextlib
import socket
import struct
from asyncio import BaseTransport
from collections.abc import Awaitable, Callable
from typing import Any, Protocol, cast

from aiohttp import web

from tests.doubles.comfyui.files import Folders
from tests.doubles.comfyui.life import Life
from tests.doubles.comfyui.log import Log
from tests.doubles.comfyui.settings import Settings
from tests.doubles.traps import Traps

LINGER_NOT = struct.pack("ii", 1, 0)
"""SO_LINGER: closing sends a reset instead of an end, as the kernel does for a killed process."""

Route = tuple[str, str, Callable[[web.Request], Awaitable[web.StreamResponse]]]
"""Method, path, and what answers."""


class Server(Protocol):
    """What the routes need of the double."""

    settings: Settings
    traps: Traps
    log: Log

    @property
    def life(self) -> Life:
        """The process that lives now."""

    @property
    def folders(self) -> Folders:
        """Where it keeps files."""


def trouble() -> web.Response:
    """Return what aiohttp answers when a handler raised."""
    text = "500 Internal Server Error\n\nServer got itself in trouble"
    response = web.Response(status=500, text=text)
    response.force_close()
    return response


def reset(transport: BaseTransport | None) -> None:
    """End a connection as the kernel does for a killed process."""
    if transport is None:
        return
    raw = transport.get_extra_info("socket")
    if raw is not None:
        with contextlib.suppress(OSError):
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_NOT)
    cast(Any, transport).abort()
