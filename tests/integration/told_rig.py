"""A gateway with a ledger and a worker that only tells: it answers operators and draws nothing.

For the tests of what people are shown; it must not check anything itself.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
from nats.aio.msg import Msg

from agent.bus.connection import Bus
from agent.bus.snapshot import respond_error
from agent.ledger import Ledger
from contracts import codec, subjects
from contracts.errors import ErrorCode, error_body
from contracts.status import Loaded, ModelWish, WorkerReport
from contracts.status_examples import LOADED, MODELS, REPORT
from tests.integration.gateway_rig import OPEN, Rig, rig
from tests.integration.history_rig import PRICES
from tests.ledger_rig import following, position
from tests.rig import until

HAS = ("sdxl-1.0", "llama2:13b")


class Teller:
    """A worker as the gateway hears it; `report` may be replaced at any time."""

    def __init__(self, bus: Bus, name: str = "gpu-1") -> None:
        self.name = name
        self.report = msgspec.structs.replace(REPORT, worker=name, jobs=(), waits=())
        self.wishes: list[tuple[str, ModelWish]] = []
        self._bus = bus

    async def open(self) -> None:
        for subject in ("status", "models"):
            await self._bus.subscribe(subjects.rpc(subject), self._answer)
        for verb in ("load", "unload"):
            await self._bus.subscribe(subjects.rpc(verb, self.name), self._wish)
        await self._bus.flush()

    async def _answer(self, msg: Msg) -> None:
        status = subjects.parse_verb(msg.subject) == "status"
        told = self.report if status else msgspec.structs.replace(MODELS, worker=self.name)
        await self._bus.respond(msg, codec.encode(told))

    async def _wish(self, msg: Msg) -> None:
        verb = subjects.parse_verb(msg.subject) or ""
        wish = msgspec.json.decode(msg.data, type=ModelWish)
        self.wishes.append((verb, wish))
        if wish.model not in HAS:
            body = error_body(ErrorCode.MODEL_MISSING, f"nobody here has {wish.model}")
            await respond_error(self._bus, msg, body)
            return
        done = {"worker": self.name, "verb": verb, "models": ((self.name, wish.model),)}
        loaded: Loaded = msgspec.structs.replace(LOADED, **done)
        await self._bus.respond(msg, codec.encode(loaded))

    def say(self, **fields: object) -> WorkerReport:
        """Change what it tells."""
        self.report = msgspec.structs.replace(self.report, **fields)
        return self.report


class Told:
    """Gateway, ledger and teller."""

    def __init__(self, gate: Rig, teller: Teller, path: Path) -> None:
        self.gate = gate
        self.teller = teller
        self._path = path

    async def folded(self) -> None:
        """Wait until the ledger has all that was stored."""
        answer = await self.gate.own.api(f"STREAM.INFO.{subjects.STREAM_EVENTS}")
        last = msgspec.json.decode(answer)["state"]["last_seq"]
        await until(lambda: position(self._path) >= last, "the ledger")

    def look_again(self) -> None:
        """Let the gateway ask its workers anew."""
        self.gate.gateway._machines._asked_at_s = float("-inf")


@asynccontextmanager
async def told_rig(folder: Path, *, tells: bool = True) -> AsyncIterator[Told]:
    """Run a gateway with a ledger; with `tells` beside a worker that answers."""
    path = folder / "data" / "ledger.sqlite3"
    settings = OPEN
    async with rig(folder, settings=settings, ledger=Ledger(path, PRICES)) as gate:
        teller = Teller(gate.own)
        if tells:
            await teller.open()
        async with following(gate.own, path) as projection:
            await until(lambda: projection.caught_up, "the ledger")
            yield Told(gate, teller, path)
