"""`mmg pin` and `mmg unpin`: whether the pictures of a request stay for good.

It deletes nothing; `mmg prune` and the gateway do.
"""

import argparse
import asyncio

import msgspec

from agent.bus import facts, whose
from agent.bus.connection import Bus
from agent.clock import SystemClock
from agent.commands import exits, session, wording
from agent.config import Config
from agent.ledger import FILE, Ledger
from agent.ledger.database import LedgerError
from contracts import subjects
from contracts.errors import ContractError, ErrorCode
from contracts.events import AssetFact
from contracts.subjects import Identity


def run(arguments: argparse.Namespace) -> int:
    """Pin or unpin, and say so."""
    fact = asyncio.run(_run(arguments, session.read_config()))
    if arguments.json:
        print(msgspec.json.encode(fact).decode())
    else:
        print(f"{fact.kind}: {fact.request_id} of {fact.requester}, by {wording.plain(fact.by)}")
    return exits.OK


async def _run(arguments: argparse.Namespace, config: Config) -> AssetFact:
    """Raise what the contract and the bus say: ContractError, BusError."""
    async with session.plain_bus(config) as bus:
        who = await _find(bus, config, arguments.id, arguments.requester)
        change = facts.pin if arguments.command == "pin" else facts.unpin
        return await change(bus, who, wording.operator(), SystemClock(), arguments.reason)


async def _find(bus: Bus, config: Config, request_id: str, requester: str | None) -> Identity:
    """Return whose request it is, though its links may be forgotten: a pin is not.

    Raises: ContractError (not_found, ambiguous_id), BusError.
    """
    who = await whose.find(bus, request_id, requester)
    if who is not None:
        return who
    pins = {one for one in await facts.pinned(bus) if one.request_id == request_id}
    named = None if requester is None else subjects.identity(requester, request_id)
    if named is None:
        who = whose.the_one(pins, request_id)
    elif named in pins or await _in_ledger(config, named):
        who = named
    if who is None:
        of = "" if requester is None else f" of {requester}"
        raise ContractError(
            ErrorCode.NOT_FOUND,
            f"no request {request_id}{of} is known; where its links are forgotten, --requester"
            " finds it in the ledger of this machine",
        )
    return who


async def _in_ledger(config: Config, who: Identity) -> bool:
    try:
        return await Ledger(config.storage.data_dir / FILE).one(who) is not None
    except LedgerError:
        return False
