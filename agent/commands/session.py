"""What the commands that talk to a bus share: settings, quiet logs, one connection.

It must not know what a command does with them.
"""

import os
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import msgspec

from agent import client, logs
from agent.building import build_login
from agent.bus import connection
from agent.bus.connection import Bus
from agent.bus.login import CLIENT
from agent.client import Client
from agent.config import Config, load
from agent.config.hidden import hidden

PATIENCE_S: Final = 2.0
"""A person waits for the answer: long enough for a server that is just starting."""
PROBE_S: Final = 0.5


def read_config() -> Config:
    """Read the settings of this process. Raises: ConfigError."""
    return load(os.environ, Path.cwd())


class _Left(msgspec.Struct):
    """What an embedded server on this folder wrote about itself."""

    port: int
    name: str


def embedded_url(config: Config) -> str | None:
    """Return where the embedded server of this folder listens now; None if there is none."""
    try:
        data = (config.storage.data_dir / "nats" / "nats-server.pid.json").read_bytes()
        left = msgspec.json.decode(data, type=_Left)
        address = ("127.0.0.1", left.port)
        with socket.create_connection(address, timeout=PROBE_S) as probe:
            greeting = probe.recv(4096)
    except (OSError, msgspec.DecodeError):
        return None
    return f"nats://127.0.0.1:{left.port}" if left.name.encode() in greeting else None


def urls(config: Config) -> tuple[str, ...]:
    """Return the servers to connect to: those named, else the embedded one of this folder."""
    found = None if config.bus.url is not None else embedded_url(config)
    return config.bus.urls if found is None else (found,)


def log_from(level: str, config: Config) -> None:
    """Let log lines of this level and above show on stderr, none in files."""
    logs.hide(hidden(config))
    logs.configure(
        config.logs.format_for(terminal=sys.stderr.isatty()), level, None, role="command"
    )


@asynccontextmanager
async def connected(config: Config, agent: str) -> AsyncIterator[Client]:
    """Connect as an agent; trouble before is an error of the command, later a warning in the log.

    Raises: BusError, ContractError.
    """
    log_from("critical", config)
    login = build_login(config)
    async with client.connect(urls(config), agent=agent, patience_s=PATIENCE_S, login=login) as one:
        log_from("warning", config)
        yield one


@asynccontextmanager
async def plain_bus(config: Config, role: str = CLIENT) -> AsyncIterator[Bus]:
    """Connect without a name of an agent, to look at the bus itself. Raises: BusError."""
    log_from("critical", config)
    async with await connection.connect(
        urls(config), "mmg", role=role, patience_s=PATIENCE_S, login=build_login(config)
    ) as bus:
        yield bus
