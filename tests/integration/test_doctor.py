"""Goal: the doctor calls a healthy bus healthy, and names what is wrong together with a way out.

Method: real nats-servers, one thing put wrong on each, and the command as a person runs it.
"""

import asyncio
import json
import os
from pathlib import Path

import pytest

from agent.bus.connection import connect
from agent.bus.provision import Plan, provision
from agent.cli import main
from agent.commands import bus_checks
from agent.embedded import EmbeddedServer, find_binary
from contracts import subjects
from tests.rig import until


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


async def mmg(capsys, *arguments: str) -> tuple[int, str]:
    """Run a command beside this loop and return its exit code and stdout."""
    code = await asyncio.to_thread(main, list(arguments))
    return code, capsys.readouterr().out


async def findings(capsys) -> tuple[int, dict[str, tuple[str, str]]]:
    code, out = await mmg(capsys, "doctor", "--json")
    report = json.loads(out)
    assert report["healthy"] is (code == 0)
    for one in report["findings"]:
        assert one["state"] == "ok" or one["way_out"]
    return code, {one["what"]: (one["state"], one["seen"]) for one in report["findings"]}


async def test_a_provisioned_server_is_healthy_even_while_no_worker_runs(embedded, capsys):
    code, found = await findings(capsys)
    assert code == 0
    assert found["bus"] == ("ok", f"connected to {embedded.url}")
    assert found["nats-server"][0] == found["streams and lanes"][0] == "ok"
    assert found["sync_interval"] == ("ok", "always: what is accepted survives a power loss")
    assert found["engine sketch"][0] == found["styles"][0] == found["pictures"][0] == "ok"
    assert found["workers"][0] == "warn"


async def test_a_setting_changed_by_hand_is_named_with_both_values(embedded, capsys):
    async with await connect([embedded.url], "somebody") as bus:
        info = json.loads(await bus.api(f"STREAM.INFO.{subjects.STREAM_EVENTS}"))
        config = info["config"] | {"max_age": 3600 * 10**9}
        await bus.api(f"STREAM.UPDATE.{subjects.STREAM_EVENTS}", config)
    code, found = await findings(capsys)
    assert code == 1
    seen = "max_age is 3600 s, designed: 2592000 s"
    assert found[f"stream {subjects.STREAM_EVENTS}"] == ("fail", seen)
    assert (await mmg(capsys, "provision"))[0] == 0
    assert (await findings(capsys))[0] == 0


async def test_a_lane_that_is_missing_is_named(embedded, capsys):
    async with await connect([embedded.url], "somebody") as bus:
        await bus.api(f"CONSUMER.DELETE.{subjects.STREAM_REQUESTS}.lane-low")
    code, found = await findings(capsys)
    assert (code, found["consumer lane-low"]) == (1, ("fail", "missing"))


async def test_an_embedded_server_that_does_not_always_sync_is_named(embedded, home, capsys):
    config = home / "data" / "nats" / "nats-server.conf"
    config.write_text(config.read_text().replace("sync_interval: always", 'sync_interval: "1m"'))
    code, found = await findings(capsys)
    assert (code, found["sync_interval"]) == (1, ("fail", "1m"))


@pytest.mark.parametrize(
    ("setting", "state", "seen"),
    [
        ("sync_interval: always", "ok", "always"),
        ('sync_interval: "1m"', "fail", "every 60 s"),
        ("", "fail", "every 120 s"),
    ],
)
async def test_another_server_tells_by_its_monitoring(tmp_path, setting, state, seen):
    config = tmp_path / "server.conf"
    config.write_text(
        f'host: "127.0.0.1"\nport: -1\nhttp: "127.0.0.1:-1"\n'
        f"jetstream {{ store_dir: {json.dumps(str(tmp_path / 'js'))}\n{setting}\n}}\n"
    )
    server = await asyncio.create_subprocess_exec(
        find_binary(), "-c", config, "--ports_file_dir", tmp_path, "-l", tmp_path / "log"
    )
    try:
        file = tmp_path / f"nats-server_{server.pid}.ports"
        await until(lambda: file.exists() and file.read_text().endswith("}"), "its ports")
        ports = json.loads(file.read_text())
        async with await connect(ports["nats"], "doctor") as bus:
            finding = await bus_checks.of_monitor(bus, ports["monitoring"][0])
            silent = await bus_checks.of_monitor(bus, "http://127.0.0.1:1")
        assert (finding.state, finding.seen.split(":")[0]) == (state, seen)
        assert silent.state == "warn"
        assert silent.seen.startswith("unknown")
    finally:
        server.terminate()
        await server.wait()


async def test_without_any_bus_it_says_how_to_start_one(home, capsys, monkeypatch):
    monkeypatch.setenv("MMG_NATS_PORT", "1")
    code, out = await mmg(capsys, "doctor")
    assert code == 1
    assert "no bus is configured and none runs here" in out
    assert "-> start `mmg up`" in out


async def test_a_named_server_that_is_away_is_named_without_its_password(home, capsys, monkeypatch):
    monkeypatch.setenv("MMG_NATS_URL", "nats://me:hush@127.0.0.1:1")
    code, out = await mmg(capsys, "doctor")
    assert code == 1
    assert "cannot reach nats-server at 127.0.0.1:1" in out
    assert "hush" not in out


async def test_settings_that_cannot_be_used_are_findings(home, capsys, monkeypatch):
    monkeypatch.setenv("MMG_HTTP_PORT", "many")
    code, out = await mmg(capsys, "doctor")
    assert code == 1
    assert "MMG_HTTP_PORT" in out
