"""The arguments of the commands that people operate a running system with.

It describes and checks; it must not import what runs the commands.
"""

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from agent.commands import options
from contracts.requests import Priority

Adder = Callable[..., argparse.ArgumentParser]

OWNER: Final = "the agent that asked for it (default: found out; named where several have the id)"
REASON: Final = "shown to whoever asks why"

_formatter: Final = partial(argparse.RawDescriptionHelpFormatter, max_help_position=28, width=96)


def add_operating(add: Adder) -> None:
    """Add the commands that end, stop, resume and judge what runs."""
    _add_cancel(add)
    _add_dead(add)
    _add_pauses(add)
    _add_intake(add)
    workers = add(
        "workers",
        "workers",
        "show who works on this bus, and how each one stands",
        epilog="""\
Asks everybody and shows who answers within half a second. States: ready; paused (an operator);
closed (it cannot take work: disk, streams ...; the reason stands below); stopping.
""",
    )
    options.add_json(workers, "one JSON array of WorkerStatus")


def _add_cancel(add: Adder) -> None:
    cancel = add(
        "cancel",
        "cancel",
        "end a request, queued or running",
        epilog="""\
A running one is interrupted within seconds; nothing of it stays on the disk. It works without a
worker or gateway, too. Exit code 0: it is cancelled, also if it was before. 1: it has ended already
(already_completed) or is not known (not_found).

examples:
  mmg cancel mmg-20260314-092653-5f1c2ab9
  mmg cancel ID --requester L2.05.03 --json
""",
    )
    cancel.add_argument("id", metavar="ID", help="the request's id; `mmg queue` shows it")
    options.add_owner(cancel, OWNER)
    options.add_json(cancel, "the `cancelled` link, the last one of its chain")


def _add_dead(add: Adder) -> None:
    dead = add(
        "dead",
        "dead",
        "list, explain, send again or drop the requests that were given up",
        epilog="""\
A dead letter is a request whose tries were spent. Nothing is deleted: `replay` and `drop` take it
off the list, its chain is kept for 30 days.

examples:
  mmg dead list
  mmg dead show mmg-20260314-092653-5f1c2ab9
  mmg watch "$(mmg dead replay mmg-20260314-092653-5f1c2ab9)"
""",
    )
    verbs = dead.add_subparsers(
        metavar="VERB", required=True, dest="verb", title="verbs", help="what to do; see below"
    )

    def add_verb(name: str, summary: str) -> Any:
        return verbs.add_parser(
            name,
            help=summary,
            description=f"{summary[0].upper()}{summary[1:]}.",
            formatter_class=_formatter,
        )

    listing = add_verb("list", "show what waits for a decision, newest first")
    listing.add_argument(
        "--all", action="store_true", help="more than the newest 50, up to the newest 10,000"
    )
    options.add_owner(listing, "only those of this agent (default: all)")
    options.add_json(listing, "one JSON object: total, letters")
    for name, summary in (
        ("show", "tell what happened to one, what went wrong, and what to do about it"),
        ("replay", "send it again under a new id, which is printed, and take it off the list"),
        ("drop", "take it off the list without sending it again"),
    ):
        verb = add_verb(name, summary)
        verb.add_argument("id", metavar="ID", help="the request's id; `mmg dead list` shows it")
        options.add_owner(verb, OWNER)
        if name == "replay":
            verb.add_argument(
                "--priority",
                type=str.upper,
                choices=[priority.value for priority in Priority],
                help="another one than it had",
            )


def _add_pauses(add: Adder) -> None:
    pause = add(
        "pause",
        "switches",
        "start nothing new: on all workers, or on one",
        epilog="""\
What runs is finished, what is asked for is taken and waits. Kept on the server: it outlives every
restart, also that of the worker. `mmg queue` and `mmg doctor` show it, `mmg resume` ends it.

examples:
  mmg pause --for 2h --reason "new card"
  mmg pause --worker gpu-1
""",
    )
    pause.add_argument(
        "--for",
        dest="how_long",
        type=options.duration,
        metavar="TIME",
        help="ends by itself: 90s, 30m, 2h, 1h30m (default: until `mmg resume`)",
    )
    pause.add_argument("--reason", metavar="TEXT", help=REASON)
    resume = add(
        "resume",
        "switches",
        "end a pause: of all lanes, or of one worker",
        epilog="""\
Without --worker it ends `mmg pause` without --worker; a worker paused by name stays so, and is
named.
""",
    )
    for command in (pause, resume):
        command.add_argument(
            "--worker",
            type=options.token,
            metavar="NAME",
            help="this worker only, whether it runs or not; `mmg workers` shows the names",
        )


def _add_intake(add: Adder) -> None:
    intake = add(
        "intake",
        "switches",
        "take new requests, or refuse them",
        epilog="""\
Off: `mmg generate`, the client library and the gateway refuse new requests with intake_closed; what
is queued goes on. Agents that publish on the bus without them are not refused: their requests are
stored and served. To make those wait as well, use `mmg pause`.

examples:
  mmg intake off --reason "moving house"
  mmg intake on
""",
    )
    intake.add_argument("state", choices=["on", "off"], help="on takes requests, off refuses them")
    intake.add_argument("--reason", metavar="TEXT", help=f"{REASON}, and to who is refused")
