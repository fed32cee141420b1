"""Programs of the gateway's bench: its clients, and the bare server it is measured beside.

Run by `python -m ops.bench.gateway`. `bare`: hands the same bytes from the same bus to the same
sockets and knows nothing else. `follow`: one socket for each request. `all`: sockets that hear
everything; a few of them read and take the time, the others only take the bytes, because one
process cannot read a hundred thousand frames a second. `churn`: connect, hear a little, go.
"""

# ruff: noqa: ASYNC110, S311 - a program that is waited for; which one leaves is no secret

import argparse
import asyncio
import contextlib
import json
import random
import sys
import time

import aiohttp
import nats
from aiohttp import web
from nats.aio.msg import Msg

from contracts import subjects

EVERYTHING = "all"
READERS = 20
"""Sockets of those that hear everything which are read."""
HEAR_S = (0.05, 1.0)
"""How long a client stays in the churn."""


async def bare(nats_url: str) -> None:
    """Hand each event to the sockets of its request and to those of everything, until killed."""
    sockets: dict[str, set[web.WebSocketResponse]] = {}

    async def hear(msg: Msg) -> None:
        for whose in (msg.subject.split(".")[3], EVERYTHING):
            for socket in list(sockets.get(whose, ())):
                await socket.send_str(msg.data.decode())

    async def serve(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        mine = sockets.setdefault(request.match_info.get("id", EVERYTHING), set())
        mine.add(socket)
        async for _ in socket:
            pass
        mine.discard(socket)
        return socket

    nc = await nats.connect(nats_url)
    await nc.subscribe(subjects.EVENTS_ALL, cb=hear)
    app = web.Application()
    app.add_routes([web.get("/ws/multimodal/{id}", serve), web.get("/ws/multimodal", serve)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.Event().wait()


class Sink(asyncio.Protocol):
    """A WebSocket client that takes what comes and reads nothing of it."""

    def __init__(self, host: str) -> None:
        """Say for the handshake where it goes."""
        self._host = host

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask for the upgrade."""
        assert isinstance(transport, asyncio.WriteTransport), "a stream"
        transport.write(
            f"GET /ws/multimodal HTTP/1.1\r\nHost: {self._host}\r\nUpgrade: websocket\r\n"
            "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode()
        )


class Readers:
    """Clients that read, and note after how many milliseconds each event came."""

    def __init__(self, url: str) -> None:
        """Begin with none."""
        self._url = url
        self.open = 0
        self.delays: list[float] = []

    async def read(self, http: aiohttp.ClientSession, path: str) -> None:
        """Read one socket until cancelled."""
        async with http.ws_connect(f"{self._url}{path}") as socket:
            self.open += 1
            async for message in socket:
                now = time.monotonic_ns()
                sent = json.loads(message.data).get("message", "")
                if sent.isdigit():
                    self.delays.append((now - int(sent)) / 1e6)


async def listen(asked: argparse.Namespace) -> None:
    """Open all sockets; prints `open`, then `heard` once enough came, then the delays in ms."""
    readers, host = Readers(asked.url), asked.url.removeprefix("http://")
    everything = asked.what == EVERYTHING
    count = READERS if everything else asked.sockets
    loop = asyncio.get_running_loop()
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as http, asyncio.TaskGroup() as group:
        tasks = []
        for number in range(count):
            path = "/ws/multimodal" if everything else f"/ws/multimodal/{asked.whose}{number}"
            tasks.append(group.create_task(readers.read(http, path)))
            for _ in range((asked.sockets - count) // count):
                address, port = host.split(":")
                await loop.create_connection(lambda: Sink(host), address, int(port))
        while readers.open < count:
            await asyncio.sleep(0.05)
        print("open", flush=True)
        while len(readers.delays) < asked.expect:
            await asyncio.sleep(0.05)
        print("heard", flush=True)
        await asyncio.to_thread(sys.stdin.read)
        for task in tasks:
            task.cancel()
    print(json.dumps(readers.delays), flush=True)


async def churn(asked: argparse.Namespace) -> None:
    """Keep `sockets` clients coming and going for `seconds`, half of them without a goodbye."""
    loop = asyncio.get_running_loop()
    end_s = loop.time() + asked.seconds
    came = 0

    async def one(http: aiohttp.ClientSession, number: int) -> None:
        nonlocal came
        whose = random.randrange(asked.sockets)
        path = "/ws/multimodal" if number % 2 else f"/ws/multimodal/{asked.whose}{whose}"
        while loop.time() < end_s:
            socket = await http.ws_connect(f"{asked.url}{path}")
            came += 1
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(random.uniform(*HEAR_S)):
                    async for _ in socket:
                        pass
            if number % 4 < 2:  # noqa: PLR2004 - two of four
                transport = socket.get_extra_info("socket")
                transport.shutdown(2)
            await socket.close()

    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    async with aiohttp.ClientSession(connector=connector) as http, asyncio.TaskGroup() as group:
        for number in range(asked.sockets):
            group.create_task(one(http, number))
    print(json.dumps(came), flush=True)


def main() -> None:
    """Run one of the programs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("bare", "follow", EVERYTHING, "churn"))
    parser.add_argument("url", help="of the gateway; for `bare` of the bus")
    parser.add_argument("--whose", default="r", help="what the ids of the requests begin with")
    parser.add_argument("--sockets", type=int, default=1000)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--expect", type=int, default=0, help="events that the readers will hear")
    asked = parser.parse_args()
    if asked.what == "bare":
        asyncio.run(bare(asked.url))
    else:
        asyncio.run(churn(asked) if asked.what == "churn" else listen(asked))


if __name__ == "__main__":
    main()
