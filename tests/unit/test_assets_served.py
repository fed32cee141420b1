"""Goal: nothing broken is kept, and nothing but pictures and thumbnails is handed out.

Method: good pictures of each format, damaged in one way each; spellings of names that lead out.
"""

import os
import struct
import sys
import zlib
from pathlib import Path
from subprocess import run

import msgspec
import pytest
from PIL import Image
from structlog.testing import capture_logs

from agent.assets import LOW_BYTES, MIN_BYTES, AssetStore, PictureBrokenFault, check, files, room
from agent.core.faults import DiskFullFault
from agent.core.picture import Picture
from tests.unit.test_assets import GOOD, MONTH, WIDTH, kept, listed, picture


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch):
    monkeypatch.setattr(os, "fsync", os.fstat)


@pytest.fixture
def store(tmp_path):
    return AssetStore(tmp_path, "http://gateway:54112", "w1")


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "images" / MONTH


# --- the check ----------------------------------------------------------------------------------


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def bomb(side: int) -> bytes:
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    pixels = zlib.compress(bytes(100_000))
    return GOOD.data[:8] + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


FORMS = ("png", "jpeg", "webp")
JPEG, WEBP = picture(form="jpeg"), picture(form="webp")
BROKEN = {
    "empty": GOOD.data[:0],
    "signature only": GOOD.data[:8],
    "html": b"<html>502 Bad Gateway</html>",
    "half": GOOD.data[: len(GOOD.data) // 2],
    "without the last chunk": GOOD.data[:-12],
    "one byte short": GOOD.data[:-1],
    "flipped checksum": flipped(GOOD.data, 30),
    "flipped pixel": flipped(GOOD.data, len(GOOD.data) // 2),
    "no pixels": GOOD.data[:33] + chunk(b"IEND", b""),
    "two headers": GOOD.data[:33] + GOOD.data[8:],
    "bytes after its end": GOOD.data + b"<script>",
    "another format": JPEG.data,
    "bomb": bomb(20_000),
}


@pytest.mark.parametrize("name", BROKEN)
async def test_a_broken_png_is_refused_and_nothing_is_written(store, tmp_path, name):
    with pytest.raises(PictureBrokenFault) as fault:
        await kept(store, [GOOD, msgspec.structs.replace(GOOD, data=BROKEN[name])])
    assert fault.value.detail
    assert listed(tmp_path) == set()


@pytest.mark.parametrize("good", [JPEG, WEBP], ids=["jpeg", "webp"])
@pytest.mark.parametrize("share", [0.01, 0.5, 0.99])
async def test_a_truncated_jpeg_or_webp_is_refused(store, good, share):
    cut = good.data[: int(len(good.data) * share)]
    with pytest.raises(PictureBrokenFault):
        await kept(store, [msgspec.structs.replace(good, data=cut)])


async def test_a_size_other_than_the_engine_said_is_refused(store):
    for good in (GOOD, JPEG, WEBP):
        with pytest.raises(PictureBrokenFault, match="broken") as fault:
            await kept(store, [msgspec.structs.replace(good, width=WIDTH * 2)])
        assert fault.value.detail == "it is 64x48, not 128x48"


async def test_a_picture_over_the_limit_of_pixels_is_refused_before_it_is_decoded(store):
    large = Picture(data=bomb(4097), width=4097, height=4097, format="png")
    with pytest.raises(PictureBrokenFault) as fault:
        await kept(store, [large])
    assert "16777216 pixels" in (fault.value.detail or "")


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA"])
async def test_other_modes_are_kept_and_have_a_thumbnail(store, mode):
    (output,) = await kept(store, [picture(mode=mode)])
    await store.thumbnails([output])
    assert store.find("images", MONTH, Path(output.thumbnail_url).name)


def test_noise_in_a_picture_raises_nothing_but_a_fault():
    for good in (GOOD, JPEG, WEBP):
        for at in range(0, len(good.data), len(good.data) // 150):
            try:
                check.check(msgspec.structs.replace(good, data=flipped(good.data, at)))
            except PictureBrokenFault:
                continue
            assert good is not GOOD, f"a PNG with byte {at} changed"


# --- thumbnails ---------------------------------------------------------------------------------


async def test_a_thumbnail_fits_into_256_pixels_and_keeps_the_shape(store, folder):
    outputs = await kept(store, [picture(form=form, size=(640, 320)) for form in FORMS])
    await store.thumbnails(outputs)
    for output in outputs:
        with Image.open(folder / Path(output.thumbnail_url).name) as image:
            assert (image.size, image.format) == ((256, 128), "WEBP")
    assert not [name for name in listed(folder) if name.endswith(".tmp")]


async def test_a_picture_that_cannot_be_read_is_logged_and_the_others_get_theirs(store, folder):
    outputs = await kept(store, [picture(n) for n in range(3)])
    (folder / "L2-05-03.req_1.png").write_bytes(b"gone bad")
    (folder / "L2-05-03.req_1.2.png").unlink()
    with capture_logs() as logs:
        await store.thumbnails(outputs)
    assert [line["event"] for line in logs] == ["assets.thumbnail_failed"] * 2
    assert [line["log_level"] for line in logs] == ["warning"] * 2
    assert "L2-05-03.req_1.3.thumb.webp" in listed(folder)


async def test_a_full_disk_costs_the_thumbnail_only(store, monkeypatch):
    outputs = await kept(store)

    def full(*_):
        raise DiskFullFault("full")

    monkeypatch.setattr(files, "create", full)
    with capture_logs() as logs:
        await store.thumbnails(outputs)
    assert [line["event"] for line in logs] == ["assets.thumbnail_failed"]


async def test_a_missing_thumbnail_is_made_when_it_is_asked_for(store, folder):
    (output,) = await kept(store, [picture(form="jpeg")])
    name = "L2-05-03.req_1.thumb.webp"
    assert store.find("images", MONTH, name) is None
    assert await store.find_or_make("images", MONTH, name) == folder / name
    made = (folder / name).stat()
    assert await store.find_or_make("images", MONTH, name) == folder / name
    assert await store.thumbnail_on_demand(Path(output.file_path)) == folder / name
    assert (folder / name).stat() == made
    assert await store.find_or_make("images", MONTH, "L2-05-03.other.thumb.webp") is None
    assert await store.find_or_make("images", MONTH, "L2-05-03.other.png") is None


# --- finding ------------------------------------------------------------------------------------


async def test_a_stored_picture_is_found(store, folder):
    (output,) = await kept(store)
    found = store.find("images", MONTH, Path(output.url).name)
    assert str(found) == output.file_path


@pytest.mark.parametrize(
    ("kind", "month", "file"),
    [
        ("voice", MONTH, "a.b.png"),
        ("images/..", "images", "a.b.png"),
        ("images", "..", "secret.x.png"),
        ("images", "2026-03/..", "a.b.png"),
        ("images", MONTH, "../../secret.x.png"),
        ("images", MONTH, "..\\..\\secret.x.png"),
        ("images", MONTH, "%2e%2e%2f%2e%2e%2fsecret.x.png"),
        ("images", MONTH, "a.b.png\0.png"),
        ("images", MONTH, "a.b.png\n"),
        ("images", MONTH + "\n", "a.b.png"),
        ("images", "\uff12\uff10\uff12\uff16-03", "a.b.png"),
        ("images", MONTH, "C:a.b.png"),
        ("images", MONTH, "a.b.png:stream"),
        ("images", MONTH, "a.b.png."),
        ("images", MONTH, "a.b.json"),
        ("images", MONTH, ".a.b.png.w1.tmp"),
        ("images", MONTH, "./a.b.png"),
        ("images", MONTH, ""),
        ("images", MONTH, "folder.x.png"),
        ("images", MONTH, "link.x.png"),
        ("images", "2026-04", "a.b.png"),
    ],
)
def test_nothing_else_is_found(store, folder, tmp_path, kind, month, file):
    (folder / "folder.x.png").mkdir(parents=True)
    for path in ("a.b.png", "a.b.json", ".a.b.png.w1.tmp", "../../secret.x.png"):
        (folder / path).write_bytes(b"")
    (folder / "link.x.png").symlink_to(tmp_path / "secret.x.png")
    (tmp_path / "images" / "2026-04").symlink_to(folder)
    assert store.find("images", MONTH, "a.b.png")
    assert store.find(kind, month, file) is None


def test_a_root_behind_a_link_is_served(tmp_path, folder):
    folder.mkdir(parents=True)
    (folder / "a.b.png").write_bytes(b"")
    (tmp_path / "link").symlink_to(tmp_path)
    assert AssetStore(tmp_path / "link", "http://g").find("images", MONTH, "a.b.png")


# --- room ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("free", "total", "verdict"),
    [
        (MIN_BYTES - 1, MIN_BYTES, "full"),
        (MIN_BYTES, MIN_BYTES, "low"),
        (LOW_BYTES - 1, LOW_BYTES, "low"),
        (LOW_BYTES, LOW_BYTES * 20, "ok"),
        (LOW_BYTES, LOW_BYTES * 21, "low"),
    ],
)
def test_room_is_judged_by_bytes_and_by_share(free, total, verdict):
    assert room(free, total) == verdict


def test_free_bytes_are_known_before_the_root_is_made(tmp_path):
    free, total = AssetStore(tmp_path / "not" / "yet", "http://g").free_bytes()
    assert 0 < free < total


def test_pillow_is_not_imported_before_it_is_needed():
    code = "import sys, agent.assets; sys.exit('PIL' in sys.modules)"
    assert run([sys.executable, "-c", code], check=False).returncode == 0
