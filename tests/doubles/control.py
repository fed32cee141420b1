"""The control routes of a double under /double/: setting traps, reading what happened."""

from typing import Any, Protocol

from aiohttp import web

from tests.doubles.traps import Traps


class Trappable(Protocol):
    """What the control routes need of the double."""

    traps: Traps

    def trap(self, name: str, /, **values: Any) -> None:
        """Set a trap."""

    def clear(self, name: str) -> None:
        """Take a trap away."""

    def as_json(self) -> dict[str, Any]:
        """Return what happened."""


class Control:
    """The handlers, bound to one double."""

    def __init__(self, double: Trappable) -> None:
        self._double = double

    def add_to(self, app: web.Application) -> None:
        """Register the routes."""
        app.router.add_get("/double/log", self.log)
        app.router.add_get("/double/traps", self.traps)
        app.router.add_post("/double/trap", self.trap)

    async def log(self, _: web.Request) -> web.Response:
        """Show all that happened."""
        return web.json_response(self._double.as_json())

    async def traps(self, _: web.Request) -> web.Response:
        """Show what is known and what is set."""
        traps = self._double.traps
        known = {name: {"does": text, "values": its} for name, (text, its) in traps.known.items()}
        return web.json_response({"known": known, "set": traps.listing()})

    async def trap(self, request: web.Request) -> web.Response:
        """Set {"name": ..., values...}; clear it with {"name": ..., "off": true}."""
        try:
            body = await request.json()
            name = body.pop("name")
            if body.pop("off", False):
                self._double.clear(name)
            else:
                self._double.trap(name, **body)
        except (ValueError, TypeError, AttributeError, KeyError) as error:
            return web.json_response({"error": f"{type(error).__name__}: {error}"}, status=400)
        return web.json_response({"set": self._double.traps.listing()})
