"""The arguments of the commands about cards, models and decisions.

It describes and checks; it must not import what runs the commands.
"""

import argparse
from collections.abc import Callable
from typing import Final

from agent.commands import options

Adder = Callable[..., argparse.ArgumentParser]

WORKER: Final = "this worker (default: the only one that answers); `mmg workers` shows the names"


def add_card(add: Adder) -> None:
    """Add the commands that show and use the card."""
    _add_gpu(add)
    _add_models(add)
    _add_load(add)
    _add_unload(add)
    _add_replay(add)


def _add_gpu(add: Adder) -> None:
    gpu = add(
        "gpu",
        "gpu",
        "show each card: who holds it, what is owed, who waits and why",
        epilog="""\
The strip is the card's memory: C ComfyUI, o tenants such as Ollama, x other programs, . free,
| where the reserve begins. Each request that waits has one sentence: what it waits for, which
rule gave it its place, what would change it, and when it is expected to start.

examples:
  mmg gpu --watch
  mmg gpu --json | jq '.[].cards[].lease'
""",
    )
    _add_worker(gpu, "only this worker (default: all)")
    gpu.add_argument("--watch", action="store_true", help="again every second, until Ctrl-C")
    options.add_json(gpu, "one JSON array of WorkerReport; with --watch one a line")


def _add_models(add: Adder) -> None:
    models = add(
        "models",
        "models",
        "show which models each worker can draw with, and why the rest cannot run",
        epilog="""\
A * stands before a model that is on the card now.
""",
    )
    _add_worker(models, "only this worker (default: all)")
    options.add_json(models, "one JSON array of WorkerModels")


def _add_load(add: Adder) -> None:
    load = add(
        "load",
        "models",
        "load a model, so that the next request does not wait for it",
        epilog="""\
A model that ComfyUI draws with is loaded by drawing one small picture, which is thrown away: it has
no other way. The load waits up to 30 s for whoever draws, takes the card as a MEDIUM request would,
and gives way to a CRITICAL. Nothing is unloaded for it without --unload-others.

examples:
  mmg load sdxl-1.0
  mmg load llama3:8b --keep-alive 2h --unload-others
""",
    )
    load.add_argument("model", metavar="MODEL", help="a name that `mmg models` shows")
    _add_engine(load, "where to (default: whoever has the model)")
    load.add_argument(
        "--unload-others",
        action="store_true",
        help="first unload the models of Ollama that are in the way, for good",
    )
    load.add_argument(
        "--keep-alive",
        type=options.duration,
        metavar="TIME",
        help="Ollama unloads it after this time without use (default: never)",
    )
    _add_who(load)


def _add_unload(add: Adder) -> None:
    unload = add(
        "unload",
        "models",
        "unload a model or all, and wait until the card shows it",
        epilog="""\
No request is interrupted: ComfyUI frees when nobody draws. A model that was to come back after a
request is not reloaded. A model of Ollama that a chat uses goes when the chat ends.

examples:
  mmg unload llama3:8b
  mmg unload --engine comfyui
  mmg unload                        all of both
""",
    )
    unload.add_argument("model", metavar="MODEL", nargs="?", help="only this one (default: all)")
    _add_engine(unload, "only what it holds (default: all)")
    _add_who(unload)


def _add_replay(add: Adder) -> None:
    replay = add(
        "replay",
        "replay",
        "play recorded decisions again and compare what this build decides",
        epilog="""\
Each worker records its decisions in MMG_DATA_DIR/decisions with all they rested on; `mmg gpu` shows
the numbers of the last ones. Reads files only, no bus. Exit code 0: each is the same, byte by byte.
1: one is different, and both are printed; or it is not recorded any more.

examples:
  mmg replay 812
  mmg replay 812 813 --worker gpu-1 --json
""",
    )
    replay.add_argument(
        "seq", metavar="SEQ", nargs="+", type=options.place, help="numbers of decisions"
    )
    _add_worker(replay, "recorded by this worker (default: whichever has the number)")
    options.add_json(replay, "one JSON object a line: seq, worker, same, then, now")


def _add_worker(command: argparse.ArgumentParser, text: str) -> None:
    command.add_argument("--worker", type=options.token, metavar="NAME", help=text)


def _add_engine(command: argparse.ArgumentParser, text: str) -> None:
    command.add_argument("--engine", type=options.token, metavar="NAME", help=f"{text}")


def _add_who(command: argparse.ArgumentParser) -> None:
    _add_worker(command, WORKER)
    command.add_argument("--reason", metavar="TEXT", help="shown in the worker's log")
    options.add_json(command, "one JSON object: Loaded")
