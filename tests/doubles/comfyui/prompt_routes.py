"""The routes of prompts: posting, the queue, interrupting, freeing, the history."""

import contextlib
import uuid
from typing import Any

from aiohttp import web

from tests.doubles.comfyui import graph as graphs
from tests.doubles.comfyui.files import OutsideError
from tests.doubles.comfyui.wire import Route, Server, trouble
from tests.doubles.ending import reset


class PromptRoutes:
    """The handlers, bound to one double."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def table(self) -> list[Route]:
        """Return the routes."""
        return [
            ("GET", "/prompt", self.get_prompt),
            ("POST", "/prompt", self.post_prompt),
            ("GET", "/queue", self.get_queue),
            ("POST", "/queue", self.post_queue),
            ("GET", "/history", self.get_history),
            ("GET", "/history/{prompt_id}", self.get_history_of),
            ("POST", "/history", self.post_history),
            ("POST", "/interrupt", self.interrupt),
            ("POST", "/free", self.free),
        ]

    # --- prompts and the queue --------------------------------------------------------------

    async def get_prompt(self, _: web.Request) -> web.Response:
        """Say how many prompts remain."""
        return web.json_response(self._server.life.sockets.status()["status"])

    async def post_prompt(self, request: web.Request) -> web.StreamResponse:
        """Check a graph and queue it."""
        try:
            body = await request.json()
            item, node_errors, refusal = self._item(body)
        except (ValueError, TypeError, AttributeError, KeyError):
            return trouble()
        if item is None:
            self._server.log.rejected.append(refusal)
            return web.json_response(refusal, status=400)
        return await self._queue(request, item, node_errors)

    def _item(self, body: Any) -> tuple[Any, dict[str, Any], dict[str, Any]]:
        """Number and check a body. The order of the steps is the recorded one (recording c)."""
        prompts = self._server.life.prompts
        if "number" in body:
            number: float = float(body["number"])
        else:
            number = prompts.counter
            prompts.counter += 1
            if isinstance(body, dict) and body.get("front"):
                number = -number
        if "prompt" not in body:
            said = "No prompt provided"
            error = {"type": "no_prompt", "message": said, "details": said, "extra_info": {}}
            return None, {}, {"error": error, "node_errors": {}}
        verdict = graphs.check(body["prompt"], self._server.settings, self._has_input)
        if verdict.error is not None:
            return None, {}, {"error": verdict.error, "node_errors": verdict.node_errors}
        prompt_id = str(uuid.uuid4())
        if "prompt_id" in body and not self._server.settings.before(0, 3, 45):
            prompt_id = str(body["prompt_id"])
        extra_data = dict(body.get("extra_data") or {})
        if "client_id" in body:
            extra_data["client_id"] = body["client_id"]
        item = (number, prompt_id, body["prompt"], extra_data, verdict.outputs)
        return item, verdict.node_errors, {}

    async def _queue(
        self, request: web.Request, item: Any, node_errors: dict[str, Any]
    ) -> web.StreamResponse:
        traps = self._server.traps
        if traps.take("lose_prompt", when="post"):
            self._server.log.ended.append((item[1], "lost"))
        else:
            try:
                self._server.life.put(item)
            except TypeError:
                return trouble()
        if traps.take("queued_but_500"):
            return trouble()
        if traps.take("queued_but_reset"):
            reset(request.transport)
        if trap := traps.take("slow_post"):
            await self._server.life.pause(trap["seconds"])
        answer = {"prompt_id": item[1], "number": item[0], "node_errors": node_errors}
        return web.json_response(answer)

    def _has_input(self, name: str) -> bool:
        with contextlib.suppress(OutsideError):
            return self._server.folders.input_path(name).is_file()
        return False

    async def get_queue(self, _: web.Request) -> web.Response:
        """Show what runs and what waits."""
        prompts = self._server.life.prompts
        running = [] if prompts.running is None else [prompts.running]
        return web.json_response({"queue_running": running, "queue_pending": prompts.pending})

    async def post_queue(self, request: web.Request) -> web.Response:
        """Drop pending prompts; 200 whatever was found."""
        try:
            body = await request.json()
        except ValueError:
            return trouble()
        life, log = self._server.life, self._server.log
        if body.get("clear"):
            log.cleared += 1
            life.prompts.pending.clear()
            life.sockets.say_status()
        for prompt_id in body.get("delete", []):
            log.deleted.append(prompt_id)
            if life.prompts.delete(prompt_id):
                life.sockets.say_status()
        return web.Response()

    async def interrupt(self, request: web.Request) -> web.Response:
        """Interrupt; 200 whatever runs."""
        try:
            body = await request.json()
        except ValueError:
            body = {}
        prompt_id = body.get("prompt_id")
        self._server.log.interrupts.append(prompt_id)
        if not self._server.traps.take("interrupt_lost"):
            self._server.life.interrupt(prompt_id)
        return web.Response()

    async def free(self, request: web.Request) -> web.Response:
        """Free models, or the cache, when nothing runs."""
        try:
            body = await request.json()
        except ValueError:
            return trouble()
        self._server.log.freed.append(body)
        self._server.life.free(body)
        return web.Response()

    # --- the history ------------------------------------------------------------------------

    async def get_history(self, request: web.Request) -> web.Response:
        """Show what has ended, or the last of it."""
        history = self._server.life.prompts.history
        if "max_items" in request.query:
            try:
                count = int(request.query["max_items"])
            except ValueError:
                return trouble()
            history = dict(list(history.items())[-count:])
        return web.json_response(history)

    async def get_history_of(self, request: web.Request) -> web.Response:
        """Show one prompt that has ended; {} for all others."""
        life = self._server.life
        prompt_id = request.match_info["prompt_id"]
        entry = life.prompts.history.get(prompt_id)
        if entry is not None and (trap := self._server.traps.on("history_late")):
            life.late[prompt_id] = life.late.get(prompt_id, 0) + 1
            if life.late[prompt_id] <= trap["reads"]:
                entry = None
        return web.json_response({} if entry is None else {prompt_id: entry})

    async def post_history(self, request: web.Request) -> web.Response:
        """Forget what has ended."""
        try:
            body = await request.json()
        except ValueError:
            return trouble()
        history = self._server.life.prompts.history
        if body.get("clear"):
            self._server.log.forgotten += list(history)
            history.clear()
        for prompt_id in body.get("delete", []):
            self._server.log.forgotten.append(prompt_id)
            history.pop(prompt_id, None)
        return web.Response()
