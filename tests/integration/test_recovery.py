"""Goal: whatever fails, a request ends once, and what stands behind it goes on.

Method: a worker in this process on a real server, with engines that fail as the test says.
"""

import asyncio
import errno
import json
import os
import signal
from pathlib import Path

import pytest

from agent import readiness
from agent.assets import files
from agent.bus.connection import connect
from agent.bus.provision import Plan, provision
from agent.bus.submit import submit
from agent.core import job as core_job
from agent.core.faults import DiskFullFault, EngineDownFault, Fault, NoEngineFault
from agent.embedded import EmbeddedServer
from agent.engines.protocol import EngineJob
from contracts.errors import ContractError
from contracts.requests import Request
from tests.doubles.engine import ScriptedEngine
from tests.rig import Agent, agent_on, bus_server, pictures, temporary, until
from tests.worker_rig import worker_with


@pytest.fixture
def quick_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the first pause before a retry 0.2 s instead of 5 s."""
    monkeypatch.setattr(core_job, "RETRY_FIRST_S", 0.2)


def kinds(chain: list[dict[str, object]]) -> list[object]:
    """Return the kinds of a chain's links."""
    return [link["kind"] for link in chain]


def failing(times: int):
    """Fail the first `times` tries of each request whose id begins with bad.

    A full disk is no fault of the engine, so that no breaker opens.
    """

    def fault_of(job: EngineJob, number: int) -> Fault | None:
        return DiskFullFault("full") if job.request_id[:3] == "bad" and number <= times else None

    return fault_of


@pytest.mark.usefixtures("quick_backoff")
async def test_failed_try_is_retried_after_a_pause_and_completes(
    tmp_path: Path, server: EmbeddedServer, agent: Agent
) -> None:
    async with worker_with(server, tmp_path, ScriptedEngine(fault_of=failing(2))):
        await agent.image("bad1")
        chain = await agent.ended("bad1")
    assert kinds(chain) == [
        "started",
        "retrying",
        "started",
        "retrying",
        "started",
        "completed",
    ]
    assert [link["attempt"] for link in chain] == [1, 1, 2, 2, 3, 3]
    assert chain[1]["error"]["code"] == "disk_full"
    assert chain[3]["delay_s"] > chain[1]["delay_s"] > 0, "the pause grows"
    assert chain[-1]["retry_count"] == 2


@pytest.mark.usefixtures("quick_backoff")
async def test_request_whose_tries_are_spent_ends_as_a_dead_letter_with_its_faults(
    tmp_path: Path, server: EmbeddedServer, agent: Agent
) -> None:
    async with worker_with(server, tmp_path, ScriptedEngine(fault_of=failing(99))):
        await agent.image("bad1")
        chain = await agent.ended("bad1")
        await agent.image("good")
        assert kinds(await agent.ended("good"))[-1] == "completed"
    assert kinds(chain).count("started") == 3
    assert chain[-1]["dead"] is True
    assert [fault["attempt"] for fault in chain[-1]["faults"]] == [1, 2, 3]
    assert chain[-1]["request"]["prompt"] == "Cover bad1"


async def test_engine_that_is_down_is_left_at_once_for_the_next(
    tmp_path: Path, server: EmbeddedServer, agent: Agent
) -> None:
    down = ScriptedEngine("first", fault_of=lambda _job, _try: EngineDownFault("away"))
    async with worker_with(server, tmp_path, down, ScriptedEngine("second")):
        await agent.image("r1")
        chain = await agent.ended("r1")
    assert kinds(chain) == ["started", "retrying", "started", "completed"]
    assert (chain[1]["delay_s"], chain[1]["next_engine"]) == (0.0, "second")
    assert chain[-1]["engine"] == "second"


async def test_fault_that_nothing_can_mend_ends_without_a_retry_and_is_no_dead_letter(
    tmp_path: Path, server: EmbeddedServer, agent: Agent
) -> None:
    engine = ScriptedEngine(fault_of=lambda _job, _try: NoEngineFault("cannot"))
    async with worker_with(server, tmp_path, engine):
        await agent.image("r1")
        chain = await agent.ended("r1")
    assert kinds(chain) == ["started", "failed"]
    assert chain[-1]["dead"] is False


async def test_two_hundred_jobs_in_backoff_do_not_delay_a_good_one(
    tmp_path: Path, server: EmbeddedServer, agent: Agent
) -> None:
    async with worker_with(server, tmp_path, ScriptedEngine(fault_of=failing(1)), drain_s=0.0):
        for number in range(200):
            await agent.image(f"bad{number}")

        def all_wait() -> bool:
            return sum(subject.endswith(".retrying") for subject, _ in agent.heard) == 200

        await until(all_wait, "200 jobs in backoff")
        loop = asyncio.get_running_loop()
        asked_s = loop.time()
        await agent.image("good", priority="low")
        await agent.ended("good")
        assert loop.time() - asked_s < 1.0


async def test_engine_that_hangs_is_stopped_at_its_time_limit(
    tmp_path: Path, server: EmbeddedServer, agent: Agent
) -> None:
    async with worker_with(
        server, tmp_path, ScriptedEngine(seconds=60), drain_s=0.0, run_timeout_s=0.3
    ):
        await agent.image("r1")

        async def retrying() -> dict[str, object] | None:
            chain = await agent.chain("r1")
            return chain[1] if len(chain) > 1 else None

        link = await until(retrying, "the end of the try")
    assert link["error"]["code"] == "hang"


async def test_long_job_on_a_healthy_worker_starts_once_also_across_a_server_kill(
    tmp_path: Path, server: EmbeddedServer, agent: Agent
) -> None:
    async with worker_with(server, tmp_path, ScriptedEngine(seconds=9)):
        await agent.image("r1")
        await until(lambda: agent.heard, "the start")
        os.kill(server.pid, signal.SIGKILL)
        await server.wait()
        await server.start()
        chain = await agent.ended("r1")
    assert kinds(chain) == ["started", "completed"], "three times ack_wait, one start"


async def test_zombie_that_was_overtaken_stops_and_leaves_no_file(
    tmp_path: Path, server: EmbeddedServer, agent: Agent
) -> None:
    slow = ScriptedEngine(seconds=30)
    async with worker_with(server, tmp_path, slow, slots=1, drain_s=0.0) as zombie:
        await agent.image("r1")
        await until(lambda: slow.tries["r1"], "the zombie's start")
        (job,) = zombie._jobs.values()
        await job.delivery.nak()  # As if it had been frozen for longer than ack_wait.
        async with worker_with(server, tmp_path, ScriptedEngine(), name="w2"):
            chain = await agent.ended("r1")
            await until(lambda: "r1" in slow.cancelled, "the zombie's stop")
            await until(lambda: not zombie.running, "the zombie's end")
    assert kinds(chain) == ["started", "started", "completed"]
    assert await agent.chain("r1") == chain
    assert len(pictures(tmp_path)) == 1
    assert not temporary(tmp_path)


async def test_full_assets_disk_is_named_and_the_request_waits_for_room(
    tmp_path: Path,
    server: EmbeddedServer,
    agent: Agent,
    monkeypatch: pytest.MonkeyPatch,
    quick_backoff: None,
) -> None:
    full = [True]
    write = files.write_all

    def full_disk(file: int, data: bytes) -> None:
        if full[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(file, data)

    monkeypatch.setattr(files, "write_all", full_disk)
    async with worker_with(server, tmp_path, ScriptedEngine()):
        await agent.image("r1")

        async def retrying() -> bool:
            return len(await agent.chain("r1")) > 1

        await until(retrying, "the first failed try")
        full[0] = False
        chain = await agent.ended("r1")
    assert chain[1]["error"]["code"] == "disk_full"
    assert kinds(chain)[-1] == "completed"
    assert not temporary(tmp_path)


async def test_worker_takes_nothing_while_the_event_store_is_almost_full(tmp_path: Path) -> None:
    async with bus_server(tmp_path / "nats") as server, agent_on(server.url) as agent:
        async with await connect([server.url], "provision") as bus:
            await provision(bus, Plan(events_max_bytes=200_000))
        await agent.nc.request("mmg.alert.filler", b"x" * 185_000)
        async with worker_with(server, tmp_path, ScriptedEngine()) as dispatch:
            await agent.image("r1")
            await until(lambda: dispatch.status().state == "closed", "the worker to close")
            assert "event store is 9" in dispatch.status().reason
            assert await agent.chain("r1") == []


async def test_full_queue_is_said_to_who_asks(tmp_path: Path) -> None:
    async with (
        bus_server(tmp_path / "nats") as server,
        await connect([server.url], "client") as bus,
    ):
        await provision(bus, Plan(requests_max=2))
        for number in range(2):
            await submit(bus, Request(type="image", prompt="x", request_id=f"r{number}"))
        with pytest.raises(ContractError) as refused:
            await submit(bus, Request(type="image", prompt="x", request_id="r3"))
    assert refused.value.body.code == "queue_full"
    assert refused.value.body.message == "the queue takes no more requests now; try again later"


async def test_streams_deleted_under_a_worker_raise_an_alert_and_end_it(
    tmp_path: Path, server: EmbeddedServer, agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readiness, "LOOK_EVERY_S", 0.05)
    monkeypatch.setattr(readiness, "STREAMS_GONE_S", 0.3)
    with pytest.raises(ExceptionGroup) as ended:  # noqa: PT012 - it raises where the block ends
        async with worker_with(server, tmp_path, ScriptedEngine()) as dispatch:
            await agent.nc.request("$JS.API.STREAM.DELETE.MMG_REQUESTS", b"")
            await until(lambda: dispatch.status().state == "closed", "the worker to close")
            await until(lambda: dispatch.status().state == "stopping", "the worker to give up")
    assert ended.group_contains(readiness.StreamsGoneError)
    alert = await agent.nc.request(
        "$JS.API.STREAM.MSG.GET.MMG_EVENTS",
        json.dumps({"last_by_subj": "mmg.alert.streams_gone"}).encode(),
    )
    assert "error" not in json.loads(alert.data)
    answer = await agent.nc.request("$JS.API.STREAM.INFO.MMG_REQUESTS", b"")
    assert json.loads(answer.data)["error"]["code"] == 404, "never made anew by a worker"


async def test_stop_hands_back_what_waits_at_once_and_ends_with_the_running_job(
    tmp_path: Path, server: EmbeddedServer, agent: Agent
) -> None:
    engine = ScriptedEngine(seconds=2.0)
    async with worker_with(
        server, tmp_path, engine, slots=1, drain_s=300.0, lookahead=16
    ) as dispatch:
        await agent.image("r1")
        await until(lambda: dispatch.status().running, "the job that draws")
        await agent.image("r2")
        await agent.image("r3")
        await until(lambda: len(dispatch.status().waiting) == 2, "those that wait for the slot")
    assert kinds(await agent.chain("r1")) == ["started", "completed"]
    assert await agent.chain("r2") == await agent.chain("r3") == []
    async with worker_with(server, tmp_path, ScriptedEngine(), name="w2", slots=1):
        second, third = await agent.ended("r2"), await agent.ended("r3")
    assert second[0]["at"] < third[0]["at"], "in their order"
