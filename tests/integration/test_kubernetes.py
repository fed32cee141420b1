"""Goal: KEDA finds in nats-server what the manifests tell it to look for, and counts it right.

Method: a real server with real streams is asked over HTTP as KEDA's nats-jetstream scaler asks
(source: kedacore/keda, pkg/scalers/nats_jetstream_scaler.go, 2.20); the figures are added up by
the formula of the manifest.
"""

from pathlib import Path
from typing import Any

import aiohttp
import yaml

from agent.bus.connection import connect
from agent.bus.lanes import Lanes
from agent.bus.provision import Plan, provision
from contracts import subjects
from tests.chaos.servers import Cluster
from tests.rig import agent_on, until

MANIFEST = Path(__file__).resolve().parents[2] / "ops" / "kubernetes" / "keda.yaml"
NO_ACCOUNTS = "$G"
"""The account of a server without accounts; the manifest names that of a site."""


async def lag(port: int, trigger: dict[str, Any]) -> int:
    """Return what KEDA would make of one trigger."""
    wanted = trigger["metadata"]
    query = {"acc": NO_ACCOUNTS, "consumers": "true", "config": "true"}
    address = f"http://127.0.0.1:{port}/jsz"
    async with aiohttp.ClientSession() as session, session.get(address, params=query) as answer:
        told = await answer.json()
    (account,) = (one for one in told["account_details"] if one["name"] == NO_ACCOUNTS)
    (stream,) = (one for one in account["stream_detail"] if one["name"] == wanted["stream"])
    (lane,) = (one for one in stream["consumer_detail"] if one["name"] == wanted["consumer"])
    count: int = lane["num_pending"] + lane["num_ack_pending"]
    return count


async def test_what_waits_and_what_is_in_hand_is_counted_until_it_is_settled(
    tmp_path: Path,
) -> None:
    spec = yaml.safe_load(MANIFEST.read_text(encoding="utf-8"))["spec"]
    servers = Cluster(tmp_path, 1)
    await servers.start()
    try:
        url = f"nats://127.0.0.1:{servers.ports[0]}"
        async with await connect([url], "provision") as bus, agent_on(url) as agent:
            await provision(bus, Plan())

            async def look() -> int:
                lags = {
                    one["name"]: await lag(servers.monitors[0], one) for one in spec["triggers"]
                }
                formula = spec["advanced"]["scalingModifiers"]["formula"]
                return sum(lags[name.strip()] for name in formula.split("+"))

            assert await look() == 0
            for number, priority in enumerate(subjects.LANES):
                await agent.image(f"r{number}", priority=priority.lane)
            assert await look() == 4
            lanes = Lanes(bus)
            await lanes.open()
            delivery = await lanes.next()
            assert delivery is not None
            assert await look() == 4
            await delivery.ack()

            async def settled() -> bool:
                return await look() == 3

            await until(settled, "the one that was drawn to be counted no more")
            await lanes.close()
    finally:
        await servers.stop()
