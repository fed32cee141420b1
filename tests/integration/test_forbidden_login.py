"""Goal: nobody gets in on a site without a key, and no secret goes to a server that is not proved.

Method: a real nats-server with the configuration that `mmg key` makes; sockets and impostors that
speak the protocol as far as they are let.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import msgspec
import pytest

from agent.bus.connection import NoAnswer, connect
from agent.bus.nkeys import Nkey
from agent.clock import SystemClock
from agent.site.folder import SiteFolder
from agent.site.roster import RosterError
from contracts.errors import ContractError
from contracts.requests import Priority
from tests.site_rig import ALICE, BOB, Site, site_in


@pytest.fixture
async def site(tmp_path) -> AsyncIterator[Site]:
    async with site_in(tmp_path) as running:
        yield running


async def test_forbidden_to_have_the_token_of_another_agent(site):
    for agent in (ALICE, "L2.01"):
        with pytest.raises(RosterError, match="there already"):
            site.folder.add_agent(agent, Priority.LOW)
    for agent in ("L2-01", "L2.*", "L2.>", "L2 01", "", "worker"):
        with pytest.raises((ContractError, RosterError)):
            site.folder.add_agent(agent, Priority.LOW)


async def test_forbidden_without_tls(site):
    address = urlsplit(site.server.url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    greeting = json.loads((await reader.readline()).removeprefix(b"INFO "))
    assert greeting["tls_required"]
    writer.write(b'CONNECT {"verbose":false}\r\nPING\r\n')
    with contextlib.suppress(ConnectionError):
        async with asyncio.timeout(5):
            answer = await reader.read()
        assert not answer.startswith((b"PONG", b"+OK")), answer
    writer.close()


async def test_forbidden_to_answer_a_server_that_offers_no_tls(site, tmp_path):
    """Somebody between us and the server says that it speaks no TLS: no signature is sent."""
    sent: list[bytes] = []

    async def pose(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'INFO {"server_id":"X","version":"2.15.1","nonce":"abc","max_payload":1}\r\n')
        with contextlib.suppress(ConnectionError):
            sent.append(await reader.read(1000))
        writer.close()

    impostor = await asyncio.start_server(pose, "127.0.0.1", 0)
    port = impostor.sockets[0].getsockname()[1]
    with pytest.raises(NoAnswer, match="offers no TLS"):
        await connect([f"nats://127.0.0.1:{port}"], "a", login=site.login(ALICE), patience_s=0.1)
    assert b"".join(sent) == b""
    impostor.close()
    await impostor.wait_closed()


async def test_forbidden_to_trust_another_certificate_authority(site, tmp_path):
    stranger = SiteFolder(tmp_path / "stranger")
    stranger.make("stranger", ["127.0.0.1"], 4222, SystemClock().now())
    login = msgspec.structs.replace(site.login(ALICE), ca=stranger.ca)
    with pytest.raises(NoAnswer, match="not trusted"):
        await connect([site.server.url], "a", login=login, patience_s=0.1)


async def test_forbidden_with_a_wrong_key_or_with_none(site):
    good = site.login(ALICE)
    for seed in (Nkey.new().seed, None):
        login = msgspec.structs.replace(good, seed=seed)
        with pytest.raises(NoAnswer, match="refuses this key"):
            await connect([site.server.url], "a", login=login, patience_s=0.1)


async def test_forbidden_with_the_name_of_another_and_ones_own_signature(site, monkeypatch):
    """The server believes a signature, not the public key that comes with it."""
    bob = Nkey.read(site.login(BOB).seed or "").public
    monkeypatch.setattr(Nkey, "public", bob)
    with pytest.raises(NoAnswer, match="refuses this key"):
        await connect([site.server.url], "a", login=site.login(ALICE), patience_s=0.1)


async def test_forbidden_once_the_key_is_taken_away_or_rotated_out(site):
    alice, bob = site.login(ALICE), site.login(BOB)
    site.folder.remove_agent(ALICE)
    site.folder.rotate(BOB, at_once=False)
    await site.reload()
    with pytest.raises(NoAnswer, match="refuses this key"):
        await connect([site.server.url], "a", login=alice, patience_s=0.1)
    for login in (bob, site.login(BOB)):  # Until the rotation is finished both are good.
        async with await connect([site.server.url], "b", login=login, patience_s=1):
            pass
    site.folder.finish(BOB)
    await site.reload()
    with pytest.raises(NoAnswer, match="refuses this key"):
        await connect([site.server.url], "b", login=bob, patience_s=0.1)
    async with await connect([site.server.url], "b", login=site.login(BOB), patience_s=1):
        pass
