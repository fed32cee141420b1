"""Streams and files for the tests of the ledger: links to fold, and what a fold has made.

It must not check anything itself.
"""

import asyncio
import random
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec

from agent.bus.connection import Bus
from agent.ledger import Projection
from contracts import codec, subjects
from contracts.errors import ErrorCode, error_body
from contracts.events import (
    Alert,
    AssetFact,
    Cancelled,
    Completed,
    Expired,
    Failed,
    Link,
    Output,
    Preempted,
    Released,
    Retrying,
    Started,
    kind_of,
)
from contracts.requests import Options, Priority, Quality, Request, Style
from contracts.subjects import Identity
from tests.rig import until

NOW = datetime(2026, 3, 2, 9, 15, tzinfo=UTC)
ENGINES = [("comfyui", "sdxl-1.0"), ("comfyui", "sd-1.5"), ("sketch", "sketch")]
ENGINES += [("stability", "stable-image-core")]
URL = "http://mmg.test/api/multimodal/assets/images/2026-03"
TABLES = ("multimodal_generations", "alerts", "ledger_position")

BURST = 1000
"""Messages that the server gets at once: it writes each to the disk before it answers others."""

Message = tuple[str, bytes]


class Chain:
    """Makes the links of one request, one after the other, `at` a second apart."""

    def __init__(self, who: Identity, draw: random.Random, seq: int = 1) -> None:
        self.who = who
        self._draw = draw
        self._seq = seq
        self._n = 0
        self._attempt = 0
        self._at = NOW + timedelta(seconds=seq)
        self.request = Request(
            type="image",
            prompt=f"Cover {who}",
            request_id=who.request_id,
            requester=who.requester,
            priority=draw.choice(list(Priority)),
            options=Options(quality=draw.choice(list(Quality)), style=draw.choice([None, *Style])),
        )

    def _fields(self) -> dict[str, Any]:
        self._n += 1
        self._at += timedelta(seconds=1)
        origin = {"request": self.request, "requested_at": NOW + timedelta(seconds=self._seq)}
        return {
            "id": f"{self.who}-{self._n}",
            "n": self._n,
            "request_id": self.who.request_id,
            "requester": self.who.requester,
            "message": f"link {self._n}",
            "progress_percent": 0,
            "at": self._at,
            "attempt": self._attempt,
            "request_seq": self._seq,
            **(origin if self._n == 1 else {}),
        }

    def started(self) -> Started:
        self._attempt += 1
        engine, model = self._draw.choice(ENGINES)
        return Started(
            engine=engine,
            model=model,
            reason="first",
            worker="w1",
            server=None,
            queue_time_seconds=0.5,
            **self._fields(),
        )

    def retrying(self) -> Retrying:
        error = error_body(ErrorCode.HANG, "it hung")
        fields = self._fields()
        return Retrying(error=error, delay_s=5, due_at=self._at, next_engine=None, **fields)

    def handed_back(self) -> Preempted | Released:
        kind = self._draw.choice((Preempted, Released))
        return kind(by="w1", reason="stop", **self._fields())

    def completed(self, engine: str = "comfyui", model: str = "sdxl-1.0") -> Completed:
        file = f"{self.who}.png"
        output = Output(
            url=f"{URL}/{file}",
            file_path=f"images/2026-03/{file}",
            thumbnail_url=f"{URL}/{self.who}.thumb.webp",
            file_size_bytes=1000 + self._seq,
            width=256,
            height=256,
            format="png",
            sha256=f"{self._seq:064x}",
        )
        return Completed(
            generation_time_seconds=2.5,
            queue_time_seconds=0.5,
            model_used=model,
            engine=engine,
            cost_usd=0.03 if engine == "stability" else 0.0,
            seed=7,
            vram_used_gb=None,
            downgraded=False,
            retry_count=self._attempt - 1,
            reason="first",
            outputs=(output,),
            output=output,
            **self._fields(),
        )

    def ended_badly(self) -> Failed | Expired | Cancelled:
        error = error_body(ErrorCode.NO_ENGINE, "none is left")
        choice = self._draw.randrange(3)
        if choice == 0:
            return Failed(error=error, dead=True, **self._fields())
        if choice == 1:
            return Expired(error=error_body(ErrorCode.EXPIRED, "too late"), **self._fields())
        return Cancelled(by="user", **self._fields())

    def fact(self, kind: str) -> Message:
        self._at += timedelta(seconds=1)
        fact = AssetFact(
            id=f"{self.who}-{kind}",
            request_id=self.who.request_id,
            requester=self.who.requester,
            kind=kind,
            by="user",
            at=self._at,
            rating=4 if kind == "rated" else None,
        )
        return subjects.asset_fact(self.who, kind), msgspec.json.encode(fact)

    def message(self, link: Link) -> Message:
        return subjects.chain(self.who, kind_of(link)), codec.encode(link)

    def life(self) -> list[Message]:
        """Return a whole life: some tries, an end, and sometimes what came after."""
        links: list[Link] = []
        for _ in range(self._draw.randrange(3)):
            links.append(self.started())
            links.append(self._draw.choice((self.retrying, self.handed_back))())
        links.append(self.started())
        links.append(self._draw.choice((self.completed, self.completed, self.ended_badly))())
        kinds = ("pinned", "unpinned", "rated", "dismissed", "pruned", "of_another_kind")
        facts = self._draw.sample(kinds, self._draw.randrange(3))
        return [self.message(link) for link in links] + [self.fact(kind) for kind in facts]


def alert(name: str, state: Any, second: int) -> Message:
    at = NOW + timedelta(seconds=second)
    told = Alert(name=name, state=state, message=f"{name} is {state}", by="w1", at=at)
    return subjects.alert(name), msgspec.json.encode(told)


def stream(requests: int, seed: int = 1) -> list[Message]:
    """Return the messages of several lives, mixed as they would come, and alerts among them."""
    draw = random.Random(seed)
    lives = [
        Chain(Identity(f"L2-{n % 3:02d}", f"r{n}"), draw, seq=n).life() for n in range(requests)
    ]
    messages: list[Message] = []
    while lives:
        life = draw.choice(lives[:20])
        messages.append(life.pop(0))
        if not life:
            lives.remove(life)
        if draw.random() < 0.02:
            state = draw.choice(("raised", "cleared"))
            messages.append(alert(draw.choice(("disk", "engine")), state, len(messages)))
    return messages


async def publish(bus: Bus, messages: list[Message]) -> int:
    """Store messages in their order, without a word from the server for each; return the last."""
    last = await last_seq(bus)
    for begin in range(0, len(messages), BURST):
        burst = messages[begin : begin + BURST]
        for subject, data in burst:
            await bus.publish(subject, data)
        last += len(burst)
        await _stored(bus, last)
    return last


async def _stored(bus: Bus, seq: int) -> None:
    async def look() -> bool:
        return await last_seq(bus) == seq

    await until(look, f"message {seq} in the stream")


async def last_seq(bus: Bus) -> int:
    answer = await bus.api(f"STREAM.INFO.{subjects.STREAM_EVENTS}")
    seq: int = msgspec.json.decode(answer)["state"]["last_seq"]
    return seq


@asynccontextmanager
async def following(bus: Bus, path: Path) -> AsyncIterator[Projection]:
    """Let a projection run beside the block."""
    projection = Projection(bus, path)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(projection.run(), name="projection")
        try:
            yield projection
        finally:
            task.cancel()


async def folded(path: Path, seq: int) -> None:
    """Wait until the ledger in a file goes up to a message."""
    await until(lambda: position(path) == seq, f"message {seq} in {path.name}")


def position(path: Path) -> int:
    """Return how far the ledger in a file goes; 0 where there is none that can be read."""
    try:
        with closing(sqlite3.connect(_uri(path), uri=True)) as database:
            seq: int = database.execute("SELECT seq FROM ledger_position").fetchone()[0]
    except sqlite3.Error:
        return 0
    return seq


@contextmanager
def edited(path: Path) -> Iterator[sqlite3.Connection]:
    """Change a file behind the back of everybody."""
    with closing(sqlite3.connect(path)) as database, database:
        yield database


async def fresh(bus: Bus, path: Path) -> dict[str, list[Any]]:
    """Fold the whole stream into a new file and return what it holds."""
    await Projection(bus, path).fold_all()
    return content(path)


def content(path: Path) -> dict[str, list[Any]]:
    """Return every row of every table, read without anything of ours."""
    with closing(sqlite3.connect(_uri(path), uri=True)) as database:
        return {
            table: database.execute(f"SELECT * FROM {table} ORDER BY 1, 2, 3").fetchall()  # noqa: S608
            for table in TABLES
        }


def _uri(path: Path) -> str:
    return f"{path.absolute().as_uri()}?mode=rw"
