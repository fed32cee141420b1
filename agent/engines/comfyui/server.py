"""One ComfyUI server as the engine sees it: whether it is up, since when, and what it can run.

Looks every 30 s while it is up and every 2 s while it is not. It must not run prompts.
"""

import asyncio
import shutil
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Literal

import structlog

from agent.clock import Clock
from agent.core.card import ComfyUI, Occupancy
from agent.core.workflow import Workflow
from agent.engines.comfyui.api import VERSION_MIN, AnswerError, Api, ServerAwayError, Stats
from agent.engines.comfyui.graph import against, folders_of
from agent.engines.comfyui.progress import Tempo
from agent.engines.comfyui.restart import Restart
from agent.engines.comfyui.socket import Socket

PING_S: Final = 30.0
PING_DOWN_S: Final = 2.0
EMPTY_MIB: Final = 256
"""With less than this no model is loaded."""
MODEL_MIB: Final = 1024
"""With more than this one is, whoever loaded it."""
SOMEBODYS: Final = "unknown"
"""A model that none of our prompts has loaded: of an earlier worker, or of people."""

log = structlog.get_logger()

State = Literal["starting", "up", "down"]


class Server:
    """Order: `open`, then `run` in a task, `close` at the end."""

    def __init__(
        self,
        url: str,
        workflows: Mapping[str, Workflow],
        clock: Clock,
        restart: Sequence[str] = (),
    ) -> None:
        """Nothing is known of it yet; `restart` is the command that brings it back, if any."""
        self._restart = Restart(restart, clock)
        self.url = url.rstrip("/")
        self.api = Api(self.url)
        self.socket = Socket(self.api)
        self.tempo = Tempo()
        self.state: State = "starting"
        self.reason = "not asked yet"
        self.stats: Stats | None = None
        self.problems: dict[str, tuple[str, ...]] = {}
        self.models: dict[str, tuple[str, ...]] = {}
        self.on_state: Callable[[], None] = _nobody
        self.held: tuple[str, ...] = ()
        """The models that our prompts have loaded, by the names requests use."""
        self._workflows = workflows
        self._clock = clock
        self._since_s = clock.monotonic_s()
        self._look = asyncio.Event()

    @property
    def since_s(self) -> float:
        """How long it has been in this state, in seconds."""
        return self._clock.monotonic_s() - self._since_s

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a person should mend although it works."""
        found = [f"cannot run {name}: {why[0]}" for name, why in self.problems.items() if why]
        if self.stats is not None and self.stats.listens_beyond_loopback:
            found.append("can be reached from other hosts and has no login: start it on 127.0.0.1")
        if self.stats is not None and self.stats.on_cpu and shutil.which("nvidia-smi"):
            found.append("computes on the CPU although this host has a card")
        return tuple(found)

    async def open(self) -> None:
        """Make the session; the server need not be there."""
        await self.api.open()

    async def close(self) -> None:
        """Close all connections."""
        await self.api.close()

    async def run(self) -> None:
        """Keep the socket open and the state true, until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.socket.run(), name=f"socket {self.url}")
            group.create_task(self._ping(), name=f"ping {self.url}")

    async def occupancy(self) -> Occupancy | None:
        """Say what it holds and how many prompts of people it has; None: it does not answer.

        On the CPU nothing but the prompts matters, and the socket tells whether there are any.
        """
        on_cpu = self.stats is not None and self.stats.on_cpu
        if self.state != "up":
            return None
        try:
            foreign = await self._foreign() if self.socket.foreign or not on_cpu else 0
            if on_cpu:
                return Occupancy(comfyui=ComfyUI(on_cpu=True, foreign=foreign))
            stats = await self.api.stats()
        except (ServerAwayError, AnswerError) as error:
            log.info("comfyui.not_measured", server=self.url, reason=str(error))
            self.suspect()
            return None
        held_mib = stats.held_mib
        if held_mib < EMPTY_MIB:
            self.held = ()  # Freed, or started anew.
        held = self.held or ((SOMEBODYS,) if held_mib > MODEL_MIB else ())
        comfyui = ComfyUI(held=held, held_mib=held_mib, foreign=foreign, on_cpu=stats.on_cpu)
        return Occupancy(comfyui=comfyui, card=stats.card)

    async def free(self) -> str:
        """Ask it to drop its models; return why not, or nothing. It proves nothing [15]."""
        try:
            await self.api.free()
        except (ServerAwayError, AnswerError) as error:
            return str(error)
        self.held = ()
        return ""

    async def _foreign(self) -> int:
        """Count the prompts of people: those without our mark. Raises: ServerAwayError."""
        return sum("mmg" not in item.extra for item in await self.api.queue())

    def suspect(self) -> None:
        """Look at once: a job met something that a healthy server does not do."""
        self._look.set()

    async def run_once(self) -> None:
        """Ask once how it is; every change of state is one log line."""
        try:
            stats = await self.api.stats()
            if stats.version < VERSION_MIN:
                wanted = ".".join(map(str, VERSION_MIN))
                found = stats.system.comfyui_version
                self._become("down", f"version {found} is too old, at least {wanted} is needed")
                return
            if self.state != "up":
                await self._examine()
        except (ServerAwayError, AnswerError) as error:
            self._become("down", str(error))
            return
        self.stats = stats
        self._become("up", f"ComfyUI {stats.system.comfyui_version}")

    async def _ping(self) -> None:
        while True:
            await self.run_once()
            if self.state == "down" and self._restart.is_due(self.since_s):
                await self._restart.run(self.url)
            try:
                async with asyncio.timeout(PING_S if self.state == "up" else PING_DOWN_S):
                    await self._look.wait()
            except TimeoutError:
                continue
            finally:
                self._look.clear()

    async def _examine(self) -> None:
        """Find out which workflows can run here. Raises: ServerAwayError, AnswerError."""
        info = await self.api.object_info()
        folders = frozenset[str]().union(*map(folders_of, self._workflows.values()))
        self.models = {folder: await self._models(folder) for folder in sorted(folders)}
        self.problems = {
            name: against(workflow, info, self.models) for name, workflow in self._workflows.items()
        }
        for name, found in self.problems.items():
            if found:
                log.warning("comfyui.workflow_cannot_run", workflow=name, reason="; ".join(found))

    async def _models(self, folder: str) -> tuple[str, ...]:
        try:
            return await self.api.models(folder)
        except AnswerError:
            return ()  # A folder this version does not know holds no files.

    def _become(self, state: State, reason: str) -> None:
        if state != self.state:
            say = log.info if state == "up" else log.warning
            say("comfyui.state", server=self.url, state=state, was=self.state, reason=reason)
            self._since_s = self._clock.monotonic_s()
        changed = state != self.state
        self.state, self.reason = state, reason
        if changed:
            self.on_state()


def _nobody() -> None:
    """Tell a change of state to nobody."""
