"""Goal: systemd hears that a process is ready, that it lives, and that it stops.

Method: a real worker and gateway with the socket of a supervisor, which a test listens on.
"""

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from agent import watchdog
from tests.rig import running, until


class Supervisor:
    """Hears what is said to systemd."""

    def __init__(self, place: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(place))
        self._socket.setblocking(False)
        self.place = place
        self.words: list[bytes] = []

    def hears(self, word: bytes) -> bool:
        with_more = True
        while with_more:
            try:
                self.words.append(self._socket.recv(100))
            except BlockingIOError:
                with_more = False
        return word in self.words

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def supervisor(tmp_path):
    listens = Supervisor(tmp_path / "notify")
    yield listens
    listens.close()


@pytest.mark.parametrize("role", ["worker", "gateway"])
async def test_a_process_says_ready_when_it_can_work_then_that_it_lives_and_that_it_stops(
    role, server, supervisor, tmp_path
):
    settings = {
        "MMG_NATS_URL": server.url,
        "MMG_HTTP_PORT": "0",
        "MMG_SKETCH": "only",
        "NOTIFY_SOCKET": str(supervisor.place),
        "WATCHDOG_USEC": "400000",
    }
    async with running(tmp_path / role, role, **settings) as process:
        await until(lambda: supervisor.hears(b"WATCHDOG=1"), "a sign of life")
        assert supervisor.words[0] == b"READY=1"
        assert f"{role}.ready" in process.words
        process.terminate()
        assert await process.exit_code() == 0
        assert supervisor.hears(b"STOPPING=1")


@asynccontextmanager
async def told(monkeypatch, **environ: str) -> AsyncIterator[None]:
    for name in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(watchdog.run())
        yield
        task.cancel()


async def test_without_systemd_nothing_is_said(monkeypatch):
    async with asyncio.timeout(5), told(monkeypatch):
        await asyncio.sleep(0)


async def test_a_watchdog_of_another_process_is_not_fed(monkeypatch, supervisor):
    place, of_another = str(supervisor.place), str(os.getpid() + 1)
    environ = {"NOTIFY_SOCKET": place, "WATCHDOG_USEC": "1", "WATCHDOG_PID": of_another}
    async with told(monkeypatch, **environ):
        await until(lambda: supervisor.hears(b"READY=1"), "ready")
    supervisor.hears(b"")
    assert supervisor.words == [b"READY=1", b"STOPPING=1"]


async def test_a_supervisor_that_is_away_stops_nobody(monkeypatch, tmp_path):
    async with told(monkeypatch, NOTIFY_SOCKET=str(tmp_path / "gone"), WATCHDOG_USEC="20000"):
        await asyncio.sleep(0)
