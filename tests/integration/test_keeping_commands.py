"""Goal: a person can pin, prune, and see and repeat what could not be told.

Method: the commands as they are typed, in a folder with its own bus, ledger and pictures.
"""

import asyncio
import json
import os
import random
from datetime import timedelta
from pathlib import Path

import pytest

from agent.bus import facts, hooks
from agent.bus.connection import connect
from agent.bus.provision import Plan, provision
from agent.cli import main
from agent.clock import SystemClock
from agent.core import webhook
from agent.core.webhook import Answer, Hook
from agent.embedded import EmbeddedServer
from contracts.subjects import Identity
from tests.ledger_rig import NOW, Chain, publish
from tests.rig import until

WHO = Identity("L2-01", "r1")


@pytest.fixture
async def bus(tmp_path: Path, monkeypatch):
    """Be in a folder with a bus of its own."""
    for name in list(os.environ):
        if name.startswith("MMG_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    server = EmbeddedServer(tmp_path / "data" / "nats", 0)
    await server.start()
    async with await connect([server.url], "test") as connected:
        await provision(connected, Plan())
        yield connected
    await server.stop()


async def mmg(*arguments: str) -> int:
    return await asyncio.to_thread(main, list(arguments))


def old_picture(folder: Path, name: str) -> Path:
    path = folder / "generated-assets" / "images" / "2026-03" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * 1000)
    os.utime(path, (NOW.timestamp(), NOW.timestamp()))
    return path


async def test_prune_shows_deletes_and_leaves_what_is_pinned(bus, tmp_path, capsys):
    paths = []
    for n in range(3):
        one = Chain(Identity("L2-01", f"r{n}"), random.Random(n), seq=n)
        await publish(bus, [one.message(one.started()), one.message(one.completed())])
        paths.append(old_picture(tmp_path, f"{one.who}.png"))
    assert await mmg("pin", "r1", "--reason", "the cover") == 0
    assert "pinned: r1 of L2.01" in capsys.readouterr().out

    assert await mmg("prune", "--dry-run", "--json") == 0
    dry = json.loads(capsys.readouterr().out)
    assert (dry["dry_run"], dry["requests"], dry["files"], dry["bytes"]) == (True, 2, 2, 2000)
    assert [file[1] for one in dry["removals"] for file in one["files"]] == [
        "L2-01.r0.png",
        "L2-01.r2.png",
    ]
    assert all(path.exists() for path in paths)

    assert await mmg("prune") == 0
    assert "deleted: 2 files" in capsys.readouterr().out
    assert [path.exists() for path in paths] == [False, True, False]
    assert await mmg("unpin", "r1", "--json") == 0
    assert json.loads(capsys.readouterr().out)["kind"] == "unpinned"
    assert await mmg("prune") == 0
    assert not paths[1].exists()


async def test_a_pin_whose_links_are_forgotten_can_still_be_taken_off(bus, capsys):
    await facts.pin(bus, WHO, "ann", SystemClock())
    assert await mmg("unpin", "r1") == 0
    assert await facts.is_pinned(bus, WHO) is False
    assert await mmg("pin", "nothing") == 1
    assert "not_found" in capsys.readouterr().err


async def test_webhooks_that_were_given_up_are_listed_and_tried_again(bus, capsys):
    assert await mmg("webhooks", "list") == 0
    assert "no webhook was given up" in capsys.readouterr().out
    now = SystemClock().now() - timedelta(hours=1)
    for name, answer in (("r1", Answer(status=410)), ("r2", Answer(status=503))):
        who = Identity("L2-01", name)
        url = "https://hooks.example/secret-token"
        await hooks.keep(bus, who, url, now)
        hook = webhook.after(Hook(url=url, at=now), answer, now, 0.0)
        await hooks.write(bus, who, hook, (await hooks.read(bus, who) or (hook, 0))[1])
    assert await mmg("webhooks", "list") == 0
    text = capsys.readouterr().out
    assert "r1  L2.01  hooks.example  given up after 1 try: it answers 410" in text
    assert "r2" not in text
    assert "secret-token" not in text
    assert await mmg("webhooks", "list", "--all", "--json") == 0
    listed = json.loads(capsys.readouterr().out)
    assert [(one["request_id"], one["hook"]["state"]) for one in listed] == [
        ("r1", "undeliverable"),
        ("r2", "waiting"),
    ]
    heard = []

    async def hear(msg):
        heard.append(msg.subject)

    await bus.subscribe("mmg.asset.>", hear)
    await bus.flush()
    assert await mmg("webhooks", "retry", "--all") == 0
    assert await mmg("webhooks", "retry", "r2") == 0
    assert await mmg("webhooks", "retry") == 2
    assert await mmg("webhooks", "retry", "nothing") == 1
    await until(lambda: len(heard) == 2, "both wishes")
    assert heard == [f"mmg.asset.L2-01.{name}.webhook_retried" for name in ("r1", "r2")]


async def test_a_secret_is_made_that_the_settings_take(bus, capsys, monkeypatch):
    assert await mmg("webhooks", "secret") == 0
    secret = capsys.readouterr().out.strip()
    assert len(webhook.read_secret(secret)) == 32
    monkeypatch.setenv("MMG_WEBHOOK_SECRET", secret)
    assert await mmg("config") == 0
    assert secret not in capsys.readouterr().out
