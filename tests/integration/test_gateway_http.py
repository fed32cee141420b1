"""Goal: every request over HTTP is stored as asked or refused in one clear form.

Method: a real gateway on a real nats-server; tables of good and bad input over the wire, and raw
bytes where a client library would tidy them up.
"""

import asyncio
import json
import re

import msgspec
import pytest
from PIL import Image

from agent.assets import AssetStore
from agent.bus import chain
from agent.bus.lanes import find_waiting
from agent.bus.provision import Plan
from agent.gateway import Gateway, GatewaySettings
from contracts import codec, subjects
from tests.integration.gateway_rig import BODY, Story, rig, until

GENERATE = "/api/multimodal/generate"
UNPROVISIONED = Plan(replicas=0)


@pytest.fixture
async def gate(tmp_path):
    async with rig(tmp_path) as made:
        yield made


async def test_a_request_is_stored_and_answered_with_where_to_follow_it(gate):
    status, answer = await gate.post({**BODY, "priority": "HIGH", "requester": "L2.05.03"})
    request_id = answer.pop("request_id")
    assert status == 202
    assert re.fullmatch(r"mmg-\d{8}-\d{6}-[0-9a-f]{8}", request_id)
    assert answer == {
        "requester": "L2.05.03",
        "status": "queued",
        "joined": False,
        "estimated_wait_seconds": None,
        "estimated_wait_band": None,
        "queue_position": 1,
        "websocket_url": f"ws://127.0.0.1:{gate.gateway.port}/ws/multimodal/{request_id}"
        "?requester=L2.05.03",
        "events_url": f"{gate.url}/api/multimodal/requests/{request_id}/events?requester=L2.05.03",
        "replay_of": None,
    }
    waiting = await find_waiting(gate.own, subjects.identity("L2.05.03", request_id))
    assert waiting is not None
    assert waiting.subject == f"mmg.request.high.L2-05-03.{request_id}"
    assert json.loads(waiting.data)["priority"] == "HIGH"


async def test_what_is_left_out_is_medium_and_of_the_user(gate):
    _, answer = await gate.post({**BODY, "request_id": "r1"})
    assert answer["requester"] == "user"
    assert answer["websocket_url"].endswith("/ws/multimodal/r1")
    waiting = await find_waiting(gate.own, subjects.identity("user", "r1"))
    assert waiting is not None
    assert waiting.subject == "mmg.request.medium.user.r1"


def image(**fields):
    return json.dumps({**BODY, **fields}).encode()


def options(**fields):
    return image(options=fields)


BAD = {
    "no JSON": (b"{", 400, "invalid_request", "$"),
    "nothing": (b"", 400, "invalid_request", "$"),
    "no UTF-8": (b'{"type":"image","prompt":"\xff"}', 400, "invalid_request", "$"),
    "nested deeply": (b'{"x":' + b"[" * 60_000, 400, "invalid_request", "$"),
    "a list": (b"[]", 400, "invalid_request", "$"),
    "no type": (b'{"prompt":"x"}', 400, "invalid_request", "$.type"),
    "no prompt": (b'{"type":"image"}', 400, "invalid_request", "$.prompt"),
    "unknown field": (image(colour="red"), 400, "invalid_request", "$.colour"),
    "unknown option": (options(colour="red"), 400, "invalid_request", "$.options.colour"),
    "voice": (image(type="voice", voice="x"), 501, "not_enabled", "$.type"),
    "video": (image(type="video"), 400, "unsupported_type", "$.type"),
    "prompt of a wrong type": (image(prompt=7), 400, "invalid_request", "$.prompt"),
    "prompt empty": (image(prompt=" \n"), 400, "invalid_request", "$.prompt"),
    "prompt too long": (image(prompt="x" * 4001), 400, "invalid_request", "$.prompt"),
    "quality": (options(quality="best"), 400, "invalid_request", "$.options.quality"),
    "style": (options(style="oil"), 400, "invalid_request", "$.options.style"),
    "aspect": (options(aspect_ratio="2:1"), 400, "invalid_request", "$.options.aspect_ratio"),
    "seed negative": (options(seed=-1), 400, "invalid_request", "$.options.seed"),
    "seed too high": (options(seed=2**32), 400, "invalid_request", "$.options.seed"),
    "seed a text": (options(seed="1"), 400, "invalid_request", "$.options.seed"),
    "count": (options(count=11), 400, "invalid_request", "$.options.count"),
    "width alone": (options(width=512), 400, "invalid_request", "$.options.height"),
    "width odd": (options(width=500, height=512), 400, "invalid_request", "$.options.width"),
    "size and aspect": (
        options(width=512, height=512, aspect_ratio="1:1"),
        400,
        "invalid_request",
        "$.options.aspect_ratio",
    ),
    "negative prompt": (
        options(negative_prompt="x" * 2001),
        400,
        "invalid_request",
        "$.options.negative_prompt",
    ),
    "priority": (image(priority="urgent"), 400, "invalid_request", "$.priority"),
    "requester with -": (image(requester="L2-05"), 400, "invalid_request", "$.requester"),
    "requester a wildcard": (image(requester="*"), 400, "invalid_request", "$.requester"),
    "request_id with .": (image(request_id="a.b"), 400, "invalid_request", "$.request_id"),
    "request_id with >": (image(request_id=">"), 400, "invalid_request", "$.request_id"),
    "webhook": (image(webhook_url="http://x"), 400, "invalid_request", "$.webhook_url"),
    "deadline": (image(deadline_s=0), 400, "invalid_request", "$.deadline_s"),
    "too large": (image(prompt="x" * 70_000), 413, "invalid_request", None),
}


async def test_every_bad_body_is_refused_with_status_code_and_path(gate):
    headers = {"Content-Type": "application/json"}
    for name, (body, status, code, path) in BAD.items():
        found, answer, sent = await gate.ask("POST", GENERATE, data=body, headers=headers)
        got = (found, answer["status"], answer["code"], answer.get("path"))
        assert got == (status, status, code, path), name
        assert sent["Content-Type"] == "application/problem+json", name
        assert answer["type"] == f"/docs/errors#{code}", name
        assert answer["title"], name
        assert answer["detail"], name
        assert answer["retryable"] is False, name
    assert (
        msgspec.json.decode(await gate.own.api("STREAM.INFO.MMG_REQUESTS"))["state"]["messages"]
        == 0
    )


@pytest.mark.parametrize(
    ("method", "path", "headers", "status", "code"),
    [
        ("GET", "/nothing", {}, 404, "not_found"),
        ("GET", GENERATE, {}, 405, "invalid_request"),
        ("POST", "/healthz", {}, 405, "invalid_request"),
        ("OPTIONS", GENERATE, {"Origin": "http://evil.example"}, 405, "invalid_request"),
        ("POST", GENERATE, {"Content-Type": "text/plain"}, 415, "invalid_request"),
        ("POST", GENERATE, {}, 415, "invalid_request"),
        ("GET", "/healthz", {"Host": "evil.example"}, 403, "forbidden"),
        ("GET", "/api/multimodal/requests/unknown", {}, 404, "not_found"),
        ("GET", "/api/multimodal/requests/a.b", {}, 400, "invalid_request"),
        ("GET", "/api/multimodal/requests/r1?requester=a-b", {}, 400, "invalid_request"),
        ("GET", "/api/multimodal/assets/images/2025-11/user.none.png", {}, 404, "not_found"),
    ],
)
async def test_what_is_no_request_is_refused_in_the_same_form(
    gate, method, path, headers, status, code
):
    found, answer, sent = await gate.ask(method, path, headers=headers)
    assert (found, answer["code"]) == (status, code)
    assert sent["Content-Type"] == "application/problem+json"
    assert sent["X-Content-Type-Options"] == "nosniff"
    assert sent["Cache-Control"] == "no-store"
    assert "Server" not in sent
    assert "Access-Control-Allow-Origin" not in sent
    assert ("Allow" in sent) == (status == 405)


async def test_an_unexpected_error_shows_an_incident_and_nothing_else(tmp_path):
    class Broken(AssetStore):
        async def find_or_make(self, kind, month, file):
            raise RuntimeError("the secret of the house")

    async with rig(tmp_path, assets=Broken(tmp_path, "http://mmg.test")) as gate:
        status, answer, _ = await gate.ask("GET", "/api/multimodal/assets/images/2025-11/x.png")
        assert (status, answer["code"], answer["retryable"]) == (500, "internal", True)
        assert re.fullmatch(r"urn:mmg:incident:[0-9a-f]{16}", answer["instance"])
        assert "secret" not in json.dumps(answer)
        assert "Traceback" not in json.dumps(answer)


async def test_the_same_id_with_the_same_body_joins_and_with_another_is_refused(gate):
    body = {**BODY, "request_id": "r1"}
    seen = [await gate.post(body), await gate.post(body)]
    assert [(status, answer["joined"]) for status, answer in seen] == [(202, False), (202, True)]
    for other in ({**body, "prompt": "else"}, {**body, "prompt": "else", "priority": "HIGH"}):
        status, answer = await gate.post(other)
        assert (status, answer["code"], answer["path"]) == (409, "id_reused", "$.request_id")
    assert (await gate.post({**body, "requester": "L2.05.03"}))[1]["joined"] is False


async def test_an_id_stays_taken_after_its_request_has_ended(gate):
    story = Story(gate.own, subjects.identity("user", "old"), seq=999)
    await story.started()
    await story.completed()
    body = {**BODY, "request_id": "old"}
    status, answer = await gate.post(body)
    assert (status, answer["joined"], answer["status"]) == (202, True, "completed")
    status, answer = await gate.post({**body, "prompt": "else"})
    assert (status, answer["code"]) == (409, "id_reused")


async def test_one_id_in_two_lanes_is_one_request(gate):
    body = {**BODY, "request_id": "r1"}
    await gate.post(body)
    # The server remembers message ids for two minutes; without them it takes the second lane.
    await gate.own.store("mmg.request.low.user.r2", json.dumps(BODY).encode())
    status, answer = await gate.post({**BODY, "request_id": "r2", "prompt": "else"})
    assert (status, answer["code"]) == (409, "id_reused")
    await gate.own.store("mmg.request.low.user.r3", json.dumps(BODY).encode())
    status, answer = await gate.post({**BODY, "request_id": "r3"})
    assert (status, answer["joined"]) == (202, True)


async def test_a_full_queue_is_said_to_be_full(tmp_path):
    async with rig(tmp_path, Plan(requests_max=1)) as gate:
        body = {**BODY, "request_id": "r1"}
        assert (await gate.post(body))[0] == 202
        assert (await gate.post(body))[1]["joined"] is True
        status, answer, sent = await gate.ask("POST", GENERATE, json={**BODY, "request_id": "r2"})
        assert (status, answer["code"], answer["retryable"]) == (503, "queue_full", True)
        assert int(sent["Retry-After"]) > 0


async def test_a_snapshot_has_the_links_verbatim(gate):
    story = await gate.story(request_id="r1", webhook_url="https://agent.example/done")
    status, answer, _ = await gate.ask("GET", "/api/multimodal/requests/r1")
    assert (status, answer["status"], answer["chain"]) == (200, "queued", [])
    assert answer["request"]["prompt"] == BODY["prompt"]
    assert "webhook_url" not in answer["request"]
    await story.started()
    await story.completed()
    async with gate.http.get(f"{gate.url}/api/multimodal/requests/r1") as response:
        snapshot = codec.decode_snapshot(await response.read())
        assert response.headers["Cache-Control"] == "no-store"
    assert [bytes(link) for link in snapshot.chain] == story.written
    assert snapshot.result is not None
    assert bytes(snapshot.result) == story.written[-1]


async def test_a_request_is_found_without_its_requester_where_that_is_clear(gate):
    path = "/api/multimodal/requests/r1"
    story = await gate.story(request_id="r1", requester="L2.05.03")
    assert (await gate.ask("GET", path))[1]["requester"] == "L2.05.03"
    await story.started()
    assert (await gate.ask("GET", path))[1]["requester"] == "L2.05.03"
    await gate.story(request_id="r1", requester="L3.01")
    status, answer, _ = await gate.ask("GET", path)
    assert (status, answer["code"]) == (409, "ambiguous_id")
    assert "L2.05.03, L3.01" in answer["detail"]
    for requester in ("L2.05.03", "L3.01"):
        found = await gate.ask("GET", f"{path}?requester={requester}")
        assert (found[0], found[1]["requester"]) == (200, requester)
    assert (await gate.ask("GET", f"{path}?requester=user"))[0] == 404
    await gate.story(request_id="r1")
    assert (await gate.ask("GET", path))[1]["requester"] == "user"


async def test_a_gateway_without_streams_lives_but_is_not_ready(tmp_path):
    async with rig(tmp_path, UNPROVISIONED) as gate:
        assert (await gate.ask("GET", "/healthz"))[0] == 200
        status, answer, _ = await gate.ask("GET", "/readyz")
        assert (status, answer["code"]) == (503, "internal")
        assert "mmg provision" in answer["detail"]
        status, answer = await gate.post(BODY)
        assert (status, answer["retryable"]) == (503, True)
        assert "mmg provision" in answer["detail"]
        assert (await gate.ask("GET", "/api/multimodal/requests/r1"))[0] == 503


async def test_a_gateway_whose_bus_is_away_says_so_at_once(gate):
    assert (await gate.ask("GET", "/readyz"))[:2] == (200, {"status": "ready"})
    await gate.server.stop()
    await until(lambda: not gate.bus.connected)
    async with asyncio.timeout(2):
        for method, path in (
            ("GET", "/readyz"),
            ("POST", GENERATE),
            ("GET", "/api/multimodal/requests/r1"),
        ):
            body = {"json": BODY} if method == "POST" else {}
            status, answer, sent = await gate.ask(method, path, **body)
            assert (status, answer["retryable"]) == (503, True)
            assert "bus" in answer["detail"]
            assert "Retry-After" in sent
        assert (await gate.ask("GET", "/healthz"))[0] == 200
    await gate.server.start()


async def raw(gate, head):
    """Send a request head as it is and return the status line."""
    reader, writer = await asyncio.open_connection("127.0.0.1", gate.gateway.port)
    writer.write(head.encode())
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer.decode(errors="replace")


@pytest.mark.parametrize(
    "spelling",
    [
        "images/2025-11/../../../secret.png",
        "images/2025-11/..%2f..%2f..%2fsecret.png",
        "images/2025-11/%2e%2e%2f%2e%2e%2fsecret.png",
        "images/2025-11/%252e%252e%252fsecret.png",
        "images/../secret.png",
        "images/%2e%2e/user.secret.png",
        "..%2f/2025-11/user.secret.png",
        "images/2025-11/..%5c..%5csecret.png",
        "images/2025-11/user.secret.png%00.png",
        "images/2025-11//etc/passwd",
        "images/2025-11/%2fetc%2fpasswd",
        "images/2025-11/.user.secret.png.w1.tmp",
        "images/2025-11/user.secret.json",
        "images/2025-11/user.link.png",
        "images/2025-11/",
        "images/2025-11",
    ],
)
async def test_no_spelling_leaves_the_assets(gate, tmp_path, spelling):
    folder = tmp_path / "assets" / "images" / "2025-11"
    folder.mkdir(parents=True)
    for path in (tmp_path, tmp_path / "assets", tmp_path / "assets/images"):
        (path / "secret.png").write_bytes(b"secret")
        (path / "user.secret.png").write_bytes(b"secret")
    (folder / "user.secret.json").write_bytes(b"secret")
    (folder / ".user.secret.png.w1.tmp").write_bytes(b"secret")
    (folder / "user.link.png").symlink_to(tmp_path / "secret.png")
    answer = await raw(
        gate,
        f"GET /api/multimodal/assets/{spelling} HTTP/1.1\r\nHost: localhost\r\n"
        "Connection: close\r\n\r\n",
    )
    assert answer.startswith("HTTP/1.1 404 ")
    assert "secret" not in answer.partition("\r\n\r\n")[2]


async def test_an_asset_is_served_for_ever_with_its_type(gate, tmp_path):
    folder = tmp_path / "assets" / "images" / "2025-11"
    folder.mkdir(parents=True)
    Image.new("RGB", (600, 300)).save(folder / "user.r1.png")
    base = f"{gate.url}/api/multimodal/assets/images/2025-11"
    async with gate.http.get(f"{base}/user.r1.png") as response:
        assert await response.read() == (folder / "user.r1.png").read_bytes()
        sent = response.headers
    assert (response.status, sent["Content-Type"]) == (200, "image/png")
    assert "immutable" in sent["Cache-Control"]
    assert sent["X-Content-Type-Options"] == "nosniff"
    async with gate.http.get(
        f"{base}/user.r1.png", headers={"If-None-Match": sent["ETag"]}
    ) as response:
        assert response.status == 304
    async with gate.http.head(f"{base}/user.r1.png") as response:
        assert (response.status, response.content_length) == (200, int(sent["Content-Length"]))
    async with gate.http.get(f"{base}/user.r1.thumb.webp") as response:
        assert (response.status, response.content_type) == (200, "image/webp")
    assert (folder / "user.r1.thumb.webp").exists()


async def test_a_taken_port_is_an_error_and_leaves_nothing_behind(gate, tmp_path):
    settings = GatewaySettings(port=gate.gateway.port)
    second = Gateway(gate.bus, AssetStore(tmp_path, "http://mmg.test"), settings)
    with pytest.raises(OSError, match=str(gate.gateway.port)):
        await second.start()
    assert len(gate.bus.on_reconnect) == 1


async def test_a_client_that_does_not_finish_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr("agent.gateway.asked.BODY_TIMEOUT_S", 0.05)
    monkeypatch.setattr("agent.gateway.server.IDLE_TIMEOUT_S", 0.05)
    monkeypatch.setattr("agent.gateway.server.LINGER_S", 0.0)
    head = f"POST {GENERATE} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    async with rig(tmp_path) as gate, asyncio.timeout(2):
        answer = await raw(gate, f"{head}Content-Length: 100\r\n\r\n{{")
        assert answer.startswith("HTTP/1.1 408 ")
        assert await raw(gate, head) == ""


@pytest.mark.parametrize(
    ("public_url", "url"),
    [
        (None, "ws://127.0.0.1:8000/ws/multimodal/r1"),
        ("http://box:54112/", "ws://box:54112/ws/multimodal/r1"),
        ("https://mmg.example/studio", "wss://mmg.example/studio/ws/multimodal/r1"),
    ],
)
def test_the_address_of_a_socket_follows_from_the_public_one(public_url, url):
    settings = GatewaySettings(port=0, public_url=public_url).bound(8000)
    assert settings.socket_url(subjects.identity("user", "r1")) == url


async def test_a_chain_of_an_id_that_is_queued_again_is_told_apart(gate):
    who = subjects.identity("user", "r1")
    story = Story(gate.own, who, seq=1)
    assert (await gate.post({**BODY, "request_id": "r1"}))[1]["joined"] is False
    await story.started()
    head = await chain.read_head(gate.own, who)
    assert head is not None
    assert head.link.request_seq == 1
    status, answer = await gate.post({**BODY, "request_id": "r1"})
    assert (status, answer["joined"], answer["status"]) == (202, True, "processing")
