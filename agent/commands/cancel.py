"""`mmg cancel`: ends a request, queued or running.

Whoever runs is asked; where nobody answers, this command appends the link itself. Both ways the
chain decides, so that asking twice does no harm.
"""

import argparse
import asyncio

from agent.bus import whose
from agent.bus.cancel import ask_cancel, cancel
from agent.bus.connection import Bus, NoAnswer
from agent.clock import SystemClock
from agent.commands import exits, session, wording
from agent.config import Config
from contracts import codec
from contracts.errors import ContractError, ErrorBody, ErrorCode
from contracts.events import Cancelled


def run(arguments: argparse.Namespace) -> int:
    """Cancel the request; exit code 0 only if its chain says so."""
    link = asyncio.run(_run(arguments, session.read_config()))
    if arguments.json:
        print(codec.encode(link).decode())
    else:
        print(
            f"cancelled: {link.request_id} of {link.requester}, by {wording.plain(link.by)}"
            f" at {wording.instant(link.at)}"
        )
    return exits.OK


async def _run(arguments: argparse.Namespace, config: Config) -> Cancelled:
    async with session.plain_bus(config) as bus:
        return await _cancel(bus, arguments.id, arguments.requester)


async def _cancel(bus: Bus, request_id: str, requester: str | None) -> Cancelled:
    """Return the last link of the chain. Raises: ContractError, BusError."""
    who = await whose.find(bus, request_id, requester)
    if who is None:
        of = "" if requester is None else f" of {requester}"
        raise ContractError(ErrorCode.NOT_FOUND, f"no request {request_id}{of} is queued or known")
    by = wording.operator()
    try:
        answer = await ask_cancel(bus, who, by)
    except NoAnswer:
        answer = await cancel(bus, who, by, SystemClock())
    if isinstance(answer, ErrorBody):
        raise ContractError(answer.code, answer.message, answer.detail)
    return answer
