"""Goal: a person folds the ledger again, copies it, and looks into it, whatever else is running.

Method: the functions and the commands as typed, beside a real projection or gateway and without;
the judge is a fresh fold, row by row.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from agent.bus.connection import Bus, connect
from agent.clock import SystemClock
from agent.embedded import EmbeddedServer
from agent.ledger import Ledger, Projection, reading, upkeep
from agent.ledger.database import LedgerError
from agent.ledger.reading import READERS_MAX
from tests.integration.history_rig import Rig, completed, gateway_on
from tests.integration.operator_rig import Shell, shell_on
from tests.ledger_rig import content, edited, folded, following, fresh, position, publish, stream
from tests.rig import until


@pytest.fixture
async def bus(server: EmbeddedServer) -> AsyncIterator[Bus]:
    async with await connect([server.url], "ledger") as one:
        yield one


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "ledger.sqlite3"


@pytest.fixture
async def rig(server: EmbeddedServer, tmp_path: Path) -> AsyncIterator[Rig]:
    async with gateway_on(server, tmp_path) as running:
        yield running


@pytest.fixture
def mmg(server: EmbeddedServer, tmp_path: Path, monkeypatch, capsys) -> Shell:
    return shell_on(server.url, tmp_path / "home", monkeypatch, capsys)


@pytest.mark.parametrize("gateway", [True, False])
async def test_rebuild_mends_rows_beside_a_gateway_and_without_one(bus, path, gateway):
    last = await publish(bus, stream(50))
    good = await fresh(bus, path)
    with edited(path) as database:
        database.execute("UPDATE multimodal_generations SET status = 'x', prompt = NULL")
    if gateway:
        async with following(bus, path) as one:
            await until(lambda: one.caught_up, "the gateway")
            done = await upkeep.rebuild(bus, path, SystemClock())
    else:
        done = await upkeep.rebuild(bus, path, SystemClock())
    assert done == upkeep.Folded(rows=50, seq=last, by_gateway=gateway)
    assert content(path) == good


async def test_rebuild_makes_a_ledger_where_there_is_none_or_a_broken_one(bus, path):
    last = await publish(bus, stream(5))
    assert (await upkeep.rebuild(bus, path, SystemClock())).seq == last
    path.write_bytes(b"no database, but longer than nothing" * 500)
    assert (await upkeep.rebuild(bus, path, SystemClock())).rows == 5
    assert any(path.parent.glob("*.broken-*Z"))


async def test_a_backup_taken_while_rows_arrive_is_whole_and_one_file(bus, path, tmp_path):
    copy = tmp_path / "copy.sqlite3"
    async with following(bus, path):
        await folded(path, await publish(bus, stream(100, seed=1)))
        async with asyncio.TaskGroup() as group:
            group.create_task(publish(bus, stream(100, seed=2)))
            count = await upkeep.backup(path, copy)
    assert 100 <= count <= 200
    assert len(content(copy)["multimodal_generations"]) == count
    assert sorted(file.name for file in tmp_path.glob("*copy*")) == ["copy.sqlite3"]
    # It can take the place of the ledger: what is missing is folded from there.
    await Projection(bus, copy).fold_all()
    assert content(copy) == await fresh(bus, tmp_path / "fresh.sqlite3")
    with pytest.raises(FileExistsError, match="name another file"):
        await upkeep.backup(path, copy)


async def test_a_backup_of_nothing_leaves_nothing(path, tmp_path):
    with pytest.raises(LedgerError):
        await upkeep.backup(path, tmp_path / "copy.sqlite3")
    assert not list(tmp_path.glob("*copy*"))


# --- the commands -------------------------------------------------------------------------------


async def test_a_crowd_of_questions_is_answered_with_few_files_open(bus, path):
    await publish(bus, stream(5))
    ledger = Ledger(path)
    async with following(bus, path) as one:
        await until(lambda: one.caught_up, "the gateway")
        before = len(list(Path("/dev/fd").iterdir()))
        async with asyncio.TaskGroup() as group:
            asked = [group.create_task(ledger.troubles()) for _ in range(100)]
        after = len(list(Path("/dev/fd").iterdir()))
    assert {task.result() for task in asked} == {()}
    assert after - before <= READERS_MAX


async def test_whoever_waits_too_long_for_a_turn_is_told(bus, path, monkeypatch):
    await fresh(bus, path)
    monkeypatch.setattr(reading, "TURN_S", 0.01)
    ledger = Ledger(path)
    async with AsyncExitStack() as stack:
        for _ in range(READERS_MAX):
            await stack.enter_async_context(ledger._reading())
        with pytest.raises(LedgerError, match="others asked"):
            await ledger.troubles()
    assert await ledger.troubles() == ()


async def test_mmg_history_shows_what_the_gateway_has(rig, mmg, monkeypatch):
    monkeypatch.setenv("MMG_PUBLIC_URL", rig.url)
    assert (await mmg("history")).out == "nothing fits\n"
    await rig.told([*completed("r1", 1), *completed("r2", 2, "sketch", "sketch")])
    heard = await mmg("history", "--limit", "1")
    assert heard.code == 0, heard.err
    line, _, more = heard.out.splitlines()
    assert line.split()[2:6] == ["r2", "L2.01", "completed", "sketch"]
    assert more.startswith("2 in all; older ones: --cursor ")
    cursor = more.split("--cursor ")[1].split(",")[0]
    older = await mmg("history", "--cursor", cursor)
    assert older.out.splitlines()[0].split()[2] == "r1"
    heard = await mmg("history", "--model", "sdxl", "--status", "COMPLETED", "--json")
    assert [one["request_id"] for one in json.loads(heard.out)["generations"]] == ["r1"]
    heard = await mmg("history", "--since", "soon")
    assert (heard.code, "must be a day" in heard.err) == (2, True)


async def test_mmg_history_without_a_gateway_names_the_way_out(mmg, monkeypatch):
    monkeypatch.setenv("MMG_PUBLIC_URL", "http://127.0.0.1:9")
    heard = await mmg("history")
    assert heard.code == 3
    assert "no gateway answers at http://127.0.0.1:9" in heard.err
    assert "`mmg gateway` or `mmg up` starts one; MMG_PUBLIC_URL names another." in heard.err


async def test_mmg_ledger_rebuilds_and_copies_beside_a_gateway(rig, mmg, monkeypatch, tmp_path):
    monkeypatch.setenv("MMG_DATA_DIR", str(rig.path.parent))
    await rig.told(stream(20))
    heard = await mmg("ledger", "rebuild", "--json")
    assert heard.code == 0, heard.err
    assert json.loads(heard.out) == {"rows": 20, "seq": position(rig.path), "by_gateway": True}
    copy = tmp_path / "copy.sqlite3"
    heard = await mmg("ledger", "backup", str(copy))
    assert heard.out.splitlines() == ["copied and checked: 20 requests", str(copy)]
    assert content(copy) == await asyncio.to_thread(content, rig.path)
    heard = await mmg("ledger", "backup", str(copy))
    assert (heard.code, "name another file" in heard.err) == (1, True)


async def test_mmg_ledger_backup_without_a_ledger_names_the_way_out(mmg, tmp_path):
    heard = await mmg("ledger", "backup", str(tmp_path / "copy.sqlite3"))
    assert heard.code == 1
    assert "A gateway makes and mends it" in heard.err
