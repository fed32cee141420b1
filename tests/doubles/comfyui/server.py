"""The double as a server: binds, dies, comes back; tests use it as `async with`."""

import asyncio
import shutil
import tempfile
import uuid
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from aiohttp import web

from tests.doubles.comfyui.files import Folders
from tests.doubles.comfyui.life import Life
from tests.doubles.comfyui.log import Log
from tests.doubles.comfyui.routes import Routes, is_foreign
from tests.doubles.comfyui.settings import SD15, Settings
from tests.doubles.comfyui.traps import ACTS, TRAPS
from tests.doubles.control import Control
from tests.doubles.ending import killed, reset
from tests.doubles.traps import Traps

UPLOAD_LIMIT_BYTES = 104857600
SHUTDOWN_S = 0.2
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class ComfyDouble:
    """A ComfyUI on a free port: `url`, `trap(...)`, `log`, `settings`, `life`.

    Keyword arguments are those of Settings; `traps` maps names to their values.
    """

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        output_dir: Path | None = None,
        traps: dict[str, dict[str, Any]] | None = None,
        on_death: Callable[[], None] | None = None,
        **settings: Any,
    ) -> None:
        self.settings = Settings(**settings)
        self.traps = Traps(TRAPS)
        self.log = Log()
        self.host, self.port = host, port
        self._given = output_dir
        self._first_traps = traps or {}
        self._on_death = on_death
        self._stack = AsyncExitStack()
        self._life: Life | None = None
        self._folders: Folders | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._group: asyncio.TaskGroup
        self._runner: web.AppRunner | None = None
        self._site: web.BaseSite | None = None
        self._later: list[asyncio.TimerHandle] = []

    @property
    def url(self) -> str:
        """Where it listens, or listened before it died."""
        return f"http://{self.host}:{self.port}"

    @property
    def life(self) -> Life:
        """The process that lives now."""
        assert self._life is not None, "the double has not been started"
        return self._life

    @property
    def folders(self) -> Folders:
        """Where it keeps files."""
        assert self._folders is not None, "the double has not been started"
        return self._folders

    # --- starting and ending ----------------------------------------------------------------

    async def __aenter__(self) -> Self:
        root = self._given
        if root is None:
            root = Path(tempfile.mkdtemp(prefix="comfyui-double-"))
            self._stack.callback(shutil.rmtree, root, ignore_errors=True)
        self._folders = Folders(root)
        self._group = await self._stack.enter_async_context(asyncio.TaskGroup())
        self._stack.push_async_callback(self._end)
        await self.restart()
        for name, values in self._first_traps.items():
            self.trap(name, **values)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # Only a cancellation concerns the group; a failed test stays as it is, not in a group.
        if isinstance(error, asyncio.CancelledError):
            await self._stack.__aexit__(kind, error, trace)
        else:
            await self._stack.aclose()

    async def restart(self) -> None:
        """Start a process with nothing in memory, on the same port; ends the one before."""
        await self._end()
        self._life = Life(self.settings, self.traps, self.log, self.folders)
        self.folders.fresh()
        app = web.Application(middlewares=[self._middleware], client_max_size=UPLOAD_LIMIT_BYTES)
        Control(self).add_to(app)
        Routes(self).add_to(app)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=SHUTDOWN_S)
        await self._runner.setup()
        await self._listen()
        for name, loop in (("publish", self._life.sockets.publish), ("work", self._life.work)):
            self._tasks.append(self._group.create_task(loop(), name=f"comfyui double {name}"))
        self.log.restarts += 1

    async def _listen(self) -> None:
        assert self._runner is not None
        site = web.TCPSite(self._runner, self.host, self.port, reuse_address=True)
        await site.start()
        self._site = site
        bound = self._runner.addresses[0]
        self.port = int(bound[1])

    async def _end(self) -> None:
        """End the process: no connection, task or timer is left."""
        for timer in self._later:
            timer.cancel()
        self._later.clear()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        self._tasks.clear()
        if self._life is not None:
            self._life.end()
        if self._runner is not None:
            await killed(self._runner)
        self._runner = self._site = None

    # --- what goes wrong --------------------------------------------------------------------

    def trap(self, name: str, /, **values: Any) -> None:
        """Set a trap. *Raises* ValueError for a name or value that traps do not have."""
        full = self.traps.set(name, values)
        self.log.traps.append(name)
        if name.endswith("_ms"):
            setattr(self.settings, name, float(full["value"]))
        elif name == "old_version":
            self.settings.version = str(full["version"])
        elif name == "silent_socket":
            self.life.sockets.blocked.close(full["seconds"])
        elif name in ACTS:
            getattr(self, f"_trap_{name}")(full)

    def as_json(self) -> dict[str, Any]:
        """Return what happened."""
        return self.log.as_json()

    def clear(self, name: str) -> None:
        """Take a trap away and undo what it holds up."""
        self.traps.clear(name)
        match name:
            case "freeze" | "gc_pause":
                self.life.frozen.open()
            case "hang_at_step":
                self.life.hang.open()
            case "silent_socket":
                self.life.sockets.blocked.open()
            case "refuse_connections":
                self._group.create_task(self._listen_again(), name="comfyui double listens")
            case "old_version":
                self.settings.version = Settings.version

    def _trap_freeze(self, values: dict[str, Any]) -> None:
        self.life.frozen.close(values["seconds"])

    def _trap_drop_sockets(self, _: dict[str, Any]) -> None:
        self.drop_sockets()

    def drop_sockets(self) -> None:
        """Cut every WebSocket without a close frame."""
        for ws in list(self.life.sockets.all):
            cut = ws._req.transport if ws._req is not None else None  # aiohttp offers no abort
            if cut is not None:
                cut.abort()

    def _trap_foreign_prompt(self, values: dict[str, Any]) -> None:
        for _ in range(values["count"]):
            self.foreign_prompt(
                steps=values["steps"],
                client_id=values["client_id"],
                checkpoint=values["checkpoint"] or self.settings.files("checkpoints")[0],
            )

    def foreign_prompt(
        self, *, steps: int = 20, client_id: str | None = None, checkpoint: str = SD15
    ) -> str:
        """Queue a prompt as another client of the same server would; return its id."""
        prompts = self.life.prompts
        prompt_id = str(uuid.uuid4())
        extra = {} if client_id is None else {"client_id": client_id}
        graph = stranger(steps, prompts.counter, checkpoint)
        self.life.put((prompts.counter, prompt_id, graph, extra, ["9"]))
        prompts.counter += 1
        return prompt_id

    def _trap_refuse_connections(self, values: dict[str, Any]) -> None:
        self._group.create_task(self._stop_listening(values["seconds"]), name="comfyui double deaf")

    async def _stop_listening(self, seconds: float | None) -> None:
        await self.refuse()
        if seconds is not None:
            self._after(seconds, self._listen_again)

    async def refuse(self) -> None:
        """Listen no more, for connections that are not yet open."""
        if self._site is not None:
            site, self._site = self._site, None
            await site.stop()

    async def _listen_again(self) -> None:
        if self._site is None and self._runner is not None:
            await self._listen()

    def _trap_die(self, _: dict[str, Any]) -> None:
        if self._on_death is not None:
            if self._given is None:
                shutil.rmtree(self.folders.root, ignore_errors=True)  # nobody else will
            self._on_death()
        self._group.create_task(self._end(), name="comfyui double dies")

    def _trap_restart_empty(self, values: dict[str, Any]) -> None:
        self._group.create_task(self._die_and_come_back(values["seconds"]), name="comes back")

    async def _die_and_come_back(self, seconds: float) -> None:
        await self._end()
        await asyncio.sleep(seconds)
        await self.restart()

    async def die(self) -> None:
        """End as kill -9 does: resets, refusals, nothing in memory; files stay."""
        self.log.traps.append("die")
        await self._end()

    def _after(self, seconds: float, then: Callable[[], Awaitable[None]]) -> None:
        loop = asyncio.get_running_loop()

        def start() -> None:
            self._group.create_task(_run(then), name="comfyui double later")

        self._later.append(loop.call_later(seconds, start))

    # --- every request ----------------------------------------------------------------------

    @web.middleware
    async def _middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path.startswith("/double/"):
            return await handler(request)
        life = self.life
        await life.frozen.passed()
        if life.over.is_set():  # it was killed while it was frozen
            reset(request.transport)
            return web.Response(status=503)
        if not request.path.endswith("/ws"):
            self.log.requests.append(f"{request.method} {request.path}")
        if is_foreign(request):
            return web.Response(status=403)
        if request.method == "OPTIONS":
            return web.Response()
        return await handler(request)


async def _run(then: Callable[[], Awaitable[None]]) -> None:
    await then()


def stranger(steps: int, seed: int, checkpoint: str) -> dict[str, Any]:
    """Return a small graph that is not ours."""
    return {
        "3": {
            "class_type": "KSampler",
            "inputs": {
                "seed": seed,
                "steps": steps,
                "cfg": 7.0,
                "sampler_name": "euler",
                "scheduler": "normal",
                "denoise": 1.0,
                "model": ["4", 0],
                "positive": ["6", 0],
                "negative": ["6", 0],
                "latent_image": ["5", 0],
            },
        },
        "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": checkpoint}},
        "5": {
            "class_type": "EmptyLatentImage",
            "inputs": {"width": 256, "height": 256, "batch_size": 1},
        },
        "6": {"class_type": "CLIPTextEncode", "inputs": {"text": "theirs", "clip": ["4", 1]}},
        "8": {"class_type": "VAEDecode", "inputs": {"samples": ["3", 0], "vae": ["4", 2]}},
        "9": {"class_type": "SaveImage", "inputs": {"filename_prefix": "x", "images": ["8", 0]}},
    }
