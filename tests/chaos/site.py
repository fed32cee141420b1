"""The site of a trial: servers, workers behind proxies, a gateway; started, broken, mended.

Every process is a real one with its own log; who dies is started again by `look_after`.
"""

import asyncio
import contextlib
import json
import random
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import nats
from nats.aio.client import Client

from agent.bus.connection import BusError, connect
from agent.bus.provision import Plan as Provisioning
from agent.bus.provision import provision
from agent.clock import SystemClock
from tests.chaos.proxy import Proxy
from tests.chaos.servers import Servers, of_size
from tests.chaos.small_disk import FULL, SLOW
from tests.rig import environment, until

LOOK_EVERY_S = 0.02
PROVISION_S = 30.0
STOP_S = 30.0
READY_S = 30.0
CLOCK = SystemClock()
UNDECIDED = {"dispatch.left_undecided", "stopped_at_once"}


class Program:
    """One process of ours that may die and come back."""

    def __init__(self, folder: Path, name: str, module: tuple[str, ...], **settings: str) -> None:
        self.name = name
        self.words = folder / f"{name}.log"
        self.settings = settings
        self.kills: list[str] = []
        """The times of day at which it was killed, or was found dead by its crash point."""
        self.may_die = False
        """Whether what it is given may kill it, without a crash point."""
        self.died: list[str] = []
        """How it ended when nobody had asked for it."""
        self.point: str | None = None
        self.points_hit: list[str] = []
        self.ready_word = b".ready"
        self._folder = folder
        self._module = module
        self._process: subprocess.Popen[bytes] | None = None
        self._asked = False
        self._back_at: float | None = None
        self._said_before = 0

    @property
    def running(self) -> bool:
        """Whether the process is there, frozen or not."""
        return self._process is not None and self._process.poll() is None

    @property
    def stopping(self) -> bool:
        """Whether it was asked to stop and has not ended yet."""
        return self.running and self._asked

    def start(self, point: str | None = None) -> None:
        """Start it; `point` is where this run of it dies by itself."""
        self.point = point
        self._back_at = None
        self._asked = False
        extra = {} if point is None else {"MMG_CRASH_POINT": point}
        self._said_before = self.words.stat().st_size if self.words.exists() else 0
        with self.words.open("ab") as out:
            self._process = subprocess.Popen(
                [sys.executable, "-m", *self._module],
                cwd=self._folder,
                env=environment(**self.settings, **extra),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
            )

    def kill(self, back_after_s: float | None = 0.0) -> bool:
        """Kill it as kill -9 does; False where it was dead already."""
        if not self._signal(signal.SIGKILL, back_after_s):
            return False
        self.kills.append(CLOCK.now().isoformat())
        return True

    def term(self, back_after_s: float | None = 0.0, *, dies: bool = False) -> bool:
        """Ask it to stop, as an operator does; with `dies` its crash point comes first."""
        done = self._signal(signal.SIGTERM, back_after_s)
        self._asked = self._asked and not dies
        return done

    def freeze(self) -> bool:
        """Stop it where it is, as a machine that swaps or a debugger does."""
        return self._send(signal.SIGSTOP)

    def thaw(self) -> bool:
        """Let it go on."""
        return self._send(signal.SIGCONT)

    def note_death(self) -> None:
        """Note how it ended, if that was not noted or asked for."""
        if self._process is None or self.running or self._asked:
            return
        self._asked = True
        self._back_at = asyncio.get_running_loop().time()
        killed = self._process.returncode == -signal.SIGKILL
        if killed and (self.point is not None or self.may_die):
            self.kills.append(CLOCK.now().isoformat())
            self.points_hit.append(self.point or "")
        else:
            self.died.append(f"{self.name} ended by itself: {self._process.returncode}")

    def look_after(self) -> None:
        """Note how it ended, and start it again when it is time."""
        self.note_death()
        if self._back_at is None or self.running:
            return
        if asyncio.get_running_loop().time() >= self._back_at:
            self.start()

    async def gone(self, timeout_s: float = STOP_S) -> int | None:
        """Wait for its end; None if it does not come."""
        assert self._process is not None, "it was started"
        with contextlib.suppress(AssertionError):
            await until(lambda: not self.running, f"the end of {self.name}", timeout_s)
        return self._process.poll()

    async def ready(self) -> None:
        """Wait until this run of it says that it is ready, or has ended."""

        def look() -> bool:
            return (
                not self.running or self.ready_word in self.words.read_bytes()[self._said_before :]
            )

        await until(look, f"{self.name} to be ready", READY_S)

    def end(self) -> None:
        """Make sure that nothing of it is left."""
        if self._process is not None and self.running:
            self._process.kill()
            self._process.wait()

    def _signal(self, number: signal.Signals, back_after_s: float | None) -> bool:
        if not self._send(number):
            return False
        self._asked = True
        if back_after_s is not None:
            self._back_at = asyncio.get_running_loop().time() + back_after_s
        return True

    def _send(self, number: signal.Signals) -> bool:
        if self._process is None or not self.running:
            return False
        self._process.send_signal(number)
        return True


class Site:
    """Everything that runs in one trial."""

    def __init__(self, folder: Path, servers: Servers, rng: random.Random) -> None:
        """Use `site`."""
        self.folder = folder
        self.servers = servers
        self.rng = rng
        self.programs: dict[str, Program] = {}
        self.proxies: dict[str, list[Proxy]] = {}
        self.server_kills = 0
        self.unread = 0
        self._down: set[int] = set()

    @property
    def assets(self) -> Path:
        """Where pictures are put."""
        return self.folder / "generated-assets"

    @property
    def urls(self) -> list[str]:
        """Where the servers are, without a proxy."""
        return [f"nats://127.0.0.1:{port}" for port in self.servers.ports]

    async def add(
        self,
        name: str,
        module: tuple[str, ...] = ("tests.chaos.small_disk", "worker"),
        *,
        proxied: bool = False,
        settings: dict[str, str] | None = None,
    ) -> Program:
        """Prepare a process; it is not started yet."""
        urls = self.urls
        if proxied:
            self.proxies[name] = [Proxy(port, self.rng) for port in self.servers.ports]
            for proxy in self.proxies[name]:
                await proxy.start()
            urls = [f"nats://127.0.0.1:{proxy.port}" for proxy in self.proxies[name]]
        basic = {
            "TMPDIR": str(self.folder),  # Worker names are locked there: two runs do not meet.
            "MMG_NATS_URL": ",".join(urls),
            "MMG_WORKER_NAME": name,
            "MMG_HTTP_PORT": "0",
            "MMG_LOG_FORMAT": "json",
            "MMG_SKETCH": "only",
        }
        program = Program(self.folder, name, module, **(basic | (settings or {})))
        self.programs[name] = program
        return program

    async def kill_server(self, nc: Client) -> int | None:
        """Kill a server; None where that would be one too many."""
        if self._down:
            return None
        index = await self.servers.kill(nc)
        self._down.add(index)
        self.server_kills += 1
        return index

    async def server_again(self, index: int) -> None:
        """Start a killed server on its data."""
        if index in self._down:
            await self.servers.again(index)
            self._down.discard(index)

    def disk(self, flag: str, *, on: bool) -> None:
        """Make the disk full or slow, or well again."""
        path = self.folder / flag
        path.touch() if on else path.unlink(missing_ok=True)

    def look_after(self) -> None:
        """Start again who has died."""
        for program in self.programs.values():
            program.look_after()

    async def calm(self) -> None:
        """End every fault: all run, nothing is frozen, cut, slow or full."""
        for index in tuple(self._down):
            await self.server_again(index)
        for proxies in self.proxies.values():
            for proxy in proxies:
                proxy.heal()
        for flag in (FULL, SLOW):
            self.disk(flag, on=False)
        for program in self.programs.values():
            program.thaw()
        self.look_after()

    async def wind_down(self) -> list[str]:
        """Stop workers and gateway in order; return who did not stop as it should."""
        problems = []
        for program in self.programs.values():
            if program.stopping:
                await program.gone()  # A second signal would be another thing.
            program.look_after()
            if not program.running:
                program.start()
            await program.ready()
            program.term(None)
        for program in self.programs.values():
            code = await program.gone()
            if code != 0:
                problems.append(f"{program.name} did not stop in order: {code}")
            problems += program.died
        return problems

    def cut_off(self) -> list[str]:
        """Return who was killed, or stopped with an append that nobody had answered.

        Both leave pictures of which they cannot know whether a chain names them.
        """
        return [
            name
            for name, program in self.programs.items()
            if program.kills
            or any(line.get("event") in UNDECIDED for line in log_lines(program.words))
        ]

    def said(self, event: str) -> int:
        """Return how often a log line of this name was written by anybody."""
        return sum(
            line.get("event") == event
            for program in self.programs.values()
            for line in log_lines(program.words)
        )

    def superseded(self) -> int:
        """Return how many jobs found that another writer was first."""
        return sum(
            line.get("ended") == "superseded"
            for program in self.programs.values()
            for line in log_lines(program.words)
        )


@asynccontextmanager
async def site(
    folder: Path, rng: random.Random, *, cluster: int, ack_wait_s: float
) -> AsyncIterator[tuple[Site, Client]]:
    """Run provisioned servers; what else runs there is added by the caller. With a client."""
    folder.mkdir(parents=True, exist_ok=True)
    servers = of_size(folder / "nats", cluster)
    here = Site(folder, servers, rng)
    try:
        await servers.start()
        await _provision(here.urls, Provisioning(replicas=cluster, ack_wait_s=ack_wait_s))
        nc = await direct(here.urls)
        try:
            yield here, nc
        finally:
            await nc.close()
    finally:
        for program in here.programs.values():
            program.end()
        for proxies in here.proxies.values():
            for proxy in proxies:
                await proxy.close()
        await servers.stop()


async def _provision(urls: list[str], plan: Provisioning) -> None:
    """Provision as soon as there is somebody who can: a cluster elects first."""
    loop = asyncio.get_running_loop()
    end = loop.time() + PROVISION_S
    while True:
        try:
            async with await connect(urls, "provision", patience_s=PROVISION_S) as bus:
                await provision(bus, plan)
        except BusError:
            if loop.time() > end:
                raise
            await asyncio.sleep(LOOK_EVERY_S)
        else:
            return


async def direct(urls: list[str]) -> Client:
    """Connect a plain client that never gives up."""

    async def quiet(_error: Exception) -> None:
        """Servers die here; that is no news."""

    return await nats.connect(
        urls,
        max_reconnect_attempts=-1,
        reconnect_time_wait=0.1,
        ping_interval=5,
        error_cb=quiet,
    )


def log_lines(path: Path) -> list[dict[str, object]]:
    """Return the lines of a log that are JSON."""
    if not path.exists():
        return []
    lines = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        with contextlib.suppress(ValueError):
            lines.append(json.loads(line))
    return lines
