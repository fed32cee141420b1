"""Goal: one agent cannot fill the queue, exactly, whoever looks and however it publishes.

Method: a real server whose lanes nobody empties; requests published past every library of ours, two
counters at once, and what is left in the stream and in the chains.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from agent.bus import control, submit
from agent.bus.connection import Bus, connect
from agent.bus.overview import count_by_agent, stored_of
from agent.bus.submit import Submitted
from agent.clock import SystemClock
from agent.quota import Quota
from contracts.errors import ContractError
from contracts.requests import Priority, Request
from contracts.subjects import Identity
from tests.integration.operator_rig import Writer
from tests.rig import Agent, until, worker

MOST = 3
ASKED = [f"cover-{n}" for n in range(9)]


@asynccontextmanager
async def counting(url: str, *workers: str) -> AsyncIterator[list[Bus]]:
    """Run the counter of each of these workers."""
    async with AsyncExitStack() as stack:
        buses = [
            await stack.enter_async_context(await connect([url], name, role="worker"))
            for name in workers
        ]
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(Quota(bus, bus.name, SystemClock(), MOST).run()) for bus in buses
            ]
            try:
                yield buses
            finally:
                for task in tasks:
                    task.cancel()


async def flood(agent: Agent, who: str = "L2-01") -> None:
    for n, request_id in enumerate(ASKED):
        await agent.image(request_id, agent=who, priority=("low", "critical", "high")[n % 3])


async def left(bus: Bus, who: str = "L2-01") -> list[str]:
    return sorted(one.request_id for one in await stored_of(bus, who))


async def refusals(agent: Agent, who: str = "L2-01") -> list[str]:
    """Return the requests whose chain is exactly one link that says quota."""
    found: list[str] = []
    for request_id in ASKED:
        chain = await agent.chain(request_id, who)
        if [link.get("error", {}).get("code") for link in chain] == ["quota"]:
            found.append(request_id)
    return found


async def trimmed(bus: Bus) -> None:
    async def look() -> bool:
        return (await count_by_agent(bus))["L2-01"] == MOST

    await until(look, "the agent's share")


@pytest.mark.parametrize("workers", [("w1",), ("w1", "w2", "w3")])
async def test_what_is_stored_beyond_the_share_is_refused_in_stored_order(server, agent, workers):
    async with counting(server.url, *workers) as buses:
        await flood(agent)
        await agent.image("other", agent="L2-02")
        await trimmed(buses[0])
        assert await left(buses[0]) == ASKED[:MOST]
        assert await refusals(agent) == ASKED[MOST:]
        assert await left(buses[0], "L2-02") == ["other"]


async def test_a_flood_from_before_the_worker_came_is_refused_too(server, agent):
    await flood(agent)
    async with counting(server.url, "w1") as (bus,):
        await trimmed(bus)
        assert await refusals(agent) == ASKED[MOST:]


async def test_what_has_begun_is_never_refused(server, agent):
    """The last ones were begun before anybody counted: they stay, and the share is exceeded."""
    await flood(agent)
    begun = ASKED[-2:]
    async with await connect([server.url], "w2", role="worker") as other:
        for request_id in begun:
            await Writer(other, Identity("L2-01", request_id)).started()
    async with counting(server.url, "w1") as (bus,):

        async def look() -> bool:
            return (await count_by_agent(bus))["L2-01"] == MOST + len(begun)

        await until(look, "the end of all that had not begun")
        assert await left(bus) == sorted([*ASKED[:MOST], *begun])
        assert await refusals(agent) == ASKED[MOST : -len(begun)]


async def test_the_gateway_refuses_before_it_stores_and_joins_what_is_known(server):
    async with await connect([server.url], "gateway", role="gateway") as bus:
        for n in range(MOST):
            await ask(bus, f"cover-{n}")
        with pytest.raises(ContractError, match="3 requests in the queue") as refused:
            await ask(bus, "cover-9")
        assert refused.value.body.code == "quota"
        assert refused.value.body.retryable
        assert (await ask(bus, "cover-1")).joined
        assert await left(bus) == ["cover-0", "cover-1", "cover-2"]


async def ask(bus: Bus, request_id: str) -> Submitted:
    request = Request(
        type="image",
        prompt="A lighthouse",
        request_id=request_id,
        requester="L2.01",
        priority=Priority.LOW,
    )
    return await submit.submit(bus, request, most=MOST)


async def test_a_worker_keeps_the_share_that_is_set(server, agent, tmp_path):
    async with await connect([server.url], "operator") as bus:
        await control.pause_lanes(bus, SystemClock().now())
        async with worker(tmp_path, server.url, MMG_AGENT_QUEUED_MAX=str(MOST)) as process:
            await process.says("worker.ready")
            await flood(agent)
            await trimmed(bus)
            assert await refusals(agent) == ASKED[MOST:]
            await control.resume_lanes(bus)
            for request_id in ASKED[:MOST]:
                assert (await agent.ended(request_id))[-1]["kind"] == "completed"
