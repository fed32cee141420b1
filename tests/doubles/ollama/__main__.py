"""The double as a program: `python -m tests.doubles.ollama --models llama3:8b=6700 --card PATH`."""

import argparse
import asyncio
import contextlib
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from tests.doubles.card import SharedCard
from tests.doubles.ollama.server import OllamaDouble
from tests.doubles.ollama.settings import Settings, parse_models
from tests.doubles.ollama.traps import TRAPS


def parser() -> argparse.ArgumentParser:
    """Return the command line, with every trap in its help."""
    traps = "\n".join(f"  {name:<14} {text} {values}" for name, (text, values) in TRAPS.items())
    parsed = argparse.ArgumentParser(
        prog="python -m tests.doubles.ollama",
        description="A double of Ollama 0.33: real HTTP; models that hold memory and know nothing.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=f"""traps (NAME or NAME:key=value,key=value; in `POST /double/trap` a JSON object
with "name" and the values, or "off": true; `GET /double/log` tells what happened):
{traps}
""",
    )
    models = ",".join(f"{name}={mib}" for name, mib in Settings().models.items())
    add = parsed.add_argument
    add("--host", default="127.0.0.1")
    add("--port", type=int, default=11434, help="0: a free one, printed")
    add("--card", type=Path, help="the file of a simulated card; made if it is not there")
    add("--models", type=parse_models, default=models, help="name=MiB,... (%(default)s)")
    add("--load", default="", metavar="NAME,...", help="models that are loaded at the start")
    times = (("keep-alive", 300), ("load", 3), ("unload", 0.3), ("free", 0.1), ("token", 0.02))
    for name, default in times:
        add(f"--{name}-s", type=float, default=default, help="(%(default)s)")
    add("--num-ctx", type=int, default=Settings.num_ctx, help="(%(default)s)")
    add("--ollama-version", default=Settings.version, help="(%(default)s)")
    add("--trap", action="append", default=[], metavar="NAME[:k=v,...]", help="see below; repeat")
    return parsed


def trap(text: str) -> tuple[str, dict[str, Any]]:
    """Read NAME:key=value,...; values as JSON, else as text."""
    name, _, rest = text.partition(":")
    values: dict[str, Any] = {}
    for pair in filter(None, rest.split(",")):
        key, _, value = pair.partition("=")
        values[key] = value
        with contextlib.suppress(ValueError):
            values[key] = json.loads(value)
    return name, values


def _kill_myself() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _card(path: Path | None) -> SharedCard | None:
    if path is None:
        return None
    return SharedCard(path) if path.exists() else SharedCard.create(path)


async def serve(options: argparse.Namespace) -> None:
    """Serve until Ctrl-C or SIGTERM."""
    double = OllamaDouble(
        card=_card(options.card),
        host=options.host,
        port=options.port,
        traps=dict(trap(text) for text in options.trap),
        on_death=_kill_myself,
        models=options.models,
        keep_alive_s=options.keep_alive_s,
        unload_s=options.unload_s,
        free_s=options.free_s,
        token_s=options.token_s,
        num_ctx=options.num_ctx,
        version=options.ollama_version,
    )
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    async with double:
        for name in filter(None, options.load.split(",")):
            await double.warm(name)
        double.settings.load_s = options.load_s
        sys.stdout.write(f"Ollama double: {double.url}\n")
        sys.stdout.flush()
        await stop.wait()


if __name__ == "__main__":
    asyncio.run(serve(parser().parse_args()))
