"""Somebody who is told by webhooks: a real HTTP server that keeps what it was sent.

It answers what the test says, one answer after the other, the last one for ever.
"""

import asyncio
import base64
import hashlib
import hmac
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import msgspec
from aiohttp import web

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
_TOKEN = base64.b64decode(SECRET.removeprefix("whsec_"))


class Told(NamedTuple):
    """One request that came in."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body, read."""
        return msgspec.json.decode(self.body)

    def is_signed(self, token: bytes = _TOKEN) -> bool:
        """Check the signature as a receiver would, without anything of ours."""
        signed = f"{self.headers['webhook-id']}.{self.headers['webhook-timestamp']}.".encode()
        wanted = base64.b64encode(hmac.digest(token, signed + self.body, hashlib.sha256)).decode()
        return f"v1,{wanted}" in self.headers["webhook-signature"].split(" ")


class Receiver:
    """The server; `answers` are statuses, or a function that makes the response."""

    def __init__(self) -> None:
        """It answers 204 until told otherwise."""
        self.answers: list[Any] = [204]
        self.told: list[Told] = []
        self.port = 0
        self.hangs = asyncio.Event()
        """While it is set, nobody is answered."""
        self.freed = asyncio.Event()

    @property
    def host(self) -> str:
        """What an operator would allow."""
        return f"127.0.0.1:{self.port}"

    def url(self, path: str = "/hook") -> str:
        """Return an address here."""
        return f"http://{self.host}{path}"

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Keep the request and answer it."""
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.told.append(Told(request.path, headers, await request.read()))
        answer = self.answers[0] if len(self.answers) == 1 else self.answers.pop(0)
        if self.hangs.is_set():
            await self.freed.wait()
        if callable(answer):
            made: web.StreamResponse = await answer(request)
            return made
        return web.Response(status=answer)


@asynccontextmanager
async def receiver() -> AsyncIterator[Receiver]:
    """Run one on a free port of this machine."""
    one = Receiver()
    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", one.answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    one.port = runner.addresses[0][1]
    try:
        yield one
    finally:
        one.freed.set()
        await runner.cleanup()
