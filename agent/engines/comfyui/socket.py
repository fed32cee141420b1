"""The one WebSocket to a ComfyUI server: opened first, read at once, never waited for.

A reader that blocked would stall every other client of the server [6], so it only sorts frames
into inboxes. Silence proves nothing; whoever needs a verdict asks over HTTP.
"""

import asyncio
import contextlib
import struct
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final
from uuid import uuid4

import aiohttp
import msgspec
import structlog

from agent.engines.comfyui.api import Api

HEARTBEAT_S: Final = 10.0
"""The server has none; ours notices a frozen one in 1.5 times this [17]."""
CONNECT_TIMEOUT_S: Final = 10.0
REOPEN_FIRST_S: Final = 0.25
REOPEN_MAX_S: Final = 5.0
EVENTS_MAX: Final = 4096
"""Bound of an inbox: 25 steps of 10 pictures are about 1,000 events."""
PREVIEW_WITH_METADATA: Final = 4
_LEAD: Final = struct.Struct(">II")
"""Event number and length of the metadata, both big-endian."""

log = structlog.get_logger()


class Frame(msgspec.Struct, frozen=True):
    """One text frame: what happened to which prompt."""

    kind: str
    payload: dict[str, Any]


class Inbox:
    """What was heard of one prompt. `heard` is set with every frame, and when the socket `fell`."""

    def __init__(self) -> None:
        """Nothing heard yet."""
        self.frames: deque[Frame] = deque(maxlen=EVENTS_MAX)
        self.preview: bytes | None = None
        self.heard = asyncio.Event()
        self.fell = False

    def take_preview(self) -> bytes | None:
        """Return the newest picture of how far it is, once."""
        preview, self.preview = self.preview, None
        return preview

    def take(self) -> list[Frame]:
        """Return the frames since the last time."""
        self.heard.clear()
        frames = list(self.frames)
        self.frames.clear()
        return frames


class Socket:
    """One connection, made again whenever it falls. `run` is for a task of its own."""

    def __init__(self, api: Api) -> None:
        """Not connected before `run`."""
        self._api = api
        self._inboxes: dict[str, Inbox] = {}
        self._ws: aiohttp.ClientWebSocketResponse | None = None
        self._suspect = False
        self.client_id = uuid4().hex
        self.opened = asyncio.Event()
        self.proven = False
        self.remaining = 0
        """Prompts that run or wait on the server, of everybody, as it said last."""

    @property
    def foreign(self) -> bool:
        """Whether the server has more prompts than ours, by what it said last."""
        return self.opened.is_set() and self.remaining > len(self._inboxes)

    @contextmanager
    def inbox(self, prompt_id: str) -> Iterator[Inbox]:
        """Collect what is heard of a prompt. Enter before posting it, to miss nothing [8]."""
        box = self._inboxes[prompt_id] = Inbox()
        try:
            yield box
        finally:
            del self._inboxes[prompt_id]

    def doubt(self) -> None:
        """Ask for a new proof that it hears: a `status` follows every POST [7]."""
        self.proven = False

    async def distrust(self) -> None:
        """Close a socket that should have heard something and did not: it may be deaf [7]."""
        self._suspect = True
        if self._ws is not None:
            await self._ws.close()

    async def run(self) -> None:
        """Keep one socket open for ever."""
        pause_s = REOPEN_FIRST_S
        while True:
            try:
                await self._converse()
                pause_s = REOPEN_FIRST_S
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                log.debug("comfyui.socket_lost", server=self._api.url, reason=str(error))
            finally:
                self.opened.clear()
                self._ws = None
            for box in self._inboxes.values():
                box.fell = True
                box.heard.set()
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, REOPEN_MAX_S)

    async def _converse(self) -> None:
        """Open the socket, say what we can, and sort what is heard until it falls."""
        # The old socket is closed before a new one is opened under the same id; after doubt the
        # id is new, because a server that closes the old one late would deafen the new one [7].
        if self._suspect and not self._inboxes:
            self.client_id = uuid4().hex
            self._suspect = False
        limit = aiohttp.ClientWSTimeout(ws_close=1.0)
        async with asyncio.timeout(CONNECT_TIMEOUT_S):  # A frozen server accepts and says nothing.
            connection = await self._api.session.ws_connect(
                f"{self._api.url}/ws",
                params={"clientId": self.client_id},
                heartbeat=HEARTBEAT_S,
                max_msg_size=0,  # A 3072 px picture is 10 MB; 4 MB would end the socket [18].
                timeout=limit,
            )
        async with connection as ws:
            self._ws = ws
            self.proven = False
            # Feature flags count only as the very first message.
            await ws.send_json(
                {"type": "feature_flags", "data": {"supports_preview_metadata": True}}
            )
            self.opened.set()
            async for message in ws:
                self._sort(message)

    def _sort(self, message: aiohttp.WSMessage) -> None:
        if message.type == aiohttp.WSMsgType.BINARY:
            self._sort_binary(message.data)
            return
        if message.type != aiohttp.WSMsgType.TEXT:
            return
        with contextlib.suppress(msgspec.DecodeError):
            value = msgspec.json.decode(message.data)
            payload = value.get("data") if isinstance(value, dict) else None
            if not isinstance(payload, dict):
                return
            # The greeting comes on a deaf socket too; it names a client or no prompt.
            if "prompt_id" in payload or ("status" in payload and "sid" not in payload):
                self.proven = True
            if "status" in payload:
                self.remaining = _remaining(payload["status"], self.remaining)
            # Frames of other people's prompts reach us too [5]: only ours have an inbox.
            box = self._inboxes.get(str(payload.get("prompt_id")))
            if box is not None:
                box.frames.append(Frame(str(value.get("type")), payload))
                box.heard.set()

    def _sort_binary(self, data: bytes) -> None:
        """Keep the newest preview of a prompt; frames that name no prompt cannot be attributed."""
        if len(data) < _LEAD.size:
            return
        event, length = _LEAD.unpack_from(data)
        if event != PREVIEW_WITH_METADATA:
            return
        end = _LEAD.size + length
        try:
            about = msgspec.json.decode(data[_LEAD.size : end])
        except msgspec.DecodeError:
            return
        box = self._inboxes.get(str(about.get("prompt_id"))) if isinstance(about, dict) else None
        if box is not None:
            box.preview = data[end:]
            box.heard.set()


def _remaining(status: object, before: int) -> int:
    """Read the length of the queue out of a `status` frame."""
    match status:
        case {"exec_info": {"queue_remaining": int() as count}}:
            return count
    return before
