"""Loading and unloading as Ollama's scheduler does it: who uses a model, when it goes, what fits.

The order of events is that of server/sched.go: getRunner, needsReload, processPending, load,
useLoadedRunner, processCompleted, expireRunner. Knows no HTTP.
"""

import asyncio
import itertools
import math
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from tests.doubles.card import SharedCard
from tests.doubles.ollama.settings import Model, Settings
from tests.doubles.ollama.traps import BUSY
from tests.doubles.traps import Traps

FOREVER_S = (2**63 - 1) / 1e9
"""What a negative keep_alive becomes: MaxInt64 nanoseconds, some 292 years."""
LAYERS = 32
"""In such steps a model is split between card and CPU."""
RUNNER_OPTIONS = ("num_batch", "num_gpu", "main_gpu", "use_mmap", "num_thread", "draft_num_predict")
"""Options of the process that runs a model, beside num_ctx; all others are those of an answer."""

Options = dict[str, Any]
Spawn = Callable[[Coroutine[Any, Any, None], str], Any]


class RefusedError(Exception):
    """The request ends with this status and text."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


@dataclass(eq=False)
class Runner:
    """A model that is loaded. *Units*: MiB; `session_s` is its keep-alive."""

    model: Model
    owner: str
    vram_mib: int
    num_ctx: int
    options: Options
    asked_ctx: bool
    session_s: float
    users: int = 0
    expires_at: datetime | None = None
    leaving: bool = False
    timer: asyncio.TimerHandle | None = None
    gone: asyncio.Event = field(default_factory=asyncio.Event)

    def stop_timer(self) -> None:
        """Do not let it expire."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

    def until(self) -> datetime:
        """Say when it expires, as /api/ps does: for one in its first use it is an estimate."""
        return self.expires_at or now() + timedelta(seconds=self.session_s)

    def needs_reload(self, options: Options, default_ctx: int) -> bool:
        """Tell whether a request with these options needs another process."""
        asked_ctx = "num_ctx" in options
        same_ctx = options.get("num_ctx", default_ctx) == self.num_ctx
        if not same_ctx and (asked_ctx or self.asked_ctx):
            return True
        return runner_options(options) != self.options


def runner_options(options: Options) -> Options:
    """Return those options that decide about the process; a num_gpu below 0 is none."""
    found = {name: options[name] for name in RUNNER_OPTIONS if name in options}
    if found.get("num_gpu", 0) < 0:
        del found["num_gpu"]
    return found


class Runners:
    """All models that are loaded, on one card."""

    def __init__(self, settings: Settings, traps: Traps, card: SharedCard, spawn: Spawn) -> None:
        self._settings = settings
        self._traps = traps
        self._card = card
        self._spawn = spawn
        self._one_load = asyncio.Lock()
        self._serial = itertools.count(1)
        self._claimed: set[str] = set()
        self._left_behind: list[str] = []
        self.waiting = 0
        self.loaded: dict[str, Runner] = {}
        self.loads: list[str] = []
        """The names of what was loaded, in order."""
        self.unloads: list[str] = []

    @asynccontextmanager
    async def use(
        self, model: Model, options: Options, keep_alive_s: float | None
    ) -> AsyncIterator[Runner]:
        """Load a model if need be and keep it while in use. *Raises* RefusedError."""
        runner = await self._get(model, options, keep_alive_s)
        try:
            yield runner
        finally:
            self._finished(runner)

    def wish_away(self, model: Model) -> None:
        """Unload a model: at once if nobody uses it, else when the last request ends."""
        runner = self.loaded.get(model.name)
        if runner is not None:  # One that is still being loaded is not there yet and stays.
            self._wish_away(runner)

    def freed(self) -> None:
        """Do what traps held up."""
        for runner in list(self.loaded.values()):
            if runner.session_s <= 0 and runner.users == 0:
                self._expire(runner)
        while self._left_behind and not self._traps.on("keeps_memory"):
            self._release(self._left_behind.pop())

    def end(self) -> None:
        """Give all memory back, as the end of the process does."""
        for runner in self.loaded.values():
            runner.stop_timer()
        self.loaded.clear()
        for owner in list(self._claimed):
            self._release(owner)

    # --- using ------------------------------------------------------------------------------

    async def _get(self, model: Model, options: Options, keep_alive_s: float | None) -> Runner:
        runner = self.loaded.get(model.name)
        if runner is not None and self._is_usable(runner, options):
            return self._used(runner, keep_alive_s)
        if self.waiting >= self._settings.queue_max:
            raise RefusedError(503, BUSY)
        self.waiting += 1
        try:
            async with self._one_load:
                while victim := self._in_the_way(model, options):
                    self._wish_away(victim)
                    await victim.gone.wait()
                runner = self.loaded.get(model.name) or await self._load(model, options)
                return self._used(runner, keep_alive_s)
        finally:
            self.waiting -= 1

    def _is_usable(self, runner: Runner, options: Options) -> bool:
        return not runner.leaving and not runner.needs_reload(options, self._settings.num_ctx)

    def _in_the_way(self, model: Model, options: Options) -> Runner | None:
        """Return what has to go before the model can be used: itself, or another for its room.

        A further model is loaded beside others only if it takes at most 80 % of what is free.
        """
        runner = self.loaded.get(model.name)
        if runner is not None:
            return None if self._is_usable(runner, options) else runner
        if not self.loaded:
            return None
        is_full = len(self.loaded) >= self._settings.models_max
        if not is_full and model.mib <= self._card.free_mib * 0.8:
            return None
        return min(self.loaded.values(), key=lambda one: (one.users > 0, one.session_s))

    def _used(self, runner: Runner, keep_alive_s: float | None) -> Runner:
        runner.users += 1
        runner.stop_timer()
        if keep_alive_s is not None:
            runner.session_s = keep_alive_s
        return runner

    def _finished(self, runner: Runner) -> None:
        runner.users -= 1
        if runner.users > 0 or self.loaded.get(runner.model.name) is not runner:
            return
        if runner.session_s <= 0:
            self._expire(runner)
            return
        runner.expires_at = now() + timedelta(seconds=runner.session_s)
        if runner.session_s < FOREVER_S:
            loop = asyncio.get_running_loop()
            runner.timer = loop.call_later(runner.session_s, self._expire, runner)

    # --- loading and unloading ----------------------------------------------------------------

    async def _load(self, model: Model, options: Options) -> Runner:
        """Load a model; its memory is taken before it is listed. Cancelled, it leaves nothing."""
        owner = f"ollama:{model.name}#{next(self._serial)}"
        slow = self._traps.take("slow_load")
        is_loaded = False
        try:
            vram_mib = self._claim(owner, model.mib)
            await asyncio.sleep(slow["seconds"] if slow else self._settings.load_s)
            if failure := self._traps.take("load_fails"):
                raise RefusedError(500, failure["error"])
            is_loaded = True
        finally:
            if not is_loaded:
                self._release(owner)
        runner = Runner(
            model=model,
            owner=owner,
            vram_mib=vram_mib,
            num_ctx=options.get("num_ctx", self._settings.num_ctx),
            options=runner_options(options),
            asked_ctx="num_ctx" in options,
            session_s=self._settings.keep_alive_s,
        )
        self.loaded[model.name] = runner
        self.loads.append(model.name)
        return runner

    def _claim(self, owner: str, mib: int) -> int:
        """Take what the model needs or, layer by layer, what is there; return how much."""
        partial = self._traps.take("partial")
        self._claimed.add(owner)
        while True:
            free = self._card.free_mib
            layers = LAYERS if mib <= free else math.floor(free * LAYERS / mib)
            if partial is not None:
                layers = min(layers, math.floor(LAYERS * partial["share"]))
            if self._card.claim(owner, mib * layers // LAYERS):
                return mib * layers // LAYERS

    def _wish_away(self, runner: Runner) -> None:
        runner.expires_at = now()
        runner.stop_timer()
        runner.session_s = 0
        if runner.users == 0:
            self._expire(runner)

    def _expire(self, runner: Runner) -> None:
        if runner.leaving or self._traps.on("keeps_listed"):
            return
        runner.leaving = True
        runner.stop_timer()
        self._spawn(self._unload(runner), f"unloads {runner.model.name}")

    async def _unload(self, runner: Runner) -> None:
        await asyncio.sleep(self._settings.unload_s)
        del self.loaded[runner.model.name]
        self.unloads.append(runner.model.name)
        if self._traps.on("keeps_memory"):
            self._left_behind.append(runner.owner)
        else:
            await asyncio.sleep(self._settings.free_s)
            self._release(runner.owner)
        runner.gone.set()

    def _release(self, owner: str) -> None:
        self._card.claim(owner, 0)
        self._claimed.discard(owner)


def now() -> datetime:
    """Return the time of the double's own clock."""
    return datetime.now(UTC)  # noqa: TID251 - a peer has its own clock
