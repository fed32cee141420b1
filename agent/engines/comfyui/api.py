"""One ComfyUI server over HTTP: every call, its time limit, and what its answer means.

It follows nothing and decides nothing. Source: ComfyUI 0.3.64, observed; numbers in brackets are
those of the observed facts, see docs/comfyui.md.
"""

import re
from collections.abc import Mapping
from typing import Any, Final, TypeVar
from urllib.parse import quote

import aiohttp
import msgspec

from agent.core.card import Card

MIB: Final = 1024 * 1024
CALL_TIMEOUT_S: Final = 5.0
"""Long enough for a frozen second: ComfyUI collects garbage for up to 1.2 s at a time."""
VIEW_TIMEOUT_S: Final = 60.0
PICTURE_BYTES_MAX: Final = 256 * 1024 * 1024
VERSION_MIN: Final = (0, 3, 57)
"""The first version whose /interrupt takes a prompt_id; an older one kills anybody's prompt [9]."""

Graph = dict[str, dict[str, Any]]
_T = TypeVar("_T")


class ServerAwayError(Exception):
    """The server did not answer in time, or not at all; the text says how.

    `reached` is False where nobody listens: then nothing of ours can be there either.
    """

    def __init__(self, how: str, *, reached: bool = True) -> None:
        """Keep whether anything was there to take the call."""
        super().__init__(how)
        self.reached = reached


class AnswerError(Exception):
    """The server answered with an error; `status` and the first words of the body."""

    def __init__(self, status: int, body: str) -> None:
        """Keep the status apart from the words."""
        super().__init__(f"HTTP {status}: {body[:200]}")
        self.status = status
        self.body = body


class Device(msgspec.Struct, frozen=True):
    """A device as ComfyUI sees it. Units: bytes."""

    name: str
    type: str
    vram_total: int = 0
    vram_free: int = 0
    torch_vram_total: int = 0


class _System(msgspec.Struct, frozen=True):
    comfyui_version: str = "0"
    argv: tuple[str, ...] = ()


class Stats(msgspec.Struct, frozen=True):
    """What a server says of itself."""

    system: _System
    devices: tuple[Device, ...] = ()

    @property
    def version(self) -> tuple[int, ...]:
        """The version as numbers."""
        return tuple(int(part) for part in re.findall(r"\d+", self.system.comfyui_version)[:3])

    @property
    def vram_free(self) -> int:
        """Free memory of the first device, in bytes."""
        return self.devices[0].vram_free if self.devices else 0

    @property
    def held_mib(self) -> int:
        """What its models and its working memory take, and /free gives back. Units: MiB."""
        return self.devices[0].torch_vram_total // MIB if self.devices else 0

    @property
    def card(self) -> Card | None:
        """The memory of the first device as it shows it, everybody's programs included."""
        if not self.devices:
            return None
        device = self.devices[0]
        return Card(total_mib=device.vram_total // MIB, free_mib=device.vram_free // MIB)

    @property
    def listens_beyond_loopback(self) -> bool:
        """Whether it was started to be reached from other hosts: it has no login at all [21]."""
        argv = self.system.argv
        for flag, value in zip(argv, (*argv[1:], ""), strict=False):
            if flag == "--listen":
                return not value.startswith(("127.", "::1", "localhost"))
        return False

    @property
    def on_cpu(self) -> bool:
        """Whether it computes on the CPU."""
        return bool(self.devices) and all(device.type == "cpu" for device in self.devices)


class FileRef(msgspec.Struct, frozen=True):
    """A file in one of the server's folders."""

    filename: str
    subfolder: str = ""
    type: str = "output"


class _Output(msgspec.Struct, frozen=True):
    images: tuple[FileRef, ...] = ()


class _Status(msgspec.Struct, frozen=True):
    status_str: str
    completed: bool
    messages: tuple[tuple[str, dict[str, Any]], ...] = ()


class Record(msgspec.Struct, frozen=True):
    """A prompt that has ended, as /history keeps it."""

    status: _Status
    outputs: dict[str, _Output] = {}

    @property
    def succeeded(self) -> bool:
        """Whether it ended well: only `completed` tells, outputs may be there on an error [3]."""
        return self.status.completed and self.status.status_str == "success"

    @property
    def last(self) -> tuple[str, dict[str, Any]]:
        """The last message: `execution_error` and `execution_interrupted` differ only here [3]."""
        return self.status.messages[-1] if self.status.messages else ("", {})

    def files(self, node: str) -> tuple[FileRef, ...]:
        """Return the pictures of one output node."""
        output = self.outputs.get(node)
        return output.images if output is not None else ()


class Queued(msgspec.Struct, frozen=True):
    """One prompt in the queue; `extra` is what its sender attached."""

    prompt_id: str
    running: bool
    extra: dict[str, Any]


class Posted(msgspec.Struct, frozen=True):
    """The queue has the prompt; with several outputs some may still be invalid [11]."""

    node_errors: dict[str, Any]


class Refused(msgspec.Struct, frozen=True):
    """The graph is invalid: this will never run here."""

    error: dict[str, Any]
    node_errors: dict[str, Any]


class Api:
    """The routes of one server. Order: `open` first, `close` last."""

    def __init__(self, url: str) -> None:
        """Nothing is opened before `open`."""
        self.url = url.rstrip("/")
        self._session: aiohttp.ClientSession | None = None

    async def open(self) -> None:
        """Make the session; no connection yet. A client must not send an Origin [21]."""
        connector = aiohttp.TCPConnector(limit=16)
        self._session = aiohttp.ClientSession(connector=connector, trust_env=False)

    async def close(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    @property
    def session(self) -> aiohttp.ClientSession:
        """The open session."""
        assert self._session is not None, "the server was opened"
        return self._session

    async def stats(self) -> Stats:
        """Ask what the server is. Raises: ServerAwayError, AnswerError."""
        return _shaped(await self._json("GET", "/system_stats"), Stats)

    async def post(self, body: dict[str, Any]) -> Posted | Refused:
        """Queue a prompt.

        Raises: ServerAwayError or AnswerError when it may be queued all the same [12]: look for
        the prompt's own id before posting again.
        """
        try:
            answer = await self._json("POST", "/prompt", body)
        except AnswerError as error:
            if error.status != 400:  # noqa: PLR2004 - the one status that says: invalid [11]
                raise
            refusal = _object(error.body)
            return Refused(_as_object(refusal.get("error")), _as_object(refusal.get("node_errors")))
        return Posted(_as_object(_as_object(answer).get("node_errors")))

    async def record(self, prompt_id: str) -> Record | None:
        """Read the history of one prompt; None is `{}`: pending, running, lost, unknown [2]."""
        answer = _as_object(await self._json("GET", f"/history/{quote(prompt_id)}"))
        entry = answer.get(prompt_id)
        if entry is None:
            return None
        return _shaped(entry, Record)

    async def queue(self) -> tuple[Queued, ...]:
        """Read what runs and what waits: of everybody, not only of ours."""
        answer = _as_object(await self._json("GET", "/queue"))
        return tuple(
            _queued(item, running=running)
            for key, running in (("queue_running", True), ("queue_pending", False))
            for item in answer.get(key, [])
        )

    async def stop(self, prompt_id: str) -> None:
        """Ask for the end of one prompt, pending or running; no proof [9]."""
        await self._send("/queue", {"delete": [prompt_id]})
        await self._send("/interrupt", {"prompt_id": prompt_id})

    async def forget(self, prompt_id: str) -> None:
        """Remove one prompt from the history."""
        await self._send("/history", {"delete": [prompt_id]})

    async def free(self) -> None:
        """Ask to unload all models; no proof: look at `stats` [15]."""
        await self._send("/free", {"unload_models": True, "free_memory": True})

    async def view(self, file: FileRef) -> bytes:
        """Download a picture as it is. Raises: ServerAwayError, AnswerError(404) if it is gone."""
        query = {"filename": file.filename, "subfolder": file.subfolder, "type": file.type}
        limit = aiohttp.ClientTimeout(total=VIEW_TIMEOUT_S, sock_read=CALL_TIMEOUT_S * 2)
        try:
            async with self.session.get(
                f"{self.url}/view", params=query, timeout=limit, allow_redirects=False
            ) as answer:
                if answer.status != 200:  # noqa: PLR2004
                    raise AnswerError(answer.status, await answer.text())
                data = await answer.content.read(PICTURE_BYTES_MAX)
                while chunk := await answer.content.read(PICTURE_BYTES_MAX):
                    data += chunk
                return data
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise _away(error) from error

    async def upload(self, name: str, data: bytes, subfolder: str) -> str:
        """Upload an input picture; returns the name to use, which the server chooses [20]."""
        form = aiohttp.FormData(default_to_multipart=True)
        form.add_field("image", data, filename=name, content_type="image/png")
        form.add_field("subfolder", subfolder)
        form.add_field("type", "input")
        answer = _as_object(await self._json("POST", "/upload/image", form=form))
        folder = str(answer.get("subfolder", ""))
        return f"{folder}/{answer['name']}" if folder else str(answer["name"])

    async def object_info(self) -> dict[str, Any]:
        """Read what every node class accepts (about 300 kB)."""
        return _as_object(await self._json("GET", "/object_info"))

    async def models(self, folder: str) -> tuple[str, ...]:
        """List the files of one model folder, live."""
        answer = await self._json("GET", f"/models/{quote(folder)}")
        return tuple(str(name) for name in answer) if isinstance(answer, list) else ()

    async def _send(self, path: str, body: dict[str, Any]) -> None:
        await self._call("POST", path, body)

    async def _json(
        self,
        method: str,
        path: str,
        body: dict[str, Any] | None = None,
        form: aiohttp.FormData | None = None,
    ) -> Any:
        text = await self._call(method, path, body, form)
        try:
            return msgspec.json.decode(text)
        except msgspec.DecodeError as error:
            raise AnswerError(200, "the answer is no JSON") from error

    async def _call(
        self,
        method: str,
        path: str,
        body: dict[str, Any] | None = None,
        form: aiohttp.FormData | None = None,
    ) -> bytes:
        headers: Mapping[str, str] = {"Content-Type": "application/json"} if body else {}
        payload = msgspec.json.encode(body) if body is not None else form
        limit = aiohttp.ClientTimeout(total=CALL_TIMEOUT_S)
        try:
            async with self.session.request(
                method,
                f"{self.url}{path}",
                data=payload,
                headers=headers,
                timeout=limit,
                allow_redirects=False,
            ) as answer:
                text = await answer.read()
                if answer.status != 200:  # noqa: PLR2004
                    raise AnswerError(answer.status, text.decode(errors="replace"))
                return text
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise _away(error) from error


def _queued(item: Any, *, running: bool) -> Queued:
    """Read one entry of the queue: [number, id, graph, extra, outputs]. Raises: AnswerError."""
    match item:
        case [_, str() as prompt_id, _, extra, *_]:
            return Queued(prompt_id, running, _as_object(extra))
    raise AnswerError(200, "the queue has another form than ComfyUI's")


def _shaped(value: Any, kind: type[_T]) -> _T:
    """Read an answer as what it should be. Raises: AnswerError where it is something else."""
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise AnswerError(200, f"not what ComfyUI answers: {error}") from error


def _object(text: str) -> dict[str, Any]:
    try:
        return _as_object(msgspec.json.decode(text))
    except msgspec.DecodeError:
        return {}


def _as_object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _away(error: Exception) -> ServerAwayError:
    refused = isinstance(error, aiohttp.ClientConnectorError)
    return ServerAwayError(_how(error), reached=not refused)


def _how(error: Exception) -> str:
    """Say in a few words how a server was away."""
    if isinstance(error, TimeoutError):
        return f"no answer within {CALL_TIMEOUT_S:.0f} s"
    if isinstance(error, aiohttp.ClientConnectorError):
        return f"connection refused ({error.os_error.strerror or error.os_error})"
    return f"connection broken ({type(error).__name__})"
