"""`mmg webhooks`: who could not be told the end of a request, and another try.

It sends nothing itself: a gateway does, when it hears the wish. Addresses are shown without what
may be a secret in them.
"""

import argparse
import asyncio
import secrets
from typing import Final
from urllib.parse import urlsplit

import msgspec

from agent.bus import facts, hooks, whose
from agent.bus.connection import Bus
from agent.clock import SystemClock
from agent.commands import exits, session, wording
from agent.commands.faults import complain
from agent.config import Config
from agent.core import webhook
from agent.core.webhook import Hook
from contracts.errors import ContractError, ErrorCode
from contracts.subjects import Identity

SECRET_BYTES: Final = 32


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """One webhook in the list for machines."""

    request_id: str
    requester: str
    hook: Hook


def run(arguments: argparse.Namespace) -> int:
    """Do what the verb says."""
    if arguments.verb == "secret":
        print(webhook.new_secret(secrets.token_bytes(SECRET_BYTES)))
        return exits.OK
    return asyncio.run(_run(arguments, session.read_config()))


async def _run(arguments: argparse.Namespace, config: Config) -> int:
    """Raise what the contract and the bus say: ContractError, BusError."""
    async with session.plain_bus(config) as bus:
        kept = await hooks.listed(bus)
        if arguments.verb == "list":
            return _list(kept, arguments)
        return await _retry(bus, kept, arguments)


def _list(kept: list[tuple[Identity, Hook]], arguments: argparse.Namespace) -> int:
    wanted = ("waiting", "undeliverable") if arguments.all else ("undeliverable",)
    shown = [(who, hook) for who, hook in kept if hook.state in wanted]
    if arguments.json:
        lines = [
            Line(request_id=who.request_id, requester=who.requester, hook=hook)
            for who, hook in shown
        ]
        print(msgspec.json.encode(lines).decode())
        return exits.OK
    if not shown:
        print("no webhooks wait" if arguments.all else "no webhook was given up")
        return exits.OK
    now = SystemClock().now()
    for who, hook in shown:
        old = wording.age(max(0.0, (now - hook.at).total_seconds()))
        print(f"{old:>8}  {who.request_id}  {who.requester}  {_place(hook)}  {_state(hook)}")
    if any(hook.state == "undeliverable" for _, hook in shown):
        print("\nmmg webhooks retry ID tries one again, retry --all every one")
    return exits.OK


async def _retry(bus: Bus, kept: list[tuple[Identity, Hook]], arguments: argparse.Namespace) -> int:
    """Tell the gateways that webhooks are wanted again."""
    if (arguments.id is None) != arguments.all:
        complain("name one request, or say --all")
        return exits.USAGE
    open_ones = [who for who, hook in kept if hook.state == "undeliverable"]
    if arguments.id is not None:
        open_ones = [_one(kept, arguments.id, arguments.requester)]
    for who in open_ones:
        by = wording.operator()
        await facts.tell(bus, who, facts.WEBHOOK_RETRIED, by=by, clock=SystemClock())
        print(f"{who.request_id} of {who.requester} is tried again")
    if not open_ones:
        print("no webhook was given up")
    return exits.OK


def _one(kept: list[tuple[Identity, Hook]], request_id: str, requester: str | None) -> Identity:
    """Return whose webhook is meant. Raises: ContractError (not_found, ambiguous_id)."""
    found = {
        who
        for who, hook in kept
        if who.request_id == request_id
        and requester in (None, who.requester)
        and hook.state != "delivered"
    }
    who = whose.the_one(found, request_id)
    if who is None:
        raise ContractError(
            ErrorCode.NOT_FOUND, f"no webhook of a request {request_id} waits or was given up"
        )
    return who


def _place(hook: Hook) -> str:
    """Return where it goes, without path and query: they often hold a token."""
    return wording.cut(urlsplit(hook.url).netloc)


def _state(hook: Hook) -> str:
    tries = f"{hook.tries} {'try' if hook.tries == 1 else 'tries'}"
    reason = f": {wording.plain(hook.reason)}" if hook.reason else ""
    if hook.state == "undeliverable":
        return f"given up after {tries}{reason}"
    again = "" if hook.due_at is None else f", again at {wording.instant(hook.due_at)}"
    return f"{tries}{again}{reason}"
