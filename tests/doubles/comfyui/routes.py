"""The HTTP routes of the double, with the answers that were recorded; it keeps no state."""

from typing import Any
from urllib.parse import urlsplit

from aiohttp import web

from tests.doubles.comfyui.card import RAM_BYTES
from tests.doubles.comfyui.file_routes import FileRoutes
from tests.doubles.comfyui.nodes import NODES, describe
from tests.doubles.comfyui.prompt_routes import PromptRoutes
from tests.doubles.comfyui.sockets import FEATURES
from tests.doubles.comfyui.wire import Route, Server

MODEL_FOLDERS = [
    "checkpoints",
    "configs",
    "loras",
    "vae",
    "text_encoders",
    "diffusion_models",
    "clip_vision",
    "style_models",
    "embeddings",
    "diffusers",
    "vae_approx",
    "controlnet",
    "gligen",
    "upscale_models",
    "custom_nodes",
    "hypernetworks",
    "photomaker",
    "classifiers",
    "model_patches",
    "audio_encoders",
]
LOOPBACK = ("127.0.0.1", "localhost", "::1")


class Routes:
    """The handlers, bound to one double."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def add_to(self, app: web.Application) -> None:
        """Register every route, also under /api, and the page for all other paths."""
        table: list[Route] = [
            *PromptRoutes(self._server).table(),
            *FileRoutes(self._server).table(),
            ("GET", "/ws", self.ws),
            ("GET", "/system_stats", self.system_stats),
            ("GET", "/features", self.features),
            ("GET", "/object_info", self.object_info),
            ("GET", "/object_info/{name}", self.object_info),
            ("GET", "/models", self.models),
            ("GET", "/models/{folder}", self.models_in),
            ("GET", "/embeddings", self.embeddings),
        ]
        for method, path, handler in table:
            app.router.add_route(method, path, handler)
            app.router.add_route(method, f"/api{path}", handler)
            if method == "GET":
                app.router.add_route("HEAD", path, handler)
        app.router.add_get("/", self.page)
        app.router.add_get("/{path:.*}", self.nothing)

    async def ws(self, request: web.Request) -> web.StreamResponse:
        """Serve a WebSocket."""
        return await self._server.life.sockets.serve(request)

    async def system_stats(self, _: web.Request) -> web.Response:
        """Describe the machine."""
        settings = self._server.settings
        argv = ["main.py", *([] if settings.gpu else ["--cpu"])]
        system: dict[str, Any] = {
            "os": "posix",
            "ram_total": RAM_BYTES,
            "ram_free": RAM_BYTES // 2,
            "comfyui_version": settings.version,
            "required_frontend_version": "1.27.10",
            "installed_templates_version": None,
            "required_templates_version": "0.1.95",
            "python_version": "3.11.7 (main) [GCC 12.2.0]",
            "pytorch_version": "2.8.0+cu128",
            "embedded_python": False,
            "argv": [*argv, "--preview-method", settings.preview_method],
        }
        return web.json_response({"system": system, "devices": [self._server.life.card.device()]})

    async def features(self, _: web.Request) -> web.Response:
        """Say what the server can do."""
        return web.json_response(FEATURES)

    async def object_info(self, request: web.Request) -> web.Response:
        """Describe all node classes, or one; {} for an unknown one."""
        wanted = request.match_info.get("name")
        names = [name for name in NODES if wanted in (None, name)]
        return web.json_response({name: describe(name, self._server.settings) for name in names})

    async def models(self, _: web.Request) -> web.Response:
        """List the folders of models."""
        return web.json_response(MODEL_FOLDERS)

    async def models_in(self, request: web.Request) -> web.Response:
        """List one folder of models."""
        folder = request.match_info["folder"]
        if folder not in MODEL_FOLDERS:
            return web.Response(status=404)
        return web.json_response(self._server.settings.files(folder))

    async def embeddings(self, _: web.Request) -> web.Response:
        """List no embeddings."""
        return web.json_response([])

    async def page(self, _: web.Request) -> web.StreamResponse:
        """Show the page of the browser."""
        headers = {"cache-control": "no-cache"}
        return web.FileResponse(self._server.folders.page, headers=headers)

    async def nothing(self, request: web.Request) -> web.StreamResponse:
        """Answer 404 as the file route does: chunked, without a type of its own."""
        response = web.StreamResponse(status=404)
        response.content_type = "application/octet-stream"
        response.enable_chunked_encoding()
        await response.prepare(request)
        await response.write_eof()
        return response


def is_foreign(request: web.Request) -> bool:
    """Say whether a page of another site asks a server on loopback."""
    origin = request.headers.get("Origin")
    host = request.headers.get("Host", "")
    if origin is None or urlsplit(f"//{host}").hostname not in LOOPBACK:
        return False
    return urlsplit(origin).netloc.lower() != host.lower()
