"""The nats-servers of a trial: one with its data kept, or three as a cluster; killed and restarted.

They run as processes of their own on loopback; a restart comes back on the same port and data.
"""

import asyncio
import json
import os
import signal
import socket
import subprocess
from pathlib import Path
from typing import Protocol

from nats.aio.client import Client

from agent.embedded import EmbeddedServer, find_binary
from tests.rig import until

READY_S = 15.0

_NODE = """\
server_name: n{index}
host: "127.0.0.1"
port: {port}
http: "127.0.0.1:{monitor}"
max_payload: 1MB
jetstream {{ store_dir: {store}, sync_interval: always, strict: true }}
"""
_ROUTES = """\
cluster {{
  name: chaos
  host: "127.0.0.1"
  port: {route}
  no_advertise: true
  routes: [{routes}]
}}
"""


class Servers(Protocol):
    """What a trial needs of its servers."""

    ports: list[int]

    async def start(self) -> None:
        """Start all and wait until they listen."""

    async def kill(self, nc: Client) -> int:
        """Kill one, a leader where there are several, and return which."""

    async def again(self, index: int) -> None:
        """Start a killed one on its own data."""

    async def stop(self) -> None:
        """Stop all; data stay."""


class Single:
    """One server, as `mmg up` starts it: sync_interval always."""

    def __init__(self, folder: Path) -> None:
        self._server = EmbeddedServer(folder, 0)
        self.ports: list[int] = []

    async def start(self) -> None:
        await self._server.start()
        self.ports = [int(self._server.url.rsplit(":", 1)[1])]

    async def kill(self, nc: Client) -> int:
        os.kill(self._server.pid, signal.SIGKILL)
        await self._server.wait()
        return 0

    async def again(self, index: int) -> None:
        await self._server.start()

    async def stop(self) -> None:
        await self._server.stop()


class Cluster:
    """Three servers that replicate everything; the leader of the events is the one killed.

    One alone is a plain server. `monitors` are the ports of their figures over HTTP.
    """

    def __init__(self, folder: Path, size: int) -> None:
        self._folder = folder
        self.ports = [free_port() for _ in range(size)]
        self.monitors = [free_port() for _ in range(size)]
        self._routes = [free_port() for _ in range(size)]
        self._processes: dict[int, subprocess.Popen[bytes]] = {}

    @property
    def pids(self) -> tuple[int, ...]:
        """The process ids of those that run."""
        return tuple(process.pid for process in self._processes.values())

    async def start(self) -> None:
        for index in range(len(self.ports)):
            await self.again(index)

    async def kill(self, nc: Client) -> int:
        index = await self._leader(nc)
        process = self._processes.pop(index)
        process.kill()
        await asyncio.to_thread(process.wait)
        return index

    async def again(self, index: int) -> None:
        folder = self._folder / f"n{index}"
        folder.mkdir(parents=True, exist_ok=True)
        config = folder / "nats-server.conf"
        routes = ", ".join(f'"nats://127.0.0.1:{port}"' for port in self._routes)
        text = _NODE.format(
            index=index,
            port=self.ports[index],
            monitor=self.monitors[index],
            store=json.dumps(str(folder / "jetstream")),
        )
        if len(self.ports) > 1:
            text += _ROUTES.format(route=self._routes[index], routes=routes)
        config.write_text(text, encoding="utf-8")
        command = [str(find_binary()), "-c", str(config), "-l", str(folder / "nats-server.log")]
        self._processes[index] = await asyncio.to_thread(
            subprocess.Popen, command, stdin=subprocess.DEVNULL, start_new_session=True
        )
        await until(lambda: _listens(self.ports[index]), f"server {index}", READY_S)

    async def stop(self) -> None:
        for process in self._processes.values():
            process.kill()
            await asyncio.to_thread(process.wait)
        self._processes.clear()

    async def _leader(self, nc: Client) -> int:
        """Return who leads the events; any that runs where nobody knows."""
        try:
            answer = await nc.request("$JS.API.STREAM.INFO.MMG_EVENTS", b"", timeout=2)
            index = int(json.loads(answer.data)["cluster"]["leader"].removeprefix("n"))
        except Exception:  # noqa: BLE001 - an election runs: any server will do
            index = -1
        return index if index in self._processes else min(self._processes)


def of_size(folder: Path, size: int) -> Servers:
    """Return one server or a cluster."""
    return Single(folder) if size == 1 else Cluster(folder, size)


async def _listens(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
