"""A double of OpenAI's images: generations and models.

Written from the published types, see agent/engines/cloud/openai.py.
"""

import asyncio
import base64
import json
import re
import time
from typing import Any

from aiohttp import web

from tests.doubles.clouds.pictures import png
from tests.doubles.clouds.server import CloudDouble

MODEL = "gpt-image-2.5-flare"
FIELDS = {
    "prompt",
    "model",
    "n",
    "size",
    "quality",
    "output_format",
    "output_compression",
    "background",
    "moderation",
    "stream",
    "partial_images",
    "safety_identifier",
    "user",
}
TOKENS = {"low": 200, "medium": 1767, "high": 7033, "auto": 1767}
"""Output tokens of 1024 x 1024, from the prices of gpt-image-2 by picture."""
SIZE = re.compile(r"(\d+)x(\d+)")


class OpenAIDouble(CloudDouble):
    """OpenAI on a free port. A prompt with `[moderated]` is refused."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.models: dict[str, str | None] = {MODEL: None, "gpt-image-1.5": "2026-12-01"}

    def add_routes(self, app: web.Application) -> None:
        app.router.add_post("/v1/images/generations", self.generate)
        app.router.add_get("/v1/models/{model}", self.model)

    def error(self, status: int, name: str, message: str, param: str | None = None) -> web.Response:
        kind = "server_error" if status >= 500 else "invalid_request_error"
        body = {"message": message, "type": kind, "param": param, "code": name}
        return web.json_response({"error": body}, status=status)

    def unauthorized(self, request: web.Request) -> web.Response:
        """Quote parts of the key, as the real one does."""
        key = request.headers.get("Authorization", "").removeprefix("Bearer ")
        words = f"Incorrect API key provided: {key[:8]}****{key[-4:]}."
        return self.error(401, "invalid_api_key", words)

    async def model(self, request: web.Request) -> web.Response:
        name = request.match_info["model"]
        if name not in self.models:
            return self._gone(name)
        body = {"id": name, "object": "model", "shutdown_date": self.models[name]}
        return web.json_response(body)

    async def generate(self, request: web.Request) -> web.StreamResponse:
        if request.content_type != "application/json":
            return self.error(400, "invalid_request", "expected JSON")
        body = await request.json()
        self.seen[-1].fields = body
        name, values = self.traps.take()
        refused = await self.refused(request, name, values) or self._refused(name, body)
        if refused is not None:
            return refused
        width, height = _size(body["size"]) or (1024, 1024)
        count = body.get("n", 1)
        await asyncio.sleep(self.draw_s)
        usage = _usage(body, width * height, count)
        details = usage["input_tokens_details"]
        usd = details["text_tokens"] * 5e-6 + usage["output_tokens"] * 30e-6
        self.charge(body["model"], usd, body["prompt"])
        made = range(count - 1 if name == "fewer" else count)
        stamp = time.monotonic_ns()  # The same call gives another picture: there is no seed.
        drawn = [png(width, height, body["prompt"], stamp, index) for index in made]
        if name == "no_png":
            drawn = [b"no picture at all"] * count
        answer: dict[str, Any] = {
            "created": 1,
            "data": [{"b64_json": base64.b64encode(data).decode()} for data in drawn],
            "background": "opaque",
            "output_format": "png",
            "quality": body.get("quality", "auto"),
            "size": body["size"],
        }
        if name != "no_usage":
            answer["usage"] = usage
        sent = web.Response(body=json.dumps(answer).encode(), content_type="application/json")
        return await self.drawn(request, name, values, sent)

    def _gone(self, model: str) -> web.Response:
        return self.error(404, "model_not_found", f"The model '{model}' does not exist")

    def _refused(self, name: str, body: dict[str, Any]) -> web.Response | None:
        """Answer for what is refused without a charge."""
        if name == "retired" or body.get("model") not in self.models:
            return self._gone(str(body.get("model")))
        if name == "no_credits" or self.credit_usd <= 0:
            words = "You exceeded your current quota, please check your plan and billing details."
            return self.error(429, "insufficient_quota", words)
        if name == "forbidden":
            return self.error(403, "unsupported_country", "Your organization must be verified")
        if name == "moderated" or "[moderated]" in body.get("prompt", ""):
            words = "Your request was rejected by the safety system. safety_violations=[violence]."
            return self.error(400, "moderation_blocked", words)
        return self._wrong(body)

    def _wrong(self, body: dict[str, Any]) -> web.Response | None:
        """Judge a body as the schema does."""
        if unknown := body.keys() - FIELDS:
            which = min(unknown)
            words = f"Unknown parameter: '{which}'."
            return self.error(400, "unknown_parameter", words, which)
        if not 1 <= len(body.get("prompt", "")) <= 32_000:
            return self.error(400, "invalid_value", "prompt: 1 to 32000 characters", "prompt")
        if not 1 <= body.get("n", 1) <= 10:
            return self.error(400, "invalid_value", "n: 1 to 10", "n")
        if body.get("quality", "auto") not in (*TOKENS, "xhigh", "max"):
            return self.error(400, "invalid_value", "quality: low, medium, high", "quality")
        if body.get("size", "auto") != "auto" and _size(body["size"]) is None:
            return self.error(400, "invalid_value", "size: not supported", "size")
        return None


def _size(text: str) -> tuple[int, int] | None:
    """Read a size that gpt-image-2 and later take; None for any other."""
    match = SIZE.fullmatch(text)
    if match is None:
        return None
    width, height = int(match[1]), int(match[2])
    good = width % 16 == height % 16 == 0 and max(width, height) <= 3840
    good = good and max(width, height) <= 3 * min(width, height) and width * height >= 655_360
    return (width, height) if good else None


def _usage(body: dict[str, Any], pixels: int, count: int) -> dict[str, Any]:
    text = max(1, len(body["prompt"]) // 4)
    out = round(TOKENS[body.get("quality", "auto")] * pixels / 1024**2) * count
    return {
        "total_tokens": text + out,
        "input_tokens": text,
        "output_tokens": out,
        "input_tokens_details": {"text_tokens": text, "image_tokens": 0},
    }
