"""Goal: nobody can ask so often that others wait, and nobody takes somebody else's allowance.

Method: a real gateway on a real nats-server, with limits, with and without keys, behind proxies
that are trusted and behind some that are not.
"""

import pytest

from agent.gateway import GatewaySettings
from tests.integration.access_rig import API, IMAGE, guarded
from tests.integration.gateway_rig import rig


@pytest.mark.parametrize(("path", "allowed"), [("generate", 30), ("queue", 60), ("history", 60)])
async def test_the_limits_of_a_minute_hold_for_each_key(tmp_path, path, allowed):
    async with guarded(tmp_path, rate_limits=True) as site:
        url, body = f"{API}/{path}", {"prompt": "no type"}
        method = "POST" if path == "generate" else "GET"
        statuses = [
            (await site.ask("ann", method, url, json=body if method == "POST" else None))[0]
            for _ in range(allowed)
        ]
        assert 429 not in statuses
        status, answer, sent = await site.gate.ask(
            method, url, headers=site.bearer("ann"), json=IMAGE if method == "POST" else None
        )
        assert (status, answer["code"], answer["retryable"]) == (429, "rate_limited", True)
        assert 1 <= int(sent["Retry-After"]) <= 2
        assert (await site.ask("bob", method, url, json=IMAGE if method == "POST" else None))[
            0
        ] != 429
        assert (await site.ask("ann", "GET", f"{API}/stats"))[0] != 429


async def test_without_keys_the_address_behind_trusted_proxies_has_the_limit(tmp_path):
    settings = GatewaySettings(port=0, trusted_proxies=("127.0.0.1/32", "10.0.0.0/8"))
    async with rig(tmp_path, settings=settings) as gate:

        async def look(*named):
            headers = {"X-Forwarded-For": ", ".join(named)} if named else {}
            return (await gate.ask("GET", f"{API}/queue", headers=headers))[0]

        for _ in range(60):
            assert await look("203.0.113.9, 10.1.2.3") == 200
        assert await look("203.0.113.9") == 429
        assert await look("198.51.100.7, 203.0.113.9, 10.0.0.1") == 429
        assert await look("203.0.113.10") == 200
        assert await look("203.0.113.9, 198.51.100.8") == 200
        assert await look() == 200
        assert await look("not an address") == 200


async def test_a_header_of_somebody_who_is_no_proxy_counts_for_nothing(tmp_path):
    async with rig(tmp_path, settings=GatewaySettings(port=0)) as gate:
        for number in range(60):
            headers = {"X-Forwarded-For": f"203.0.113.{number}"}
            assert (await gate.ask("GET", f"{API}/queue", headers=headers))[0] == 200
        headers = {"X-Forwarded-For": "203.0.113.200"}
        assert (await gate.ask("GET", f"{API}/queue", headers=headers))[0] == 429


async def test_sending_again_uses_up_the_allowance_for_sending(tmp_path):
    async with guarded(tmp_path, rate_limits=True) as site:
        for _ in range(30):
            assert (await site.ask("ann", "POST", f"{API}/requests/none/replay", json={}))[0] == 404
        assert (await site.ask("ann", "POST", f"{API}/generate", json=IMAGE))[0] == 429
        assert (await site.ask("bob", "POST", f"{API}/generate", json=IMAGE))[0] == 202


async def test_nobody_uses_up_the_tickets_of_everybody(tmp_path):
    async with guarded(tmp_path, rate_limits=True) as site:
        statuses: list[int] = []
        while len(statuses) < 300 and 429 not in statuses:  # A slow machine earns a few meanwhile.
            statuses.append((await site.ask("ann", "POST", f"{API}/ws-ticket"))[0])
        assert statuses[:240] == [200] * 240
        assert statuses[-1] == 429
        assert (await site.ask("bob", "POST", f"{API}/ws-ticket"))[0] == 200
