"""Goal: a copy of the streams, taken while in use, brings everything back on an empty server.

Method: real servers; requests in every state are saved, restored elsewhere, and worked off there.
"""

from pathlib import Path

import pytest

from agent.bus import backup
from agent.bus.connection import BusError, connect
from agent.bus.provision import Plan, provision
from agent.embedded import EmbeddedServer
from tests.doubles.engine import ScriptedEngine
from tests.rig import agent_on
from tests.site_rig import ALICE, site_in
from tests.worker_rig import worker_with

STREAMS = ("MMG_REQUESTS", "MMG_EVENTS", "KV_mmg_state")


async def save(url: str, folder: Path) -> dict[str, int]:
    async with await connect([url], "provision") as bus:
        return {stream: await backup.save(bus, stream, folder) for stream in STREAMS}


async def test_what_was_saved_goes_on_where_it_was_on_an_empty_server(server, agent, tmp_path):
    async with worker_with(server, tmp_path / "old", ScriptedEngine("sketch")):
        await agent.image("done")
        before = await agent.ended("done")
    await agent.image("waits", priority="high")
    folder = tmp_path / "copy"
    folder.mkdir()
    counts = await save(server.url, folder)
    assert counts["MMG_REQUESTS"] == 1
    assert counts["MMG_EVENTS"] >= len(before)
    await agent.image("too-late")
    await server.stop()

    empty = EmbeddedServer(tmp_path / "empty", 0)
    await empty.start()
    try:
        async with await connect([empty.url], "provision") as bus:
            assert {s: await backup.restore(bus, s, folder) for s in STREAMS} == counts
            report = await provision(bus, Plan(ack_wait_s=3.0))
            assert report.by_hand == ()
        async with (
            agent_on(empty.url) as again,
            worker_with(empty, tmp_path / "new", ScriptedEngine("sketch")),
        ):
            assert await again.chain("done") == before
            assert (await again.ended("waits"))[-1]["kind"] == "completed"
            assert await again.chain("too-late") == []
            await again.lanes_empty()
    finally:
        await empty.stop()


async def test_a_stream_that_is_there_is_never_overwritten(server, agent, tmp_path):
    await agent.image("one")
    await save(server.url, tmp_path)
    async with await connect([server.url], "provision") as bus:
        with pytest.raises(BusError, match="already"):
            await backup.restore(bus, "MMG_REQUESTS", tmp_path)
    assert await agent.waiting() == 1


async def test_a_stream_that_is_not_there_is_said_and_leaves_no_half_copy(server, tmp_path):
    async with await connect([server.url], "provision") as bus:
        with pytest.raises(BusError, match="not found"):
            await backup.save(bus, "NO_SUCH", tmp_path)
    assert list(tmp_path.glob("NO_SUCH*")) == []


async def test_a_copy_that_was_cut_is_refused(server, agent, tmp_path):
    for number in range(20):
        await agent.image(f"r{number}")
    await save(server.url, tmp_path)
    packed = tmp_path / "MMG_REQUESTS.packed"
    packed.write_bytes(packed.read_bytes()[:-40])
    empty = EmbeddedServer(tmp_path / "empty", 0)
    await empty.start()
    try:
        async with await connect([empty.url], "provision") as bus:
            with pytest.raises(BusError):
                await backup.restore(bus, "MMG_REQUESTS", tmp_path)
    finally:
        await empty.stop()


async def test_on_a_site_with_keys_the_role_backup_saves_and_restores(tmp_path):
    body = b'{"type": "image", "prompt": "A lighthouse"}'
    folder = tmp_path / "copy"
    folder.mkdir()
    async with site_in(tmp_path) as site:
        async with await site.bus(ALICE) as alice, await site.bus("backup") as keeper:
            await alice.store("mmg.request.low.L2-01.cover-1", body)
            for stream in STREAMS:
                await backup.save(keeper, stream, folder)
        files = (site.folder.tls_conf, site.folder.accounts_conf)
        empty = EmbeddedServer(tmp_path / "empty", 0, files)
        await empty.start()
        try:
            login = site.login("backup")
            async with await connect([empty.url], "b", role="backup", login=login) as keeper:
                counts = {s: await backup.restore(keeper, s, folder) for s in STREAMS}
                assert keeper.permission_errors == 0
            assert counts["MMG_REQUESTS"] == 1
        finally:
            await empty.stop()
