"""All that one server process holds in memory, and the loop that works it off.

A kill ends it and a restart makes a new one: only files, settings, traps and the log go on.
"""

import asyncio
import contextlib
from typing import Any

from tests.doubles.comfyui.card import Card
from tests.doubles.comfyui.execution import Cache, Execution
from tests.doubles.comfyui.files import Folders
from tests.doubles.comfyui.gate import Gate
from tests.doubles.comfyui.log import Log
from tests.doubles.comfyui.prompts import Item, Prompts
from tests.doubles.comfyui.settings import Settings
from tests.doubles.comfyui.sockets import Sockets
from tests.doubles.comfyui.steps import Workshop
from tests.doubles.traps import Traps


class Life:
    """One process: its queue, history, sockets, cache and card."""

    def __init__(self, settings: Settings, traps: Traps, log: Log, folders: Folders) -> None:
        self.frozen = Gate()
        self.hang = Gate()
        self.over = asyncio.Event()
        self.prompts = Prompts()
        self.card = Card(settings)
        self.sockets = Sockets(settings, traps, log, self.frozen)
        self.sockets.remaining = lambda: self.prompts.remaining
        self.late: dict[str, int] = {}
        """How often the history of an id was asked for since it ended."""
        self._settings = settings
        self._traps = traps
        self._log = log
        self._cache = Cache(settings.cache, folders.fingerprint)
        self._execution: Execution | None = None
        self._free: dict[str, Any] = {}
        self._shop = Workshop(
            settings=settings,
            traps=traps,
            card=self.card,
            folders=folders,
            log=log,
            hang=self.hang,
            frozen=self.frozen,
        )

    def end(self) -> None:
        """Let go of all that waits and of the card; what it would have done is lost."""
        self.over.set()
        self.card.end()
        for gate in (self.frozen, self.hang, self.sockets.blocked):
            gate.open()

    async def pause(self, seconds: float) -> None:
        """Wait, but not longer than this life."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.over.wait()

    def put(self, item: Item) -> None:
        """Queue a prompt and say so. *Raises* TypeError as Prompts.put does."""
        number, prompt_id, graph, extra_data, _ = item
        told = {"prompt_id": prompt_id, "number": number, "graph": graph, "extra_data": extra_data}
        self._log.prompts.append({**told, "client_id": extra_data.get("client_id")})
        self.prompts.put(item)
        self.sockets.say_status()

    def interrupt(self, prompt_id: str | None) -> None:
        """Interrupt the running prompt if it is the one meant; an older server hits any."""
        running = self._execution
        if running is None:
            return
        if prompt_id in (None, running.prompt_id) or self._settings.before(0, 3, 57):
            running.interrupted = True

    def free(self, wanted: dict[str, Any]) -> None:
        """Free at once when idle, else after the running prompt."""
        self._free |= {key: True for key in ("unload_models", "free_memory") if wanted.get(key)}
        self.prompts.news.set()

    async def work(self) -> None:
        """Run what is queued, for ever."""
        while True:
            self._apply_free()
            if not self.prompts.pending:
                self.prompts.news.clear()
                await self.prompts.news.wait()
                continue
            await self._run(self.prompts.pop())

    def _apply_free(self) -> None:
        if self._free:
            self.card.unload()
        if self._free.get("free_memory"):
            self._cache.clear()
        self._free = {}

    async def _run(self, item: Item) -> None:
        self.sockets.say_status()
        prompt_id = item[1]
        self._log.started.append(prompt_id)
        if self._traps.on("lose_prompt") and self._loses("start"):
            self.prompts.end(item, None)
            self._log.ended.append((prompt_id, "lost"))
            self.sockets.say_status()
            return
        execution = Execution(item, self.sockets, self._shop, self._cache)
        self._execution = execution  # an interrupt before this line is lost, as in ComfyUI
        try:
            await self.frozen.passed()
            entry = await execution.run()
        finally:
            self._execution = None
            self.sockets.running = None
        if trap := self._traps.take("gc_pause"):
            self.frozen.close(trap["ms"] / 1000)
        await self.frozen.passed()
        self.prompts.end(item, entry)
        self.late[prompt_id] = 0
        self._log.ended.append((prompt_id, execution.ended_as))
        self.sockets.say_status()
        if execution.client_id is not None:
            over = {"node": None, "prompt_id": prompt_id}
            self.sockets.say("executing", over, execution.client_id)

    def _loses(self, when: str) -> bool:
        return self._traps.take("lose_prompt", when=when) is not None
