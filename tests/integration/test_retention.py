"""Goal: exactly the right files go, the ledger says so, and a crash or a race costs no picture.

Method: a thousand requests on a real stream, their files with their ages on a real disk, and an
expectation that is computed beside it from how each one was made.
"""

import asyncio
import os
import random
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import pytest

from agent.assets import AssetStore, space
from agent.bus import facts
from agent.bus.connection import Bus, connect
from agent.clock import SystemClock
from agent.ledger import FILE, Projection
from agent.ledger.keeping import catch_up
from agent.ledger.reading import Ledger
from agent.ledger.tables import COLUMNS
from agent.retention import NOTE, Pruned, Retention
from contracts.subjects import Identity
from tests.ledger_rig import NOW, Chain, Message, content, following, publish
from tests.rig import until

DAY_S = 86400
AGES = 60
TODAY = NOW + timedelta(days=AGES)
"""The oldest request is sixty days old; half of them are due."""
MONTH = "2026-03"


class Today(SystemClock):
    """A clock that stands at one day; the test may move it."""

    def __init__(self) -> None:
        self.day = TODAY

    def now(self) -> datetime:
        return self.day


class Site(NamedTuple):
    """A bus, a folder of assets, and a ledger."""

    bus: Bus
    assets: AssetStore
    data: Path
    clock: Today
    retention: Retention

    @property
    def folder(self) -> Path:
        return self.assets_root / "images" / MONTH

    @property
    def assets_root(self) -> Path:
        return self.data.parent / "assets"

    def write(self, name: str, age_days: float) -> str:
        """Put a file there that was written so long ago."""
        path = self.folder / name
        path.write_bytes(b"x" * 10)
        written_s = (TODAY - timedelta(days=age_days)).timestamp()
        os.utime(path, (written_s, written_s))
        return name

    def listed(self) -> set[str]:
        return {path.name for path in self.folder.iterdir()}

    async def told(self, messages: list[Message]) -> None:
        await publish(self.bus, messages)
        await catch_up(self.bus, self.data / FILE, self.clock)

    async def prune(self, *, dry_run: bool = False) -> Pruned:
        await catch_up(self.bus, self.data / FILE, self.clock)
        return await self.retention.prune(dry_run=dry_run)


@pytest.fixture
async def site(server, tmp_path, monkeypatch) -> AsyncIterator[Site]:
    monkeypatch.setattr(os, "fsync", os.fstat)
    assets, clock, data = (
        AssetStore(tmp_path / "assets", "http://mmg.test"),
        Today(),
        tmp_path / "d",
    )
    data.mkdir()
    async with await connect([server.url], "gateway", role="gateway") as bus:
        one = Site(bus, assets, data, clock, Retention(bus, assets, data, 30, clock))
        one.folder.mkdir(parents=True)
        yield one


def chain_of(n: int, age_days: int) -> Chain:
    who = Identity(f"L2-{n % 7:02d}", f"r{n}")
    return Chain(who, random.Random(n), seq=(AGES - age_days) * DAY_S - 100)


def completed(one: Chain) -> list[Message]:
    return [one.message(one.started()), one.message(one.completed())]


class Thousand:
    """A thousand requests with everything that can lie beside them, and what should go."""

    def __init__(self, site: Site) -> None:
        self.messages: list[Message] = []
        self.pins: list[Identity] = []
        self.goes: set[str] = set()
        self.pruned: set[Identity] = set()
        self._draw = random.Random(5)
        for n in range(1000):
            self._one(site, n, self._draw.randrange(AGES))

    def _one(self, site: Site, n: int, age_days: int) -> None:
        """Make one request of one of the kinds, at random; `goes` is what its kind says."""
        one = chain_of(n, age_days)
        files = {site.write(f"{one.who}{end}", age_days) for end in self._some_endings()}
        losers = set()
        if self._draw.random() < 0.1:
            losers = {site.write(f"{one.who}.a2{end}", age_days) for end in (".png", ".json")}
        kind = self._draw.choices(
            ("done", "pinned", "unpinned", "open", "bad", "never"), (10, 3, 1, 2, 2, 2)
        )[0]
        old = age_days >= 30
        match kind:
            case "done" | "pinned" | "unpinned":
                self.messages += completed(one)
                stays = kind == "pinned"
                self.pins += [one.who] if kind == "pinned" else []
                if kind == "unpinned":
                    self.messages += [one.fact("pinned"), one.fact("unpinned")]
                if old and not stays:
                    self.goes |= files
                    self.pruned.add(one.who)
                self.goes |= losers if age_days >= 1 else set()
            case "open":
                self.messages.append(one.message(one.started()))
            case "bad":
                self.messages += [one.message(one.started()), one.message(one.ended_badly())]
                self.goes |= files | losers if age_days >= 1 else set()
            case _:
                self.goes |= files | losers if age_days >= 1 else set()

    def _some_endings(self) -> list[str]:
        beside = [".json", ".thumb.webp", ".copy.jpg"]
        return [".png", *self._draw.sample(beside, self._draw.randrange(4))]


async def test_of_a_thousand_assets_exactly_the_right_files_go_and_the_ledger_says_so(site):
    thousand = Thousand(site)
    # The oldest request of all, so that the ledger reaches back to every file.
    thousand.messages += completed(chain_of(5000, AGES))
    thousand.pruned.add(chain_of(5000, AGES).who)
    strangers = {site.write(name, 50) for name in ("notes.txt", "L2-01.r1.psd", "README")}
    thousand.goes.add(site.write(".L2-01.x9.png.w9.tmp", 2))
    site.write(".L2-01.x8.png.w9.tmp", 0.5)
    before = site.listed()
    await site.told(thousand.messages)
    for who in thousand.pins:
        await facts.pin(site.bus, who, "ann", site.clock)

    dry = await site.prune(dry_run=True)
    assert site.listed() == before
    assert {file.name for one in dry.removals for file in one.files} == thousand.goes

    wet = await site.prune()
    assert before - site.listed() == thousand.goes
    assert strangers < site.listed()
    assert (wet.files, wet.requests) == (len(thousand.goes), len(thousand.pruned))
    assert wet.bytes == 10 * len(thousand.goes)
    assert len(thousand.pruned) > 100
    assert len(thousand.pins) > 50

    await catch_up(site.bus, site.data / FILE, site.clock)
    rows = content(site.data / FILE)["multimodal_generations"]
    by_name = [dict(zip(COLUMNS, row, strict=True)) for row in rows]
    told = {Identity(row["requester_key"], row["id"]) for row in by_name if row["pruned_at"]}
    assert told == thousand.pruned
    again = await site.prune()
    assert (again.files, again.requests) == (0, 0)


async def test_who_pins_in_the_last_moment_keeps_the_picture(site, monkeypatch):
    one = chain_of(1, 40)
    site.write(f"{one.who}.png", 40)
    await site.told(completed(one))
    listed = facts.pinned

    async def then_pin(bus: Bus) -> set[Identity]:
        found = await listed(bus)
        await facts.pin(bus, one.who, "ann", site.clock)
        return found

    monkeypatch.setattr(facts, "pinned", then_pin)
    assert (await site.prune()).files == 0
    assert site.listed() == {f"{one.who}.png"}


async def test_a_pin_outlasts_the_stream_and_the_ledger(site):
    one = chain_of(1, 40)
    site.write(f"{one.who}.png", 40)
    await facts.pin(site.bus, one.who, "ann", site.clock)
    assert (await site.prune()).files == 0
    await facts.unpin(site.bus, one.who, "ann", site.clock)
    assert (await site.prune()).files == 1


async def test_a_crash_between_the_files_and_the_fact_is_mended_by_the_next_prune(site):
    one = chain_of(1, 40)
    await site.told(completed(one))  # Its files are gone, and nobody has said so.
    pruned = await site.prune()
    assert (pruned.files, pruned.requests) == (0, 1)
    assert (await site.prune()).requests == 0
    row = await Ledger(site.data / FILE).one(one.who)
    assert row is not None
    assert row.pruned_at is not None


async def test_the_daily_run_waits_for_the_ledger_and_does_it_once_a_day(site, monkeypatch):
    looks: list[tuple[int, int]] = []
    free = site.assets.free_bytes

    def look() -> tuple[int, int]:
        looks.append(free())
        return looks[-1]

    monkeypatch.setattr(site.assets, "free_bytes", look)
    one, other = chain_of(1, 40), chain_of(2, 29)
    for each in (one, other):
        site.write(f"{each.who}.png", 29)
    await publish(site.bus, [*completed(one), *completed(other)])
    behind = True
    async with following(site.bus, site.data / FILE) as projection, asyncio.TaskGroup() as group:
        fast = Retention(site.bus, site.assets, site.data, 30, site.clock, look_s=0.01)
        task = group.create_task(
            fast.run(lambda: projection.caught_up and not behind), name="retention"
        )
        await until(lambda: projection.caught_up, "the ledger")
        assert len(site.listed()) == 2
        behind = False
        await until(lambda: site.listed() == {f"{other.who}.png"}, "the old one to go")
        note = site.data / NOTE
        first = await until(lambda: note.exists() and note.read_bytes(), "the note of it")
        site.clock.day += timedelta(hours=23)
        looks.clear()
        await until(lambda: len(looks) > 3, "some looks")
        assert note.read_bytes() == first
        assert site.listed() == {f"{other.who}.png"}
        site.clock.day += timedelta(hours=1)
        await until(lambda: not site.listed(), "the other one to go, a day later")
        await until(lambda: note.read_bytes() != first, "another note")
        task.cancel()


async def test_a_disk_that_fills_up_is_an_alert_once_and_its_end_another(site, monkeypatch):
    free = 10 * space.LOW_BYTES
    monkeypatch.setattr(site.assets, "free_bytes", lambda: (free, 11 * space.LOW_BYTES))
    await site.retention.watch_disk()
    free = space.LOW_BYTES - 1
    await site.retention.watch_disk()
    await site.retention.watch_disk()
    await catch_up(site.bus, site.data / FILE, site.clock)
    assert [one.name for one in await Ledger(site.data / FILE).troubles()] == ["gateway_disk"]
    free = 10 * space.LOW_BYTES
    await site.retention.watch_disk()
    await catch_up(site.bus, site.data / FILE, site.clock)
    assert await Ledger(site.data / FILE).troubles() == ()


async def test_a_ledger_that_is_behind_is_waited_for(site):
    async with following(site.bus, site.data / FILE):
        one = chain_of(1, 40)
        await publish(site.bus, completed(one))
        await catch_up(site.bus, site.data / FILE, site.clock)
        assert await Ledger(site.data / FILE).one(one.who) is not None
    assert Projection(site.bus, site.data / FILE).caught_up is False
