"""What the double answers, route by route; what a request does to memory is in runners."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any, Protocol

from aiohttp import web

from tests.doubles.ollama import wire
from tests.doubles.ollama.runners import RefusedError, Runner, Runners
from tests.doubles.ollama.settings import Model, Settings
from tests.doubles.traps import Traps

NDJSON = "application/x-ndjson"


class Served(Protocol):
    """What the routes need of the double."""

    settings: Settings
    traps: Traps

    @property
    def runners(self) -> Runners:
        """What is loaded."""


class Routes:
    """The handlers, bound to one double."""

    def __init__(self, double: Served) -> None:
        self._double = double

    def add_to(self, app: web.Application) -> None:
        """Register the routes."""
        add = app.router
        add.add_get("/", self.root)
        add.add_get("/api/version", self.version)
        add.add_get("/api/tags", self.tags)
        add.add_get("/api/ps", self.ps)
        add.add_post("/api/generate", self.generate)
        add.add_post("/api/chat", self.chat)
        add.add_post("/api/embed", self.embed)

    async def root(self, _: web.Request) -> web.Response:
        """Say that somebody is there."""
        return web.Response(text="Ollama is running")

    async def version(self, _: web.Request) -> web.Response:
        """Say which version."""
        return web.json_response({"version": self._double.settings.version})

    async def tags(self, _: web.Request) -> web.Response:
        """List what was pulled."""
        models = map(self._double.settings.find, self._double.settings.models)
        return web.json_response({"models": [wire.tagged(model) for model in models if model]})

    async def ps(self, _: web.Request) -> web.Response:
        """List what is loaded, the longest remaining first."""
        loaded = sorted(self._double.runners.loaded.values(), key=Runner.until, reverse=True)
        return web.json_response({"models": [wire.listed(runner) for runner in loaded]})

    async def generate(self, request: web.Request) -> web.StreamResponse:
        """Load, unload, or write a text."""
        body, model, keep_alive_s = await self._read(request)
        prompt = body.get("prompt") or ""
        return await self._answer(request, body, model, keep_alive_s, Generate(prompt))

    async def chat(self, request: web.Request) -> web.StreamResponse:
        """Load, unload, or answer the last message."""
        body, model, keep_alive_s = await self._read(request)
        messages = body.get("messages") or []
        prompt = messages[-1].get("content", "") if messages else ""
        return await self._answer(request, body, model, keep_alive_s, Chat(prompt))

    async def embed(self, request: web.Request) -> web.Response:
        """Load a model and embed each text of the input, which may be none."""
        body, model, keep_alive_s = await self._read(request)
        given = body.get("input") or []
        texts = [given] if isinstance(given, str) else given
        async with self._double.runners.use(model, body.get("options") or {}, keep_alive_s):
            return web.json_response(
                {"model": body["model"], "embeddings": [[float(len(text)), 1.0] for text in texts]}
            )

    # --- inside -----------------------------------------------------------------------------

    async def _read(self, request: web.Request) -> tuple[dict[str, Any], Model, float | None]:
        raw = await request.read()
        if not raw:
            raise RefusedError(400, "missing request body")
        try:
            body = json.loads(raw)
            name = body["model"]
        except (ValueError, TypeError, KeyError):
            raise RefusedError(400, "invalid character in the body") from None
        keep_alive_s = wire.keep_alive_s(body)
        model = self._double.settings.find(name)
        if model is None:
            raise RefusedError(404, f"model '{name}' not found")
        return body, model, keep_alive_s

    async def _answer(
        self,
        request: web.Request,
        body: dict[str, Any],
        model: Model,
        keep_alive_s: float | None,
        form: "Generate | Chat",
    ) -> web.StreamResponse:
        runners = self._double.runners
        name = body["model"]
        if not form.prompt and keep_alive_s == 0:
            runners.wish_away(model)
            done = {"done": True, "done_reason": "unload"}
            return web.json_response(wire.answer(name, **form.part(""), **done))
        if model.embeds:
            raise RefusedError(400, f'"{name}" does not support {form.capability}')
        if body.get("think") and not model.thinks:
            raise RefusedError(400, f'"{name}" does not support thinking')
        began_s = asyncio.get_running_loop().time()
        async with runners.use(model, body.get("options") or {}, keep_alive_s):
            if not form.prompt:
                done = {"done": True, "done_reason": "load"}
                return web.json_response(wire.answer(name, **form.part(""), **done))
            load_s = asyncio.get_running_loop().time() - began_s
            lines = self._lines(body, model, form, load_s)
            if body.get("stream", True):
                return await _streamed(request, lines)
            return await _whole(lines)

    async def _lines(
        self, body: dict[str, Any], model: Model, form: "Generate | Chat", load_s: float
    ) -> AsyncIterator[dict[str, Any]]:
        """Write a text, a word a line; the last line has the figures. *Units*: nanoseconds."""
        traps, settings = self._double.traps, self._double.settings
        began_s = asyncio.get_running_loop().time()
        if slow := traps.take("slow_text"):
            await asyncio.sleep(slow["seconds"])
        said = traps.on("says") or {}
        text = said.get("text") or f"{form.prompt}, soft morning light, seen from above"
        words = text.split(" ")[: (body.get("options") or {}).get("num_predict")]
        thinks = model.thinks and body.get("think", True)
        if thinks and said.get("thinking"):
            yield wire.answer(body["model"], **form.part("", said["thinking"]), done=False)
        for number, word in enumerate(words):
            await asyncio.sleep(settings.token_s)
            blank = " " if number < len(words) - 1 else ""
            yield wire.answer(body["model"], **form.part(word + blank), done=False)
        if broken := traps.take("breaks_off"):
            yield {"error": broken["error"]}
            return
        took_s = asyncio.get_running_loop().time() - began_s
        yield wire.answer(
            body["model"],
            **form.part(""),
            done=True,
            done_reason="stop",
            total_duration=int((load_s + took_s) * 1e9),
            load_duration=int(load_s * 1e9),
            prompt_eval_count=len(form.prompt.split()),
            prompt_eval_duration=1_000_000,
            eval_count=len(words),
            eval_duration=int(took_s * 1e9),
        )


class Generate:
    """The form of /api/generate: text in `response`."""

    capability = "generate"

    def __init__(self, prompt: str) -> None:
        self.prompt = prompt

    def part(self, text: str, thinking: str = "") -> dict[str, Any]:
        """Return the fields that hold a piece of text."""
        return {"response": text, **({"thinking": thinking} if thinking else {})}


class Chat:
    """The form of /api/chat: text in `message.content`."""

    capability = "chat"

    def __init__(self, prompt: str) -> None:
        self.prompt = prompt

    def part(self, text: str, thinking: str = "") -> dict[str, Any]:
        """Return the fields that hold a piece of text."""
        more = {"thinking": thinking} if thinking else {}
        return {"message": {"role": "assistant", "content": text, **more}}


async def _streamed(
    request: web.Request, lines: AsyncIterator[dict[str, Any]]
) -> web.StreamResponse:
    answer = web.StreamResponse(headers={"Content-Type": NDJSON})
    await answer.prepare(request)
    async for line in lines:
        await answer.write(json.dumps(line).encode() + b"\n")
    return answer


async def _whole(lines: AsyncIterator[dict[str, Any]]) -> web.Response:
    """Join all lines to one answer; an error on the way is a 500, as nothing was sent yet."""
    parts: list[dict[str, Any]] = []
    async for line in lines:
        if "error" in line:
            return web.json_response(line, status=500)
        parts.append(line)
    whole = parts[-1]
    for key in ("response", "thinking"):
        if text := "".join(part.get(key, "") for part in parts):
            whole[key] = text
    if "message" in whole:
        for key in ("content", "thinking"):
            if text := "".join(part["message"].get(key, "") for part in parts):
                whole["message"][key] = text
    return web.json_response(whole)
