"""What the modules of routes share: what they need of the double."""

from collections.abc import Awaitable, Callable
from typing import Protocol

from aiohttp import web

from tests.doubles.comfyui.files import Folders
from tests.doubles.comfyui.life import Life
from tests.doubles.comfyui.log import Log
from tests.doubles.comfyui.settings import Settings
from tests.doubles.traps import Traps

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
