"""Goal: what `mmg up` has drawn is in the history, figures included, also after a kill -9.

Method: `mmg up` as a process of its own, killed and started again in its folder; asked over HTTP.
"""

from pathlib import Path
from typing import Any

import aiohttp
import msgspec

from tests.acceptance.test_readme import Up
from tests.ledger_rig import position
from tests.rig import Process, agent_on, running, until

FREE = {"MMG_NATS_PORT": "0", "MMG_HTTP_PORT": "0"}
API = "/api/multimodal"


async def ask(http: aiohttp.ClientSession, url: str) -> Any:
    async with http.get(url) as response:
        body = await response.read()
        assert response.status == 200, body
        return msgspec.json.decode(body)


async def ready(folder: Path, process: Process) -> Up:
    await process.says("try")
    return Up(folder, process)


async def test_pictures_are_in_the_history_before_and_after_a_kill(tmp_path):
    ledger = tmp_path / "data" / "ledger.sqlite3"
    async with aiohttp.ClientSession() as http:
        async with running(tmp_path, "up", **FREE) as process:
            up = await ready(tmp_path, process)
            async with agent_on(up.nats_url) as agent:
                await agent.image("first", style="report-cover")
                await agent.ended("first")
            await until(lambda: position(ledger) == 2, "the picture in the ledger")
            page = await ask(http, f"{up.http_url}{API}/history?model=sketch")
            (one,) = page["generations"]
            assert (one["request_id"], one["status"]) == ("first", "completed")
            async with http.get(f"{up.http_url}{one['output_url']}") as response:
                picture = await response.read()
            assert (response.content_type, len(picture)) == ("image/png", one["file_size_bytes"])
            await process.kill()
        async with running(tmp_path, "up", **FREE) as process:
            up = await ready(tmp_path, process)
            async with agent_on(up.nats_url) as agent:
                await agent.image("second")
                await agent.ended("second")
            await until(lambda: position(ledger) == 4, "both pictures in the ledger")
            page = await ask(http, f"{up.http_url}{API}/history")
            assert [each["request_id"] for each in page["generations"]] == ["second", "first"]
            assert page["generations"][1] == one
            stats = await ask(http, f"{up.http_url}{API}/stats")
            assert (stats["completed"], stats["success_rate"]) == (2, 100.0)
            assert (stats["local_share"], stats["cost_avoided_usd"]) == (100.0, 0.0)
            assert stats["disk_usage_gb"] > 0
            process.interrupt()
            assert await process.exit_code() == 0, process.words
