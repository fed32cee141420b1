"""Cancels a request for whoever asks: worker, gateway, command line.

Performs the steps of `agent.core.cancel`; decides nothing.
"""

from uuid import uuid4

import msgspec
import structlog
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from agent.bus import chain
from agent.bus.connection import Bus, BusError
from agent.bus.lanes import find_waiting
from agent.bus.snapshot import respond_error
from agent.clock import Clock
from agent.core.cancel import Cancelling
from agent.core.job import StoredRequest
from agent.core.steps import (
    Append,
    Command,
    Event,
    FindRequest,
    Found,
    NoChain,
    NotFound,
    ReadHead,
    Superseded,
    Told,
    Unknown,
)
from contracts import codec, subjects
from contracts.errors import ContractError, ErrorBody
from contracts.events import Cancelled
from contracts.subjects import Identity

PATIENCE_S = 5.0
"""How long one append is asked again before the asker is told that nobody could say."""

log = structlog.get_logger()


async def cancel(bus: Bus, who: Identity, by: str, clock: Clock) -> Cancelled | ErrorBody:
    """Cancel a request; returns the link, or the error that says why it could not be."""
    wish = Cancelling(who, by, uuid4(), clock.now())
    steps = wish.run()
    command = next(steps)
    while True:
        event = await _perform(bus, who, command)
        try:
            command = steps.send(Told(event, clock.now()))
        except StopIteration:
            return wish.answer


async def _perform(bus: Bus, who: Identity, command: Command) -> Event:
    try:
        match command:
            case ReadHead():
                head = await chain.read_head(bus, who)
                return NoChain() if head is None else Superseded(head)
            case FindRequest():
                return await _find(bus, who)
            case Append(link=link, expected=expected):
                return await chain.append(bus, who, link, expected, patience_s=PATIENCE_S)
            case other:
                raise AssertionError(f"a cancel never asks for {other}")
    except (BusError, msgspec.DecodeError) as error:
        return Unknown(str(error))


async def _find(bus: Bus, who: Identity) -> Event:
    waiting = await find_waiting(bus, who)
    if waiting is None or waiting.stored_at is None:
        return NotFound()
    priority, _ = subjects.parse_request(waiting.subject)
    try:
        request = codec.receive(waiting.subject, None, waiting.data).request
    except ContractError:
        request = None
    stored = StoredRequest(
        who=who,
        priority=priority,
        seq=waiting.seq,
        stored_at=waiting.stored_at,
        request=request,
    )
    return Found(stored)


async def serve_cancels(bus: Bus, by: str, clock: Clock) -> Subscription:
    """Answer `mmg.cancel.*.*`, sharing the questions with every other answerer.

    The answer is the `cancelled` link, or the error object with the header NATS services use.
    """

    async def answer(msg: Msg) -> None:
        who = subjects.parse_pair(msg.subject)
        if who is None:
            return
        result = await cancel(bus, who, by, clock)
        log.info("cancel.answered", request=str(who), result=type(result).__name__)
        if isinstance(result, ErrorBody):
            await respond_error(bus, msg, result)
        else:
            await bus.respond(msg, codec.encode(result))

    return await bus.subscribe(subjects.CANCEL_ALL, answer, queue=subjects.QUEUE_CANCEL)


async def ask_cancel(bus: Bus, who: Identity, timeout_s: float = 1.0) -> Cancelled | ErrorBody:
    """Ask whoever answers to cancel. Raises: NoResponders if nobody does, NoAnswer."""
    msg = await bus.request(subjects.cancel(who), timeout_s=timeout_s)
    if codec.header(msg.headers, "Nats-Service-Error-Code") is not None:
        return codec.decode_error(msg.data)
    link = codec.decode_link(msg.data)
    assert isinstance(link, Cancelled), "a cancel is answered by its link"
    return link
