"""Reads recordings, and what a client needs to say and hear the same; it compares nothing."""

import asyncio
import gzip
import io
import json
import random
import struct
from pathlib import Path
from typing import Any

from aiohttp import ClientWebSocketResponse, FormData, WSMsgType
from PIL import Image

RECORDINGS = Path(__file__).parents[1] / "recordings" / "comfyui"
WITH_METADATA = 4
"""The event of a frame that names its prompt."""

Event = dict[str, Any]


def recording(name: str) -> list[Event]:
    """Read a recording, without its first line."""
    with gzip.open(RECORDINGS / f"{name}.jsonl.gz", "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines][1:]


def body_of(line: Event) -> Event:
    """Return what a socket received: a message, or a frame's head."""
    if line["type"] == "text":
        body: Event = line["body"]
        return body
    return {key: line[key] for key in ("event", "word2", "metadata") if key in line}


def prompt_of(event: Event) -> str | None:
    """Return whose event it is."""
    about: Event = event.get("data") or event.get("metadata") or {}
    found: str | None = about.get("prompt_id")
    return found


def key_of(event: Event) -> str:
    """Return what an event is called when they are counted."""
    data = event.get("data", {})
    if "event" in event:
        return f"frame {event['event']}"
    return f"{event['type']} {data['node']}" if "node" in data else str(event["type"])


class Ear:
    """A socket of ours that keeps what it hears."""

    def __init__(self, socket: ClientWebSocketResponse) -> None:
        self.socket = socket
        self.heard: list[Event] = []
        self.news = asyncio.Event()
        self.ended = asyncio.Event()

    async def listen(self) -> None:
        """Keep everything until it closes."""
        async for message in self.socket:
            if message.type is WSMsgType.TEXT:
                self.heard.append(json.loads(message.data))
            elif message.type is WSMsgType.BINARY:
                self.heard.append(frame(message.data))
            self.news.set()
        self.ended.set()
        self.news.set()


def frame(data: bytes) -> Event:
    """Return the head of a binary frame as the recordings show it."""
    event, word2 = struct.unpack(">II", data[:8])
    found: Event = {"event": event, "word2": word2}
    if event == WITH_METADATA:
        found["metadata"] = json.loads(data[8 : 8 + word2])
    return found


def form(fields: dict[str, str]) -> FormData:
    """Return a form with pictures where the recording says how large they were."""
    data = FormData()
    for name, value in fields.items():
        if value.startswith("<"):
            size, filename = value[1:].split(" ")[0], value[:-1].split("filename=")[1]
            data.add_field(name, upload(int(size)), filename=filename, content_type="image/png")
        else:
            data.add_field(name, value)
    return data


def upload(size: int) -> bytes:
    """Return a picture of 300 x 200, a tiny one, or none, as the sizes in the recording."""
    if size < 100:
        return b"not an image"
    out = io.BytesIO()
    side = (300, 200) if size > 1000 else (8, 8)
    noise = random.Random(size).randbytes(side[0] * side[1] * 3)
    Image.frombytes("RGB", side, noise).save(out, "PNG")
    return out.getvalue()
