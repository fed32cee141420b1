"""`mmg key`: make, list and revoke the keys of the gateway.

A key is shown once, when it is made; the file keeps its hash. A running gateway sees a change
within a second.
"""

import argparse
import sys
from pathlib import Path

import msgspec

from agent.clock import SystemClock
from agent.commands import exits, session, wording
from agent.commands.faults import complain
from agent.config import Config
from agent.gateway import KEYS, keys
from agent.gateway.keys import Key, MadeKey, Role
from contracts.requests import Priority


class Shown(msgspec.Struct, frozen=True, kw_only=True):
    """One key for machines; `token` and `webhook_secret` only of a new one."""

    id: str
    agent: str
    role: Role
    highest: Priority
    made_at: str
    note: str
    token: str | None = None
    webhook_secret: str | None = None


def run(arguments: argparse.Namespace) -> int:
    """Do what the verb says."""
    path = _path(session.read_config())
    match arguments.verb:
        case "add":
            return _add(path, arguments)
        case "revoke":
            return _revoke(path, arguments)
        case _:
            return _list(path, arguments)


def _path(config: Config) -> Path:
    return config.http.keys_file or config.storage.data_dir / KEYS


def _add(path: Path, arguments: argparse.Namespace) -> int:
    """Print the token alone on stdout, so that it can go into a file, and the rest on stderr."""
    is_first = keys.read(path) is None
    made = keys.add(
        path,
        arguments.agent,
        Role(arguments.role),
        Priority(arguments.max),
        arguments.note,
        SystemClock(),
    )
    if arguments.json:
        print(msgspec.json.encode(_shown(made.key, made)).decode())
        return exits.OK
    print(made.token, flush=True)
    complain(
        f"key {made.key.id} of {made.key.agent} ({made.key.role}, at most {made.key.highest});"
        " it is not shown again",
        f"Send it as: Authorization: Bearer {made.token[:12]}...",
        f"Its webhooks are signed with {made.key.webhook_secret}",
    )
    if is_first:
        complain("from now on the gateway wants a key from everybody, on this machine too")
    if not keys.is_private(path):
        complain(f"warning: others may read {path}; chmod 600 mends that")
    return exits.OK


def _list(path: Path, arguments: argparse.Namespace) -> int:
    found = keys.read(path)
    known = () if found is None else found.keys
    if arguments.json:
        print(msgspec.json.encode([_shown(key) for key in known]).decode())
        return exits.OK
    if found is None:
        print("no keys: on this machine nobody needs one; make the first: mmg key add AGENT")
        return exits.OK
    if not known:
        print("all keys are revoked: nobody is let in; mmg key add AGENT makes one")
        return exits.OK
    width = max(5, *(len(key.agent) for key in known))
    print(f"{'id':<8}  {'agent':<{width}}  {'role':<9}  {'at most':<8}  made")
    for key in known:
        note = f"  {wording.plain(key.note)}" if key.note else ""
        print(
            f"{key.id:<8}  {key.agent:<{width}}  {key.role:<9}  {key.highest:<8}"
            f"  {wording.instant(key.made_at)}{note}"
        )
    return exits.OK


def _revoke(path: Path, arguments: argparse.Namespace) -> int:
    gone = keys.revoke(path, tuple(arguments.names))
    if arguments.json:
        print(msgspec.json.encode([_shown(key) for key in gone]).decode())
    else:
        for key in gone:
            print(f"revoked {key.id} of {key.agent}; the gateway refuses it within a second")
    unknown = [n for n in arguments.names if not any(n in (key.id, key.agent) for key in gone)]
    for name in unknown:
        print(f"mmg: there is no key {name}; `mmg key list` shows them", file=sys.stderr)
    return exits.FAILED if unknown else exits.OK


def _shown(key: Key, made: MadeKey | None = None) -> Shown:
    return Shown(
        id=key.id,
        agent=key.agent,
        role=key.role,
        highest=key.highest,
        made_at=wording.instant(key.made_at),
        note=key.note,
        token=None if made is None else made.token,
        webhook_secret=None if made is None else key.webhook_secret,
    )
