"""The double as a server: binds, dies, comes back; tests use it as `async with`."""

import asyncio
import json
import shutil
import tempfile
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from aiohttp import web

from tests.doubles.card import SharedCard
from tests.doubles.control import Control
from tests.doubles.ending import killed, reset
from tests.doubles.ollama.routes import Routes
from tests.doubles.ollama.runners import Options, RefusedError, Runners
from tests.doubles.ollama.settings import Settings
from tests.doubles.ollama.traps import ACTS, TRAPS
from tests.doubles.traps import Traps

SHUTDOWN_S = 0.2
MIB = 1024 * 1024
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True)
class Call:
    """A call as it arrived."""

    method: str
    path: str
    body: dict[str, Any] = field(default_factory=dict)


class OllamaDouble:
    """An Ollama on a free port: `url`, `trap(...)`, `calls`, `settings`, `runners`, `card`.

    Keyword arguments are those of Settings; `traps` maps names to their values. Without a card it
    has one of its own.
    """

    def __init__(
        self,
        *,
        card: SharedCard | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
        traps: dict[str, dict[str, Any]] | None = None,
        on_death: Callable[[], None] | None = None,
        **settings: Any,
    ) -> None:
        self.settings = Settings(**settings)
        self.traps = Traps(TRAPS)
        self.calls: list[Call] = []
        self.host, self.port = host, port
        self._card = card
        self._first_traps = traps or {}
        self._on_death = on_death
        self._stack = AsyncExitStack()
        self._group: asyncio.TaskGroup
        self._tasks: dict[asyncio.Task[None], str] = {}
        self._moving = asyncio.Event()
        self._moving.set()
        self._runners: Runners | None = None
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        """Where it listens, or listened before it died."""
        return f"http://{self.host}:{self.port}"

    @property
    def runners(self) -> Runners:
        """What is loaded in the process that lives now."""
        assert self._runners is not None, "the double has not been started"
        return self._runners

    @property
    def card(self) -> SharedCard:
        """The card its models are on."""
        assert self._card is not None, "the double has not been started"
        return self._card

    async def warm(self, name: str, keep_alive_s: float | None = None, num_ctx: int = 0) -> None:
        """Load a model as somebody else would, and let it be idle."""
        model = self.settings.find(name)
        assert model is not None, f"no model {name!r}"
        async with self.runners.use(model, {"num_ctx": num_ctx} if num_ctx else {}, keep_alive_s):
            pass

    def posted(self, path: str = "/api/generate") -> list[dict[str, Any]]:
        """Return the bodies of what was posted to a route."""
        return [call.body for call in self.calls if (call.method, call.path) == ("POST", path)]

    def as_json(self) -> dict[str, Any]:
        """Return what happened as plain values."""
        return {
            "calls": [asdict(call) for call in self.calls],
            "loads": self.runners.loads,
            "unloads": self.runners.unloads,
            "loaded": sorted(self.runners.loaded),
            "card": self.card.claims(),
        }

    # --- starting and ending ----------------------------------------------------------------

    async def __aenter__(self) -> Self:
        if self._card is None:
            root = Path(tempfile.mkdtemp(prefix="ollama-double-"))
            self._stack.callback(shutil.rmtree, root, ignore_errors=True)
            self._card = SharedCard.create(root / "card.json")
        self._group = await self._stack.enter_async_context(asyncio.TaskGroup())
        self._stack.push_async_callback(self.die)
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
        """Start a process with nothing loaded, on the same port; ends the one before."""
        await self.die()
        self._runners = Runners(self.settings, self.traps, self.card, self._spawn)
        app = web.Application(middlewares=[self._each])
        Control(self).add_to(app)
        Routes(self).add_to(app)
        self._runner = web.AppRunner(
            app, access_log=None, shutdown_timeout=SHUTDOWN_S, handler_cancellation=True
        )
        await self._runner.setup()
        await web.TCPSite(self._runner, self.host, self.port, reuse_address=True).start()
        self.port = int(self._runner.addresses[0][1])

    async def die(self) -> None:
        """End as kill -9 does: resets, refusals, all memory free."""
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(list(self._tasks))
        runner, self._runner = self._runner, None
        if runner is not None:
            await killed(runner)
        if self._runners is not None:
            self._runners.end()

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = self._group.create_task(work, name=f"ollama double {name}")
        self._tasks[task] = name
        task.add_done_callback(lambda done: self._tasks.pop(done, None))

    # --- what goes wrong --------------------------------------------------------------------

    def trap(self, name: str, /, **values: Any) -> None:
        """Set a trap. *Raises* ValueError for a name or value that traps do not have."""
        full = self.traps.set(name, values)
        if name in ACTS:
            getattr(self, f"_trap_{name}")(full)

    def clear(self, name: str) -> None:
        """Take a trap away and undo what it holds up."""
        self.traps.clear(name)
        for task, what in list(self._tasks.items()):
            if what == name:
                task.cancel()
        self.runners.freed()
        if name == "freeze":
            self._moving.set()

    def _trap_chat(self, values: dict[str, Any]) -> None:
        options = {"num_ctx": values["num_ctx"]} if values["num_ctx"] else {}
        self._spawn(self._chat(values["model"], values["seconds"], options), "chat")

    def _trap_reloads(self, values: dict[str, Any]) -> None:
        self._spawn(self._come_again(values), "reloads")

    def _trap_freeze(self, values: dict[str, Any]) -> None:
        self._moving.clear()
        if values["seconds"] is not None:
            asyncio.get_running_loop().call_later(values["seconds"], self._moving.set)

    def _trap_die(self, _: dict[str, Any]) -> None:
        if self._on_death is not None:
            self._on_death()
        self._group.create_task(self.die(), name="ollama double dies")

    async def _chat(self, name: str | None, seconds: float | None, options: Options) -> None:
        """Use a model as a chat does, from somewhere else."""
        model = self.settings.find(name or next(iter(self.settings.models)))
        assert model is not None, f"no model {name!r}"
        try:
            async with self.runners.use(model, options, None):
                if seconds is None:
                    await asyncio.Event().wait()
                await asyncio.sleep(seconds or 0)
        except RefusedError:
            return  # Somebody else was refused; that is not our matter.

    async def _come_again(self, values: dict[str, Any]) -> None:
        while True:
            await self._chat(values["model"], values["for_s"], {})
            await asyncio.sleep(values["every_s"])

    # --- every request ----------------------------------------------------------------------

    @web.middleware
    async def _each(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path.startswith("/double/"):
            return await handler(request)
        self.calls.append(Call(request.method, request.path, _body(await request.read())))
        await self._moving.wait()
        if (trapped := self._trapped(request)) is not None:
            return trapped
        try:
            return await handler(request)
        except RefusedError as error:
            return web.json_response({"error": str(error)}, status=error.status)
        except web.HTTPNotFound:
            return web.Response(status=404, text="404 page not found")

    def _trapped(self, request: web.Request) -> web.Response | None:
        path = request.path
        if error := self.traps.take("error", path=path):
            return web.json_response({"error": error["error"]}, status=error["status"])
        if garbage := self.traps.take("garbage", path=path):
            return web.Response(text=garbage["body"] + " " * (garbage["mib"] * MIB))
        if self.traps.take("redirect", path=path):
            return web.Response(status=307, headers={"Location": "/api/version"})
        if self.traps.take("cut", path=path):
            reset(request.transport)
            return web.Response()
        return None


def _body(raw: bytes) -> dict[str, Any]:
    """Read a body for the record; what is no object is left out."""
    try:
        body = json.loads(raw or b"{}")
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}
