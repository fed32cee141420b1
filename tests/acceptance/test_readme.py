"""Goal: what the README promises holds, for real: its script, `up`, the WebSocket, Ctrl-C.

Method: `mmg up` as a process of its own in an empty folder; the script is cut out of the README.
"""

import asyncio
import json
import os
import re
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from PIL import Image

from contracts import subjects
from tests.rig import ROOT, SECURED, SITES, Process, agent_on, environment, running, until


class Up:
    """A running `mmg up` and where it is."""

    def __init__(self, folder: Path, process: Process) -> None:
        """Read the addresses from what it said."""
        self.folder = folder
        self.process = process
        self.nats_url = self._find(r"bus\s+(nats://\S+)")
        self.http_url = self._find(r"gateway\s+(http://\S+)")

    def _find(self, pattern: str) -> str:
        match = re.search(pattern, self.process.words)
        assert match is not None, self.process.words
        return match[1]


@pytest.fixture
async def up(tmp_path: Path) -> AsyncIterator[Up]:
    """Run `mmg up` on free ports in an empty folder."""
    settings = {"MMG_NATS_PORT": "0", "MMG_HTTP_PORT": "0", "MMG_RATE_LIMITS": "off"}
    async with running(tmp_path, "up", **settings) as process:
        await process.says("mmg is up")
        await process.says("try")
        yield Up(tmp_path, process)


def readme_script(folder: Path) -> Path:
    """Write the script for agent authors into a file of its own."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    code = text.split("<!-- script: a test runs exactly this -->")[1].split("```python\n")[1]
    script = folder / "agent_script.py"
    script.write_text(code.split("```")[0], encoding="utf-8")
    assert "import agent" not in script.read_text(encoding="utf-8")
    return script


async def frames(up: Up, request_id: str, query: str = "") -> list[str]:
    """Follow a request by WebSocket to its end; return the text frames."""
    url = f"{up.http_url}/ws/multimodal/{request_id}?requester=L2.05.03{query}"
    async with aiohttp.ClientSession() as session, session.ws_connect(url) as socket:
        received = [message.data async for message in socket]
        assert socket.close_code == 1000
    return received


def links(received: list[str]) -> list[str]:
    """Return the frames that are links, not progress and not the place in the queue."""
    beside = ("progress", "queued")
    return [frame for frame in received if json.loads(frame)["kind"] not in beside]


async def login_of(up: Up, agent: str) -> dict[str, str]:
    """Return what an agent's script is told; on a bus with keys it gets one as operators do."""
    told = {"MMG_NATS_URL": up.nats_url}
    if not SECURED:
        return told
    site = SITES[-1]
    asked = ("key", "add-agent", agent, "--max", "high")
    async with running(up.folder, *asked, MMG_SITE_DIR=str(site.path)) as adding:
        assert await adding.exit_code() == 0, adding.words
    seed = site.path / "keys" / "agents" / f"{subjects.identity(agent, 'any').agent}.nk"
    return told | {"MMG_NATS_NKEY_FILE": str(seed), "MMG_NATS_CA": str(site.ca)}


async def test_readme_script_gets_its_images_and_every_watcher_the_same_bytes(up: Up) -> None:
    script = readme_script(up.folder)
    async with agent_on(up.nats_url) as agent, asyncio.TaskGroup() as group:
        await agent.listen()
        during = group.create_task(frames(up, "cover-9", "&wait=30"))
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            str(script),
            "cover-9",
            env=environment(**await login_of(up, "L2.05.03")),
            stdout=asyncio.subprocess.PIPE,
        )
        said, _ = await process.communicate()
        live = await during
        heard = [data.decode() for subject, data in agent.heard if subject.startswith("mmg.event")]
    after = await frames(up, "cover-9")
    words = said.decode().splitlines()
    assert process.returncode == 0
    assert words[0].startswith("stored:")
    assert any(line.startswith("progress") for line in words)
    assert sum(line.startswith("completed") for line in words) == 1
    assert links(live) == links(after) == heard
    assert [json.loads(frame)["kind"] for frame in links(after)] == ["started", "completed"]
    assert len(json.loads(after[-1])["outputs"]) == 10
    assert Path(words[-1]).is_file()
    with Image.open(words[-1]) as image:
        assert image.size == (1024, 1024) or image.size[0] > image.size[1]


async def test_image_asked_for_over_http_is_served_over_http(up: Up) -> None:
    async with aiohttp.ClientSession() as session:
        body = {"type": "image", "prompt": "Cover", "options": {"aspect_ratio": "4:3"}}
        async with session.post(f"{up.http_url}/api/multimodal/generate", json=body) as answer:
            assert answer.status == 202
            accepted = await answer.json()
        async with session.ws_connect(accepted["websocket_url"]) as socket:
            last = [json.loads(message.data) async for message in socket][-1]
        assert last["kind"] == "completed"
        async with session.get(last["output"]["url"]) as answer:
            assert (answer.status, answer.content_type) == (200, "image/png")
            assert len(await answer.read()) == last["output"]["file_size_bytes"]
        async with session.get(last["output"]["thumbnail_url"]) as answer:
            assert answer.content_type == "image/webp"


async def test_fifty_at_once_over_http_are_all_done(up: Up) -> None:
    body = {"type": "image", "prompt": "Cover", "options": {"width": 256, "height": 256}}
    async with aiohttp.ClientSession() as session, asyncio.TaskGroup() as group:

        async def one() -> str:
            async with session.post(f"{up.http_url}/api/multimodal/generate", json=body) as answer:
                assert answer.status == 202, await answer.text()
                accepted = await answer.json()
            async with session.ws_connect(accepted["websocket_url"]) as socket:
                kinds = [json.loads(message.data)["kind"] async for message in socket]
            return str(kinds[-1])

        tasks = [group.create_task(one()) for _ in range(50)]
    assert [task.result() for task in tasks] == ["completed"] * 50


async def test_idle_up_stops_within_five_seconds_of_ctrl_c(up: Up) -> None:
    up.process.interrupt()
    assert await up.process.exit_code(5) == 0, up.process.words
    assert not (up.folder / "data" / "nats" / "nats-server.pid.json").exists()


async def test_up_comes_back_after_its_server_is_killed(up: Up) -> None:
    pid = json.loads((up.folder / "data" / "nats" / "nats-server.pid.json").read_bytes())["pid"]
    async with agent_on(up.nats_url) as agent:
        await agent.image("before")
        await agent.ended("before")
        os.kill(pid, signal.SIGKILL)
        await up.process.says("embedded.died")
        await until(lambda: agent.nc.is_connected, "the server's return")
        await agent.image("after")
        assert (await agent.ended("after"))[-1]["kind"] == "completed"
        assert (await agent.chain("before"))[-1]["kind"] == "completed", "kept over the kill"


async def test_demo_makes_an_image_and_prints_its_path_last(tmp_path: Path) -> None:
    command = ("demo", "--prompt=Plan -> Build -> Ship", "--style=infographic", "--aspect=16:9")
    async with running(tmp_path, *command, MMG_NATS_PORT="0", MMG_HTTP_PORT="0") as process:
        assert await process.exit_code(30) == 0, process.words
        path = Path(process.words.strip().splitlines()[-1])
    with Image.open(path) as image:
        assert (image.format, image.size) == ("PNG", (1344, 768))


async def test_plain_demo_draws_a_square_of_1024_pixels(tmp_path: Path) -> None:
    async with running(tmp_path, "demo", MMG_NATS_PORT="0", MMG_HTTP_PORT="0") as process:
        assert await process.exit_code(30) == 0, process.words
        path = Path(process.words.strip().splitlines()[-1])
    with Image.open(path) as image:
        assert (image.format, image.size) == ("PNG", (1024, 1024))
