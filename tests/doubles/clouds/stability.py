"""A double of Stability AI: v2beta core, sd3, ultra; v1 SDXL, balance and engines.

Written from the two published schemas, see agent/engines/cloud/stability.py.
"""

import asyncio
import base64
import math
import uuid
from typing import Any

from aiohttp import web

from tests.doubles.clouds.pictures import blurred, png
from tests.doubles.clouds.server import CloudDouble

SDXL = "stable-diffusion-xl-1024-v1-0"
RATIOS = {"21:9", "16:9", "3:2", "5:4", "1:1", "4:5", "2:3", "9:16", "9:21"}
CREDITS = {
    "core": 3.0,
    "ultra": 8.0,
    "sd3.5-large": 6.5,
    "sd3.5-large-turbo": 4.0,
    "sd3.5-medium": 3.5,
}
SIZES_V1 = {
    (1024, 1024),
    (1152, 896),
    (896, 1152),
    (1216, 832),
    (832, 1216),
    (1344, 768),
    (768, 1344),
    (1536, 640),
    (640, 1536),
}
FIELDS = {"prompt", "negative_prompt", "aspect_ratio", "seed", "output_format", "style_preset"}
SD3_FIELDS = FIELDS - {"style_preset"} | {"model", "mode", "cfg_scale", "strength", "image"}
MODERATED = "[moderated]"


class StabilityDouble(CloudDouble):
    """Stability on a free port. A prompt with `[moderated]` is refused, `[filtered]` blurred."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.engines = [SDXL]

    def add_routes(self, app: web.Application) -> None:
        app.router.add_post("/v2beta/stable-image/generate/{kind}", self.generate)
        app.router.add_post("/v1/generation/{engine}/text-to-image", self.generate_v1)
        app.router.add_get("/v1/user/balance", self.balance)
        app.router.add_get("/v1/engines/list", self.list_engines)

    def error(self, status: int, name: str, message: str) -> web.Response:
        """v2beta: `errors` is a list."""
        body = {"id": uuid.uuid4().hex, "name": name, "errors": [message]}
        return web.json_response(body, status=status)

    def error_v1(self, status: int, name: str, message: str) -> web.Response:
        """v1: `message` is a string."""
        return web.json_response(
            {"id": str(uuid.uuid4()), "name": name, "message": message}, status=status
        )

    async def balance(self, _: web.Request) -> web.Response:
        return web.json_response({"credits": self.credit_usd * 100})

    async def list_engines(self, _: web.Request) -> web.Response:
        return web.json_response(
            [{"id": e, "name": e, "description": "", "type": "PICTURE"} for e in self.engines]
        )

    # --- v2beta ---------------------------------------------------------------------------------

    async def generate(self, request: web.Request) -> web.StreamResponse:
        kind = request.match_info["kind"]
        if request.content_type != "multipart/form-data":
            return self.error(400, "bad_request", "content-type: must be multipart/form-data")
        form = {key: str(value) for key, value in (await request.post()).items()}
        self.seen[-1].fields = form
        name, values = self.traps.take()
        wrong = self._wrong(kind, form)
        if wrong is not None:
            return wrong
        model = form.get("model", "sd3.5-large") if kind == "sd3" else kind
        refused = await self.refused(request, name, values) or self._refused(name, form)
        usd = CREDITS[model] / 100
        if refused is not None:
            return refused
        if name == "no_credits" or self.credit_usd < usd:
            return self.error(402, "payment_required", "You lack sufficient credits")
        await asyncio.sleep(self.draw_s)
        seed = int(form.get("seed", "0")) or uuid.uuid4().int % 2**32
        pixels = 1_500_000 if kind == "core" else 1_048_576
        width, height = size(form.get("aspect_ratio", "1:1"), pixels)
        data = png(width, height, model, form["prompt"], form.get("negative_prompt"), seed)
        self.charge(model, usd, form["prompt"])
        filtered = name == "filtered" or "[filtered]" in form["prompt"]
        reason = "CONTENT_FILTERED" if filtered else values.get("reason", "SUCCESS")
        data = b"no picture at all" if name == "no_png" else blurred(data) if filtered else data
        return await self.drawn(request, name, values, _picture(request, data, reason, seed))

    def _wrong(self, kind: str, form: dict[str, str]) -> web.Response | None:
        """Judge a form as the schema does."""
        if kind not in ("core", "sd3", "ultra"):
            return self.error(404, "not_found", "The requested resource was not found")
        unknown = form.keys() - (SD3_FIELDS if kind == "sd3" else FIELDS)
        if unknown:
            return self.error(400, "bad_request", f"{sorted(unknown)}: is not allowed")
        if not 1 <= len(form.get("prompt", "")) <= 10_000:
            return self.error(400, "bad_request", "prompt: must be 1 to 10000 characters")
        if form.get("aspect_ratio", "1:1") not in RATIOS:
            return self.error(400, "bad_request", "aspect_ratio: must be one of the list")
        if not 0 <= int(form.get("seed", "0")) <= 2**32 - 2:
            return self.error(400, "bad_request", "seed: must be 0 to 4294967294")
        if kind == "sd3" and form.get("model", "sd3.5-large") not in CREDITS:
            return self.error(400, "bad_request", "model: must be one of the list")
        if "cfg_scale" in form and not 1 <= float(form["cfg_scale"]) <= 10:
            return self.error(400, "bad_request", "cfg_scale: must be 1 to 10")
        return None

    def _refused(self, name: str, form: dict[str, str]) -> web.Response | None:
        """Answer for what is refused without a charge."""
        if name == "moderated" or MODERATED in form["prompt"]:
            words = "Your request was flagged by our content moderation system"
            return self.error(403, "content_moderation", words)
        if name == "forbidden":
            return self.error(403, "permission_denied", "You lack the permissions")
        if name == "retired":
            return self.error(404, "not_found", "The requested resource was not found")
        return None

    # --- v1 -------------------------------------------------------------------------------------

    async def generate_v1(self, request: web.Request) -> web.StreamResponse:
        engine = request.match_info["engine"]
        body = await request.json()
        self.seen[-1].fields = body
        name, values = self.traps.take()
        if engine not in self.engines or name == "retired":
            words = f"The specified engine (ID {engine}) was not found."
            return self.error_v1(404, "not_found", words)
        if (body.get("width", 512), body.get("height", 512)) not in SIZES_V1:
            return self.error_v1(400, "bad_request", "height, width: not allowed for SDXL 1.0")
        texts = body["text_prompts"]
        if not texts or any(len(one["text"]) > 2000 for one in texts):
            return self.error_v1(400, "bad_request", "text_prompts: 1 to 2000 characters")
        steps = body.get("steps", 30)
        if not 10 <= steps <= 50:
            return self.error_v1(400, "bad_request", "steps: must be 10 to 50")
        if name == "rejected":
            return self.error_v1(400, "invalid_prompts", "Invalid prompts detected")
        await asyncio.sleep(self.draw_s)
        usd = 0.009 * max(1.0, steps / 30)
        self.charge(engine, usd, repr(texts))
        seed = body.get("seed", 0)
        data = png(body["width"], body["height"], engine, repr(texts), seed)
        filtered = name == "filtered"
        artifact = {
            "base64": base64.b64encode(blurred(data) if filtered else data).decode(),
            "finishReason": "CONTENT_FILTERED" if filtered else values.get("reason", "SUCCESS"),
            "seed": seed,
        }
        answer = web.json_response({"artifacts": [artifact]})
        return await self.drawn(request, name, values, answer)


def size(ratio: str, pixels: int) -> tuple[int, int]:
    """Return a size of about so many pixels, in multiples of 64."""
    across, down = (int(part) for part in ratio.split(":"))
    width = math.sqrt(pixels * across / down)
    return round(width / 64) * 64, round(width * down / across / 64) * 64


def _picture(request: web.Request, data: bytes, reason: str, seed: int) -> web.Response:
    """Answer as Accept asks: JSON with a content type of its own, or the bytes."""
    if request.headers.get("Accept", "image/*").startswith("application/json"):
        body = {"image": base64.b64encode(data).decode(), "finish_reason": reason, "seed": seed}
        answer = web.json_response(body)
        answer.headers["Content-Type"] = "application/json; type=image/png"
        return answer
    return web.Response(
        body=data,
        content_type="image/png",
        headers={"finish-reason": reason, "seed": str(seed)},
    )
