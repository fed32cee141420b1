"""Goal: the commands that ask, look and wait keep their word on exit codes and streams.

Method: a real nats-server in the folder the command runs in; where a picture is needed, a real
machine as `mmg demo` starts it.
"""

import asyncio
import json
import os
import signal
import sys
from pathlib import Path

import pytest

from agent.bus.connection import connect
from agent.bus.provision import Plan, provision
from agent.cli import main
from agent.commands import generate
from agent.embedded import EmbeddedServer
from tests.rig import ROOT


@pytest.fixture
def home(tmp_path: Path, monkeypatch) -> Path:
    """Be in an empty folder without settings."""
    for name in list(os.environ):
        if name.startswith("MMG_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
async def embedded(home: Path):
    server = EmbeddedServer(home / "data" / "nats", 0)
    await server.start()
    async with await connect([server.url], "provision") as bus:
        await provision(bus, Plan())
    yield server
    await server.stop()


async def mmg(*arguments: str) -> int:
    """Run a command beside this loop, which keeps the server."""
    return await asyncio.to_thread(main, list(arguments))


async def test_the_queue_lists_what_waits_in_the_order_of_service(embedded, capsys):
    for priority in ("LOW", "CRITICAL"):
        line = ("generate", f"a {priority} one", "--priority", priority, "--no-wait")
        assert await mmg(*line) == 0
    ids = capsys.readouterr().out.split()
    assert await mmg("queue", "--json") == 0
    queue = json.loads(capsys.readouterr().out)
    assert [lane["waiting"] for lane in queue["lanes"]] == [1, 0, 0, 1]
    assert [one["request_id"] for one in queue["requests"]] == ids[::-1]
    assert await mmg("queue") == 0
    text = capsys.readouterr().out
    assert text.index("a CRITICAL one") < text.index("a LOW one")


async def test_a_queue_without_streams_says_what_to_run(home, capsys):
    server = EmbeddedServer(home / "data" / "nats", 0)
    await server.start()
    try:
        assert await mmg("queue") == 1
        assert "`mmg provision`" in capsys.readouterr().err
        assert await mmg("generate", "a") == 1
        assert "`mmg provision`" in capsys.readouterr().err
        assert await mmg("provision") == 0
        assert "MMG_REQUESTS: created" in capsys.readouterr().out
        assert await mmg("provision") == 0
        assert "nothing to do" in capsys.readouterr().out
    finally:
        await server.stop()


async def test_provision_gives_the_event_store_what_the_setting_says(
    embedded, home, capsys, monkeypatch
):
    monkeypatch.setenv("MMG_EVENTS_MAX_MIB", "3000")
    assert await mmg("provision") == 0
    assert "MMG_EVENTS: changed" in capsys.readouterr().out
    async with await connect([embedded.url], "test") as bus:
        config = json.loads(await bus.api("STREAM.INFO.MMG_EVENTS"))["config"]
    assert config["max_bytes"] == 3000 * 1024**2


async def test_the_demo_makes_a_picture_from_nothing_and_again(home, capsys):
    for seed in ("7", "8"):
        assert await mmg("demo", "--quality", "draft", "--seed", seed) == 0
        path = Path(capsys.readouterr().out.splitlines()[-1])
        assert path.is_relative_to(home)
        assert await asyncio.to_thread(path.stat)


async def test_who_waits_too_long_is_told_why_and_that_the_request_goes_on(
    embedded, capsys, monkeypatch
):
    monkeypatch.setattr(generate, "NOBODY_AFTER_S", 0.05)
    assert await mmg("generate", "a lighthouse", "--id", "i-1", "--timeout", "0.5") == 4
    heard = capsys.readouterr()
    assert heard.out == ""
    assert generate.NOBODY in heard.err
    assert "the request goes on" in heard.err
    assert "mmg watch i-1" in heard.err
    assert await mmg("generate", "another", "--id", "i-1") == 2
    assert "id_reused" in capsys.readouterr().err
    assert await mmg("watch", "i-1", "--timeout", "0.2") == 4


async def test_watching_what_nobody_asked_for_is_not_found(embedded, capsys):
    assert await mmg("watch", "i-1") == 1
    assert "not_found" in capsys.readouterr().err


async def test_ctrl_c_leaves_the_request_in_its_lane_and_says_so(embedded, home, capsys):
    # A shell without job control starts background work with SIGINT ignored, and that is inherited.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "agent", "generate", "a lighthouse", "--id", "i-1"),
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None
    async with asyncio.timeout(20):
        assert (await process.stderr.readline()).startswith(b"queued")
        process.send_signal(signal.SIGINT)
        out, err = await process.communicate()
    assert (process.returncode, out) == (130, b"")
    assert b"the request goes on" in err
    assert b"mmg watch i-1" in err
    assert b"Traceback" not in err
    assert await mmg("queue", "--json") == 0
    queue = json.loads(capsys.readouterr().out)
    assert [one["request_id"] for one in queue["requests"]] == ["i-1"]
