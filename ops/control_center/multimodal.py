"""Relays /api/multimodal and /ws/multimodal of the Control Center to the mmg gateway.

For `control-center/backend/api/`. It passes everything on as it comes and keeps nothing.
"""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator

import aiohttp
from fastapi import APIRouter, FastAPI, Request, Response, WebSocket
from fastapi.responses import StreamingResponse
from starlette.websockets import WebSocketDisconnect
from yarl import URL

GATEWAY = os.environ.get("MMG_GATEWAY_URL", "http://127.0.0.1:54113").rstrip("/")
SITES = os.environ.get("MMG_RELAY_ORIGINS", "").split(",")
LIMIT = aiohttp.ClientTimeout(total=None, connect=5, sock_read=60)
BODY_MAX = 64 * 1024
NOT_ON = {"connection", "content-length", "host", "origin", "transfer-encoding", "upgrade"}
AWAY = b'{"title": "Bad gateway", "status": 502, "detail": "the mmg gateway does not answer"}'


@contextlib.asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with aiohttp.ClientSession(timeout=LIMIT, auto_decompress=False) as session:
        app.state.multimodal = session
        yield


router = APIRouter(tags=["multimodal"], lifespan=_lifespan)


def _foreign(asked: Request | WebSocket) -> bool:
    """Another site's page asks; the gateway behind cannot see that."""
    origin = asked.headers.get("origin", "")
    return origin not in ("", *SITES) and URL(origin).authority != asked.headers.get("host")


def _place(asked: Request | WebSocket) -> URL:
    path, query = asked.scope["raw_path"].decode(), asked.scope["query_string"].decode()
    return URL(f"{GATEWAY}{path}?{query}", encoded=True)


@router.api_route("/api/multimodal/{path:path}", methods=["GET", "HEAD", "POST", "DELETE"])
async def relay(request: Request) -> Response:
    """Pass a request on, and its answer back piece by piece."""
    if request.method not in ("GET", "HEAD") and _foreign(request):
        return Response("a page of another site may not do this", status_code=403)
    body = await request.body()
    if len(body) > BODY_MAX:
        return Response("the body is too large", status_code=413)
    headers = {name: value for name, value in request.headers.items() if name not in NOT_ON}
    headers["x-forwarded-for"] = request.client.host if request.client else "unknown"
    session: aiohttp.ClientSession = request.app.state.multimodal
    try:
        found = await session.request(
            request.method, _place(request), data=body, headers=headers, allow_redirects=False
        )
    except (aiohttp.ClientError, TimeoutError):
        return Response(AWAY, status_code=502, media_type="application/problem+json")

    async def pieces() -> AsyncIterator[bytes]:
        async with found:
            async for piece in found.content.iter_any():
                yield piece

    back = {name: value for name, value in found.headers.items() if name.lower() not in NOT_ON}
    return StreamingResponse(pieces(), status_code=found.status, headers=back)


@router.websocket("/ws/multimodal")
@router.websocket("/ws/multimodal/{path:path}")
async def relay_socket(socket: WebSocket) -> None:
    """Pass the gateway's frames on; it listens to nothing that a client says."""
    if _foreign(socket):
        await socket.send_denial_response(Response(status_code=403))
        return
    session: aiohttp.ClientSession = socket.app.state.multimodal
    try:
        upstream = await session.ws_connect(_place(socket), max_msg_size=0, heartbeat=20)
    except (aiohttp.ClientError, TimeoutError) as error:
        await socket.send_denial_response(Response(status_code=getattr(error, "status", 502)))
        return
    await socket.accept()
    async with upstream, asyncio.TaskGroup() as group:
        hearing = group.create_task(_hear(socket, upstream))
        with contextlib.suppress(WebSocketDisconnect, RuntimeError):  # The client has left.
            async for frame in upstream:
                send = socket.send_text if isinstance(frame.data, str) else socket.send_bytes
                await send(frame.data)
            await socket.close(upstream.close_code or 1011)
        hearing.cancel()


async def _hear(socket: WebSocket, upstream: aiohttp.ClientWebSocketResponse) -> None:
    while (await socket.receive())["type"] != "websocket.disconnect":
        pass
    await upstream.close()
