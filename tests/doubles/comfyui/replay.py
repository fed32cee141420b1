"""Plays a recording against a double: the same requests in the same order, at the same points.

A request is sent once the double has said what ComfyUI had said before it. Nothing sleeps.
"""

import asyncio
import json
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

from aiohttp import ClientOSError, ClientResponse, ClientSession, ClientTimeout

from tests.doubles.comfyui.likeness import Likeness, sampling, step_free
from tests.doubles.comfyui.prelude import Prelude
from tests.doubles.comfyui.recordings import (
    Ear,
    Event,
    body_of,
    form,
    key_of,
    prompt_of,
    recording,
)
from tests.doubles.comfyui.server import ComfyDouble

DEADLINE_S = 5.0
HANG_S = 0.1
"""How long a frozen double is waited for."""
NOT_PLAYED = ("/view_metadata", "/users", "/settings", "/v2/", "/api/userdata", "/internal/")
HEADERS = ("content-type", "content-disposition", "cache-control", "transfer-encoding")
PRESENT = ("etag", "last-modified", "content-length")
HEAD_BYTES = 64

Act = Callable[[ComfyDouble], Awaitable[None] | None]


class Replay:
    """One recording played against one double."""

    def __init__(self, name: str, double: ComfyDouble, acts: dict[str, Act]) -> None:
        self.differences: list[str] = []
        self.compared = Counter[str]()
        self._lines = recording(name)
        self._double = double
        self._acts = acts
        self._likeness = Likeness()
        self._ears: dict[str, Ear] = {}
        self._answers = {
            line["id"]: line for line in self._lines if line.get("dir") in ("resp", "error")
        }
        self._posted = {
            answer["body"]["prompt_id"]
            for answer in self._answers.values()
            if "prompt_id" in (answer.get("body") or ())
        }
        """Prompts of this recording; one begun before it is not compared."""
        events = [body_of(line) for line in self._lines if line.get("dir") == "recv"]
        self._strangers = {prompt_of(event) for event in events} - {None} - self._posted
        self._http: ClientSession
        self._group: asyncio.TaskGroup

    async def play(self, until: str | None = None) -> None:
        """Play it all, or until a note of this text; then compare what the sockets heard."""
        async with AsyncExitStack() as stack:
            self._group = await stack.enter_async_context(asyncio.TaskGroup())
            self._http = await stack.enter_async_context(
                ClientSession(self._double.url, timeout=ClientTimeout(total=DEADLINE_S))
            )
            for at, line in enumerate(self._lines):
                if line["ch"] == "note" and line["text"] == until:
                    del self._lines[at:]
                    break
            async with asyncio.timeout(4 * DEADLINE_S):
                await Prelude(self._lines, self._answers, self._double).play(self._http)
                for at, line in enumerate(self._lines):
                    await self._step(at, line)
                for name, ear in self._ears.items():
                    await self._caught_up(len(self._lines), name)
                    await ear.socket.close()
        for name in self._ears:
            self._compare_socket(name)

    async def _step(self, at: int, line: Event) -> None:
        match line:
            case {"ch": "note", "text": text}:
                await self._act(text)
            case {"ch": "ws", "dir": "closed", "ws": name, "code": 1006}:
                await self._cut(name)
            case {"ch": "ws", "dir": "open", "ws": name} if self._was_opened(name):
                await self._all_caught_up(at)
                await self._open(name, line)
            case {"ch": "ws", "dir": "send", "ws": name, "body": body}:
                await self._ears[name].socket.send_json(body)
            case {"ch": "ws", "dir": "close_by_client", "ws": name}:
                await self._all_caught_up(at)
                await self._ears[name].socket.close()
            case {"ch": "http", "dir": "req", "path": path} if not path.startswith(NOT_PLAYED):
                await self._all_caught_up(at)
                await self._ask(line)

    async def _act(self, text: str) -> None:
        for start, act in self._acts.items():
            if text.startswith(start):
                done = act(self._double)
                if done is not None:
                    await done

    def _running(self, line: Event, late: Event) -> tuple[str, str] | None:
        if late.get("type") != "executing":
            return self._double.life.sockets.running
        return line["query"]["clientId"], late["data"]["node"]

    def _was_opened(self, name: str) -> bool:
        return any(line.get("dir") == "opened" and line["ws"] == name for line in self._lines)

    async def _cut(self, name: str) -> None:
        """End the double as a signal did, unless a note had it done before."""
        ear = self._ears[name]
        if not ear.socket.closed:
            await self._caught_up(self._received(name)[-1][0], name)
            await self._double.die()
        await ear.ended.wait()
        if ear.socket.close_code != 1006:
            self.differences.append(f"socket {name} closed with {ear.socket.close_code}")

    async def _open(self, name: str, line: Event) -> None:
        late = [body_of(line) for _, line in self._received(name)][1:2]
        if late and "prompt_id" not in late[0].get("data", {"prompt_id": None}):
            async with asyncio.timeout(DEADLINE_S):  # it opened while a prompt ran
                while True:
                    if self._double.life.sockets.running == self._running(line, late[0]):
                        break
                    await asyncio.sleep(0)
        socket = await self._http.ws_connect(line["path"], params=line["query"], max_msg_size=0)
        self._ears[name] = Ear(socket)
        self._group.create_task(self._ears[name].listen(), name=f"ear {name}")

    # --- waiting for what had been said -----------------------------------------------------

    async def _all_caught_up(self, at: int) -> None:
        for name, ear in self._ears.items():
            if not ear.socket.closed:
                await self._caught_up(at, name)

    async def _caught_up(self, at: int, name: str) -> None:
        """Wait until a socket has heard what it had heard before line `at`."""
        said = [(i, body_of(line)) for i, line in self._received(name)]
        wanted: dict[str | None, Counter[str]] = {}
        for _, event in [(i, e) for i, e in said if i < at]:
            wanted.setdefault(prompt_of(event), Counter())[key_of(event)] += 1
        for prompt in [p for p in wanted if p is not None]:
            if all(i < at for i, event in said if prompt_of(event) == prompt):
                stepless = [e for _, e in said if prompt_of(e) == prompt and not sampling(e)]
                wanted[prompt] = Counter(key_of(event) for event in stepless)
        if self._strangers and None in wanted:
            wanted[None] = Counter({"status": 1})
        ear = self._ears[name]
        while not self._has_heard(ear, wanted) and not ear.socket.closed:
            ear.news.clear()
            try:
                async with asyncio.timeout(DEADLINE_S):
                    await ear.news.wait()
            except TimeoutError:
                lacking = {self._likeness.ours(p or ""): dict(c) for p, c in wanted.items()}
                self.differences.append(f"socket {name} lacks at line {at}: {lacking}")
                return

    def _has_heard(self, ear: Ear, wanted: dict[str | None, Counter[str]]) -> bool:
        heard: dict[str | None, Counter[str]] = {}
        for event in ear.heard:
            heard.setdefault(prompt_of(event), Counter())[key_of(event)] += 1
        for prompt, counts in wanted.items():
            ours = self._likeness.ours(prompt) if prompt is not None else None
            if any(heard.get(ours, Counter())[key] < n for key, n in counts.items()):
                return False
        return True

    def _received(self, name: str) -> list[tuple[int, Event]]:
        return [
            (i, line)
            for i, line in enumerate(self._lines)
            if line.get("dir") == "recv"
            and line["ws"] == name
            and prompt_of(body_of(line)) in (None, *self._posted)
        ]

    # --- asking and comparing ---------------------------------------------------------------

    async def _ask(self, line: Event) -> None:
        recorded = self._answers[line["id"]]
        if "exception" in recorded:
            await self._fail(line, recorded["exception"].rsplit(".", 1)[-1])
            return
        async with asyncio.timeout(DEADLINE_S):
            while True:
                answer = await self._request(line)
                data = await answer.read()
                waits = recorded.get("body") and line["path"].startswith("/history/")
                if not (waits and data == b"{}"):
                    break
                await asyncio.sleep(0)
        where = f"{line['method']} {line['path']} #{line['id']}"
        self.differences += [f"{where} {d}" for d in self._of_answer(recorded, answer, data)]
        self.compared["http"] += 1

    async def _fail(self, line: Event, exception: str) -> None:
        """Ask, and fail as recorded: reset, refused, or no answer in time."""
        if exception == "TimeoutError":
            self._double.trap("freeze")
        try:
            async with asyncio.timeout(HANG_S):
                await self._request(line)
        except (TimeoutError, ClientOSError) as error:
            wanted = TimeoutError if exception == "TimeoutError" else ClientOSError
            if not isinstance(error, wanted):
                self.differences.append(f"#{line['id']}: {exception} became {error!r}")
        else:
            self.differences.append(f"#{line['id']}: {exception} became an answer")

    async def _request(self, line: Event) -> ClientResponse:
        ours = self._likeness.ours
        options: dict[str, Any] = {"params": line.get("query"), "headers": line.get("headers")}
        if options["params"]:
            options["params"] = {k: ours(v) for k, v in options["params"].items()}
        if "raw" in line:
            options["data"] = line["raw"]
        elif "form" in line:
            options["data"] = form(line["form"]["multipart"])
        elif "body" in line:
            options["json"] = json.loads(ours(json.dumps(line["body"])))
        return await self._http.request(line["method"], ours(line["path"]), **options)

    def _of_answer(self, recorded: Event, answer: ClientResponse, data: bytes) -> list[str]:
        found = []
        if answer.status != recorded["status"]:
            return [f"status {recorded['status']} became {answer.status}: {data[:300]!r}"]
        for name in HEADERS:
            said = answer.headers.get(name)
            wanted = recorded["headers"].get(name)
            wanted = self._likeness.ours(wanted) if wanted else wanted
            if said != wanted and not (wanted is None and not data and name == "content-type"):
                found.append(f"{name} {wanted!r} became {said!r}")
        found += [
            f"no {n}" for n in PRESENT if n in recorded["headers"] and n not in answer.headers
        ]
        body = recorded.get("body", recorded.get("body_text"))
        if isinstance(body, str):
            exact = not body.startswith("<")  # a page, or a body too long for the recording
            if exact and body.encode() != data:
                found.append(f"text {body!r} became {data!r}")
        elif body is not None:
            found += self._of_json(body, json.loads(data), answer.url.path)
        elif recorded["len"]:
            found += of_bytes(bytes.fromhex(recorded["head_hex"]), data[:HEAD_BYTES])
        elif data and answer.method != "HEAD":
            found.append(f"nothing became {data[:100]!r}")
        return found

    def _of_json(self, recorded: Any, said: Any, path: str) -> list[str]:
        if isinstance(recorded, dict) and "queue_running" in recorded:
            if len(recorded["queue_running"]) != len(said["queue_running"]):  # popped or not yet
                recorded = [*recorded["queue_running"], *recorded["queue_pending"]]
                said = [*said["queue_running"], *said["queue_pending"]]
        elif path.endswith("/history"):
            recorded = {key: entry for key, entry in recorded.items() if key in self._posted}
        return self._likeness.differences(recorded, said)

    def _compare_socket(self, name: str) -> None:
        theirs = [body_of(line) for _, line in self._received(name)]
        ours = self._ears[name].heard
        left, right = step_free(without_status(theirs)), step_free(without_status(ours))
        found = self._likeness.differences(left, right)
        self.differences += [f"socket {name} {d}" for d in found]
        self.compared["events"] += len(left)
        counted = not self._strangers
        self.differences += [f"socket {name} {d}" for d in of_statuses(theirs, ours, counted)]


def without_status(events: list[Event]) -> list[Event]:
    """Leave out what tells of the queue, whose place between other events is chance."""
    return [event for event in events if event.get("type") != "status"]


def of_statuses(theirs: list[Event], ours: list[Event], counted: bool) -> list[str]:
    """Compare how often the queue was told of, the first time and the last."""
    both = [[e["data"] for e in events if e.get("type") == "status"] for events in (theirs, ours)]
    if counted and len(both[0]) != len(both[1]):
        return [f"statuses {len(both[0])} became {len(both[1])}"]
    if both[0] and (both[0][0].keys() != both[1][0].keys() or both[0][-1] != both[1][-1]):
        return [f"statuses {both[0][0]} .. {both[0][-1]} became {both[1][0]} .. {both[1][-1]}"]
    return []


def of_bytes(recorded: bytes, said: bytes) -> list[str]:
    """Compare the first bytes of a picture: all of a PNG's, the kind of another."""
    length = HEAD_BYTES if recorded.startswith(b"\x89PNG") and b"tEXt" in recorded else 26
    if not recorded.startswith(b"\x89PNG"):
        length = 3
    same = recorded[:length] == said[:length]
    return [] if same else [f"bytes {recorded[:length]!r} became {said[:length]!r}"]
