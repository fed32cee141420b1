"""Goal: who may not is refused with the right status, and whoever may is served right after.

Method: a real gateway with keys on a real nats-server; each attack over the wire, raw bytes where
a client library would tidy them up, and a good request behind each of them.
"""

import asyncio
import base64
import json
import re

import pytest

from agent.clock import SystemClock
from agent.commands import pictures
from agent.config import load
from agent.gateway import GatewaySettings, keys
from agent.gateway.keys import KeyFileError, Role
from contracts import subjects
from contracts.requests import Priority
from tests.integration.access_rig import API, IMAGE, fresh_connections, guarded, handshake, raw
from tests.integration.gateway_rig import Story, frames, rig, until

OTHERS = f"{API}/requests/theirs"


@pytest.fixture
async def site(tmp_path):
    async with guarded(tmp_path) as made:
        yield made
        assert await made.works()


async def theirs(site):
    """Let bob ask for something; return the pen of its chain."""
    body = {**IMAGE, "request_id": "theirs"}
    assert (await site.ask("bob", "POST", f"{API}/generate", json=body))[0] == 202
    return Story(site.gate.own, subjects.identity("L3.01", "theirs"))


async def test_without_a_key_only_what_is_public_is_answered(site):
    for path in ("/healthz", "/readyz", "/openapi.json", "/asyncapi.json"):
        assert (await site.ask(None, "GET", path))[0] == 200, path
    for path in (
        "queue",
        "history",
        "stats",
        "models",
        "requests/x",
        "assets/images/2026-03/a.b.png",
    ):
        status, answer, sent = await site.gate.ask("GET", f"{API}/{path}")
        assert (status, answer["code"]) == (401, "forbidden"), path
        assert sent["WWW-Authenticate"].startswith("Bearer")
    assert (await site.ask(None, "POST", f"{API}/generate", json=IMAGE))[0] == 401
    assert await handshake(site.gate, "/ws/multimodal/x") == 401
    assert await handshake(site.gate, "/ws/multimodal") == 401


@pytest.mark.parametrize(
    "forged",
    [
        "Bearer ",
        "Bearer mmg_00000000_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
        "Bearer null",
        "Basic b2xnYTpvbGdh",
        "Bearer " + "A" * 4000,
        "olga",
    ],
)
async def test_a_forged_key_is_refused(site, forged):
    status, answer = await site.ask(None, "GET", f"{API}/queue", headers={"Authorization": forged})
    assert (status, answer["code"]) == (401, "forbidden")


async def test_half_a_key_and_the_hash_in_the_file_open_nothing(site):
    made = site.keys["olga"]
    for token in (made.token[:-1], made.token + "A", made.token.swapcase(), made.key.sha256):
        headers = {"Authorization": f"Bearer {token}"}
        assert (await site.ask(None, "GET", f"{API}/queue", headers=headers))[0] == 401
    assert made.token not in site.path.read_text()
    assert site.path.stat().st_mode & 0o777 == 0o600


async def test_the_requester_is_the_agent_of_the_key(site):
    status, answer = await site.ask("ann", "POST", f"{API}/generate", json=IMAGE)
    assert (status, answer["requester"]) == (202, "L2.05.03")
    for name, requester in (("ann", "L3.01"), ("ann", "user"), ("olga", "L2.05.03")):
        body = {**IMAGE, "requester": requester}
        status, answer = await site.ask(name, "POST", f"{API}/generate", json=body)
        assert (status, answer["code"], answer["path"]) == (403, "forbidden", "$.requester")


async def test_a_key_asks_for_its_highest_class_at_most(site):
    for name, priority, status in (
        ("ann", "CRITICAL", 403),
        ("ann", "HIGH", 202),
        ("bob", "CRITICAL", 202),
    ):
        body = {**IMAGE, "priority": priority}
        assert (await site.ask(name, "POST", f"{API}/generate", json=body))[0] == status


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", OTHERS, None, 404),
        ("GET", f"{OTHERS}?requester=L3.01", None, 403),
        ("DELETE", OTHERS, None, 404),
        ("DELETE", f"{OTHERS}?requester=L3.01", None, 403),
        ("GET", f"{OTHERS}/events", None, 404),
        ("GET", f"{OTHERS}/events?requester=L3.01", None, 403),
        ("POST", f"{OTHERS}/rating?requester=L3.01", {"rating": 1}, 403),
        ("POST", f"{OTHERS}/pin?requester=L3.01", {}, 403),
        ("POST", f"{OTHERS}/replay", {}, 404),
        ("GET", f"{API}/queue?requester=L3.01", None, 403),
        ("GET", f"{API}/history?requester=L3.01", None, 403),
        ("POST", f"{API}/queue/clear", {"all": True}, 403),
        ("POST", f"{API}/models/load", {"model": "sdxl"}, 403),
        (
            "POST",
            f"{API}/assets/sign",
            {"paths": [f"{API}/assets/images/2026-03/L3-01.x.png"]},
            403,
        ),
        ("GET", f"{API}/assets/images/2026-03/L3-01.theirs.png", None, 403),
    ],
)
async def test_what_is_somebody_elses_stays_so(site, method, path, body, status):
    story = await theirs(site)
    await story.started()
    await story.completed()
    assert (await site.ask("ann", method, path, json=body))[0] == status
    assert (await site.ask("bob", "GET", OTHERS))[1]["status"] == "completed"


async def test_sockets_show_a_requester_only_its_own_and_an_operator_everything(site):
    await theirs(site)
    for name, path, status in (
        ("ann", "/ws/multimodal/theirs", 404),
        ("ann", "/ws/multimodal/theirs?requester=L3.01", 403),
        ("bob", "/ws/multimodal/theirs", 101),
        ("olga", "/ws/multimodal/theirs", 101),
        ("bob", "/ws/multimodal", 403),
        ("olga", "/ws/multimodal", 101),
    ):
        assert await handshake(site.gate, path, headers=site.bearer(name)) == status, (name, path)


async def test_the_queue_shows_a_requester_its_own_rows_and_everybodys_counts(site):
    await theirs(site)
    await site.ask("ann", "POST", f"{API}/generate", json={**IMAGE, "request_id": "mine"})
    for name, ids in (("ann", ["mine"]), ("bob", ["theirs"]), ("olga", ["theirs", "mine"])):
        _, page = await site.ask(name, "GET", f"{API}/queue")
        assert [one["request_id"] for one in page["queue"]] == ids
        assert page["queued_requests"] == 2


async def test_a_ticket_opens_one_socket_and_is_refused_when_replayed(site):
    story = await theirs(site)
    _, answer = await site.ask("bob", "POST", f"{API}/ws-ticket")
    ticket = answer["ticket"]
    assert answer["expires_in_s"] == 30
    async with site.gate.socket("theirs", f"?ticket={ticket}") as socket:
        await story.started()
        await story.completed()
        assert await frames(socket) == story.written
    for path in (f"/ws/multimodal/theirs?ticket={ticket}", "/ws/multimodal/theirs?ticket=guessed"):
        assert await handshake(site.gate, path) == 401
    status, _ = await site.ask(None, "GET", f"{API}/queue?ticket={ticket}")
    assert status == 401


async def test_a_ticket_has_the_rights_of_its_key_and_ends_after_thirty_seconds(site, monkeypatch):
    async def ticket_of(name):
        return (await site.ask(name, "POST", f"{API}/ws-ticket"))[1]["ticket"]

    assert await handshake(site.gate, f"/ws/multimodal?ticket={await ticket_of('ann')}") == 403
    old = await ticket_of("olga")
    monkeypatch.setattr("agent.gateway.access.TICKET_S", -1)
    late = await ticket_of("olga")
    assert await handshake(site.gate, f"/ws/multimodal?ticket={late}") == 401
    assert await handshake(site.gate, f"/ws/multimodal?ticket={old}") == 101


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:1"])
async def test_a_page_of_another_site_opens_and_changes_nothing(site, origin):
    headers = {**site.bearer("olga"), "Origin": origin}
    assert await handshake(site.gate, "/ws/multimodal", headers=headers) == 403
    for path in ("ws-ticket", "queue/clear", "generate", "requests/theirs/pin"):
        status, answer = await site.ask(
            "olga", "POST", f"{API}/{path}", headers={"Origin": origin}, json={"all": True}
        )
        assert (status, answer["code"]) == (403, "forbidden")
    own = {"Origin": site.gate.url}
    assert (await site.ask("olga", "POST", f"{API}/ws-ticket", headers=own))[0] == 200


async def test_sites_that_are_named_may_ask_and_see_errors_too(tmp_path):
    friend = "https://site.example"
    async with guarded(tmp_path, cors_origins=(friend,)) as site:
        url = f"{site.gate.url}{API}/generate"
        asking = {"Origin": friend, "Access-Control-Request-Method": "POST"}
        async with site.gate.http.options(url, headers=asking) as answer:
            assert answer.status == 204
            assert answer.headers["Access-Control-Allow-Origin"] == friend
            assert "Authorization" in answer.headers["Access-Control-Allow-Headers"]
            assert "Access-Control-Allow-Credentials" not in answer.headers
        for name, status in (("ann", 202), (None, 401)):
            headers = {**site.bearer(name), "Origin": friend}
            code, _, sent = await site.gate.ask(
                "POST", f"{API}/generate", json=IMAGE, headers=headers
            )
            assert (code, sent["Access-Control-Allow-Origin"]) == (status, friend)
        async with site.gate.http.options(url, headers={"Origin": "http://evil.example"}) as answer:
            assert answer.status == 405
            assert "Access-Control-Allow-Origin" not in answer.headers
        assert await site.works()


async def test_an_oversized_body_and_oversized_headers_are_cut_off(site):
    big = {**IMAGE, "prompt": "x" * 70_000}
    assert (await site.ask("ann", "POST", f"{API}/generate", json=big))[0] == 413
    head = f"GET {API}/queue HTTP/1.1\r\nHost: localhost\r\n"
    port = site.gate.gateway.port
    for more in (f"X-Big: {'x' * 9000}\r\n", "".join(f"X-{n}: 1\r\n" for n in range(200))):
        answer = await raw(port, f"{head}{more}\r\n")
        assert " 400 " in answer.splitlines()[0], answer[:200]


async def test_two_hundred_clients_that_never_finish_keep_nobody_out(tmp_path, monkeypatch):
    monkeypatch.setattr("agent.gateway.server.IDLE_TIMEOUT_S", 0.3)
    monkeypatch.setattr("agent.gateway.server.LINGER_S", 0.0)
    async with guarded(tmp_path) as site, fresh_connections(site):
        head = f"POST {API}/generate HTTP/1.1\r\nHost: localhost\r\nX-Slow: "
        slow = [
            await asyncio.open_connection("127.0.0.1", site.gate.gateway.port) for _ in range(200)
        ]
        for _, writer in slow:
            writer.write(head.encode())
        assert await site.works()
        async with asyncio.timeout(5):
            for reader, _ in slow:
                assert await reader.read() == b""
        for _, writer in slow:
            writer.close()
        assert await site.works()


HTML = "<script>alert(1)</script><img src=x onerror=alert(2)>"


async def test_markup_in_a_prompt_travels_as_text(site):
    body = {**IMAGE, "prompt": HTML, "request_id": "markup"}
    assert (await site.ask("ann", "POST", f"{API}/generate", json=body))[0] == 202
    for path in ("requests/markup", "queue"):
        async with site.gate.http.get(
            f"{site.gate.url}{API}/{path}", headers=site.bearer("ann")
        ) as answer:
            assert answer.content_type == "application/json"
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
            assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
            assert HTML in json.dumps(await answer.json())


@pytest.mark.parametrize("name", ["<b>", "L2.05<script>", "*", ">", "a b", "../x", "L2\n05", ""])
async def test_an_agent_name_is_a_name_or_refused(tmp_path, name):
    async with rig(tmp_path) as gate:
        for status, answer in (
            await gate.post({**IMAGE, "requester": name}),
            (await gate.ask("GET", f"{API}/queue", params={"requester": name}))[:2],
        ):
            assert status in (200, 400), answer
            assert "<script>" not in json.dumps(answer.get("queue", []))
        assert (await gate.post({**IMAGE, "requester": name}))[0] == 400
        assert (await gate.post(IMAGE))[0] == 202


async def test_a_key_that_is_revoked_or_added_counts_within_a_second(site, monkeypatch):
    monkeypatch.setattr("agent.gateway.access.LOOK_EVERY_S", 0.0)
    site.gate.gateway._access._look_at_s = 0.0
    assert (await site.ask("bob", "GET", f"{API}/queue"))[0] == 200
    assert [key.agent for key in keys.revoke(site.path, ("L3.01",))] == ["L3.01"]
    assert (await site.ask("bob", "GET", f"{API}/queue"))[0] == 401
    site.add("carl", "L3.02", Role.REQUESTER, Priority.LOW)
    assert (await site.ask("carl", "GET", f"{API}/queue"))[0] == 200
    good = site.path.read_bytes()
    site.path.write_bytes(b"{")
    assert (await site.ask("carl", "GET", f"{API}/queue"))[0] == 200
    site.path.unlink()
    assert (await site.ask(None, "GET", f"{API}/queue"))[0] == 401
    site.path.write_bytes(good)


async def test_the_last_key_that_goes_opens_no_door(site, monkeypatch):
    monkeypatch.setattr("agent.gateway.access.LOOK_EVERY_S", 0.0)
    site.gate.gateway._access._look_at_s = 0.0
    before = site.path.read_bytes()
    keys.revoke(site.path, ("L2.05.03", "L3.01", "L1.00"))
    for name in (None, "ann", "olga"):
        assert (await site.ask(name, "GET", f"{API}/queue"))[0] == 401
    site.path.write_bytes(before)


async def test_beyond_this_machine_a_gateway_without_keys_does_not_start(tmp_path):
    outside = GatewaySettings(host="0.0.0.0", port=0, keys_file=tmp_path / "keys.json")  # noqa: S104
    with pytest.raises(KeyFileError, match="mmg key add"):
        async with rig(tmp_path, settings=outside):
            pytest.fail("it listens")
    keys.add(tmp_path / "keys.json", "L1", Role.OPERATOR, Priority.CRITICAL, "", SystemClock())
    async with rig(tmp_path / "again", settings=outside) as gate:
        assert (await gate.ask("GET", f"{API}/queue"))[0] == 401


async def test_a_file_of_keys_that_cannot_be_read_keeps_the_gateway_down(tmp_path):
    (tmp_path / "keys.json").write_text("{}")
    with pytest.raises(KeyFileError, match="no file of keys"):
        async with rig(
            tmp_path, settings=GatewaySettings(port=0, keys_file=tmp_path / "keys.json")
        ):
            pytest.fail("it listens")


async def test_a_signed_address_opens_its_picture_for_a_while_and_nothing_else(site, tmp_path):
    folder = tmp_path / "assets" / "images" / "2026-03"
    folder.mkdir(parents=True)
    png = base64.b64decode(PIXEL)
    (folder / "L2-05-03.r1.png").write_bytes(png)
    (folder / "L2-05-03.r2.png").write_bytes(png)
    paths = [f"{API}/assets/images/2026-03/L2-05-03.{name}.png" for name in ("r1", "r2")]
    status, answer = await site.ask("ann", "POST", f"{API}/assets/sign", json={"paths": paths[:1]})
    assert (status, answer["expires_in_s"]) == (200, 3600)
    (url,) = answer["urls"]
    opened = {
        paths[0]: 401,
        url: 200,
        url.replace("r1", "r2"): 401,
        url[:-1] + ("0" if url[-1] != "0" else "1"): 401,
        re.sub(r"expires=\d+", "expires=1", url): 401,
        re.sub(r"expires=\d+", "expires=99999999999999", url): 401,
    }
    for path, wanted in opened.items():
        async with site.gate.http.get(f"{site.gate.url}{path}") as answer:
            assert answer.status == wanted, path
    assert (await site.ask(None, "POST", url, json={}))[0] in (401, 405)


PIXEL = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk"
    "+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


async def test_every_route_says_who_may_ask(site):
    _, document = await site.ask(None, "GET", "/openapi.json")
    said = {
        (path, method): operation["x-access"]
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }
    for (path, method), access in said.items():
        if access == "public" or "{" in path:
            continue
        status, _, _ = await any_answer(site.gate, method, path)
        assert status == 401, (path, method)
    operators = [key for key, access in said.items() if access == "operator"]
    assert len(operators) >= 4
    for path, method in operators:
        status, _, _ = await any_answer(site.gate, method, path, headers=site.bearer("ann"))
        assert status == 403, (path, method)


async def any_answer(gate, method, path, **options):
    async with gate.http.request(method, f"{gate.url}{path}", **options) as answer:
        return answer.status, await answer.read(), answer.headers


async def test_what_a_key_did_is_written_with_its_name(site):
    await theirs(site)
    status, link = await site.ask("bob", "DELETE", OTHERS)
    assert (status, link["kind"]) == (200, "cancelled")
    assert link["by"] == f"L3.01 (key {site.keys['bob'].key.id})"
    await until(lambda: site.gate.gateway._hearing.board.count() == 0)


async def test_commands_show_their_key_to_their_own_gateway_and_to_nobody_else(site, tmp_path):
    folder = tmp_path / "assets" / "images" / "2026-03"
    folder.mkdir(parents=True)
    data = base64.b64decode(PIXEL)
    (folder / "L2-05-03.r1.png").write_bytes(data)
    url = f"{site.gate.url}{API}/assets/images/2026-03/L2-05-03.r1.png"
    settings = {"MMG_KEY": site.keys["ann"].token, "MMG_PUBLIC_URL": site.gate.url}
    http = load(settings, tmp_path).http
    assert pictures._headers(url, http) == site.bearer("ann")
    for other in ("http://evil.example/x.png", f"{site.gate.url}.evil.example/x.png"):
        assert pictures._headers(other, http) == {}
    assert site.keys["ann"].token not in repr(http)
    async with site.gate.http.get(url, headers=pictures._headers(url, http)) as answer:
        assert (answer.status, await answer.read()) == (200, data)
