"""The double as a program: `python -m tests.doubles.comfyui --port 8188 --gpu "RTX 3090"`."""

import argparse
import asyncio
import contextlib
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from tests.doubles.comfyui.server import ComfyDouble
from tests.doubles.comfyui.settings import Settings
from tests.doubles.comfyui.traps import TRAPS


def parser() -> argparse.ArgumentParser:
    """Return the command line, with every trap in its help."""
    traps = "\n".join(f"  {name:<28} {text} {values}" for name, (text, values) in TRAPS.items())
    parsed = argparse.ArgumentParser(
        prog="python -m tests.doubles.comfyui",
        description="A double of ComfyUI 0.3.64: real HTTP and WebSocket, real PNGs, no models.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=f"""traps (NAME or NAME:key=value,key=value; in `POST /double/trap` a JSON object
with "name" and the values, or "off": true; `GET /double/log` tells what happened):
{traps}
""",
    )
    add = parsed.add_argument
    add("--host", default="127.0.0.1")
    add("--port", type=int, default=8188, help="0: a free one, printed")
    add("--output-dir", type=Path, help="keeps output/, input/ and temp/; else a temporary folder")
    add("--card", type=Path, metavar="PATH", help="a card of tests.doubles.card, shared by doubles")
    add("--gpu", metavar="NAME", help="a card of its own; without --card and --gpu it has a CPU")
    add("--vram-mib", type=int, default=Settings.vram_mib, help="of its own card (%(default)s)")
    add("--cpu", action="store_true", help="no card, whatever else is said")
    add("--checkpoints", default=",".join(Settings.checkpoints), help="(%(default)s)")
    add("--loras", default=",".join(Settings.loras), help="(%(default)s)")
    add("--upscale-models", default=",".join(Settings.upscale_models), help="(%(default)s)")
    for name, default in (("steps", 50), ("load", 300), ("encode", 5), ("decode", 100)):
        add(f"--{name}-ms", type=float, default=default, help="(%(default)s)")
    add("--preview-method", choices=("none", "auto"), default="none", help="(%(default)s)")
    add("--preview-size", type=int, default=Settings.preview_size, help="(%(default)s)")
    add("--cache", choices=("classic", "lru", "none"), default="classic", help="(%(default)s)")
    add("--comfyui-version", default=Settings.version, help="(%(default)s)")
    add("--disable-metadata", action="store_true", help="no text in the PNGs")
    add("--trap", action="append", default=[], metavar="NAME[:k=v,...]", help="see below; repeat")
    return parsed


def names(text: str) -> tuple[str, ...]:
    """Split a comma list."""
    return tuple(name for name in text.split(",") if name)


def trap(text: str) -> tuple[str, dict[str, Any]]:
    """Read NAME:key=value,...; values as JSON, else as text."""
    name, _, rest = text.partition(":")
    values: dict[str, Any] = {}
    for pair in names(rest):
        key, _, value = pair.partition("=")
        values[key] = value
        with contextlib.suppress(ValueError):
            values[key] = json.loads(value)
    return name, values


def _kill_myself() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


async def serve(options: argparse.Namespace) -> None:
    """Serve until Ctrl-C or SIGTERM."""
    double = ComfyDouble(
        host=options.host,
        port=options.port,
        output_dir=options.output_dir,
        traps=dict(trap(text) for text in options.trap),
        on_death=_kill_myself,
        gpu=None if options.cpu else options.gpu,
        card=None if options.cpu else options.card,
        vram_mib=options.vram_mib,
        checkpoints=names(options.checkpoints),
        loras=names(options.loras),
        upscale_models=names(options.upscale_models),
        step_ms=options.steps_ms,
        load_ms=options.load_ms,
        encode_ms=options.encode_ms,
        decode_ms=options.decode_ms,
        preview_method=options.preview_method,
        preview_size=options.preview_size,
        cache=options.cache,
        version=options.comfyui_version,
        metadata=not options.disable_metadata,
    )
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    async with double:
        sys.stdout.write(f"ComfyUI double: {double.url} files in {double.folders.root}\n")
        sys.stdout.flush()
        await stop.wait()


if __name__ == "__main__":
    asyncio.run(serve(parser().parse_args()))
