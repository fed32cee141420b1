"""Goal: what a worker decides is written down, numbered for good, within its bounds, and nothing
that goes wrong with the file stops the worker.

Method: the recorder on a real folder, fed with moments of a real arbiter.
"""

import asyncio
import json
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from agent import decisions
from agent.core import replaying
from agent.core.arbiter import Arbiter
from agent.core.leases import Ask, Need
from agent.core.replaying import Arbitrated, Happening
from agent.decisions import Recorder
from agent.gpu.keeper import Moment
from contracts.requests import Priority, Quality
from contracts.status import DECISIONS_MAX
from tests.rig import until

T0 = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)


def moment(job: str = "a", *, idle: bool = False) -> Moment:
    """Return what follows from a first request, or from a tick that decides nothing."""
    arbiter = Arbiter()
    before = replaying.remember(arbiter)
    ask = Ask(
        job=job,
        priority=Priority.HIGH,
        quality=Quality.HIGH,
        need=Need(model="sdxl-1.0", vram_mib=12288),
        stored_at=T0,
        max_wait_s=30,
    )
    event = Happening(name="tick") if idle else Happening(name="request", ask=ask)
    found = replaying.play(arbiter, event, T0)
    return Moment(at=T0, card="http://card", event=event, before=before, decisions=found)


def numbers(path: Path) -> list[int]:
    return [json.loads(line)["seq"] for line in path.read_bytes().splitlines()]


async def recorder(folder: Path, **settings: int) -> Recorder:
    one = Recorder(folder, "w1", **settings)
    await one.open()
    return one


async def test_numbers_go_on_where_an_earlier_process_left_off(tmp_path):
    first = await recorder(tmp_path)
    for job in "abc":
        first.arbitrated(moment(job))
    first.arbitrated(moment(idle=True))
    await first.close()
    assert numbers(first.path) == [1, 2, 3]
    with first.path.open("ab") as file:
        file.write(b'{"kind":"arbiter","seq":4,"at":"2026')  # as a kill in mid-write leaves it
    again = await recorder(tmp_path)
    again.arbitrated(moment("d"))
    await again.close()
    assert decisions.find(tmp_path, 4)


async def test_a_torn_line_costs_no_other_record(tmp_path):
    one = await recorder(tmp_path)
    one.arbitrated(moment("a"))
    await one.close()
    with one.path.open("ab") as file:
        file.write(b'{"kind":"arbiter","se')
    again = await recorder(tmp_path)
    for job in "bc":
        again.arbitrated(moment(job))
    await again.close()
    for seq, job in ((1, "a"), (2, "b"), (3, "c")):
        ((worker, line),) = decisions.find(tmp_path, seq)
        record = replaying.decode(line)
        assert worker == "w1"
        assert isinstance(record, Arbitrated)
        assert record.event.ask is not None
        assert record.event.ask.job == job
        assert replaying.replay(record).is_same


async def test_two_files_hold_the_newest_and_never_more_than_their_size(tmp_path):
    one = await recorder(tmp_path, file_bytes=20_000)
    for number in range(60):
        one.arbitrated(moment(f"job-{number}"))
        if number % 7 == 0:
            await one.close()
    await one.close()
    older, newer = decisions.earlier(one.path), one.path
    assert sorted(one.path.parent.iterdir()) == sorted([older, newer])
    assert older.stat().st_size <= 20_000
    assert newer.stat().st_size <= 20_000
    kept = numbers(older) + numbers(newer)
    assert kept == list(range(kept[0], 61))
    assert decisions.find(tmp_path, kept[0], "w1")
    assert decisions.find(tmp_path, 1) == []
    assert decisions.find(tmp_path, 60, "w2") == []


async def test_records_of_a_moment_are_written_together_and_without_being_asked(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(decisions, "GATHER_S", 1.0)
    one = await recorder(tmp_path)
    async with asyncio.TaskGroup() as group:
        running = group.create_task(one.run())
        for job in "abcdefgh":
            one.arbitrated(moment(job))
            await asyncio.sleep(0)
        assert not one.path.exists()
        await until(lambda: one.path.exists() and one.path.stat().st_size, "the file")
        assert numbers(one.path) == list(range(1, 9))
        running.cancel()


async def test_a_disk_that_takes_nothing_loses_records_and_stops_nobody(tmp_path):
    (tmp_path / decisions.FOLDER).write_text("a file where the folder should be")
    one = await recorder(tmp_path)
    for job in "ab":
        one.arbitrated(moment(job))
    await one.close()
    assert one.lost == 2
    assert [decided.job for decided in one.recent] == ["b", "a"]


async def test_more_than_the_queue_holds_is_counted_and_not_kept(tmp_path):
    one = await recorder(tmp_path)
    for number in range(decisions.LINES_MAX + 5):
        one.arbitrated(moment(f"job-{number}"))
    assert one.lost == 5
    await one.close()
    assert len(numbers(one.path)) == decisions.LINES_MAX


async def test_the_last_decisions_are_told_newest_first_without_measurements(tmp_path):
    one = await recorder(tmp_path)
    for number in range(DECISIONS_MAX + 3):
        one.arbitrated(moment(f"job-{number}"))
    assert len(one.recent) == DECISIONS_MAX
    newest = one.recent[0]
    assert (newest.seq, newest.what, newest.job) == (DECISIONS_MAX + 3, "wait", "job-52")
    assert newest.reason
    assert all(decided.what != "measure" for decided in one.recent)
    assert len(msgspec.json.encode(one.recent)) < 50_000
