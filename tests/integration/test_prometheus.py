"""Goal: a real Prometheus reads what real processes show; an alert fires, and clears.

Method: Debian's prometheus scrapes `mmg gateway` and `mmg worker` with our own rules.
"""

import json
import socket
from pathlib import Path
from typing import Any

import aiohttp

from tests.prometheus_rig import PATIENCE_S, lint, prometheus
from tests.rig import running, until, worker


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


async def text_of(port: int) -> bytes:
    async with (
        aiohttp.ClientSession() as http,
        http.get(f"http://127.0.0.1:{port}/metrics") as answer,
    ):
        assert answer.status == 200
        assert answer.content_type == "text/plain"
        return await answer.read()


def job_lines(log: Path) -> list[Any]:
    """Return the lines about jobs in a worker's log; what was asked for is in none of its lines."""
    text = log.read_text()
    assert "Cover one" not in text
    return [line for line in map(json.loads, text.splitlines()) if line["event"] == "job.ended"]


async def test_requests_without_a_worker_raise_an_alert_that_clears_when_one_draws(
    server, agent, tmp_path
):
    front, back = free_port(), free_port()
    targets = {"mmg-gateway": f"127.0.0.1:{front}", "mmg-worker": f"127.0.0.1:{back}"}
    settings = {"MMG_NATS_URL": server.url, "MMG_HTTP_PORT": str(front)}
    (tmp_path / "prometheus").mkdir()
    async with (
        running(tmp_path / "front", "gateway", **settings) as gateway,
        prometheus(tmp_path / "prometheus", free_port(), targets) as watch,
    ):
        await gateway.says("gateway.ready")
        await agent.image("one", priority="high")

        async def firing() -> bool:
            return (await watch.alerts()).get("NoWorker") == "firing"

        async def clear() -> bool:
            found = await watch.alerts()
            return "NoWorker" not in found and "TargetDown" not in found

        await until(firing, "the alert NoWorker", PATIENCE_S)
        oldest = await watch.query('mmg_lane_oldest_seconds{priority="HIGH"}')
        assert oldest[0] > 0
        async with worker(
            tmp_path / "back", server.url, MMG_WORKER_HTTP_PORT=str(back), MMG_SKETCH="only"
        ):
            await agent.ended("one")
            await until(clear, "no alert NoWorker any more", PATIENCE_S)
            done = 'mmg_requests_ended_total{kind="completed", priority="HIGH"}'

            async def counted() -> bool:
                return await watch.query(done) == [1.0]

            await until(counted, "one completed request, as Prometheus counts")
            assert await watch.query('mmg_worker_state{state="ready"}') == [1.0]
            assert await watch.query('mmg_engine_up{engine="sketch"}') == [1.0]
            assert await watch.query("mmg_wait_seconds_count") == [1.0]
            (line,) = job_lines(tmp_path / "back" / "multimodal-logs" / "generation.log")
            assert (line["engine"], line["ended"], line["priority"]) == (
                "sketch",
                "completed",
                "HIGH",
            )
            assert line["run_s"] > 0
            assert lint(await text_of(front)) == ""
            assert lint(await text_of(back)) == ""
