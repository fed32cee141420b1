"""Goal: who follows ops/backup.md on an empty host has everything back, and it goes on.

Method: the scripts are cut out of the page and run by a shell, beside real processes: first where
work is under way, then on a server and in folders that are empty.
"""

import asyncio
import re
from pathlib import Path
from typing import Any

import aiohttp

from agent.embedded import EmbeddedServer
from tests.rig import (
    ROOT,
    Process,
    agent_on,
    bus_server,
    environment,
    pictures,
    running,
    until,
)

SCRIPT = re.compile(r"<!-- script: a test runs exactly this -->\n```sh\n(.*?)```", re.DOTALL)
API = "/api/multimodal"


class Host:
    """The folders and settings of one host."""

    def __init__(self, folder: Path, nats_url: str, backup: Path) -> None:
        self.folder = folder
        self.settings = {
            "MMG_NATS_URL": nats_url,
            "MMG_HTTP_PORT": "0",
            "MMG_SKETCH": "only",
            "MMG_DATA_DIR": str(folder / "data"),
            "MMG_ASSETS_DIR": str(folder / "generated-assets"),
            "ETC": str(folder / "etc"),
            "BACKUP": str(backup),
        }

    def runs(self, *command: str) -> Any:
        return running(self.folder, *command, **self.settings)

    async def follow(self, script: str) -> str:
        """Let a shell do what the page says; return its words."""
        process = await asyncio.create_subprocess_exec(
            "bash",
            "-euo",
            "pipefail",
            "-c",
            script,
            cwd=ROOT,
            env=environment(**self.settings),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        async with asyncio.timeout(40):
            words, _ = await process.communicate()
        assert process.returncode == 0, words.decode()
        return words.decode()


def scripts() -> list[str]:
    return SCRIPT.findall((ROOT / "ops" / "backup.md").read_text(encoding="utf-8"))


async def history(process: Process) -> list[str]:
    """Return what the history of a running system lists, once it has the finished request."""
    await process.says("try")
    found = re.search(r"gateway\s+(http://\S+)", process.words)
    assert found is not None, process.words
    rows: list[dict[str, Any]] = []
    async with aiohttp.ClientSession() as http:

        async def look() -> bool:
            async with http.get(f"{found[1]}{API}/history") as answer:
                rows[:] = (await answer.json()).get("generations", [])
            return any(row["request_id"] == "done" and row["output_url"] for row in rows)

        await until(look, "the finished request in the history")
        (done,) = (row for row in rows if row["request_id"] == "done")
        async with http.get(f"{found[1]}{done['output_url']}") as answer:
            assert answer.status == 200
    return [row["request_id"] for row in rows]


async def test_the_written_steps_bring_everything_back_on_an_empty_host(tmp_path):
    save, restore_first, restore_rest = scripts()
    backup = tmp_path / "backup"
    async with bus_server(tmp_path / "nats") as server, agent_on(server.url) as agent:
        old = Host(tmp_path / "old", server.url, backup)
        (tmp_path / "old" / "etc").mkdir(parents=True)
        (tmp_path / "old" / "etc" / "worker.env").write_text("MMG_SLOTS=cpu:2\n")
        await agent.image("done")
        async with old.runs("up") as process:
            chain = await agent.ended("done")
            assert await history(process) == ["done"]
        await agent.image("waits", priority="low")
        words = await old.follow(save)
        assert "MMG_REQUESTS: 1 messages" in words

    empty = EmbeddedServer(tmp_path / "empty", 0)
    await empty.start()
    try:
        new = Host(tmp_path / "new", empty.url, backup)
        await new.follow(restore_first)
        await new.follow(restore_rest)
        assert (tmp_path / "new" / "etc" / "worker.env").read_text() == "MMG_SLOTS=cpu:2\n"
        assert len(pictures(tmp_path / "new")) == 1
        async with agent_on(empty.url) as agent:
            assert await agent.chain("done") == chain
            async with new.runs("up") as process:
                assert "done" in await history(process)
                assert (await agent.ended("waits"))[-1]["kind"] == "completed"
    finally:
        await empty.stop()
