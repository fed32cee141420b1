"""Serves the dashboard: a page, its script and its style, from this package and nothing else.

The page has no data in it: it asks the API as any other client does. Must not know requests.
"""

import hashlib
from pathlib import Path
from typing import Final

import msgspec
from aiohttp import web

from agent.gateway.describing import Described, described
from agent.gateway.problems import problem
from contracts.errors import ErrorCode

PAGE: Final = "/multimodal"
UNDER_API: Final = "/api/multimodal/dashboard"
"""The same page below the API: so a relay of the API carries the dashboard with it."""

FOLDER: Final = Path(__file__).with_name("dashboard")
TYPES: Final = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
"""Not left to the machine: what a registry says of .js keeps some browsers from running it."""

POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:;"
    " connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
)
"""Nothing from a network, nothing inline, and no other site may frame it."""


class Leaf(msgspec.Struct, frozen=True, kw_only=True):
    """One file of the page as it is sent."""

    body: bytes
    content_type: str
    etag: str


class Dashboard:
    """The files of the page, read once."""

    def __init__(self, folder: Path = FOLDER) -> None:
        """Read them; a few small files. Raises: OSError where the package is broken."""
        self._leaves = {
            path.name: _leaf(path) for path in sorted(folder.iterdir()) if path.suffix in TYPES
        }
        assert "index.html" in self._leaves, "the package has the page"

    def routes(self) -> list[web.RouteDef]:
        """Return the addresses of the page and of its files."""
        return [
            web.get(address, handler)
            for top in (PAGE, UNDER_API)
            for address, handler in (
                (top, self._page),
                (f"{top}/", self._page),
                (f"{top}/{{file}}", self._file),
            )
        ]

    @described(Described(summary="The dashboard.", access="public", answers={200: "text/html"}))
    async def _page(self, request: web.Request) -> web.Response:
        """Answer with the page; without the last slash its files would be beside it."""
        if not request.path.endswith("/"):
            query = f"?{request.query_string}" if request.query_string else ""
            place = f"{request.path.rsplit('/', 1)[1]}/{query}"
            return web.Response(status=307, headers={"Location": place})
        return _answer(request, self._leaves["index.html"])

    @described(
        Described(
            summary="A file of the dashboard.", access="public", answers={200: "text/javascript"}
        )
    )
    async def _file(self, request: web.Request) -> web.Response:
        leaf = self._leaves.get(request.match_info["file"])
        if leaf is None:
            raise problem(ErrorCode.NOT_FOUND, "the dashboard has no such file")
        return _answer(request, leaf)


def _leaf(path: Path) -> Leaf:
    body = path.read_bytes()
    etag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
    return Leaf(body=body, content_type=TYPES[path.suffix], etag=etag)


def _answer(request: web.Request, leaf: Leaf) -> web.Response:
    """Answer with a file, or with 304 where the browser has this very one."""
    headers = {
        "ETag": leaf.etag,
        "Cache-Control": "no-cache",
        "Content-Security-Policy": POLICY,
        "Content-Type": leaf.content_type,
    }
    known = request.headers.get("If-None-Match", "").split(",")
    if leaf.etag in [one.strip().removeprefix("W/") for one in known]:
        return web.Response(status=304, headers=headers)
    return web.Response(body=leaf.body, headers=headers)
