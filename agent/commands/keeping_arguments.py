"""The arguments of the commands about what is kept and who is told: pictures, pins, webhooks.

It describes and checks; it must not import what runs the commands.
"""

import argparse
from collections.abc import Callable
from functools import partial
from typing import Final

from agent.commands import options

Adder = Callable[..., argparse.ArgumentParser]

OWNER: Final = "the agent that asked for it (default: found out; named where several have the id)"

_formatter: Final = partial(argparse.RawDescriptionHelpFormatter, max_help_position=28, width=96)


def add_keeping(add: Adder) -> None:
    """Add the commands that delete, keep, and tell."""
    prune = add(
        "prune",
        "prune",
        "delete the pictures that have had their time",
        epilog="""\
A gateway does this once a day by itself: pictures of requests that ended MMG_RETENTION_DAYS (30)
ago, with what lies beside them; and files that no request names, a day after they were written.
What is pinned, queued or running stays. Run it on the machine that has the pictures and the ledger.

examples:
  mmg prune --dry-run
  mmg prune --dry-run --json | jq -r '.removals[].files[][1]'
""",
    )
    prune.add_argument(
        "--dry-run", action="store_true", help="say what would go, and delete nothing"
    )
    options.add_json(prune, "one JSON object: dry_run, requests, files, bytes, pinned, removals")
    for name, summary in (
        ("pin", "keep the pictures of a request for good"),
        ("unpin", "let the pictures of a request go when their time has come"),
    ):
        command = add(
            name,
            "pin",
            summary,
            epilog=f"""\
A pin is kept on the bus: it outlives the links of its request, and the ledger.

example:
  mmg {name} mmg-20260314-092653-5f1c2ab9
""",
        )
        command.add_argument("id", metavar="ID", help="the request's id; `mmg history` shows it")
        options.add_owner(command, OWNER)
        command.add_argument("--reason", metavar="TEXT", default="", help="kept with the fact")
        options.add_json(command, "the fact as it is stored")
    _add_webhooks(add)


def _add_webhooks(add: Adder) -> None:
    webhooks = add(
        "webhooks",
        "webhooks",
        "show who could not be told the end of a request, and try again",
        epilog="""\
A request with a webhook_url has its end POSTed there by a gateway, signed by the rules of Standard
Webhooks. What fails is tried ten times within four days, then it stays in this list for forty.

examples:
  mmg webhooks list
  mmg webhooks retry mmg-20260314-092653-5f1c2ab9
  export MMG_WEBHOOK_SECRET="$(mmg webhooks secret)"
""",
    )
    verbs = webhooks.add_subparsers(
        metavar="VERB", required=True, dest="verb", title="verbs", help="what to do; see below"
    )

    def add_verb(name: str, summary: str) -> argparse.ArgumentParser:
        verb: argparse.ArgumentParser = verbs.add_parser(
            name,
            help=summary,
            description=f"{summary[0].upper()}{summary[1:]}.",
            formatter_class=_formatter,
        )
        return verb

    listing = add_verb("list", "show those that were given up")
    listing.add_argument(
        "--all", action="store_true", help="also those that wait for their end or for another try"
    )
    options.add_json(listing, "one JSON array: request_id, requester, hook")
    retry = add_verb("retry", "have a gateway try again, from the beginning of its schedule")
    retry.add_argument("id", metavar="ID", nargs="?", help="the request's id; `list` shows it")
    retry.add_argument("--all", action="store_true", help="every one that was given up")
    options.add_owner(retry, OWNER)
    add_verb("secret", "make a secret, print it, and keep it nowhere")
