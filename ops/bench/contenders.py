"""Who is measured: mmg, the floors, and peers, each as a process that takes jobs from one server.

Each has a subject for its jobs and one on which an end is told. It measures nothing itself.
"""

import asyncio
import json
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import msgspec
import nats
from nats.js.api import RetentionPolicy, StreamConfig

from agent.bus.connection import connect
from agent.bus.provision import Plan, provision
from agent.embedded import EmbeddedServer
from contracts import subjects
from contracts.requests import Priority
from contracts.subjects import Identity
from ops.bench.loops import DONE, LOOPS, PLAIN

ROOT: Final = Path(__file__).parents[2]
PEERS: Final = Path(__file__).parent / "peers"
PEERS_PYTHON: Final = ROOT / ".venv-bench" / "bin" / "python"
AGENT: Final = "bench"
READY_S: Final = 30.0
STOP_S: Final = 10.0
BODY: Final = {
    "type": "image",
    "prompt": "bench",
    "options": {"width": 256, "height": 256, "quality": "draft"},
}
OWN: Final = ("mmg", "bare", "lanes")
"""They work on the streams of mmg; the others on one stream each."""


class PeerMissing(Exception):
    """A peer is not installed; the text says why."""


class Contender(msgspec.Struct, frozen=True, kw_only=True):
    """How to start one of them, and how it is given work.

    `seconds`: what a job takes. `settings` are for mmg.
    """

    name: str
    seconds: float = 0.0
    settings: dict[str, str] = {}

    def set(self, settings: dict[str, str]) -> "Contender":
        """Return it with further settings of mmg."""
        return msgspec.structs.replace(self, settings=self.settings | settings)

    def command(self, url: str, slots: int) -> tuple[str, ...]:
        """Return what to run. Raises: PeerMissing."""
        if self.name == "mmg":
            return sys.executable, "-m", "ops.bench.hollow", "worker"
        if self.name in LOOPS:
            asked = ("--slots", str(slots), "--seconds", str(self.seconds))
            return sys.executable, "-m", "ops.bench.loops", self.name, url, *asked
        if not PEERS_PYTHON.exists():
            raise PeerMissing("`make .venv-bench/.ready` did not install ops/bench/peers.lock")
        return str(PEERS_PYTHON), str(PEERS / f"{self.name}_worker.py"), url, str(slots)

    @property
    def ready(self) -> str:
        """What it says when it can take work."""
        return "worker.ready" if self.name == "mmg" else "ready"

    def environment(self, url: str, slots: int) -> dict[str, str]:
        """Return its environment, without settings of whoever runs the bench."""
        keep = {name: value for name, value in os.environ.items() if not name.startswith("MMG_")}
        ours = {
            "MMG_NATS_URL": url,
            "MMG_WORKER_HTTP_PORT": "0",
            "MMG_WORKER_NAME": f"bench-{os.getpid()}",
            "MMG_SKETCH": "only",
            "MMG_SLOTS": f"cpu:{slots}",
            "BENCH_SECONDS": str(self.seconds),
        }
        return keep | {"PYTHONPATH": str(ROOT)} | ours | self.settings

    def job(self, number: str, priority: Priority = Priority.CRITICAL) -> tuple[str, bytes]:
        """Return subject and bytes of a job."""
        match self.name:
            case "mmg" | "bare" | "lanes":
                subject = subjects.request(priority, Identity(AGENT, number))
                return subject, json.dumps(BODY).encode()
            case "taskiq":
                message = {
                    "task_id": number,
                    "task_name": "bench",
                    "labels": {},
                    "args": [number, json.dumps(BODY)],
                    "kwargs": {},
                }
                return "bench.taskiq", json.dumps(message).encode()
            case "faststream":
                return "bench.faststream", json.dumps({"number": number, **BODY}).encode()
            case _:
                return f"{PLAIN}.{number}", json.dumps(BODY).encode()

    @property
    def ends(self) -> str:
        """Where the end of each job is told."""
        if self.name in OWN:
            return subjects.event(Identity(AGENT, "*"), "completed")
        return f"{DONE}.*"

    def number(self, subject: str) -> str:
        """Read from such a subject whose end it is."""
        return subject.split(".")[3 if self.name in OWN else 2]


@asynccontextmanager
async def server() -> AsyncIterator[EmbeddedServer]:
    """Run a fresh server with the streams of mmg and one for each other contender."""
    with tempfile.TemporaryDirectory() as folder:
        running = EmbeddedServer(Path(folder) / "nats", 0)
        await running.start()
        try:
            async with await connect([running.url], "provision") as bus:
                await provision(bus, Plan())
            nc = await nats.connect(running.url)
            for name in ("plain.*", "taskiq", "faststream"):
                await nc.jetstream().add_stream(
                    StreamConfig(
                        name=name.partition(".")[0].upper(),
                        subjects=[f"bench.{name}"],
                        retention=RetentionPolicy.WORK_QUEUE,
                    )
                )
            await nc.close()
            yield running
        finally:
            await running.stop()


@asynccontextmanager
async def working(
    who: Contender, url: str, slots: int = 1, born: Callable[[int], None] = lambda _pid: None
) -> AsyncIterator[int]:
    """Run a contender until the end of the block; yields its process id once it is ready.

    `born` is told it at once. Raises: PeerMissing; RuntimeError if it does not get ready, with its
    last words.
    """
    command = who.command(url, slots)
    with tempfile.TemporaryDirectory() as name:
        words = Path(name) / "words.txt"
        with words.open("wb") as out:
            child = await asyncio.create_subprocess_exec(
                *command, cwd=name, env=who.environment(url, slots), stdout=out, stderr=out
            )
        born(child.pid)
        try:
            await _says(child, words, who.ready)
            yield child.pid
        finally:
            if child.returncode is None:
                child.kill()
            async with asyncio.timeout(STOP_S):
                await child.wait()


async def _says(child: asyncio.subprocess.Process, words: Path, text: str) -> None:
    """Wait until a process has said something. Raises: RuntimeError if it ends or is too slow."""
    try:
        async with asyncio.timeout(READY_S):
            while text not in _said(words):
                if child.returncode is not None:
                    raise RuntimeError(f"it ended: {_said(words)[-500:]}")
                await asyncio.sleep(0.05)
    except TimeoutError as error:
        reason = f"not ready after {READY_S:.0f} s: {_said(words)[-500:]}"
        raise RuntimeError(reason) from error


def _said(words: Path) -> str:
    return words.read_text(errors="replace")


def cpu_s(pid: int) -> float:
    """Return the seconds of CPU that a process has used, to the nanosecond.

    Source: clock_getcpuclockid(3) of glibc, Linux: the clock of a process is a number made of its
    id, and CPUCLOCK_SCHED is 2.
    """
    return time.clock_gettime((~pid << 3) | 2)
