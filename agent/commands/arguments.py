"""The arguments of every command: one parser tree, the source of help and completion.

It describes and checks; it must not import what runs the commands.
"""

import argparse
from collections.abc import Callable
from functools import partial
from typing import Final

from agent import __version__
from agent.commands import (
    card_arguments,
    exits,
    keeping_arguments,
    key_arguments,
    operating,
    options,
)
from contracts.requests import Priority

DESCRIPTION: Final = """\
Turns requests on a NATS JetStream bus into pictures, and never loses one.

  mmg demo                          from nothing to a picture
  mmg up                            bus, worker and gateway in one process
  mmg generate "a lighthouse"       ask for a picture and wait for it
"""
SETTINGS_TEXT: Final = """\
settings: mmg.toml < .env < environment; `mmg config` shows them all. Often needed:
  MMG_NATS_URL     the nats-server (unset: `mmg up` starts its own on this machine)
  MMG_DATA_DIR     where the embedded server keeps requests (./data)
  MMG_ASSETS_DIR   where pictures are kept
"""
RETRIES_TEXT: Final = """\
The id names the request for ever: sending the same --id and prompt again joins the request that is
known; another prompt under that id is refused (id_reused).
"""

Adder = Callable[..., argparse.ArgumentParser]

_formatter: Final = partial(argparse.RawDescriptionHelpFormatter, max_help_position=28, width=96)


def build() -> argparse.ArgumentParser:
    """Return the parser of everything behind `mmg`."""
    parser = argparse.ArgumentParser(
        prog="mmg",
        description=DESCRIPTION,
        epilog=f"{exits.TEXT}\n{SETTINGS_TEXT}\nmmg COMMAND --help says more about each.",
        formatter_class=_formatter,
    )
    parser.add_argument("--version", action="version", version=f"mmg {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True, title="commands")

    def add(name: str, module: str, summary: str, *, epilog: str = "") -> argparse.ArgumentParser:
        command: argparse.ArgumentParser = commands.add_parser(
            name,
            help=summary,
            description=f"{summary[0].upper()}{summary[1:]}.",
            epilog=epilog,
            formatter_class=_formatter,
        )
        command.set_defaults(command=name, module=module)
        return command

    _add_programs(add)
    _add_generate(add)
    _add_demo(add)
    _add_watch(add)
    _add_looks(add)
    operating.add_operating(add)
    key_arguments.add_key(add)
    card_arguments.add_card(add)
    keeping_arguments.add_keeping(add)
    _add_texts(add)
    return parser


def _add_programs(add: Adder) -> None:
    add(
        "up",
        "run",
        "run bus, worker and gateway in one process until Ctrl-C",
        epilog="""\
With MMG_NATS_URL it uses that bus; otherwise it starts its own nats-server (MMG_NATS_PORT, 4222),
with its data in MMG_DATA_DIR (./data). The gateway listens on MMG_HTTP_HOST and MMG_HTTP_PORT.

example:
  MMG_HTTP_PORT=8080 mmg up
""",
    )
    worker = add(
        "worker",
        "run",
        "take requests from the bus and make pictures until Ctrl-C",
        epilog="""\
The first Ctrl-C (or SIGTERM) finishes what runs, for at most MMG_DRAIN_S seconds, and hands the
rest back; the second one stops at once. No request is lost either way.

examples:
  MMG_NATS_URL=nats://bus.example:4222 mmg worker
  mmg worker --once                 what waits now, then stop
""",
    )
    worker.add_argument(
        "--once", action="store_true", help="work until the lanes are empty, then stop"
    )
    add(
        "gateway",
        "run",
        "serve REST, WebSocket and pictures over HTTP until Ctrl-C",
        epilog="""\
Listens on MMG_HTTP_HOST and MMG_HTTP_PORT; MMG_PUBLIC_URL is how others reach it.

example:
  MMG_HTTP_PORT=54113 mmg gateway
""",
    )
    provision = add(
        "provision",
        "provision",
        "make streams and consumers on the bus as mmg needs them",
        epilog="""\
Creates what is missing, changes what may be changed, deletes nothing, and prints the steps that
are left to do by hand (exit code 1). Run again, it changes nothing. `mmg up` does this by itself.
MMG_REPLICAS (1, 3, 5) and MMG_ACK_WAIT_S are used here.
""",
    )
    options.add_json(provision, "one JSON object: done, by_hand")


def _add_generate(add: Adder) -> None:
    command = add(
        "generate",
        "generate",
        "ask for a picture, follow the request, print where the picture is",
        epilog=f"""\
Shows a progress bar on a terminal and plain lines elsewhere, both on stderr. The last lines on
stdout are the paths of the pictures. A picture that another machine made is fetched from its
address and saved in the current directory. Ctrl-C leaves: the request goes on.
{RETRIES_TEXT}
{exits.TEXT}
examples:
  mmg generate "a lighthouse at dusk" --style report-cover --aspect 16:9
  mmg generate "quarterly numbers" --style infographic --json | jq -r .kind
  echo "a long prompt" | mmg generate - --priority HIGH --timeout 120
""",
    )
    command.add_argument(
        "prompt", metavar="PROMPT", help="what to show, 1 to 4000 characters; - reads stdin"
    )
    options.add_look(command)
    command.add_argument("--count", type=int, metavar="N", help="pictures, 1 to 10 (default: 1)")
    command.add_argument(
        "--negative", metavar="TEXT", help="what not to show (default: the style's)"
    )
    command.add_argument(
        "--size",
        type=options.size,
        metavar="WxH",
        help="pixels, 256 to 2048, multiples of 64; instead of --aspect",
    )
    command.add_argument("--model", metavar="NAME", help="a model by name (default: chosen)")
    command.add_argument(
        "--priority",
        type=str.upper,
        choices=[priority.value for priority in Priority],
        help="CRITICAL is served first (default: MEDIUM)",
    )
    command.add_argument(
        "--deadline",
        type=int,
        metavar="SECONDS",
        help="give up if it has not started by then, 1 to 86400",
    )
    command.add_argument("--id", metavar="ID", help="the request's id (default: made, and shown)")
    options.add_requester(command, "who asks")
    waiting = command.add_mutually_exclusive_group()
    waiting.add_argument(
        "--timeout",
        type=options.seconds,
        metavar="SECONDS",
        help="stop waiting after this time (default: never)",
    )
    waiting.add_argument(
        "--no-wait", action="store_true", help="print the id once the request is stored, and leave"
    )
    options.add_json(command, "one JSON object per event on stdout, the terminal one last")


def _add_demo(add: Adder) -> None:
    command = add(
        "demo",
        "demo",
        "from nothing to a picture: one request through the bus",
        epilog=f"""\
Uses the bus in MMG_NATS_URL, or an `mmg up` that runs in this directory; where there is neither it
starts bus, worker and gateway for as long as the picture takes (data in MMG_DATA_DIR, ./data).
The last line on stdout is the path of the picture.

{exits.TEXT}
examples:
  mmg demo
  mmg demo --prompt "Annual report 2026" --style infographic --aspect 9:16
""",
    )
    command.add_argument("--prompt", metavar="TEXT", help="what to show (default: a friendly one)")
    options.add_look(command, style="report-cover", aspect="1:1")
    command.set_defaults(requester="user")


def _add_watch(add: Adder) -> None:
    command = add(
        "watch",
        "watch",
        "follow a request from its beginning to its end",
        epilog=f"""\
Shows what has happened so far and then what comes. Also works for a request that has ended, for
as long as its events are kept (30 days).

{exits.TEXT}
examples:
  mmg watch mmg-20260314-092653-5f1c2ab9
  mmg watch ID --requester L2.05.03 --after 2 --json
""",
    )
    command.add_argument("id", metavar="ID", help="the request's id")
    options.add_requester(command, "who asked for it")
    command.add_argument(
        "--after",
        type=options.place,
        default=0,
        metavar="N",
        help="begin behind place N of the events (default: 0)",
    )
    command.add_argument(
        "--timeout",
        type=options.seconds,
        metavar="SECONDS",
        help="stop watching after this time (default: never)",
    )
    options.add_json(command, "one JSON object per event on stdout")


def _add_looks(add: Adder) -> None:
    queue = add(
        "queue",
        "queue",
        "show what waits in each lane, in which order, and what holds it up",
        epilog="""\
Lines with ! come first: paused lanes and workers, a closed intake, each with the command that ends
it. Reads only; at most 50 requests are listed, the numbers count all.
""",
    )
    options.add_json(queue, "one JSON object: lanes, requests, pause, intake, workers")
    doctor = add(
        "doctor",
        "doctor",
        "examine the installation and the bus; each fault comes with a way out",
        epilog="""\
Exit code 0: healthy, perhaps with warnings. 1: something fails. Changes nothing; the bus is the
one in MMG_NATS_URL, else the one of `mmg up` on this machine.
""",
    )
    doctor.add_argument(
        "--generate",
        action="store_true",
        help="also draw one small picture with each engine that costs nothing, and say where it is",
    )
    doctor.add_argument(
        "--paid", action="store_true", help="with --generate: with clouds too, within the budgets"
    )
    options.add_json(doctor, "one JSON object: healthy, findings")
    config = add(
        "config",
        "settings",
        "show the settings in effect and where each comes from, secrets hidden",
        epilog="""\
examples:
  mmg config --example > mmg.toml   a file to begin with: every setting with its default
  mmg config --json | jq .
""",
    )
    form = config.add_mutually_exclusive_group()
    options.add_json(form, "one JSON array: name, value, source, help")
    form.add_argument(
        "--example", action="store_true", help="print an mmg.toml that changes nothing"
    )


def _add_texts(add: Adder) -> None:
    schema = add(
        "schema",
        "contract",
        "print, write or check the schemas of all messages",
        epilog="""\
Without arguments it lists the schemas.

examples:
  mmg schema request                print one
  mmg schema --check                exit code 1 if the files are not those of the code
""",
    )
    what = schema.add_mutually_exclusive_group()
    what.add_argument("name", metavar="NAME", nargs="?", help="the schema to print")
    what.add_argument("--write", action="store_true", help="write the files in contracts/schemas")
    what.add_argument("--check", action="store_true", help="compare the files with the code")
    completion = add(
        "completion",
        "completion",
        "print the completion of a shell, or how to install it",
        epilog="""\
examples:
  eval "$(mmg completion bash)"     this shell only; without a shell it says how to install
  mmg completion fish > ~/.config/fish/completions/mmg.fish
""",
    )
    completion.add_argument(
        "shell",
        nargs="?",
        choices=["bash", "zsh", "fish"],
        help="the shell (default: say how to install)",
    )
