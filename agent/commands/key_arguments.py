"""The arguments of `mmg key`: who may use the bus, and who the gateway.

It describes and checks; it must not import what runs the commands. Verbs of a site with keys on the
bus are run by `agent.commands.site`.
"""

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from agent.commands import options
from contracts.requests import Priority

Adder = Callable[..., argparse.ArgumentParser]

_formatter: Final = partial(argparse.RawDescriptionHelpFormatter, max_help_position=28, width=96)


def add_key(add: Adder) -> None:
    """Add `mmg key` with all its verbs."""
    key = add(
        "key",
        "site",
        "make, give out, rotate and take away keys",
        epilog="""\
`init` makes a site: keys for each role on the bus, a certificate authority, the configuration of
nats-server. It lies in --dir (default: MMG_SITE_DIR, else MMG_DATA_DIR/site). docs/security.md says
who may do what. `add`, `list` and `revoke` are about the gateway (MMG_KEYS_FILE): from the first
key on it wants one from everybody.

examples:
  mmg key init && MMG_SITE_DIR=data/site mmg up
  mmg key add-agent L2.05.03 --max high
  mmg key rotate worker             then reload, restart the workers, and:
  mmg key rotate worker --finish
  mmg key add L2.05.03 --max HIGH > agent.key
""",
    )
    verbs = key.add_subparsers(
        metavar="VERB", required=True, dest="verb", title="verbs", help="what to do; see below"
    )

    def add_verb(name: str, module: str, summary: str) -> Any:
        verb = verbs.add_parser(
            name,
            help=summary,
            description=f"{summary[0].upper()}{summary[1:]}.",
            formatter_class=_formatter,
        )
        verb.set_defaults(module=module)
        return verb

    _add_site(add_verb)
    _add_http(add_verb)


def _add_site(add_verb: Callable[..., Any]) -> None:
    """Add the verbs about keys on the bus."""
    init = add_verb("init", "site", "make keys, certificates and a configuration for a new site")
    init.add_argument(
        "--host",
        action="append",
        default=[],
        metavar="NAME",
        help="a name or address that nats-server is reached by, besides this machine's; repeat it",
    )
    init.add_argument("--name", default="mmg", metavar="NAME", help="of the server (default: mmg)")
    init.add_argument(
        "--if-missing", action="store_true", help="say nothing where a site is there already"
    )
    agent = add_verb("add-agent", "site", "give an agent a key, and rights on its own requests")
    agent.add_argument("who", metavar="AGENT", help="an agent id such as L2.05.03")
    agent.add_argument(
        "--max",
        type=str.upper,
        choices=[priority.value for priority in Priority],
        default=Priority.MEDIUM.value,
        help="the highest priority it may use (default: MEDIUM)",
    )
    gone = add_verb("remove-agent", "site", "take an agent's rights away; its requests stay")
    gone.add_argument("who", metavar="AGENT", help="an agent id such as L2.05.03")
    rotate = add_verb("rotate", "site", "replace a key; the one before stays good until --finish")
    rotate.add_argument("who", metavar="WHO", help="a role, an agent id, or tls: the certificate")
    how = rotate.add_mutually_exclusive_group()
    how.add_argument("--finish", action="store_true", help="end the keys from before")
    how.add_argument("--now", action="store_true", help="at once: the key before has leaked")
    show = add_verb("site", "site", "show who is on the site and when its certificates end")
    options.add_json(show, "one JSON object: name, roles, agents, certificates")
    for verb in (init, agent, gone, rotate, show):
        verb.add_argument("--dir", metavar="DIR", help="the folder of the site")


def _add_http(add_verb: Callable[..., Any]) -> None:
    """Add the verbs about keys of the gateway, in MMG_KEYS_FILE."""
    add = add_verb("add", "key", "make a key for the gateway; it is shown this one time")
    add.add_argument("agent", metavar="AGENT", help="an agent id such as L2.05.03")
    add.add_argument(
        "--role",
        type=str.lower,
        choices=["requester", "operator"],
        default="requester",
        help="an operator sees and switches everything (default: requester)",
    )
    add.add_argument(
        "--max",
        type=str.upper,
        choices=[priority.value for priority in Priority],
        default=Priority.CRITICAL.value,
        help="the highest priority it may ask for (default: CRITICAL)",
    )
    add.add_argument("--note", default="", metavar="TEXT", help="for whoever lists the keys")
    options.add_json(add, "one JSON object: id, agent, role, highest, token, webhook_secret")
    listing = add_verb("list", "key", "show the keys of the gateway, without what opens it")
    options.add_json(listing, "one JSON array: id, agent, role, highest, made_at, note")
    revoke = add_verb("revoke", "key", "refuse keys of the gateway from now on")
    revoke.add_argument(
        "names", metavar="ID", nargs="+", help="ids as `mmg key list` shows them, or agents: all"
    )
    options.add_json(revoke, "one JSON array of those that were revoked")
