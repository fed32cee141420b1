"""Goal: a picture is on the disk whole, under its own name, beside its record, or not at all.

Method: real pictures and real files below tmp_path; the disk's answers that cannot be had here
(full, no hard links, upper and lower case the same) come from the one call that would give them.
"""

import asyncio
import errno
import io
import os
import random
import threading
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import msgspec
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from PIL import Image

from agent.assets import AssetStore, files, names
from agent.core.faults import DiskFullFault, InternalFault
from agent.core.picture import Picture
from contracts.subjects import Identity

WHO = Identity("L2-05-03", "req_1")
AT = datetime(2026, 3, 31, 23, 30, tzinfo=UTC)
MONTH = "2026-03"
WIDTH, HEIGHT = 64, 48


class StoppedClock:
    def __init__(self, now: datetime) -> None:
        self.stopped_at = now

    def now(self) -> datetime:
        return self.stopped_at

    def monotonic_s(self) -> float:
        return 0.0


def picture(seed=0, form="png", size=(WIDTH, HEIGHT), mode="RGB") -> Picture:
    noise = random.Random(seed).randbytes(size[0] * size[1] * len(mode))
    out = io.BytesIO()
    Image.frombytes(mode, size, noise).save(out, form.upper())
    return Picture(data=out.getvalue(), width=size[0], height=size[1], format=form)


GOOD = picture()


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch):
    """What is forced to the disk is the file system's part; here it only costs time."""
    monkeypatch.setattr(os, "fsync", os.fstat)


@pytest.fixture
def store(tmp_path):
    return AssetStore(tmp_path, "http://gateway:54112", "w1")


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "images" / MONTH


def listed(folder) -> set[str]:
    return {path.name for path in folder.iterdir()} if folder.exists() else set()


async def kept(store, pictures=(GOOD,), who=WHO, attempt=1, at=AT):
    return await store.store(who, attempt, at, pictures, {"prompt": "a fox"})


# --- names --------------------------------------------------------------------------------------


async def test_the_first_picture_of_the_first_attempt_has_the_plain_name(store, folder):
    (output,) = await kept(store)
    path = folder / "L2-05-03.req_1.png"
    base = "http://gateway:54112/api/multimodal/assets/images/2026-03/L2-05-03.req_1"
    assert (output.file_path, output.url) == (str(path), f"{base}.png")
    assert output.thumbnail_url == f"{base}.thumb.webp"
    assert (output.width, output.height, output.format) == (WIDTH, HEIGHT, "png")
    assert path.read_bytes() == GOOD.data
    assert output.file_size_bytes == len(GOOD.data)


async def test_later_attempts_and_pictures_are_numbered(store, folder):
    forms = ("png", "jpeg", "webp")
    outputs = await kept(store, [picture(form=form) for form in forms], attempt=3)
    assert [Path(output.file_path).name for output in outputs] == [
        "L2-05-03.req_1.a3.png",
        "L2-05-03.req_1.a3.2.jpg",
        "L2-05-03.req_1.a3.3.webp",
    ]
    assert len(listed(folder)) == 6


async def test_the_month_is_that_of_utc(store, tmp_path):
    late = AT.astimezone(timezone(timedelta(hours=5)))
    assert (late.month, AT.month) == (4, 3)
    await kept(store, at=late)
    assert listed(tmp_path / "images") == {MONTH}


async def test_the_record_tells_of_the_request_and_of_the_file(store, folder):
    (output,) = await kept(store)
    record = msgspec.json.decode((folder / "L2-05-03.req_1.json").read_bytes())
    assert record == {
        "prompt": "a fox",
        "sha256": output.sha256,
        "width": WIDTH,
        "height": HEIGHT,
        "format": "png",
        "file_size_bytes": len(GOOD.data),
    }


@pytest.mark.parametrize("device", ["CON", "nul", "Com1"])
async def test_an_agent_named_like_a_device_gets_the_hash_into_its_part(store, folder, device):
    (output,) = await kept(store, who=Identity(device, "r"))
    name = Path(output.file_path).name
    assert name == f"{device}~{output.sha256[:8]}.r.png"
    assert store.find("images", MONTH, name) == folder / name
    await store.remove_other_attempts(Identity(device, "r"), AT, [])
    assert listed(folder) == set()


@pytest.mark.parametrize("taken", ["L2-05-03.req_1.png", "L2-05-03.req_1.json"])
async def test_a_taken_name_gets_eight_digits_of_the_hash(store, folder, taken):
    folder.mkdir(parents=True)
    (folder / taken).write_bytes(b"somebody else's")
    (output,) = await kept(store)
    stem = f"L2-05-03.req_1~{output.sha256[:8]}"
    assert listed(folder) == {taken, f"{stem}.png", f"{stem}.json"}
    assert (folder / taken).read_bytes() == b"somebody else's"


async def test_names_that_differ_in_case_only_stay_two_files(store, folder, monkeypatch):
    link = os.link

    def caseless(source, target):
        if Path(target).name.lower() in {name.lower() for name in listed(folder)}:
            raise FileExistsError(errno.EEXIST, "exists")
        link(source, target)

    monkeypatch.setattr(os, "link", caseless)
    await kept(store, who=Identity("A", "b"))
    (lower,) = await kept(store, who=Identity("a", "b"))
    assert Path(lower.file_path).name == f"a.b~{lower.sha256[:8]}.png"
    await store.discard([lower])
    assert listed(folder) == {"A.b.png", "A.b.json"}


async def test_the_same_content_left_by_a_crash_is_taken_again(store, folder):
    first = await kept(store)
    (folder / "L2-05-03.req_1.json").unlink()
    assert await kept(store) == first
    assert listed(folder) == {"L2-05-03.req_1.png", "L2-05-03.req_1.json"}


identities = st.builds(
    Identity, st.text("aA2-", min_size=1, max_size=3), st.text("bB2-", min_size=1, max_size=3)
)
numbers = st.integers(1, 12)


def all_names(who, attempt, n):
    for stem in names.stems(who, attempt, n, "0123456789abcdef"):
        for suffix in (".png", ".jpg", ".webp", ".json", ".thumb.webp"):
            yield f"{stem}{suffix}"
            yield names.temporary(f"{stem}{suffix}", "w-2", attempt)


@given(identities, numbers, numbers)
def test_a_name_is_read_as_it_was_built(who, attempt, n):
    read = [names.read(name) for name in all_names(who, attempt, n)]
    assert all(name is not None and name.who == who for name in read)


@given(identities, identities, numbers, numbers)
def test_files_of_another_request_are_never_left_over(who, other, attempt, n):
    assume(who != other)
    own, others = list(all_names(who, attempt, n)), list(all_names(other, attempt, n))
    assert list(names.left_over([*own, *others, "README"], who, [])) == own


# --- all or nothing -----------------------------------------------------------------------------


async def test_of_two_stores_that_race_for_a_name_both_keep_their_picture(tmp_path, monkeypatch):
    link, both_wrote = os.link, threading.Barrier(2)

    def together(source, target):
        if str(target).endswith("req_1.png"):
            both_wrote.wait(timeout=10)
        link(source, target)

    monkeypatch.setattr(os, "link", together)
    one, two = (AssetStore(tmp_path, "http://g", name) for name in ("w1", "w2"))
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(kept(s, [picture(n)])) for n, s in enumerate((one, two))]
    paths = [Path(task.result()[0].file_path) for task in tasks]
    assert [path.read_bytes() for path in paths] == [picture(0).data, picture(1).data]
    assert sum("~" in path.name for path in paths) == 1


async def test_a_file_is_on_the_disk_before_it_has_its_name(store, folder, monkeypatch):
    link = os.link
    steps: list[str] = []

    def synced(file):
        of = os.fstat(file)
        there = (folder, *folder.iterdir())
        steps.extend(path.name for path in there if os.path.samestat(path.stat(), of))

    def linked(source, target):
        steps.append(f"-> {Path(target).name}")
        link(source, target)

    folder.mkdir(parents=True)
    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "link", linked)
    await kept(store)
    png, record = "L2-05-03.req_1.png", "L2-05-03.req_1.json"
    assert steps == [f".{png}.w1.tmp", f"-> {png}", f".{record}.w1.tmp", f"-> {record}", MONTH]


async def test_two_pictures_written_at_once_by_one_worker_have_two_temp_files(store, folder):
    folder.mkdir(parents=True)
    (folder / ".L2-05-03.req_1.png.w1.tmp").write_bytes(b"half")
    await kept(store)
    assert (folder / "L2-05-03.req_1.png").read_bytes() == GOOD.data
    assert (folder / ".L2-05-03.req_1.png.w1.tmp").read_bytes() == b"half"


@pytest.mark.parametrize("code", [errno.EPERM, errno.EOPNOTSUPP])
async def test_a_file_system_without_hard_links_will_do(store, folder, monkeypatch, code):
    def no_links(source, target):
        raise OSError(code, "no hard links")

    monkeypatch.setattr(os, "link", no_links)
    await kept(store)
    await kept(store, [picture(1)])
    assert (folder / "L2-05-03.req_1.png").read_bytes() == GOOD.data
    assert len(listed(folder)) == 4


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("after", [0, 1, 2, 3])
async def test_a_full_disk_is_a_fault_and_leaves_nothing(store, folder, monkeypatch, code, after):
    write, calls = os.write, []

    def full(file, data):
        calls.append(file)
        if len(calls) > after:
            write(file, data[:10])
            raise OSError(code, "full")
        return write(file, data)

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(DiskFullFault):
            await kept(store, [picture(0), picture(1)])
    assert listed(folder) == set()


async def test_another_trouble_of_the_disk_is_an_internal_fault(store, folder, monkeypatch):
    def broken(file):
        raise OSError(errno.EIO, "bad block")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(InternalFault, match="could not be written"):
        await kept(store)
    assert listed(folder) == set()


@pytest.mark.parametrize("finished", [True, False])
async def test_a_caller_that_is_cancelled_leaves_no_files(store, folder, monkeypatch, finished):
    reached, go_on, ended = threading.Event(), threading.Event(), threading.Event()
    sync, keep_all = files.sync_folder, store._store

    def slow(folder):
        reached.set()
        assert go_on.wait(10)
        sync(folder)

    def whole(*args):
        outputs = keep_all(*args)
        ended.set()
        return outputs

    monkeypatch.setattr(files, "sync_folder", slow)
    monkeypatch.setattr(store, "_store", whole)
    folder.mkdir(parents=True)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(kept(store))
        assert await asyncio.to_thread(reached.wait, 10)
        if finished:  # the loop cannot notice before the cancel: no await in between
            go_on.set()
            assert ended.wait(10)
        task.cancel()
        go_on.set()
    await asyncio.to_thread(store._threads.shutdown)
    assert listed(folder) == set()


# --- removal ------------------------------------------------------------------------------------


async def test_discard_removes_all_that_belongs_to_an_output(store, folder):
    mine = await kept(store, [picture(0), picture(1)])
    await kept(store, attempt=2)
    await store.thumbnails(mine)
    await store.discard(mine)
    await store.discard(mine)
    assert listed(folder) == {"L2-05-03.req_1.a2.png", "L2-05-03.req_1.a2.json"}


async def test_discard_touches_nothing_outside_the_store(store, tmp_path):
    (output,) = await kept(store)
    outside = tmp_path / "images" / "x.y.png"
    outside.write_bytes(b"")
    for path in (outside, tmp_path / "images" / ".." / "images" / "x.y.png"):
        await store.discard([msgspec.structs.replace(output, file_path=str(path))])
    assert outside.exists()


async def test_the_winner_keeps_its_own_files_and_removes_all_others_of_its_request(store, folder):
    for attempt in (1, 2):
        await kept(store, [picture(0), picture(1)], attempt=attempt)
    winner = await kept(store, [picture(2)], attempt=3)
    await store.thumbnails(winner)
    others = {"L2-05-03.req_12.png", "L2-05-03.req_1-a.png", "l2-05-03.req_1.png", "notes.txt"}
    being_made = ".L2-05-03.req_1.a3.thumb.webp.gateway.tmp"
    for name in (*others, being_made, ".L2-05-03.req_1.a2.png.w9.tmp"):
        (folder / name).write_bytes(b"")
    await store.remove_other_attempts(WHO, AT, winner)
    stem = "L2-05-03.req_1.a3"
    own = {f"{stem}.png", f"{stem}.json", f"{stem}.thumb.webp", being_made}
    assert listed(folder) == own | others


async def test_temp_files_of_this_worker_go_at_the_start_and_old_ones_of_any(tmp_path, folder):
    folder.mkdir(parents=True)
    mine, young, old = (f".a.b.png.{worker}.tmp" for worker in ("w1", "w12", "w3"))
    mine_2, strange = ".a.b.thumb.webp.w1.2.tmp", ".notes.w1.tmp"
    for name in (mine, mine_2, young, old, strange, "a.b.png"):
        (folder / name).write_bytes(b"")
        os.utime(folder / name, (AT.timestamp(), AT.timestamp()))
    os.utime(folder / old, (AT.timestamp() - 2, AT.timestamp() - 2))
    clock = StoppedClock(AT + timedelta(hours=1, seconds=-1))
    await AssetStore(tmp_path, "http://g", "w1", clock=clock).remove_temporary()
    assert listed(folder) == {young, strange, "a.b.png"}


async def test_nothing_to_remove_is_fine(store):
    await store.remove_temporary()
    await store.remove_other_attempts(WHO, AT, [])
