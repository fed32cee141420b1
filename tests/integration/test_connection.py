"""Goal: a process waits for its server as long as it takes, whatever the port says meanwhile.

Method: a listener that accepts and never speaks, as a proxy without its server does; then a server.
"""

import asyncio
import contextlib
from pathlib import Path

import pytest

from agent.bus import connection
from agent.bus.connection import NoAnswer, connect
from agent.embedded import EmbeddedServer


async def _silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()
    writer.close()


async def test_open_port_that_says_nothing_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "CALL_TIMEOUT_S", 0.3)
    listener = await asyncio.start_server(_silent, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    server = EmbeddedServer(tmp_path / "nats", port)
    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        connecting = group.create_task(connect([f"nats://127.0.0.1:{port}"], "worker"))
        done, _ = await asyncio.wait((connecting,), timeout=1.0)
        assert not done, "it neither gave up nor found a server"
        listener.close()
        await server.start()
    bus = connecting.result()
    assert bus.connected
    await bus.close()
    await server.stop()


async def test_patience_ends_the_wait_with_the_reason() -> None:
    with pytest.raises(NoAnswer, match=r"cannot reach nats-server at 127.0.0.1:1: "):
        await connect(["nats://127.0.0.1:1"], "worker", patience_s=0.1)


@pytest.mark.parametrize("call", ["flush", "request"])
async def test_a_cancellation_that_comes_with_the_answer_is_not_lost(
    server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """wait_for of Python 3.11, in nats-py, returns the answer and forgets that it was cancelled."""
    bus = await connect([server.url], "worker")
    asked = asyncio.Event()

    async def answers_and_forgets(*_: object, **__: object) -> None:
        asked.set()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()

    with monkeypatch.context() as patched:
        patched.setattr(bus.nc, call, answers_and_forgets)
        async with asyncio.TaskGroup() as group:
            asking = group.create_task(bus.flush() if call == "flush" else bus.request("x", b""))
            await asked.wait()
            asking.cancel()
        assert asking.cancelled()
    await bus.close()
