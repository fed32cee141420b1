"""The WebSockets of the double: who gets what, one message after the other.

One loop sends to all, waiting for each: a client that does not read stops everybody, as recorded.
"""

import asyncio
import contextlib
import json
import struct
import uuid
from collections.abc import Callable
from typing import Any

from aiohttp import WSMsgType, web

from tests.doubles.comfyui.gate import Gate
from tests.doubles.comfyui.log import Log
from tests.doubles.comfyui.settings import Settings
from tests.doubles.traps import Traps

PREVIEW, PREVIEW_WITH_METADATA = 1, 4
FORMATS = {"image/jpeg": 1, "image/png": 2}
FEATURES = {"supports_preview_metadata": True, "max_upload_size": 104857600}


class Sockets:
    """Open sockets by the id their client chose."""

    def __init__(self, settings: Settings, traps: Traps, log: Log, frozen: Gate) -> None:
        self.blocked = Gate()
        self.open: dict[str, web.WebSocketResponse] = {}
        self.all: set[web.WebSocketResponse] = set()
        self.remaining: Callable[[], int] = lambda: 0
        self.running: tuple[str, str] | None = None
        """(client_id, node) of the prompt that runs, for a client that comes late."""
        self._settings = settings
        self._traps = traps
        self._log = log
        self._frozen = frozen
        self._outbox: asyncio.Queue[tuple[str | None, str | bytes]] = asyncio.Queue()
        self._metadata: set[str] = set()
        self._seen: set[str] = set()

    def status(self) -> dict[str, Any]:
        """Return the body of a status message."""
        return {"status": {"exec_info": {"queue_remaining": self.remaining()}}}

    def say(self, kind: str, data: dict[str, Any], to: str | None = None) -> None:
        """Queue a message for one client, or for all."""
        self._outbox.put_nowait((to, json.dumps({"type": kind, "data": data})))

    def say_status(self) -> None:
        """Tell all how many prompts remain."""
        self.say("status", self.status())

    def wants_metadata(self, to: str | None) -> bool:
        """Say whether a client has asked for previews that name their prompt."""
        return to in self._metadata

    def picture(self, data: bytes, kind: str, about: dict[str, Any], to: str | None) -> None:
        """Queue a binary frame; with metadata only for a client that asked for it first."""
        if self.wants_metadata(to):
            text = json.dumps({**about, "image_type": kind}).encode()
            head = struct.pack(">II", PREVIEW_WITH_METADATA, len(text)) + text
        else:
            head = struct.pack(">II", PREVIEW, FORMATS[kind])
        self._outbox.put_nowait((to, head + data))

    async def publish(self) -> None:
        """Send what is queued, in order, for ever."""
        while True:
            to, message = await self._outbox.get()
            await self._frozen.passed()
            await self.blocked.passed()
            targets = list(self.open.values()) if to is None else [self.open.get(to)]
            for socket in targets:
                if socket is not None:
                    await self._send(socket, message)

    async def _send(self, socket: web.WebSocketResponse, message: str | bytes) -> None:
        with contextlib.suppress(ConnectionError, RuntimeError):  # it has gone
            if isinstance(message, str):
                await socket.send_str(message)
            else:
                await socket.send_bytes(message)

    async def serve(self, request: web.Request) -> web.WebSocketResponse:
        """Serve one socket until it closes.

        When it closes, the entry of its id goes, even if a newer socket has taken it over:
        that one is deaf from then on (recording j, H1 and H2).
        """
        socket = web.WebSocketResponse(max_msg_size=0, autoping=False)
        await socket.prepare(request)
        sid = request.query.get("clientId") or uuid.uuid4().hex
        self.all.add(socket)
        self._log.sockets_opened.append(sid)
        self.open[sid] = socket
        self._metadata.discard(sid)
        deaf = sid in self._seen and self._traps.take("deaf_socket_after_reconnect")
        self._seen.add(sid)
        try:
            hello = {"type": "status", "data": {**self.status(), "sid": sid}}
            await self._send(socket, json.dumps(hello))
            if self.running is not None and self.running[0] == sid:
                late = {"type": "executing", "data": {"node": self.running[1]}}
                await self._send(socket, json.dumps(late))
            if deaf:
                self.open.pop(sid, None)
            await self._read(socket, sid)
        finally:
            self.all.discard(socket)
            self.open.pop(sid, None)
            self._metadata.discard(sid)
            self._log.sockets_closed.append(sid)
        return socket

    async def _read(self, socket: web.WebSocketResponse, sid: str) -> None:
        first = True
        async for message in socket:
            await self._frozen.passed()
            if message.type is WSMsgType.PING:
                with contextlib.suppress(ConnectionError):
                    await socket.pong(message.data)
            elif message.type is WSMsgType.TEXT:
                if first and not self._settings.before(0, 3, 45):
                    await self._shake_hands(socket, sid, message.data)
                first = False

    async def _shake_hands(self, socket: web.WebSocketResponse, sid: str, text: str) -> None:
        with contextlib.suppress(ValueError, AttributeError):
            said = json.loads(text)
            if said.get("type") != "feature_flags":
                return
            if said.get("data", {}).get("supports_preview_metadata") is True:
                self._metadata.add(sid)
            answer = {"type": "feature_flags", "data": FEATURES}
            await self._send(socket, json.dumps(answer))
