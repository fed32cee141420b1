"""Goal: nobody reaches through a webhook what only this machine can reach, nor keeps it busy.

Method: each attack on a real listener inside; the same POST with the host allowed gets through.
"""

import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web

from agent.gateway.posting import post
from tests.doubles.receiver import Receiver, receiver


@pytest.fixture
async def there() -> AsyncIterator[Receiver]:
    async with receiver() as one:
        yield one


HEADERS = {"webhook-id": "1", "webhook-timestamp": "2", "webhook-signature": "v1,3"}
SPELLINGS = [
    "https://127.0.0.1:{port}/",
    "http://127.0.0.1:{port}/",
    "http://localhost:{port}/",
    "http://[::1]:{port}/",
    "http://[::ffff:127.0.0.1]:{port}/",
    "http://0.0.0.0:{port}/",
    "http://0:{port}/",
    "http://2130706433:{port}/",
    "http://0x7f.1:{port}/",
    "http://0177.0.0.1:{port}/",
    "http://127.1:{port}/",
    "http://169.254.169.254/latest/meta-data/",
    "https://user@127.0.0.1:{port}/",
    "file:///etc/passwd",
]


@pytest.mark.parametrize("spelling", SPELLINGS)
async def test_nothing_inside_is_reached_in_any_spelling(there, spelling):
    answer = await post(spelling.format(port=there.port), b"{}", HEADERS, (), 5.0)
    assert answer.status is None
    assert answer.never
    assert there.told == []


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "10.0.0.1", "::ffff:127.0.0.1"])
async def test_a_name_that_leads_inside_is_stopped_at_the_socket(monkeypatch, there, address):
    """What the resolver of the machine says is the attacker's: the name itself looks public."""
    asked: list[str] = []

    def resolve(host: str, *_: Any, **__: Any) -> list[Any]:
        asked.append(host)
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        where = (address, 443, 0, 0) if ":" in address else (address, 443)
        return [(family, socket.SOCK_STREAM, 6, "", where)]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    answer = await post("https://hooks.public.example/", b"{}", HEADERS, (), 5.0)
    assert asked
    assert "is not on the public internet" in answer.reason
    assert there.told == []


async def test_a_redirect_inside_is_not_followed(there):
    async def away(_: web.Request) -> web.Response:
        return web.Response(status=302, headers={"Location": there.url("/inside")})

    there.answers = [away]
    answer = await post(there.url(), b"{}", HEADERS, {there.host}, 5.0)
    assert answer.status == 302
    assert [told.path for told in there.told] == ["/hook"]


async def test_no_proxy_of_the_environment_is_used(monkeypatch, there):
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    answer = await post(there.url(), b"{}", HEADERS, {there.host}, 5.0)
    assert answer.status == 204


async def test_an_endless_body_is_not_read(there):
    sent = 0

    async def endless(request: web.Request) -> web.StreamResponse:
        nonlocal sent
        response = web.StreamResponse()
        await response.prepare(request)
        while True:  # Until the other side has gone.
            await response.write(b"x" * 65536)
            sent += 65536

    there.answers = [endless]
    answer = await post(there.url(), b"{}", HEADERS, {there.host}, 5.0)
    assert answer.status == 200
    assert sent < 64 * 1024**2


async def test_headers_without_an_end_and_a_receiver_that_says_nothing_take_no_longer_than_a_try(
    there,
):
    async def wide(_: web.Request) -> web.Response:
        return web.Response(headers={"X-Wide": "x" * 20_000})

    there.answers = [wide]
    assert (await post(there.url(), b"{}", HEADERS, {there.host}, 5.0)).status is None
    there.hangs.set()
    answer = await post(there.url(), b"{}", HEADERS, {there.host}, 0.2)
    assert answer.reason == "no answer within 0.2 s"


async def test_a_port_nobody_listens_on_is_a_failure_to_be_tried_again(unused_tcp_port_factory):
    host = f"127.0.0.1:{unused_tcp_port_factory()}"
    answer = await post(f"http://{host}/", b"{}", HEADERS, {host}, 5.0)
    assert (answer.status, answer.never) == (None, False)
    assert "Connect" in answer.reason
