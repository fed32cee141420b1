"""Goal: the ledger is the fold of the stream, whatever happens to the process, the file or the bus.

Method: a real nats-server with streams of random lives, real SQLite files read back with the
standard library; processes killed with SIGKILL; the judge is always a fresh fold, row by row.
"""

import asyncio
import os
import random
import signal
import sqlite3
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
import structlog

from agent.bus.connection import Bus, connect
from agent.bus.provision import Plan, provision
from agent.embedded import EmbeddedServer
from agent.ledger import Ledger, Projection, tables
from agent.ledger.asking import Query
from agent.ledger.database import LedgerError, NewerLedgerError, opened
from contracts import subjects
from contracts.subjects import Identity
from tests.ledger_rig import (
    Chain,
    alert,
    content,
    edited,
    folded,
    following,
    fresh,
    position,
    publish,
    stream,
)
from tests.rig import ROOT, environment, until

KILLS = 50

Fold = Callable[[], AbstractAsyncContextManager[None]]


@pytest.fixture
async def bus(server: EmbeddedServer) -> AsyncIterator[Bus]:
    async with await connect([server.url], "ledger") as one:
        yield one


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "ledger.sqlite3"


async def test_killed_fifty_times_while_folding_it_equals_a_fresh_fold(server, bus, path, tmp_path):
    last = await publish(bus, stream(1200))
    stop = 0
    async with killer(server, path) as fold:
        for kill in range(KILLS):
            if stop == last:
                last = await publish(bus, stream(300, seed=kill))
            async with fold():
                await until(lambda: position(path) > stop, "more rows")  # noqa: B023 - awaited
                await pause(0.05)
            stop = position(path)
    await Projection(bus, path).fold_all()
    assert content(path) == await fresh(bus, tmp_path / "fresh.sqlite3")
    assert position(path) == last


async def test_killed_while_replaying_it_equals_a_fresh_fold(server, bus, path):
    last = await publish(bus, stream(600))
    good = await fresh(bus, path)
    async with killer(server, path) as fold:
        for _ in range(KILLS // 5):
            async with opened(path, write=True) as database:
                await tables.ask_replay(database)
            async with fold():
                await pause(0.4)
            assert content(path)["multimodal_generations"] == good["multimodal_generations"]
    await Projection(bus, path).fold_all()
    assert content(path) == good
    assert position(path) == last


@asynccontextmanager
async def killer(server: EmbeddedServer, path: Path) -> AsyncIterator[Fold]:
    """Give a context that lets another process fold until its end, and kills it there."""
    nursery = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.ledger_fold", server.url, str(path)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        cwd=ROOT,
        env=environment(),
    )
    stdin, stdout = nursery.stdin, nursery.stdout
    assert stdin is not None
    assert stdout is not None

    @asynccontextmanager
    async def fold() -> AsyncIterator[None]:
        stdin.write(b"\n")
        child = int(await stdout.readline())
        try:
            yield
        finally:
            os.kill(child, signal.SIGKILL)

    try:
        yield fold
    finally:
        stdin.close()
        async with asyncio.timeout(10):
            await nursery.wait()


async def pause(most_s: float) -> None:
    """Wait for a moment that nobody can foretell: what is killed may be anywhere."""
    await asyncio.sleep(random.uniform(0, most_s))


async def test_what_comes_while_it_runs_is_in_at_once(bus, path, tmp_path):
    async with following(bus, path):
        await folded(path, await publish(bus, stream(5, seed=1)))
        last = await publish(bus, stream(30, seed=2))
        await folded(path, last)
        for message in stream(3, seed=3):
            last = await publish(bus, [message])
        await folded(path, last)
    assert content(path) == await fresh(bus, tmp_path / "fresh.sqlite3")


@pytest.mark.parametrize("harm", ["garbage", "torn", "page"])
async def test_a_broken_file_is_kept_aside_and_folded_anew(bus, path, harm):
    last = await publish(bus, stream(300))
    good = await fresh(bus, path)
    data = bytearray(path.read_bytes())
    match harm:
        case "garbage":
            data = bytearray(random.Random(1).randbytes(len(data)))
        case "torn":
            data = data[: len(data) // 2 + 100]
        case "page":
            data[8192:12288] = random.Random(1).randbytes(4096)
    path.write_bytes(data)
    async with following(bus, path):
        await until(lambda: any(path.parent.glob("*.broken-*Z")), "the broken file aside")
        await folded(path, last)
    assert content(path) == good
    (aside,) = path.parent.glob("ledger.sqlite3.broken-*Z")
    assert aside.read_bytes() == bytes(data)


async def test_a_file_that_breaks_while_it_is_used_is_folded_anew(bus, path):
    await publish(bus, stream(300))
    async with following(bus, path) as one:
        await until(lambda: one.caught_up, "all rows")
        with edited(path) as database:
            database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        with path.open("r+b") as file:
            file.seek(4096)
            file.write(random.Random(1).randbytes(40 * 4096))
        last = await publish(bus, stream(40, seed=5))
        await until(lambda: any(path.parent.glob("*.broken-*Z")), "the broken file aside")
        await folded(path, last)
    assert content(path) == await fresh(bus, path.with_name("fresh.sqlite3"))


async def test_of_two_gateways_on_one_file_one_writes_and_the_other_takes_over(server, bus, path):
    async with await connect([server.url], "second") as other, AsyncExitStack() as later:
        async with following(bus, path) as writer:
            await until(lambda: writer.caught_up, "the first one")
            second = await later.enter_async_context(following(other, path))
            await folded(path, await publish(bus, stream(20, seed=1)))
            with pytest.raises(LedgerError, match="another process writes"):
                await Projection(bus, path).fold_all()
            assert not second.caught_up
        await until(lambda: second.caught_up, "the other one as writer")
        await folded(path, await publish(bus, stream(20, seed=2)))
    assert content(path) == await fresh(bus, path.with_name("fresh.sqlite3"))


async def test_a_stream_made_anew_is_folded_from_its_first_message_and_old_rows_stay(bus, path):
    draw = random.Random(1)
    old, new = (Chain(Identity("L2-01", name), draw, seq=3) for name in ("old", "new"))
    async with following(bus, path):
        await folded(path, await publish(bus, [*old.life(), alert("disk", "raised", 1)]))
        await bus.api(f"STREAM.DELETE.{subjects.STREAM_EVENTS}")
        await provision(bus, Plan())
        await publish(bus, [new.message(new.started())])
        await until(lambda: _ids(path) == ["new", "old"], "both rows")
    assert position(path) == 1
    assert len(content(path)["alerts"]) == 1


async def test_a_stream_that_was_set_back_is_folded_again(bus, path):
    last = await publish(bus, stream(40))
    good = await fresh(bus, path)
    for change in ("seq = seq + 5", "stored_at = '2020-01-01T00:00:00.000000Z'"):
        with edited(path) as database:
            database.execute(f"UPDATE ledger_position SET {change}")  # noqa: S608 - two texts above
            database.execute("UPDATE multimodal_generations SET status = 'queued', pinned = 1")
        await Projection(bus, path).fold_all()
        assert content(path) == good
        assert position(path) == last


async def test_messages_that_are_no_longer_kept_leave_their_rows(bus, path):
    last = await publish(bus, stream(40))
    good = await fresh(bus, path)
    await bus.api(f"STREAM.PURGE.{subjects.STREAM_EVENTS}", {"seq": last - 20})
    await Projection(bus, path).fold_all(again=True)
    assert content(path) == good
    await bus.api(f"STREAM.PURGE.{subjects.STREAM_EVENTS}")
    await Projection(bus, path).fold_all(again=True)
    assert content(path)["multimodal_generations"] == good["multimodal_generations"]
    async with following(bus, path) as one:
        await until(lambda: one.caught_up, "the end of an empty stream")


async def test_nobody_sees_a_replay_before_its_end(bus, path, monkeypatch):
    await publish(bus, stream(60))
    good = await fresh(bus, path)
    seen: list[bool] = []
    put_rows = tables.put_rows

    async def put_and_look(*arguments):
        await put_rows(*arguments)
        found = await asyncio.to_thread(content, path)
        seen.append(found["multimodal_generations"] == good["multimodal_generations"])

    monkeypatch.setattr(tables, "put_rows", put_and_look)
    await Projection(bus, path, batch=10).fold_all(again=True)
    assert len(seen) > 10
    assert all(seen)
    assert content(path) == good


async def test_what_fails_on_the_way_leaves_everything_as_it_was(bus, path, monkeypatch):
    await publish(bus, stream(20, seed=1))
    good = await fresh(bus, path)
    await publish(bus, stream(20, seed=2))

    async def fail(*arguments):
        raise LedgerError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(tables, "move_position", fail)
        with pytest.raises(LedgerError, match="the disk is full"):
            await Projection(bus, path).fold_all()
    assert content(path) == good
    await Projection(bus, path).fold_all()
    assert content(path) == await fresh(bus, path.with_name("fresh.sqlite3"))


async def test_a_replay_asked_for_in_the_midst_of_a_batch_is_not_lost(bus, path, monkeypatch):
    await publish(bus, stream(20, seed=1))
    await fresh(bus, path)
    with edited(path) as database:
        database.execute("UPDATE multimodal_generations SET prompt = NULL")
    await publish(bus, stream(20, seed=2)[:1])
    read_position = tables.read_position

    async def read_and_ask(database):
        found = await read_position(database)
        monkeypatch.setattr(tables, "read_position", read_position)
        async with opened(path, write=True) as other:
            await tables.ask_replay(other)
        return found

    monkeypatch.setattr(tables, "read_position", read_and_ask)
    with pytest.raises(tables.MovedPositionError):
        await Projection(bus, path).fold_all()
    await Projection(bus, path).fold_all()
    assert content(path) == await fresh(bus, path.with_name("fresh.sqlite3"))


async def test_a_server_that_dies_and_comes_back_is_followed_again(server, bus, path):
    async with following(bus, path) as one:
        await folded(path, await publish(bus, stream(20, seed=1)))
        await server.stop()
        await until(lambda: not one.caught_up, "the loss")
        await server.start()
        await until(lambda: bus.connected, "the connection")
        await folded(path, await publish(bus, stream(20, seed=2)))
    assert content(path) == await fresh(bus, path.with_name("fresh.sqlite3"))


async def test_a_file_that_is_deleted_is_made_again(bus, path):
    async with following(bus, path):
        last = await publish(bus, stream(10))
        await folded(path, last)
        for file in path.parent.glob("ledger.sqlite3*"):
            if not file.name.endswith(".lock"):
                file.unlink()
        await folded(path, last)
    assert content(path) == await fresh(bus, path.with_name("fresh.sqlite3"))


async def test_a_ledger_of_the_first_version_gets_its_alerts(bus, path):
    await publish(bus, [*stream(10), alert("disk", "raised", 9000)])
    good = await fresh(bus, path)
    with edited(path) as database:
        database.execute("DROP TABLE alerts")
        database.execute("PRAGMA user_version = 1")
    await Projection(bus, path).fold_all()
    assert content(path) == good
    assert good["alerts"]


async def test_the_file_of_a_newer_version_is_left_alone(bus, path):
    await publish(bus, stream(3))
    await fresh(bus, path)
    with edited(path) as database:
        database.execute("PRAGMA user_version = 99")
    before = path.read_bytes()
    with pytest.raises(NewerLedgerError, match="of version 99"):
        await Projection(bus, path).fold_all()
    with pytest.raises(LedgerError, match="of version 99"):
        await Ledger(path).history(Query())
    assert path.read_bytes() == before


async def test_without_streams_it_says_so_once_and_waits(bus, path):
    await bus.api(f"STREAM.DELETE.{subjects.STREAM_EVENTS}")
    with structlog.testing.capture_logs() as logs:
        async with following(bus, path):
            await until(lambda: _events(logs, "ledger.waits"), "the word that it waits")
            await provision(bus, Plan())
            await folded(path, await publish(bus, stream(3)))
    assert "mmg provision" in _events(logs, "ledger.waits")[0]["reason"]
    assert len(_events(logs, "ledger.waits")) == 1


def _ids(path: Path) -> list[str]:
    try:
        return [row[0] for row in content(path)["multimodal_generations"]]
    except sqlite3.Error:
        return []


def _events(logs: list[structlog.types.EventDict], name: str) -> list[structlog.types.EventDict]:
    return [entry for entry in logs if entry["event"] == name]
