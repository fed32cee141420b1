"""What tests of the operators' commands share: the command line as a person uses it, a gateway, and
a pen that writes the chain of a request that was given up.

It must not check anything itself.
"""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

from agent.assets import AssetStore
from agent.bus import chain
from agent.bus.connection import Bus, connect
from agent.cli import main
from agent.core.job import EMPTY, History, Place, StoredRequest, place_after
from agent.core.links import Author, Pen
from agent.core.routing import Candidate
from agent.core.steps import Stored
from agent.gateway import Gateway, GatewaySettings
from contracts.errors import ErrorCode, error_body
from contracts.events import FaultRecord, Link
from contracts.requests import Options, Priority, Request
from contracts.subjects import Identity

ASKED_AT = datetime(2025, 11, 11, 10, 15, tzinfo=UTC)
ERROR = error_body(ErrorCode.ENGINE_DOWN, "the engine does not answer \x1b[2J")


class Heard(NamedTuple):
    """What a command said and how it ended."""

    code: int
    out: str
    err: str


class Shell:
    """Runs `mmg` beside the loop of the test, on one bus."""

    def __init__(self, capsys) -> None:
        self._capsys = capsys

    async def __call__(self, *arguments: str) -> Heard:
        code = await asyncio.to_thread(main, list(arguments))
        heard = self._capsys.readouterr()
        return Heard(code, heard.out, heard.err)


def shell_on(url: str, folder: Path, monkeypatch, capsys) -> Shell:
    """Be in an empty folder whose only setting is the bus."""
    for name in list(os.environ):
        if name.startswith("MMG_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("MMG_NATS_URL", url)
    folder.mkdir()
    monkeypatch.chdir(folder)
    return Shell(capsys)


@asynccontextmanager
async def gateway_on(url: str, folder: Path) -> AsyncIterator[str]:
    """Run a gateway that answers nothing on the bus but snapshots; return its address."""
    async with await connect([url], "gateway", role="gateway") as bus:
        gateway = Gateway(bus, AssetStore(folder, "http://mmg.test"), GatewaySettings(port=0))
        await gateway.start()
        try:
            yield f"http://127.0.0.1:{gateway.port}"
        finally:
            await gateway.stop()


class Writer:
    """Writes the links of one request as the worker `w1` would, a second apart."""

    def __init__(self, bus: Bus, who: Identity) -> None:
        self._bus = bus
        self._author = Author(worker="w1", nonce=uuid4())
        self._place: Place = EMPTY
        self._now = ASKED_AT
        self.stored = StoredRequest(
            who=who,
            priority=Priority.HIGH,
            seq=999,
            stored_at=ASKED_AT,
            request=Request(
                type="image",
                prompt=f"Cover \x1b[31m of {who.requester}",
                options=Options(width=256, height=256),
                request_id=who.request_id,
                requester=who.requester,
                priority=Priority.HIGH,
                webhook_url="https://agent.example/hook",
            ),
        )

    @property
    def pen(self) -> Pen:
        return Pen(stored=self.stored, author=self._author, place=self._place, now=self._now)

    async def append(self, link: Link) -> None:
        outcome = await chain.append(self._bus, self.stored.who, link, self._place.seq)
        assert isinstance(outcome, Stored)
        self._place = place_after(outcome.seq, link)
        self._now += timedelta(seconds=1)

    async def started(self) -> None:
        candidate = Candidate(engine="comfyui", model="sdxl", reason="only engine", slot="gpu")
        await self.append(self.pen.started(candidate))

    async def given_up(self, *, dead: bool = True) -> None:
        """Try twice, lose a worker once, give up."""
        await self.started()
        await self.append(self.pen.retrying(ERROR, 5.0, "comfyui"))
        await self.started()
        await self.started()
        faults = tuple(FaultRecord(attempt=n, engine="comfyui", error=ERROR) for n in (1, 3))
        await self.append(self.pen.failed(ERROR, History(faults=faults), dead=dead))
