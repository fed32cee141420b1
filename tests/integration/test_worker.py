"""Goal: a worker serves lanes in order, shares them, and loses nothing when it or the server dies.

Method: real worker processes on a real nats-server; what happened is read from the streams.
"""

import random
from pathlib import Path
from typing import Any

import pytest

from agent.bus.connection import connect
from agent.bus.provision import Plan, provision
from agent.embedded import EmbeddedServer
from tests.rig import Agent, agent_on, pictures, running, temporary, until, worker

PRIORITIES = ("critical", "high", "medium", "low")
LONG: dict[str, Any] = {"width": 2048, "height": 2048, "count": 10, "quality": "high"}
"""Options of a request that draws for seconds, so that something can happen meanwhile."""


def starts(agent: Agent) -> list[str]:
    """Return the ids of all started requests in the order they were heard."""
    return [s.split(".")[3] for s, _ in agent.heard if s.endswith(".started")]


async def test_shuffled_backlog_is_served_by_priority_and_first_in_first_out(
    tmp_path: Path, server: EmbeddedServer, agent: Agent
) -> None:
    order = [PRIORITIES[i % 4] for i in range(200)]
    random.Random(7).shuffle(order)
    expected: dict[str, list[str]] = {priority: [] for priority in PRIORITIES}
    for number, priority in enumerate(order):
        await agent.image(f"r{number}", priority=priority)
        expected[priority].append(f"r{number}")

    async with worker(tmp_path, server.url, "--once", MMG_SLOTS="cpu:1") as process:
        assert await process.exit_code(60) == 0, process.words

    await until(lambda: len(starts(agent)) == 200, "200 starts")
    assert starts(agent) == [rid for priority in PRIORITIES for rid in expected[priority]]
    assert await agent.waiting() == 0
    assert len(pictures(tmp_path)) == 200


async def test_two_workers_share_a_backlog_and_each_request_has_one_start_and_one_end(
    tmp_path: Path, server: EmbeddedServer, agent: Agent
) -> None:
    async with (
        worker(tmp_path, server.url, MMG_WORKER_NAME="w1") as first,
        worker(tmp_path, server.url, MMG_WORKER_NAME="w2") as second,
    ):
        await first.says("worker.ready")
        await second.says("worker.ready")
        for number in range(200):
            await agent.image(f"r{number}")
        await agent.lanes_empty(60)
    chains = [await agent.chain(f"r{number}") for number in range(200)]
    assert all([link["kind"] for link in chain] == ["started", "completed"] for chain in chains)
    assert {chain[0]["worker"] for chain in chains} == {"w1", "w2"}


async def test_killed_worker_is_taken_over_and_leaves_one_asset_and_no_temporary_file(
    tmp_path: Path, server: EmbeddedServer, agent: Agent
) -> None:
    async with worker(tmp_path, server.url, MMG_WORKER_NAME="victim") as victim:
        await victim.says("worker.ready")
        await agent.image("r1", **LONG)
        await until(
            lambda: any(s.startswith("mmg.progress") for s, _ in agent.heard), "first progress"
        )
        await victim.kill()
    async with worker(tmp_path, server.url, MMG_WORKER_NAME="heir") as heir:
        chain = await agent.ended("r1", timeout_s=40)
        await agent.lanes_empty()
        await heir.says("job.ended")
    assert [link["kind"] for link in chain] == ["started", "started", "completed"]
    assert [link["attempt"] for link in chain] == [1, 2, 2]
    assert chain[-1]["retry_count"] == 1
    assert {Path(o["file_path"]) for o in chain[-1]["outputs"]} == set(pictures(tmp_path))
    assert not temporary(tmp_path)


async def test_stopped_worker_hands_its_request_back_at_once(
    tmp_path: Path, server: EmbeddedServer, agent: Agent
) -> None:
    async with worker(tmp_path, server.url, MMG_WORKER_NAME="w1", MMG_DRAIN_S="0") as first:
        await first.says("worker.ready")
        await agent.image("r1", **LONG)
        await until(lambda: starts(agent), "the start")
        first.terminate()
        assert await first.exit_code() == 0, first.words
    async with worker(tmp_path, server.url, MMG_WORKER_NAME="w2"):
        chain = await agent.ended("r1", timeout_s=40)
    assert [link["kind"] for link in chain] == ["started", "released", "started", "completed"]
    assert chain[1]["by"] == "w1"
    assert not temporary(tmp_path)


async def test_draining_worker_finishes_its_job_and_says_what_it_waits_for(
    tmp_path: Path, server: EmbeddedServer, agent: Agent
) -> None:
    async with worker(tmp_path, server.url, MMG_SLOTS="cpu:1") as process:
        await process.says("worker.ready")
        await agent.image("r1", **LONG)
        await until(lambda: starts(agent), "the start")
        await agent.image("r2")
        process.interrupt()
        await process.says("waits_for_jobs")
        assert await process.exit_code(40) == 0
    assert [link["kind"] for link in await agent.chain("r1")] == ["started", "completed"]
    assert await agent.chain("r2") == [], "nothing is taken while draining"


async def test_worker_waits_for_a_server_that_is_away_and_recovers_when_it_dies(
    tmp_path: Path,
) -> None:
    server = EmbeddedServer(tmp_path / "nats", 0)
    await server.start()  # Only to learn a port that is free.
    url = server.url
    await server.stop()
    async with worker(tmp_path, url) as process:
        await process.says("bus.unreachable")
        await server.start()
        await process.says("worker.waits")  # There are no streams yet.
        async with await connect([url], "provision") as bus:
            await provision(bus, Plan(ack_wait_s=3.0))
        await process.says("worker.ready")
        async with agent_on(url) as agent:
            await agent.image("r1")
            await agent.ended("r1")
            await server.stop()
            await process.says("bus.lost")
            await server.start()
            await process.says("bus.back")
            await until(lambda: agent.nc.is_connected, "the agent's reconnect")
            await agent.image("r2")
            await agent.ended("r2")
    await server.stop()


async def test_once_without_a_server_says_so_and_exits_1(tmp_path: Path) -> None:
    async with worker(tmp_path, "nats://127.0.0.1:1", "--once") as process:
        assert await process.exit_code(20) == 1
        assert "127.0.0.1:1" in process.words
        assert "Traceback" not in process.words


async def test_ten_in_a_row_and_fifty_at_once_are_all_done(
    tmp_path: Path, server: EmbeddedServer, agent: Agent
) -> None:
    async with worker(tmp_path, server.url) as process:
        await process.says("worker.ready")
        for number in range(10):
            await agent.image(f"row{number}")
            assert (await agent.ended(f"row{number}"))[-1]["kind"] == "completed"
        for number in range(50):
            await agent.image(f"burst{number}", priority=PRIORITIES[number % 4])
        for number in range(50):
            assert (await agent.ended(f"burst{number}"))[-1]["kind"] == "completed"


async def test_same_identity_again_never_makes_a_second_result(
    tmp_path: Path, server: EmbeddedServer, agent: Agent
) -> None:
    body = {"type": "image", "prompt": "Cover", "options": LONG}
    await agent.ask("low", "L2-01", "same", body)
    again = await agent.ask("low", "L2-01", "same", body)
    assert again["error"]["err_code"] == 10077, "while queued the server refuses it"
    async with worker(tmp_path, server.url) as process:
        await until(lambda: starts(agent), "the start")
        await agent.ask("high", "L2-01", "same", body)  # While running, in another lane.
        chain = await agent.ended("same", timeout_s=40)
        await agent.lanes_empty()
        await agent.ask("low", "L2-01", "same", body)  # After completion.
        await agent.ask("high", "L2-01", "same", body | {"prompt": "another"})
        await agent.ask("high", "L2-02", "same", body | {"options": {}})  # Another agent's id.
        assert (await agent.ended("same", "L2-02"))[-1]["kind"] == "completed"
        await agent.lanes_empty()
        await agent.ask("low", "L2-01", "broken", {"type": "video"})
        await agent.ended("broken")
        await agent.ask("low", "L2-01", "broken", body)  # After failed.
        await agent.lanes_empty()
        await process.says("already ended")
    assert await agent.chain("same") == chain
    assert [link["kind"] for link in await agent.chain("broken")] == ["failed"]


@pytest.mark.parametrize("program", ["worker", "gateway"])
async def test_stop_while_it_waits_for_its_server_is_a_stop_in_order(
    tmp_path: Path, program: str
) -> None:
    async with running(tmp_path, program, MMG_NATS_URL="nats://127.0.0.1:1") as process:
        await process.says("bus.unreachable")
        process.terminate()
        assert await process.exit_code(10) == 0, process.words
        assert "Traceback" not in process.words


async def test_worker_that_is_stopped_while_its_server_is_away_does_not_wait_for_it(
    tmp_path: Path, server: EmbeddedServer, agent: Agent
) -> None:
    async with worker(tmp_path, server.url, MMG_DRAIN_S="0") as process:
        await process.says("worker.ready")
        await agent.image("r1", **LONG)
        await until(lambda: starts(agent), "the start")
        await server.stop()
        process.terminate()
        assert await process.exit_code(25) == 0, process.words
        assert "dispatch.left_undecided" in process.words


async def test_second_signal_stops_a_worker_at_once_and_its_log_says_so(
    tmp_path: Path, server: EmbeddedServer, agent: Agent
) -> None:
    async with worker(tmp_path, server.url, MMG_DRAIN_S="300") as process:
        await process.says("worker.ready")
        await agent.image("r1", **LONG)
        await until(lambda: starts(agent), "the start")
        process.terminate()
        await process.says("worker.stopping")
        process.terminate()
        await process.exit_code(10)
        assert "stopped_at_once" in process.words
    assert [link["kind"] for link in await agent.chain("r1")] == ["started"]
