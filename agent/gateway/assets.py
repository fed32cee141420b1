"""Pictures over HTTP: whole or in part, and not again to whoever has them.

What is under a name never changes, so everybody may keep it, and the tag is that of the content.
Whoever may ask is let in elsewhere; must not hand out anything but pictures and what is made of
them.
"""

import asyncio
import hashlib
import os
import re
from collections import OrderedDict
from collections.abc import AsyncIterator
from http import HTTPStatus
from io import BufferedReader
from pathlib import Path
from typing import Final

import structlog
from aiohttp import web

from agent.assets import AssetStore, RemoteError
from agent.assets.names import COPY, JPEG, PICTURES
from agent.gateway.describing import Described, Param, choice, described
from agent.gateway.problems import problem
from agent.gateway.settings import API
from contracts.errors import ErrorCode

TYPES: Final = {".png": "image/png", ".jpg": "image/jpeg", ".webp": "image/webp"}
"""Not left to the machine: Python 3.11 does not know WebP, and a registry may say anything."""
IMMUTABLE: Final = "private, max-age=31536000, immutable"
PIECE_BYTES: Final = 256 * 1024
PIECE_S: Final = 60.0
"""A client that takes a piece more slowly than this is gone."""
TAGS_MAX: Final = 10_000
FORMAT: Final = "format"
log = structlog.get_logger()

_TAG: Final = re.compile(r'"([^"]*)"')


class _Range:
    """The bytes from `first` to before `end`, of `size`."""

    def __init__(self, first: int, end: int, size: int) -> None:
        self.first, self.end, self.size = first, end, size


class Pictures:
    """The route of the pictures, over one store."""

    def __init__(self, assets: AssetStore) -> None:
        """Read nothing yet."""
        self._assets = assets
        self._tags: OrderedDict[tuple[str, int, int], str] = OrderedDict()

    def routes(self) -> list[web.RouteDef]:
        """Return what to serve."""
        return [web.get(f"{API}/assets/{{kind}}/{{month}}/{{file}}", self.serve)]

    @described(
        Described(
            summary="A picture, its thumbnail or its JPEG copy",
            params=(
                Param(
                    name=FORMAT,
                    text="jpeg: the picture as JPEG, made when it is asked for the first time",
                    shape=choice("jpeg"),
                ),
                Param(name="expires", text="until when a signed address is good, Unix seconds"),
                Param(name="signature", text="of a signed address: no key is needed then"),
                Param(name="Range", where="header", text="one range of bytes"),
                Param(name="If-None-Match", where="header", text="tags of what is at hand"),
            ),
            answers={200: "image/*", 206: "image/*"},
            errors=(ErrorCode.NOT_FOUND,),
            statuses=(304, 412, 416, 503),
            tag="assets",
        )
    )
    async def serve(self, request: web.Request) -> web.StreamResponse:
        """Answer with a picture, a part of it, or that it is the same. Raises: Problem."""
        kind, month, file = (request.match_info[key] for key in ("kind", "month", "file"))
        try:
            path = await self._assets.find_or_make(kind, month, _wanted(request, file))
        except RemoteError as error:
            log.warning("assets.remote_away", file=file, reason=str(error))
            raise problem(
                ErrorCode.INTERNAL,
                "the place where the pictures are kept does not answer",
                status=HTTPStatus.SERVICE_UNAVAILABLE,
            ) from error
        if path is None:
            raise problem(ErrorCode.NOT_FOUND, "there is no such asset")
        try:
            picture = await asyncio.to_thread(path.open, "rb")
        except OSError as error:  # Pruned in this very moment.
            raise problem(ErrorCode.NOT_FOUND, "there is no such asset") from error
        try:
            return await self._answer(request, path, picture)
        finally:
            await asyncio.to_thread(picture.close)

    async def _answer(
        self, request: web.Request, path: Path, picture: BufferedReader
    ) -> web.StreamResponse:
        """Answer from an open file: RFC 9110, 13.2.2, for what has a tag and no date."""
        tag, size = await asyncio.to_thread(self._tag, picture)
        headers = {"ETag": f'"{tag}"', "Cache-Control": IMMUTABLE, "Accept-Ranges": "bytes"}
        if not _names(request.headers.get("If-Match", "*"), tag):
            raise problem(
                ErrorCode.INVALID_REQUEST,
                "it has another tag than If-Match names",
                status=HTTPStatus.PRECONDITION_FAILED,
            )
        if _names(request.headers.get("If-None-Match", ""), tag):
            return web.Response(status=HTTPStatus.NOT_MODIFIED, headers=headers)
        part = _range(request, tag, size)
        whole = part is None
        part = part or _Range(0, size, size)
        response = web.StreamResponse(
            status=HTTPStatus.OK if whole else HTTPStatus.PARTIAL_CONTENT, headers=headers
        )
        response.content_type = TYPES[path.suffix]
        response.content_length = part.end - part.first
        if not whole:
            response.headers["Content-Range"] = f"bytes {part.first}-{part.end - 1}/{size}"
        await response.prepare(request)
        if request.method != "HEAD":
            await _send(response, picture, part)
        await response.write_eof()
        return response

    def _tag(self, picture: BufferedReader) -> tuple[str, int]:
        """Return the sha256 of an open file, kept for the next time, and its size."""
        found = os.fstat(picture.fileno())
        key = (picture.name, found.st_mtime_ns, found.st_size)
        tag = self._tags.pop(key, None)
        if tag is None:
            tag = hashlib.file_digest(picture, "sha256").hexdigest()
        self._tags[key] = tag
        while len(self._tags) > TAGS_MAX:
            self._tags.popitem(last=False)
        return tag, found.st_size


def _wanted(request: web.Request, file: str) -> str:
    """Return the name of what is asked for: `?format=jpeg` is the copy beside a picture.

    Raises: Problem.
    """
    asked = request.query.get(FORMAT)
    if asked is None:
        return file
    if asked != "jpeg":
        raise problem(ErrorCode.INVALID_REQUEST, "?format= must be jpeg", "$.format")
    ending = next((one for one in PICTURES if file.endswith(one)), None)
    is_jpeg = ending is None or ending == JPEG or file.endswith(COPY)
    return file if is_jpeg else f"{file.removesuffix(str(ending))}{COPY}"


def _names(header: str, tag: str) -> bool:
    """Tell whether a list of tags names this one, or any."""
    return header.strip() == "*" or tag in _TAG.findall(header)


def _range(request: web.Request, tag: str, size: int) -> _Range | None:
    """Return the one range that is asked for; None: the whole. Raises: Problem(416).

    Several ranges, or what is no range, are answered with the whole, as RFC 9110 allows; so is one
    that is meant for another content.
    """
    if "Range" not in request.headers:
        return None
    if request.headers.get("If-Range", f'"{tag}"') != f'"{tag}"':
        return None
    try:
        asked = request.http_range
    except ValueError:
        return None
    if asked.start is None and asked.stop is None:
        return None
    first = 0 if asked.start is None else asked.start
    first = max(0, size + first) if first < 0 else first
    end = size if asked.stop is None else min(asked.stop, size)
    if first >= end:
        raise problem(
            ErrorCode.INVALID_REQUEST,
            f"there are {size} bytes",
            status=HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE,
            headers={"Content-Range": f"bytes */{size}"},
        )
    return _Range(first, end, size)


async def _send(response: web.StreamResponse, picture: BufferedReader, part: _Range) -> None:
    """Send a part piece by piece. Raises: ConnectionResetError at a client that takes none."""
    async for piece in _pieces(picture, part):
        try:
            async with asyncio.timeout(PIECE_S):
                await response.write(piece)
        except TimeoutError as error:
            raise ConnectionResetError("the client takes nothing more") from error


async def _pieces(picture: BufferedReader, part: _Range) -> AsyncIterator[bytes]:
    """Read a part of an open file, some at a time."""

    def read(at: int) -> bytes:
        picture.seek(at)
        return picture.read(min(PIECE_BYTES, part.end - at))

    at = part.first
    while at < part.end:
        piece = await asyncio.to_thread(read, at)
        if not piece:
            return  # Cut off behind our back: the length that was told shows it.
        at += len(piece)
        yield piece
