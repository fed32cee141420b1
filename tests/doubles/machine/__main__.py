"""The machine as a program: `python -m tests.doubles.machine --llm llama3:8b --clouds openai`."""

import argparse
import asyncio
import contextlib
import shlex
import signal
import sys
from pathlib import Path
from typing import Any

from tests.doubles.comfyui.__main__ import trap
from tests.doubles.machine.settings import CLOUDS, LLMS
from tests.doubles.machine.site import Machine
from tests.doubles.ollama.settings import parse_models

PARTS = ("comfyui", "ollama", "stability", "openai")


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    models = ",".join(f"{name}={mib}" for name, mib in LLMS.items())
    parsed = argparse.ArgumentParser(
        prog="python -m tests.doubles.machine",
        description="A fake machine: one simulated card, ComfyUI and Ollama on it, and clouds.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="""It prints the settings as lines for a shell. In another one, on the same machine:
  eval "$(cat FILE)" && mmg up          with --environment FILE
Each part answers under /double/: POST /double/trap makes something go wrong, GET /double/log (at
the clouds /double/ledger) tells what happened. The traps of each part are in the help of
tests.doubles.comfyui, .ollama and .clouds; `python -m tests.doubles.card fault PATH lost` breaks
the card. Ctrl-C ends it.
""",
    )
    add = parsed.add_argument
    add("--total-mib", type=int, default=24576, help="memory of the card (%(default)s)")
    add("--desktop-mib", type=int, default=0, help="what a desktop holds of it (%(default)s)")
    add("--llm", metavar="NAME", help="the model that is loaded at the start, such as llama3:8b")
    add("--llms", type=parse_models, default=models, help="name=MiB,... (%(default)s)")
    add("--keep-alive-s", type=float, default=300, help="of the models (%(default)s)")
    add("--clouds", type=_clouds, default=(), help=f"which have a key: {','.join(CLOUDS)}")
    add("--draw-s", type=float, default=2.0, help="what a picture takes there (%(default)s)")
    add("--step-ms", type=float, default=50, help="one step of ComfyUI (%(default)s)")
    add("--load-ms", type=float, default=300, help="loading a checkpoint there (%(default)s)")
    add("--decode-ms", type=float, default=100, help="making the picture (%(default)s)")
    add("--load-s", type=float, default=3.0, help="loading an LLM (%(default)s)")
    add("--unload-s", type=float, default=0.3, help="until one is off the list (%(default)s)")
    add("--comfyui-port", type=int, default=0, help="0: a free one (%(default)s)")
    add("--ollama-port", type=int, default=0, help="0: a free one (%(default)s)")
    add("--environment", type=Path, metavar="FILE", help="write the lines there too")
    add(
        "--trap",
        action="append",
        default=[],
        metavar="PART:NAME[:k=v,...]",
        help=f"what goes wrong from the start; parts: {', '.join(PARTS)}; repeat",
    )
    return parsed


def _clouds(text: str) -> tuple[str, ...]:
    names = tuple(filter(None, text.split(",")))
    if unknown := set(names) - set(CLOUDS):
        raise argparse.ArgumentTypeError(f"no cloud {sorted(unknown)}; known: {', '.join(CLOUDS)}")
    return names


def machine(options: argparse.Namespace) -> Machine:
    """Make the machine that the options describe."""
    draws = {"draw_s": options.draw_s}
    comfyui = {
        "port": options.comfyui_port,
        "step_ms": options.step_ms,
        "load_ms": options.load_ms,
        "decode_ms": options.decode_ms,
    }
    ollama = {
        "port": options.ollama_port,
        "models": options.llms,
        "keep_alive_s": options.keep_alive_s,
        "unload_s": options.unload_s,
    }
    return Machine(
        total_mib=options.total_mib,
        desktop_mib=options.desktop_mib,
        llm=options.llm,
        clouds=options.clouds,
        comfyui=comfyui,
        ollama=ollama,
        stability=draws,
        openai=draws,
    )


def lines(environment: dict[str, str]) -> str:
    """Return the settings as a POSIX shell reads them."""
    return "".join(f"export {name}={shlex.quote(value)}\n" for name, value in environment.items())


def set_trap(running: Machine, text: str) -> None:
    """Set PART:NAME[:k=v,...]. *Raises* ValueError."""
    part, _, rest = text.partition(":")
    if part not in PARTS:
        raise ValueError(f"no part {part!r}; known: {', '.join(PARTS)}")
    name, values = trap(rest)
    double: Any = getattr(running, part)
    double.trap(name, **values)


async def serve(options: argparse.Namespace) -> None:
    """Run the machine until Ctrl-C or SIGTERM."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    async with machine(options) as running:
        running.ollama.settings.load_s = options.load_s
        for text in options.trap:
            set_trap(running, text)
        said = lines(running.environment())
        file: Path | None = options.environment
        if file is not None:
            await asyncio.to_thread(file.write_text, said, encoding="utf-8")
        sys.stdout.write(said)
        sys.stdout.flush()
        await stop.wait()
    if file is not None:
        with contextlib.suppress(FileNotFoundError):
            await asyncio.to_thread(file.unlink)


if __name__ == "__main__":
    asyncio.run(serve(parser().parse_args()))
