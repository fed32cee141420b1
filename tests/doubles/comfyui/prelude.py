"""Brings a double into the state in which a recording began: its cache, numbers and files."""

import json
from typing import Any

from aiohttp import ClientSession

from tests.doubles.comfyui.recordings import Event, body_of, upload
from tests.doubles.comfyui.server import ComfyDouble
from tests.doubles.comfyui.settings import SDXL

TINY = 152
"""Bytes of the picture that a warm-up loads."""


class Prelude:
    """What went before one recording."""

    def __init__(self, lines: list[Event], answers: dict[int, Event], double: ComfyDouble) -> None:
        self._lines = lines
        self._answers = answers
        self._double = double
        self._http: ClientSession

    async def play(self, http: ClientSession) -> None:
        """Run the first graph as far as the recording has it cached; set the numbers."""
        self._http = http
        events = [body_of(line) for line in self._lines if line.get("dir") == "recv"]
        runs = [event for event in events if event.get("type") == "execution_cached"]
        cached = runs[0]["data"]["nodes"] if runs else []
        posts = [line for line in self._lines if line.get("path") in ("/prompt", "/api/prompt")]
        good = [line for line in posts if self._was_taken(line)]
        if cached:
            await self._warm_up(good[0]["body"]["prompt"], set(cached))
        numbers = [
            self._answers[line["id"]]["body"]["number"]
            - sum("number" not in p.get("body", ()) for p in posts[: posts.index(line)])
            for line in good[:1]
        ]
        self._double.life.prompts.counter = max([0, *numbers])
        self._number_files(events)

    def _was_taken(self, line: Event) -> bool:
        answer = self._answers.get(line.get("id", -1), {})
        return line.get("method") == "POST" and answer.get("status") == 200

    async def _warm_up(self, graph: dict[str, Any], cached: set[str]) -> None:
        """Run the first graph with every node changed that is not cached in the recording."""
        changed = json.loads(json.dumps(graph))
        for node_id, node in changed.items():
            if node_id not in cached:
                node["inputs"]["rig_warm_up"] = 1
            if "image" in node["inputs"] and isinstance(node["inputs"]["image"], str):
                path = self._double.folders.input_path(node["inputs"]["image"])
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(upload(TINY))
            if "ckpt_name" in node["inputs"] and node_id not in cached:
                node["inputs"]["ckpt_name"] = SDXL
        answer = await self._http.post("/prompt", json={"prompt": changed})
        prompt_id = (await answer.json())["prompt_id"]
        while True:
            if await (await self._http.get(f"/history/{prompt_id}")).json():
                break
        await self._http.post("/history", json={"clear": True})
        for left in self._double.folders.of("input").rglob("*.png"):
            left.unlink()

    def _number_files(self, events: list[Event]) -> None:
        """Let the next file get the number that it got in the recording."""
        seen: set[str] = set()
        for event in events:
            if event.get("type") != "executed":
                continue
            for image in event["data"]["output"]["images"]:
                stem, number = image["filename"][:-11], int(image["filename"][-10:-5])
                folder = self._double.folders.of(image["type"]) / image["subfolder"]
                if stem not in seen and number > 1 and image["type"] == "output":
                    folder.mkdir(parents=True, exist_ok=True)
                    for old in folder.glob(f"{stem}_*"):
                        old.unlink()
                    (folder / f"{stem}_{number - 1:05}_.png").touch()
                seen.add(stem)
