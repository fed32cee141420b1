"""Goal: on a site with keys everybody can do what is theirs, and a person can run it.

Method: `mmg key` and `mmg up` as a person uses them, on a real nats-server; an agent, the gateway
and the operator's commands each with their own key. A refusal that nobody expected fails the test.
"""

import asyncio
import json
import os
import re
import runpy
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from nats.aio.msg import Msg

from agent import app
from agent.bus import backup, connection
from agent.bus.login import Login, LoginError
from agent.bus.overview import ask_workers
from agent.client import Client
from agent.client import connect as connect_client
from agent.clock import SystemClock
from agent.config import load
from agent.site import certificates
from agent.site.folder import SiteFolder
from agent.site.layout import SiteError
from contracts import subjects
from contracts.errors import ContractError
from contracts.events import Progress
from contracts.requests import Priority
from tests.integration.operator_rig import Shell
from tests.rig import ROOT, Process, running, until
from tests.site_rig import ALICE, site_in

FREE = {"MMG_NATS_PORT": "0", "MMG_HTTP_PORT": "0", "MMG_SKETCH": "only"}
SMALL: dict[str, Any] = {"width": 256, "height": 256, "quality": "draft"}


class Up:
    """An `mmg up` with keys, made by nothing but commands."""

    def __init__(self, folder: Path, process: Process, shell: Shell, url: str, http: str) -> None:
        self.folder = folder
        self.process = process
        self.mmg = shell
        self.url = url
        self.http = http
        self.site = SiteFolder(folder / "data" / "site")

    def login(self, agent: str) -> Login:
        seed = self.site.seed_of(agent).read_text(encoding="utf-8").strip()
        return Login(seed=seed, ca=self.site.ca)

    async def get(self, path: str) -> Any:
        async with aiohttp.ClientSession() as web, web.get(f"{self.http}{path}") as answer:
            assert answer.status == 200, await answer.text()
            return json.loads(await answer.read())

    def nothing_was_refused(self) -> None:
        """Fail on any refusal, as the processes or as the server saw it."""
        assert "bus.forbidden" not in self.process.words
        server = (self.folder / "data" / "nats" / "nats-server.log").read_text(encoding="utf-8")
        assert [line for line in server.splitlines() if "Violation" in line] == []


@pytest.fixture
async def up(tmp_path, monkeypatch, capsys) -> AsyncIterator[Up]:
    for name in [name for name in os.environ if name.startswith("MMG_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MMG_SITE_DIR", "data/site")
    shell = Shell(capsys)
    for command in (("key", "init"), ("key", "add-agent", ALICE, "--max", "high")):
        made = await shell(*command)
        assert made.code == 0, made.err
    async with running(tmp_path, "up", MMG_SITE_DIR="data/site", **FREE) as process:
        words = await process.says("gateway   http")
        url, http = (re.search(rf"{name} +(\S+)", words) for name in ("bus", "gateway"))
        assert url is not None
        assert http is not None
        yield Up(tmp_path, process, shell, url[1], http[1])


async def test_every_role_does_its_work_with_its_own_key(up):
    async with connect_client(up.url, agent=ALICE, login=up.login(ALICE)) as alice:
        await drawn(up, alice)
        await cancelled_while_it_waits(up, alice)
        with pytest.raises(ContractError):
            await alice.cancel("mmg-nobody-knows")
    await another_agent_gets_in(up)
    doctor = await up.mmg("doctor", "--json")
    findings = json.loads(doctor.out)["findings"]
    assert [one for one in findings if one["state"] == "fail"] == []
    seen = {one["what"]: one["seen"] for one in findings}
    assert "days left" in seen["certificate server"]
    assert "TLS" in seen["bus encryption"]
    workers = await up.mmg("workers", "--json")
    assert len(json.loads(workers.out)) == 1
    up.nothing_was_refused()
    up.process.interrupt()
    assert await up.process.exit_code() == 0


@pytest.mark.parametrize("sampled", ["00", "01"])
async def test_the_trace_of_an_agent_crosses_the_accounts_and_comes_back(up, sampled):
    """The server treats this header by rules of its own, and each agent is in its own account."""
    traced = {"traceparent": f"00-{'a' * 32}-{'b' * 16}-{sampled}", "tracestate": "rojo=1"}
    heard: list[dict[str, str]] = []

    async def keep(msg: Msg) -> None:
        heard.append(dict(msg.headers or {}))

    async with connect_client(up.url, agent=ALICE, login=up.login(ALICE)) as alice:
        await alice._bus.subscribe(subjects.answers_of(ALICE.replace(".", "-"))[0], keep)
        await alice._bus.flush()
        await alice.generate("A lighthouse", timeout_s=20, traced=traced, **SMALL)
        await until(lambda: len(heard) == 2, "both links")
    for headers in heard:
        assert {name: headers.get(name) for name in traced} == traced
        assert "Nats-Expected-Last-Subject-Sequence" in headers, "its fence stays"
    up.nothing_was_refused()


async def drawn(up: Up, alice: Client) -> None:
    """A picture is asked for, drawn, followed by the agent and the gateway, and found again."""
    heard: list[Any] = []
    done = await alice.generate(
        "A lighthouse", on_event=heard.append, timeout_s=20, request_id="cover-1", **SMALL
    )
    assert done.outputs[0].file_size_bytes > 0
    kinds = [type(one).__name__ for one in heard if not isinstance(one, Progress)]
    assert kinds == ["Started", "Completed"]
    known = await alice.snapshot("cover-1")
    assert known is not None
    assert known.status == "completed"
    again = await alice.submit("A lighthouse", request_id="cover-1", **SMALL)
    assert again.joined
    with pytest.raises(ContractError, match="not reusable"):
        await alice.submit("Another one", request_id="cover-1", **SMALL)
    found = await up.get(f"/api/multimodal/requests/cover-1?requester={ALICE}")
    assert found["status"] == "completed"
    address = f"{up.http}/ws/multimodal/cover-1?requester={ALICE}"
    async with aiohttp.ClientSession() as web, web.ws_connect(address) as socket:
        frames = [json.loads(frame.data)["kind"] async for frame in socket]
    assert [kind for kind in frames if kind != "progress"] == ["started", "completed"]

    async def folded() -> bool:
        return bool((await up.get("/api/multimodal/history"))["total"] == 1)

    await until(folded, "its row in the ledger")


async def cancelled_while_it_waits(up: Up, alice: Client) -> None:
    """A person pauses the lanes; the agent asks, looks, and thinks better of it."""
    paused = await up.mmg("pause", "--reason", "trial")
    assert paused.code == 0, paused.err
    await alice.submit("A lighthouse", request_id="cover-2", priority="HIGH", **SMALL)
    known = await alice.snapshot("cover-2")
    assert known is not None
    assert known.status == "queued"
    queue = await up.mmg("queue")
    assert "cover-2" in queue.out
    ended = await alice.cancel("cover-2")
    assert ended.by == ALICE
    resumed = await up.mmg("resume")
    assert resumed.code == 0, resumed.err


async def another_agent_gets_in(up: Up) -> None:
    """Added while everything runs, and nobody is disturbed."""
    added = await up.mmg("key", "add-agent", "L2.07", "--max", "low")
    assert added.code == 0, added.err
    assert "taken it over" in added.out
    async with connect_client(up.url, agent="L2.07", login=up.login("L2.07")) as one:
        done = await one.generate("A lighthouse", timeout_s=20, priority="LOW", **SMALL)
        assert done.requester == "L2.07"


async def test_roles_go_on_working_while_their_keys_are_rotated(tmp_path):
    """Who is connected stays so; who connects again uses the new key without a restart."""
    async with site_in(tmp_path) as site:
        async with await site.bus("worker") as bus:
            assert bus.connected
            site.folder.rotate("worker", at_once=False)
            await site.reload()
            await bus.api("STREAM.INFO.MMG_EVENTS")
            assert bus.nc.stats["reconnects"] == 0
        async with await site.bus("worker") as bus:
            site.folder.finish("worker")
            await site.reload()
            await bus.api("STREAM.INFO.MMG_EVENTS")


async def test_streams_are_copied_and_restored_with_a_key_that_can_do_nothing_else(tmp_path):
    async with site_in(tmp_path / "old") as old:
        async with await old.bus("operator") as bus:
            await bus.store("mmg.request.low.user.cover-1", b"{}")
        async with await old.bus("backup") as bus:
            assert await backup.save(bus, "MMG_REQUESTS", tmp_path) == 1
            assert bus.permission_errors == 0
    async with (
        site_in(tmp_path / "new", provisioned=False) as new,
        await new.bus("backup") as bus,
    ):
        assert await backup.restore(bus, "MMG_REQUESTS", tmp_path) == 1
        assert bus.permission_errors == 0


async def test_a_process_whose_key_is_taken_away_ends_and_says_so(tmp_path, monkeypatch):
    """Nothing else is left to do: a supervisor starts it again, with a key that is good."""
    monkeypatch.setattr(connection, "REFUSALS_MAX", 2)
    async with site_in(tmp_path) as site:
        settings = {
            "MMG_NATS_URL": site.server.url,
            "MMG_NATS_NKEY": site.login("worker").seed or "",
            "MMG_NATS_CA": str(site.folder.ca),
            "MMG_SKETCH": "only",
            "MMG_WORKER_HTTP_PORT": "0",
        }
        config = load(settings, tmp_path)

        async def take_away() -> None:
            async with await site.bus("operator") as bus:
                await until(lambda: ask_workers(bus), "the worker")
                site.folder.rotate("worker", at_once=True)
                await site.reload()

        with pytest.RaisesGroup(pytest.RaisesExc(LoginError, match="good no more")):
            async with asyncio.timeout(20), asyncio.TaskGroup() as group:
                group.create_task(app.run_worker(config))
                group.create_task(take_away())


async def test_the_server_takes_a_new_certificate_of_the_same_authority(tmp_path):
    async with site_in(tmp_path) as site:
        before = site.folder.server.read_bytes()
        site.folder.renew_certificate(SystemClock().now())
        assert site.folder.server.read_bytes() != before
        await site.reload()
        async with await site.bus(ALICE):
            pass


def test_secrets_are_for_their_owner_only_and_never_shown(tmp_path):
    site = SiteFolder(tmp_path / "site")
    site.make("trial", ["localhost"], 4222, SystemClock().now())
    seed = site.add_agent(ALICE, Priority.HIGH)
    assert site.exposed() == []
    if os.name != "nt":
        assert seed.stat().st_mode & 0o077 == 0
        seed.chmod(0o644)
        assert site.exposed() == [seed]
    text = seed.read_text(encoding="utf-8").strip()
    for path in (site.accounts_conf, site.roster_file, site.server_conf, site.tls_conf):
        assert text not in path.read_text(encoding="utf-8")
    assert text not in repr(Login(seed=text))
    with pytest.raises(SiteError, match="holds a site already"):
        site.make("trial", ["localhost"], 4222, SystemClock().now())


def test_a_certificate_never_outlives_its_authority_and_says_when_it_ends():
    now = SystemClock().now()
    authority = certificates.new_authority("trial", now)
    server = certificates.new_server(authority, ["bus.example", "10.0.0.1"], now)
    left = certificates.ends_at(server.certificate) - now
    assert abs(left - timedelta(days=certificates.SERVER_DAYS)) < timedelta(minutes=1)
    late = now + timedelta(days=certificates.CA_DAYS - 1)
    last = certificates.new_server(authority, ["bus.example"], late)
    assert certificates.ends_at(last.certificate) == certificates.ends_at(authority.certificate)


def test_the_example_in_ops_is_what_the_code_makes():
    folder = ROOT / "ops" / "nats"
    for name, text in runpy.run_path(str(folder / "example.py"))["files"]().items():
        assert (folder / name).read_text(encoding="utf-8") == text, "run ops/nats/example.py"
