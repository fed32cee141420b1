"""Fixtures: a real, provisioned nats-server for each test, and a plain client on it."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agent.embedded import EmbeddedServer
from tests.rig import Agent, agent_on, bus_server


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[EmbeddedServer]:
    """Run a provisioned nats-server of this test's own."""
    async with bus_server(tmp_path / "nats", ack_wait_s=3.0) as running:
        yield running


@pytest.fixture
async def agent(server: EmbeddedServer) -> AsyncIterator[Agent]:
    """Connect an agent that hears every event."""
    async with agent_on(server.url) as client:
        await client.listen()
        yield client
