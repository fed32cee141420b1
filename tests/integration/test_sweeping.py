"""Goal: only where a card could start something does a worker put off its look at the lanes.

Method: a worker in the test's own process, with an engine on the CPU, whose room for those that
wait is smaller than the backlog; a pause so long that nobody could wait it out.
"""

from agent import dispatch
from tests.doubles.engine import ScriptedEngine
from tests.worker_rig import worker_with


async def test_without_a_card_the_lanes_are_looked_at_as_soon_as_a_slot_changes(
    tmp_path, server, agent, monkeypatch
):
    monkeypatch.setattr(dispatch, "START_S", 300.0)
    for number in range(6):
        await agent.image(f"r{number}")
    async with worker_with(server, tmp_path, ScriptedEngine(), slots=1, lookahead=1):
        await agent.lanes_empty(20)
    assert [link["kind"] for link in await agent.chain("r5")] == ["started", "completed"]
