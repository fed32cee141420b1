"""A plain client of the double, for tests: posts, asks, listens, and knows none of the traps."""

import asyncio
import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
from PIL import Image

from tests.doubles.comfyui.recordings import Ear
from tests.doubles.comfyui.server import ComfyDouble, stranger
from tests.doubles.comfyui.settings import SD15
from tests.rig import until


def node(class_type: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": class_type, "inputs": inputs}


def graph(steps: int = 2, seed: int = 1, checkpoint: str = SD15, **nodes: Any) -> dict[str, Any]:
    return stranger(steps, seed, checkpoint) | nodes


class Client:
    """A client of a double, with sockets if asked for; it works around nothing."""

    def __init__(self, double: ComfyDouble, http: aiohttp.ClientSession) -> None:
        self.double, self.http = double, http

    async def post(self, body: dict[str, Any] | None = None, **more: Any) -> str:
        more = {"prompt": body or graph(), "client_id": "me", **more}
        async with self.http.post("/prompt", json=more) as answer:
            assert answer.status == 200, await answer.text()
            return str((await answer.json())["prompt_id"])

    async def get(self, path: str, **query: str) -> Any:
        async with self.http.get(path, params=query) as answer:
            return await answer.json()

    async def say(self, path: str, **body: Any) -> int:
        async with self.http.post(path, json=body) as answer:
            return answer.status

    async def history(self, prompt_id: str) -> Any:
        return (await self.get(f"/history/{prompt_id}")).get(prompt_id)

    async def ended(self, prompt_id: str) -> Any:
        return await until(lambda: self.history(prompt_id), f"the end of {prompt_id}")

    async def verdict(self, prompt_id: str) -> tuple[str, dict[str, Any]]:
        kind, body = (await self.ended(prompt_id))["status"]["messages"][-1]
        return kind, body

    async def picture(self, prompt_id: str) -> Image.Image:
        item = (await self.ended(prompt_id))["outputs"]["9"]["images"][0]
        async with self.http.get("/view", params=item) as answer:
            return Image.open(io.BytesIO(await answer.read()))

    @asynccontextmanager
    async def ear(self, client_id: str = "me") -> AsyncIterator[Ear]:
        async with asyncio.TaskGroup() as group:
            ear = Ear(await self.http.ws_connect("/ws", params={"clientId": client_id}))
            group.create_task(ear.listen(), name="ear")
            await until(lambda: ear.heard, "the first status")
            yield ear
            await ear.socket.close()


@asynccontextmanager
async def client(**settings: Any) -> AsyncIterator[Client]:
    async with (
        ComfyDouble(**settings) as double,
        aiohttp.ClientSession(double.url) as http,
    ):
        yield Client(double, http)


def kinds(ear: Ear) -> list[str]:
    """The types of what was heard; `frame` for a binary one."""
    return [event.get("type", "frame") for event in ear.heard]
