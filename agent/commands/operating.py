"""The arguments of the commands that people operate a running system with.

It describes and checks; it must not import what runs the commands.
"""

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from agent.commands import options
from contracts.events import Status
from contracts.requests import Priority, Quality, Style

Adder = Callable[..., argparse.ArgumentParser]

OWNER: Final = "the agent that asked for it (default: found out; named where several have the id)"
REASON: Final = "shown to whoever asks why"

_formatter: Final = partial(argparse.RawDescriptionHelpFormatter, max_help_position=28, width=96)


def add_operating(add: Adder) -> None:
    """Add the commands that end, stop, resume and judge what runs."""
    _add_cancel(add)
    _add_dead(add)
    _add_history(add)
    _add_ledger(add)
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


def _add_history(add: Adder) -> None:
    history = add(
        "history",
        "history",
        "show what was asked for and what became of it, newest first",
        epilog="""\
Asks the gateway at MMG_PUBLIC_URL. Days are UTC; `--since 2026-03-01 --until 2026-03-31` is the
whole month. A page of 50 is shown; the last line names the --cursor of the next one, which stays
right while requests arrive.

examples:
  mmg history --status failed --since 2026-03-01
  mmg history --status queued --priority HIGH
  mmg history --model sdxl --limit 10000 --json | jq .total
""",
    )
    for name, choices in (
        ("status", list(Status)),
        ("priority", list(Priority)),
        ("quality", list(Quality)),
        ("style", list(Style)),
    ):
        history.add_argument(
            f"--{name}",
            type=str.upper if name == "priority" else str.lower,
            choices=[choice.value for choice in choices],
            help="not begun, or handed back: queued" if name == "status" else "only this one",
        )
    history.add_argument("--type", choices=["image", "voice", "video"], help="only this one")
    options.add_owner(history, "only those of this agent (default: all)")
    history.add_argument("--model", metavar="NAME", help="only this one; sdxl or sdxl-1.0")
    history.add_argument("--engine", metavar="NAME", help="only those that it drew last")
    for name, text in (
        ("since", "stored on this day or later, or at this instant or later"),
        ("until", "stored on this day or before it, or before this instant"),
    ):
        history.add_argument(f"--{name}", metavar="TIME", help=text)
    history.add_argument("--limit", type=int, metavar="N", help="1 to 10,000 (default: 50)")
    history.add_argument("--cursor", metavar="WORD", help="where the page before has ended")
    options.add_json(history, "one JSON object: total, page, limit, next_cursor, generations")


def _add_ledger(add: Adder) -> None:
    ledger = add(
        "ledger",
        "ledger",
        "fold the ledger again from the stream, or copy it while it is in use",
        epilog="""\
The ledger is MMG_DATA_DIR/ledger.sqlite3, on the machine of the gateway. It holds nothing that the
stream does not say, but the stream forgets after 30 days: `backup` keeps what is older.

examples:
  mmg ledger rebuild
  mmg ledger backup /var/backups/mmg-ledger.sqlite3
""",
    )
    verbs = ledger.add_subparsers(
        metavar="VERB", required=True, dest="verb", title="verbs", help="what to do; see below"
    )
    for name, summary, shown in (
        (
            "rebuild",
            "fold the whole stream over the rows; older rows stay",
            "rows, seq, by_gateway",
        ),
        ("backup", "copy it into one new file, as it is at one instant", "path, rows"),
    ):
        verb = verbs.add_parser(
            name,
            help=summary,
            description=f"{summary[0].upper()}{summary[1:]}.",
            formatter_class=_formatter,
        )
        if name == "backup":
            verb.add_argument("path", metavar="PATH", help="the new file; it must not be there yet")
        options.add_json(verb, f"one JSON object: {shown}")


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
