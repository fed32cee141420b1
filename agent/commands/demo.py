"""`mmg demo`: from nothing to a picture, by the same way as every other request.

It starts only what is missing, and stops only what it started.
"""

import argparse
import asyncio
from typing import Final

import msgspec

from agent import app, client
from agent.building import build_login
from agent.bus import connection
from agent.bus.connection import BusError, NoAnswer
from agent.bus.snapshot import ask_snapshot
from agent.commands import exits, screen, session
from agent.commands.generate import Pursuit, request_from
from agent.config import Config
from contracts import subjects
from contracts.errors import ContractError

PROMPT: Final = "Welcome aboard: a lighthouse over calm water at first light"
ANSWER_S: Final = 1.0


def run(arguments: argparse.Namespace) -> int:
    """Publish one request and print where its picture is."""
    arguments.prompt = arguments.prompt or PROMPT
    request = request_from(arguments)
    config = session.read_config()
    pursuit = Pursuit(request, config.http)
    session.log_from("critical", config)

    async def work(view: screen.Screen) -> int:
        if config.bus.url is not None or await _is_up(config):
            async with session.connected(config, arguments.requester) as one:
                return await pursuit.carry(one, view)
        return await _with_own_machine(config, pursuit, view)

    return pursuit.perform(work)


async def _is_up(config: Config) -> bool:
    """Tell whether an `mmg up` works in this folder: its server is there and somebody answers.

    A server alone was left behind by a killed run; it is taken over like any other of ours.
    """
    url = session.embedded_url(config)
    if url is None:
        return False
    nobody = subjects.identity("user", "mmg-is-somebody-there")
    try:
        async with await connection.connect(
            [url], "mmg", patience_s=session.PATIENCE_S, login=build_login(config)
        ) as bus:
            await ask_snapshot(bus, nobody, ANSWER_S)
    except NoAnswer:
        return False
    return True


async def _with_own_machine(config: Config, pursuit: Pursuit, view: screen.Screen) -> int:
    """Run bus, worker and gateway on free ports for as long as the picture takes.

    Raises: BusError, ContractError, EmbeddedError.
    """
    session.log_from("warning", config)
    free = msgspec.structs.replace(
        config,
        bus=msgspec.structs.replace(config.bus, port=0),
        # The public address stays: a later `mmg up` serves the picture there.
        http=msgspec.structs.replace(config.http, port=0),
    )
    code, failure = exits.FAILED, None
    async with app.machine(free) as machine, asyncio.TaskGroup() as group:
        group.create_task(machine.dispatch.run(), name="worker")
        try:
            login = build_login(config)
            async with client.connect(machine.nats_url, agent="user", login=login) as one:
                code = await pursuit.carry(one, view)
        except (BusError, ContractError) as error:
            failure = error  # Raised here, it would leave the groups inside of a group.
        finally:
            machine.dispatch.stop()
    if failure is not None:
        raise failure
    return code
