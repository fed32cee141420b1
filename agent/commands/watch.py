"""`mmg watch`: the events of a request, from its beginning to its end.

It changes nothing: whoever knows an id may look, also long after the end.
"""

import argparse
import asyncio

from agent.client import Client
from agent.commands import exits, screen, session
from agent.commands.generate import deliver
from agent.config import Config, Http
from contracts.errors import ContractError, ErrorCode
from contracts.events import Cancelled, Completed, Expired, Failed


def run(arguments: argparse.Namespace) -> int:
    """Follow the request; the exit code says how it ended."""
    return asyncio.run(_run(arguments, session.read_config()))


async def _run(arguments: argparse.Namespace, config: Config) -> int:
    with screen.choose(as_json=arguments.json) as view:
        async with session.connected(config, arguments.requester) as client:
            try:
                async with asyncio.timeout(arguments.timeout):
                    return await _watch(client, arguments, view, config.http)
            except TimeoutError:
                view.note(f"not done within {arguments.timeout:g} s; the request goes on")
                return exits.TIMEOUT


async def _watch(
    client: Client, arguments: argparse.Namespace, view: screen.Screen, http: Http
) -> int:
    """Show the events. Raises: ContractError(not_found), BusError."""
    async with client.follow(arguments.id, after=arguments.after) as events:
        snapshot = await client.snapshot(arguments.id)
        if snapshot is None:
            raise ContractError(
                ErrorCode.NOT_FOUND,
                f"no request {arguments.id} of {arguments.requester} is known;"
                " --requester names another agent",
            )
        if not snapshot.chain:
            view.note("waiting in its lane; no worker has taken it yet")
        async for event in events:
            view.show(event)
            if isinstance(event, Completed):
                return await deliver(event, view, http)
            if isinstance(event, Failed | Expired | Cancelled):
                return exits.FAILED
    view.note("it has ended; nothing comes after that place")
    return exits.OK
