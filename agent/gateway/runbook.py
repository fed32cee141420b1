"""Serves the runbook, `ops/runbook.md`, as a page: where the links of the dashboard lead.

An installed package carries a copy of it. Must not say anything that the file does not.
"""

import asyncio
from pathlib import Path
from typing import Final

from aiohttp import web

from agent.gateway import markdown
from agent.gateway.dashboard import PAGE, POLICY, UNDER_API
from agent.gateway.describing import Described, described
from agent.gateway.problems import problem
from contracts.errors import ErrorCode

FILE: Final = "ops/runbook.md"
PLACES: Final = (Path(__file__).parents[2] / FILE, Path(__file__).with_name("runbook.md"))

_FRAME: Final = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>mmg runbook</title>
<link rel="stylesheet" href="style.css">
<link rel="icon" href="icon.svg">
</head>
<body class="page">
<p><a href="./">Back to the dashboard</a></p>
<main>
{}
</main>
</body>
</html>
"""


class Runbook:
    """One page. `places`: where the file may be, the first that is there."""

    def __init__(self, places: tuple[Path, ...] = PLACES) -> None:
        """Read nothing yet."""
        self._places = places

    def routes(self) -> list[web.RouteDef]:
        """Return its addresses beside the dashboard. Order: before those of its files."""
        return [web.get(f"{top}/runbook", self._page) for top in (PAGE, UNDER_API)]

    @described(
        Described(
            summary="What to do when something is wrong.",
            access="public",
            answers={200: "text/html"},
        )
    )
    async def _page(self, _request: web.Request) -> web.Response:
        text = await asyncio.to_thread(self._read)
        if text is None:
            raise problem(ErrorCode.NOT_FOUND, f"{FILE} is not installed here")
        return web.Response(
            text=_FRAME.format(markdown.render(text)),
            content_type="text/html",
            headers={"Content-Security-Policy": POLICY, "Cache-Control": "no-cache"},
        )

    def _read(self) -> str | None:
        for place in self._places:
            try:
                return place.read_text(encoding="utf-8")
            except OSError:
                continue
        return None
