"""What tests of Ollama share: the client on its double, and a plain client beside it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp

from agent.clock import SystemClock
from agent.core.card import Loaded
from agent.ollama import Ollama
from tests.doubles.card import SharedCard
from tests.doubles.ollama import OllamaDouble
from tests.rig import until

LLAMA, BIG, EMBED = "llama3:8b", "llama3:70b", "nomic-embed-text:latest"
LLAMA_MIB, BIG_MIB, EMBED_MIB = 6700, 20480, 600


class Rig:
    """The client, its double, and the card both the double and others use."""

    def __init__(self, ollama: Ollama, double: OllamaDouble, http: aiohttp.ClientSession) -> None:
        self.ollama, self.double, self.http = ollama, double, http

    @property
    def card(self) -> SharedCard:
        return self.double.card

    async def names(self) -> list[str]:
        return [one.name for one in (await self.ollama.loaded()).loaded]

    async def the(self, name: str) -> Loaded:
        (found,) = [one for one in (await self.ollama.loaded()).loaded if one.name == name]
        return found

    async def gone(self, name: str) -> None:
        """Wait until the model is off the list and its memory free."""

        async def look() -> bool:
            claims = self.card.claims()
            return name not in await self.names() and not any(name in one for one in claims)

        await until(look, f"the end of {name}", timeout_s=5)

    async def post(self, path: str, **body: Any) -> tuple[int, Any]:
        async with self.http.post(path, json=body) as answer:
            return answer.status, await answer.json(content_type=None)

    async def get(self, path: str) -> Any:
        async with self.http.get(path) as answer:
            return await answer.json()


@asynccontextmanager
async def rig(**settings: Any) -> AsyncIterator[Rig]:
    """Run a double that is quick, and a client on it."""
    quick = {"unload_s": 0.05, "free_s": 0.05, **settings}
    async with (
        OllamaDouble(**quick) as double,
        aiohttp.ClientSession(double.url) as http,
    ):
        ollama = Ollama(double.url, SystemClock())
        await ollama.open()
        try:
            yield Rig(ollama, double, http)
        finally:
            await ollama.close()
