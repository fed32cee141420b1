"""`mmg dead`: the requests that were given up, and what a person decides about each.

It shows, sends again and takes off the list; it deletes nothing.
"""

import argparse
import asyncio
from typing import Final

import msgspec

from agent.bus import dead
from agent.bus.chain import read_chain
from agent.bus.connection import Bus
from agent.bus.dead import Letter
from agent.clock import SystemClock
from agent.commands import dead_story, exits, session, wording
from agent.commands.faults import complain
from agent.config import Config
from contracts import codec
from contracts.requests import Priority, Request

SHOWN_MAX: Final = 50


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """One letter in the list for machines: its `failed` link says the rest."""

    request_id: str
    requester: str
    priority: Priority | None
    prompt: str | None
    link: msgspec.Raw


def run(arguments: argparse.Namespace) -> int:
    """Do what the verb says."""
    return asyncio.run(_run(arguments, session.read_config()))


async def _run(arguments: argparse.Namespace, config: Config) -> int:
    """Raise what the bus says: ContractError, BusError."""
    async with session.plain_bus(config) as bus:
        match arguments.verb:
            case "list":
                return await _list(bus, arguments)
            case "show":
                return await _show(bus, arguments)
            case "replay":
                return await _replay(bus, arguments)
            case _:
                return await _drop(bus, arguments)


async def _list(bus: Bus, arguments: argparse.Namespace) -> int:
    limit = dead.LISTED_MAX if arguments.all else SHOWN_MAX
    found = await dead.read_letters(bus, arguments.requester, limit)
    if arguments.json:
        lines = [_line(letter) for letter in found.letters]
        print(msgspec.json.encode({"total": found.total, "letters": lines}).decode())
        return exits.OK
    if not found.letters:
        print("no dead letters")
        return exits.OK
    now = SystemClock().now()
    ids = max(len(letter.who.request_id) for letter in found.letters)
    owners = max(len(letter.who.requester) for letter in found.letters)
    for letter in found.letters:
        old = wording.age(max(0.0, (now - letter.link.at).total_seconds()))
        who = f"{letter.who.request_id:<{ids}}  {letter.who.requester:<{owners}}"
        request = _request(letter)
        prompt = "(unreadable)" if request is None else wording.cut(request.prompt)
        print(f"{old:>8}  {who}  {letter.link.error.code:<13}  {prompt}")
    hidden = found.total - len(found.letters)
    if hidden > 0:
        print(f"... and {hidden} older; --all shows them")
    print("\nmmg dead show ID tells what happened; replay ID sends it again; drop ID forgets it")
    return exits.OK


def _line(letter: Letter) -> Line:
    request = _request(letter)
    return Line(
        request_id=letter.who.request_id,
        requester=letter.who.requester,
        priority=None if request is None else request.priority,
        prompt=None if request is None else request.prompt,
        link=msgspec.Raw(codec.encode(letter.link)),
    )


async def _show(bus: Bus, arguments: argparse.Namespace) -> int:
    letter = await dead.find_letter(bus, arguments.id, arguments.requester)
    links = [codec.decode_link(link.data) for link in await read_chain(bus, letter.who)]
    for line in dead_story.tell(letter, links, SystemClock().now()):
        print(line)
    return exits.OK


async def _replay(bus: Bus, arguments: argparse.Namespace) -> int:
    """Send it again, unless that was done; the new id is all that stdout has."""
    letter = await dead.find_letter(bus, arguments.id, arguments.requester)
    if letter.replayed and letter.dismissed is not None:
        by, at = wording.plain(letter.dismissed.by), wording.instant(letter.dismissed.at)
        complain(f"{letter.who.request_id} was {letter.dismissed.reason} by {by} at {at}")
        return exits.FAILED
    priority = None if arguments.priority is None else Priority(arguments.priority)
    sent = await dead.replay(bus, letter, priority, wording.operator(), SystemClock())
    print(sent.who.request_id, flush=True)
    complain(
        f"sent again as {sent.who.request_id} ({sent.priority}); {letter.who.request_id} is off"
        " the list",
        f"Follow it with: mmg watch {sent.who.request_id}{wording.whose(sent.who.requester)}",
    )
    return exits.OK


async def _drop(bus: Bus, arguments: argparse.Namespace) -> int:
    letter = await dead.find_letter(bus, arguments.id, arguments.requester)
    if letter.dismissed is None:
        by = wording.operator()
        await dead.dismiss(bus, letter.who, by, "dropped", SystemClock())
    print(f"{letter.who.request_id} of {letter.who.requester} is off the list; its chain stays")
    return exits.OK


def _request(letter: Letter) -> Request | None:
    request = letter.link.request
    return request if isinstance(request, Request) else None
