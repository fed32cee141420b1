"""Goal: the depth and age of each lane is what has not begun, whatever the server's numbers say.

Method: real streams; chains in every state beside their requests.
"""

from agent.bus import measuring
from agent.bus.connection import connect
from agent.embedded import EmbeddedServer
from contracts.requests import Priority
from contracts.subjects import Identity
from tests.integration.gateway_rig import Story


async def lanes(url):
    async with await connect([url], "gateway") as bus:
        found = await measuring.measure(bus)
        return {lane.priority: lane for lane in found.lanes}


async def test_what_has_begun_does_not_wait_and_what_was_given_back_does(server, agent):
    async with await connect([server.url], "writer") as bus:
        for name in ("draws", "returned", "new"):
            await agent.image(name, priority="high")
        draws = Story(bus, Identity("L2-01", "draws"))
        await draws.started()
        lane = (await lanes(server.url))[Priority.HIGH]
        assert (lane.stored, lane.waiting) == (3, 2)
        assert lane.oldest_s > 0

        for name in ("returned", "new"):
            await Story(bus, Identity("L2-01", name)).started()
        lane = (await lanes(server.url))[Priority.HIGH]
        assert (lane.stored, lane.waiting, lane.oldest_s) == (3, 0, 0.0)

        await draws.released()
        lane = (await lanes(server.url))[Priority.HIGH]
        assert (lane.stored, lane.waiting) == (3, 1)
        assert lane.oldest_s > 0


async def test_the_oldest_that_waits_is_found_behind_many_that_have_begun(server, agent):
    async with await connect([server.url], "writer") as bus:
        for number in range(measuring.PAGE + 3):
            await agent.image(f"r{number}", priority="low")
            await Story(bus, Identity("L2-01", f"r{number}")).started()
        await agent.image("last", priority="low")
    found = await lanes(server.url)
    assert (found[Priority.LOW].stored, found[Priority.LOW].waiting) == (measuring.PAGE + 4, 1)
    assert found[Priority.LOW].oldest_s < 5
    assert found[Priority.CRITICAL].oldest_s == 0


async def test_without_streams_there_is_nothing_to_show_and_nothing_is_raised(tmp_path):
    empty = EmbeddedServer(tmp_path, 0)
    await empty.start()
    try:
        async with await connect([empty.url], "gateway") as bus:
            found = await measuring.measure(bus)
        assert (found.streams, found.lanes) == ({}, ())
    finally:
        await empty.stop()
