"""Goal: what one machine has stored, a gateway on another one serves; and it goes everywhere.

Method: two folders that share nothing but a bucket on a server that speaks S3.
"""

import asyncio
import io
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import pytest
from PIL import Image

from agent.assets import AssetStore, RemoteError, SharedStore, open_objects
from agent.assets.remote import RemoteFile
from agent.core.faults import InternalFault
from contracts.subjects import Identity
from tests.doubles.objects import ENVIRONMENT, make_bucket, objects
from tests.rig import until
from tests.unit.test_assets import picture

WHO = Identity("L2-05-03", "cover")
MONTH = "2026-03"
AT = datetime(2026, 3, 2, 9, 15, tzinfo=UTC)


@pytest.fixture(scope="module")
def port(tmp_path_factory) -> Iterator[int]:
    """Run one server for all tests: it takes seconds to begin."""
    with objects(tmp_path_factory.mktemp("objects")) as running:
        yield running


@pytest.fixture
def bucket(port, tmp_path, monkeypatch) -> str:
    """Make a bucket of the test's own."""
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    name = f"mmg-{uuid4().hex}"
    make_bucket(port, name)
    return f"s3://{name}/assets"


def store(folder: Path, bucket: str) -> SharedStore:
    return SharedStore(folder, "http://mmg.test", remote=open_objects(bucket))


async def test_a_gateway_elsewhere_serves_what_a_worker_stored_and_what_is_made_of_it(
    bucket, tmp_path
):
    worker, gateway = store(tmp_path / "worker", bucket), store(tmp_path / "gateway", bucket)
    pictures = [picture(size=(640, 320)), picture(form="jpeg")]
    outputs = await worker.store(WHO, 1, AT, pictures, {"prompt": "a cover"})
    for output, one in zip(outputs, pictures, strict=True):
        found = await gateway.find_or_make("images", MONTH, Path(output.url).name)
        assert found is not None
        assert found.is_relative_to(tmp_path / "gateway")
        assert await asyncio.to_thread(found.read_bytes) == one.data
    thumbnail = await store(tmp_path / "third", bucket).find_or_make(
        "images", MONTH, f"{WHO}.thumb.webp"
    )
    assert thumbnail is not None
    with Image.open(io.BytesIO(await asyncio.to_thread(thumbnail.read_bytes))) as small:
        assert small.size == (256, 128)
    for kind, month, file in (
        ("images", MONTH, "L2-05-03.other.png"),
        ("images", MONTH, f"{WHO}.json"),
        ("images", MONTH, "../secret.png"),
        ("voice", MONTH, f"{WHO}.png"),
    ):
        assert await gateway.find_or_make(kind, month, file) is None
    # Another worker starts from it, though it drew nothing itself.
    today = store(tmp_path / "today", bucket)
    await today.store(Identity("L2-05-03", "new"), 1, today._clock.now(), [pictures[0]], {})
    other = store(tmp_path / "other", bucket)
    assert await other.read_own("L2-05-03", request_id="new") == pictures[0].data
    assert await other.read_own("L2-05-03", request_id="none") is None
    assert await other.read_own("L9-99", request_id="new") is None


async def test_what_loses_or_is_pruned_goes_there_too(bucket, tmp_path):
    worker, gateway = store(tmp_path / "worker", bucket), store(tmp_path / "gateway", bucket)
    lost = await worker.store(WHO, 1, AT, [picture()], {})
    await worker.discard(lost)
    assert await gateway.inventory() == []
    (kept,) = await worker.store(WHO, 2, AT, [picture()], {})
    listed = {(file.month, file.name) for file in await gateway.inventory()}
    assert listed == {(MONTH, f"{WHO}.a2.png"), (MONTH, f"{WHO}.a2.json")}
    assert {file.size_bytes for file in await gateway.inventory()} >= {kept.file_size_bytes}
    await gateway.remove(sorted(listed))
    await gateway.remove(sorted(listed))
    assert await store(tmp_path / "third", bucket).inventory() == []
    assert await gateway.find_or_make("images", MONTH, f"{WHO}.a2.png") is None


async def test_while_it_is_away_nothing_is_half_stored_and_what_is_here_is_served(
    bucket, tmp_path, monkeypatch
):
    worker = store(tmp_path / "worker", bucket)
    (output,) = await worker.store(WHO, 1, AT, [picture()], {})
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    away = store(tmp_path / "worker", bucket)
    with pytest.raises(InternalFault, match="other machines"):
        await away.store(Identity("L2-05-03", "next"), 1, AT, [picture()], {})
    names = {path.name for path in (tmp_path / "worker" / "images" / MONTH).iterdir()}
    assert names == {f"{WHO}.png", f"{WHO}.json"}
    found = await away.find_or_make("images", MONTH, Path(output.url).name)
    assert str(found) == output.file_path
    with pytest.raises(RemoteError):
        await away.find_or_make("images", MONTH, "L2-05-03.other.png")


def test_an_address_that_cannot_be_used_is_refused_before_anything_is_stored(monkeypatch):
    for name in ("AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_ACCOUNT_KEY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(RemoteError, match="Account must be specified"):
        open_objects("az://container/assets")
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "account")
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", "a2V5")
    open_objects("az://container/assets")


async def test_a_store_in_one_folder_needs_nothing_else(tmp_path):
    alone = AssetStore(tmp_path, "http://mmg.test")
    await alone.store(WHO, 1, AT, [picture()], {})
    assert len(await alone.inventory()) == 2


async def test_who_is_cancelled_while_it_is_sent_leaves_nothing_here(tmp_path):
    class Slow:
        """A place that never answers."""

        def __init__(self) -> None:
            self.asked = asyncio.Event()

        async def put(self, _key: str, _data: bytes, _content_type: str) -> None:
            self.asked.set()
            await asyncio.Event().wait()

        async def get(self, _key: str) -> bytes | None:
            raise AssertionError("nothing is fetched")

        async def delete(self, _keys: Sequence[str]) -> None:
            raise AssertionError("nothing is deleted there")

        async def listing(self, _folder: str) -> list[RemoteFile]:
            raise AssertionError("nothing is listed")

    slow = Slow()
    worker = SharedStore(tmp_path, "http://mmg.test", remote=slow)
    async with asyncio.TaskGroup() as group:
        storing = group.create_task(worker.store(WHO, 1, AT, [picture()], {}))
        await slow.asked.wait()
        assert len(list((tmp_path / "images" / MONTH).iterdir())) == 2
        storing.cancel()
    await until(lambda: not list((tmp_path / "images" / MONTH).iterdir()), "no files")
