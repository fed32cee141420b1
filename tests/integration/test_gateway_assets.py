"""Goal: a picture comes whole, in part, smaller or as JPEG, and only once to whoever keeps it.

Method: a real gateway over pictures on disk; every answer as a browser or a program would ask for
it, byte for byte.
"""

import hashlib
import io
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import pytest
from PIL import Image
from yarl import URL

from agent.assets import AssetStore
from agent.bus.connection import connect
from agent.gateway import Gateway, GatewaySettings
from contracts.events import Output
from contracts.subjects import Identity
from tests.unit.test_assets import picture

WHO = Identity("L2-05-03", "cover")
AT = datetime(2026, 3, 2, 9, 15, tzinfo=UTC)
FOLDER = "/api/multimodal/assets/images/2026-03"


class Served(NamedTuple):
    """A gateway, a client, and the pictures it serves."""

    http: aiohttp.ClientSession
    url: str
    root: Path
    outputs: tuple[Output, ...]

    async def ask(self, path: str, method: str = "GET", **headers: str) -> tuple[Any, bytes]:
        """Return the response and its body."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        where = URL(f"{self.url}{path}", encoded=True)
        async with self.http.request(method, where, headers=named) as response:
            return response, await response.read()

    @property
    def path(self) -> str:
        """Where the first picture is."""
        return f"{FOLDER}/{Path(self.outputs[0].file_path).name}"

    @property
    def data(self) -> bytes:
        """The bytes of the first picture."""
        return Path(self.outputs[0].file_path).read_bytes()


@pytest.fixture
async def served(server, tmp_path) -> AsyncIterator[Served]:
    store = AssetStore(tmp_path / "assets", "http://mmg.test")
    pictures = [picture(mode="RGBA", size=(640, 320)), picture(form="jpeg"), picture(form="webp")]
    outputs = await store.store(WHO, 1, AT, pictures, {})
    async with await connect([server.url], "gateway", role="gateway") as bus:
        gateway = Gateway(bus, store, GatewaySettings(port=0))
        await gateway.start()
        try:
            async with aiohttp.ClientSession() as http:
                url = f"http://127.0.0.1:{gateway.port}"
                yield Served(http, url, tmp_path / "assets", outputs)
        finally:
            await gateway.stop()


async def test_a_picture_comes_byte_for_byte_with_the_tag_of_its_content(served):
    response, body = await served.ask(served.path)
    assert (response.status, body) == (200, served.data)
    assert response.headers["ETag"] == f'"{hashlib.sha256(body).hexdigest()}"'
    assert response.headers["ETag"].strip('"') == served.outputs[0].sha256
    assert response.headers["Content-Type"] == "image/png"
    assert response.headers["Content-Length"] == str(len(body))
    assert response.headers["Cache-Control"] == "private, max-age=31536000, immutable"
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    for output, kind in zip(served.outputs[1:], ("image/jpeg", "image/webp"), strict=True):
        response, body = await served.ask(f"{FOLDER}/{Path(output.file_path).name}")
        assert (response.headers["Content-Type"], len(body)) == (kind, output.file_size_bytes)


async def test_head_says_the_same_without_the_body(served):
    whole, _ = await served.ask(served.path)
    head, body = await served.ask(served.path, "HEAD")
    assert (head.status, body) == (200, b"")
    for name in ("ETag", "Content-Type", "Content-Length", "Cache-Control", "Accept-Ranges"):
        assert head.headers[name] == whole.headers[name]


async def test_who_has_it_is_not_sent_it_again(served):
    tag = f'"{served.outputs[0].sha256}"'
    for tags in (tag, f'"x", W/{tag}', "*"):
        response, body = await served.ask(served.path, If_None_Match=tags)
        assert (response.status, body) == (304, b"")
        assert response.headers["ETag"] == tag
        assert "immutable" in response.headers["Cache-Control"]
    response, body = await served.ask(served.path, If_None_Match='"x"')
    assert (response.status, body) == (200, served.data)
    response, _ = await served.ask(served.path, If_Match='"x"')
    assert response.status == 412
    response, _ = await served.ask(served.path, If_Match=tag)
    assert response.status == 200


RANGES = {
    "bytes=0-0": (0, 1),
    "bytes=10-19": (10, 20),
    "bytes=100-": (100, None),
    "bytes=-7": (-7, None),
    "bytes=0-99999999999": (0, None),
    "bytes=-99999999999": (-99999999999, None),
}


async def test_a_part_is_sent_as_asked(served):
    data = served.data
    for asked, (first, end) in RANGES.items():
        response, body = await served.ask(served.path, Range=asked)
        assert (response.status, body) == (206, data[slice(first, end)]), asked
        start = max(0, len(data) + first) if first < 0 else first
        span = f"bytes {start}-{start + len(body) - 1}/{len(data)}"
        assert response.headers["Content-Range"] == span
        assert response.headers["Content-Length"] == str(len(body))


NO_RANGES = ("bytes=5-2", "lines=0-1", "bytes=", "bytes=-", "bytes=0-1,4-5", "bytes=x-y", "0-1")


async def test_what_is_no_single_range_is_answered_with_the_whole(served):
    for asked in NO_RANGES:
        response, body = await served.ask(served.path, Range=asked)
        assert (response.status, body) == (200, served.data), asked


async def test_a_range_behind_the_end_is_416_and_one_for_another_content_the_whole(served):
    size = len(served.data)
    response, _ = await served.ask(served.path, Range=f"bytes={size}-")
    assert response.status == 416
    assert response.headers["Content-Range"] == f"bytes */{size}"
    response, body = await served.ask(served.path, Range="bytes=0-1", If_Range='"other"')
    assert (response.status, body) == (200, served.data)
    tag = f'"{served.outputs[0].sha256}"'
    response, body = await served.ask(served.path, Range="bytes=0-1", If_Range=tag)
    assert (response.status, body) == (206, served.data[:2])


async def test_thumbnail_and_jpeg_copy_are_made_when_they_are_asked_for_first(served):
    folder = served.root / "images" / "2026-03"
    assert not list(folder.glob("*.thumb.webp"))
    assert not list(folder.glob("*.copy.jpg"))
    response, body = await served.ask(f"{FOLDER}/{WHO}.thumb.webp")
    assert (response.status, response.headers["Content-Type"]) == (200, "image/webp")
    with Image.open(io.BytesIO(body)) as small:
        assert small.size == (256, 128)
    response, copy = await served.ask(f"{served.path}?format=jpeg")
    assert (response.status, response.headers["Content-Type"]) == (200, "image/jpeg")
    assert response.headers["ETag"] == f'"{hashlib.sha256(copy).hexdigest()}"'
    with Image.open(io.BytesIO(copy)) as same:
        assert (same.size, same.format, same.mode) == ((640, 320), "JPEG", "RGB")
    assert (folder / f"{WHO}.copy.jpg").read_bytes() == copy
    assert (await served.ask(f"{FOLDER}/{WHO}.copy.jpg"))[1] == copy
    jpeg = f"{FOLDER}/{Path(served.outputs[1].file_path).name}"
    assert (await served.ask(f"{jpeg}?format=jpeg"))[1] == (await served.ask(jpeg))[1]
    response, _ = await served.ask(f"{served.path}?format=tiff")
    assert response.status == 400


TRAVERSALS = [
    "/api/multimodal/assets/images/2026-03/../../secret.png",
    "/api/multimodal/assets/images/2026-03/..%2f..%2fsecret.png",
    "/api/multimodal/assets/images/2026-03/%2e%2e/%2e%2e/secret.png",
    "/api/multimodal/assets/images/2026-03/..%5c..%5csecret.png",
    "/api/multimodal/assets/images/%2e%2e/secret.png",
    "/api/multimodal/assets/../images/2026-03/L2-05-03.cover.json",
    "/api/multimodal/assets/images/2026-03/L2-05-03.cover.json",
    "/api/multimodal/assets/images/2026-03/.L2-05-03.cover.png.w1.tmp",
    "/api/multimodal/assets/images/2026-03/%252e%252e%252fsecret.png",
    "/api/multimodal/assets/images/2026-03/..%c0%afsecret.png",
    "/api/multimodal/assets/images/2026-03/L2-05-03.cover.png%00.png",
    "/api/multimodal/assets/images/2026-03/L2-05-03.cover.svg",
    "/api/multimodal/assets/voice/2026-03/L2-05-03.cover.png",
    "/api/multimodal/assets//images/2026-03/L2-05-03.cover.png",
    "/api/multimodal/assets/images/2026-03/C:%5csecret.png",
]


async def test_no_spelling_leads_to_anything_else_and_a_good_one_works_after_it(served):
    for secret in (served.root.parent / "secret.png", served.root / "secret.png"):
        secret.write_bytes(served.data)
    for path in TRAVERSALS:
        response, body = await served.ask(path)
        assert response.status == 404, path
        assert served.data not in body
        assert (await served.ask(served.path))[0].status == 200
