"""The routes of files: giving pictures back, taking uploads."""

import asyncio

from aiohttp import web

from tests.doubles.comfyui import pictures
from tests.doubles.comfyui.files import KINDS, OutsideError
from tests.doubles.comfyui.wire import Route, Server


class FileRoutes:
    """The handlers, bound to one double."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def table(self) -> list[Route]:
        """Return the routes."""
        return [("GET", "/view", self.view), ("POST", "/upload/image", self.upload)]

    # --- files ------------------------------------------------------------------------------

    async def view(self, request: web.Request) -> web.StreamResponse:
        """Give a picture back."""
        traps, query = self._server.traps, request.query
        name = query.get("filename", "")
        self._server.log.viewed.append(name)
        if not name or traps.take("missing_file_on_view"):
            return web.Response(status=404)
        kind = query.get("type", "output")
        if name.startswith("/") or ".." in name or kind not in KINDS:
            return web.Response(status=400)
        try:
            path = self._server.folders.find(kind, query.get("subfolder", ""), name)
        except OutsideError:
            return web.Response(status=403)
        if not path.is_file():
            return web.Response(status=404)
        if trap := traps.take("slow_view"):
            await self._server.life.pause(trap["seconds"])
        headers = {"Content-Disposition": f'filename="{path.name}"'}
        if traps.take("garbage_on_view"):
            return web.Response(body=b"no picture", content_type="image/png", headers=headers)
        if traps.take("cut_view_midway"):
            return await self._half(request, path.read_bytes(), headers)
        if "preview" in query:
            body, of = await asyncio.to_thread(
                pictures.convert, path.read_bytes(), query["preview"]
            )
            return web.Response(body=body, content_type=of, headers=headers)
        return web.FileResponse(path, headers=headers)

    async def _half(
        self, request: web.Request, data: bytes, headers: dict[str, str]
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers=headers)
        response.content_type = "image/png"
        response.content_length = len(data)
        await response.prepare(request)
        await response.write(data[: len(data) // 2])
        if request.transport is not None:
            request.transport.close()  # what was written still goes out
        return response

    async def upload(self, request: web.Request) -> web.Response:
        """Keep a picture, or anything else, for LoadImage."""
        form = await request.post()
        field = form.get("image")
        if not isinstance(field, web.FileField) or not field.filename:
            return web.Response(status=400)
        kind, subfolder = str(form.get("type", "input")), str(form.get("subfolder", ""))
        if kind not in KINDS:
            return web.Response(status=400)
        overwrite = str(form.get("overwrite", "")) in ("true", "1")
        try:
            name = self._server.folders.upload(
                kind, subfolder, field.filename, field.file.read(), overwrite=overwrite
            )
        except OutsideError:
            return web.Response(status=400)
        self._server.log.uploads.append(name)
        return web.json_response({"name": name, "subfolder": subfolder, "type": kind})
