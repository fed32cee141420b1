"""Cancels a request for whoever asks: worker, gateway, command line.

Performs the steps of `agent.core.cancel`; decides nothing.
"""

from typing import Final
from uuid import uuid4

import msgspec
import structlog
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from agent.bus import chain, hooks
from agent.bus.connection import Bus, BusError, NoAnswer, NoResponders
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
from contracts.trace import Trace

PATIENCE_S: Final = 5.0
"""How long one append is asked again before the asker is told that nobody could say."""
ANSWER_S: Final = 1.0
ASKS_MAX: Final = 3
NAME_LENGTH_MAX: Final = 128

log = structlog.get_logger()


class _Question(msgspec.Struct, frozen=True, omit_defaults=True):
    """What may be said with the question; `by` is who wants it, None: whoever answers."""

    by: str | None = None


async def cancel(bus: Bus, who: Identity, by: str, clock: Clock) -> Cancelled | ErrorBody:
    """Cancel a request; returns the link, or the error that says why it could not be."""
    wish = Cancelling(who, by, uuid4(), clock.now())
    steps = wish.run()
    command = next(steps)
    of: Trace | None = None
    while True:
        event = await _perform(bus, who, command, of)
        match event:  # Every link has the trace of the request, so the newest one seen is right.
            case Superseded(head=head):
                of = head.trace
            case Found(stored=stored):
                of = stored.trace
        try:
            command = steps.send(Told(event, clock.now()))
        except StopIteration:
            return wish.answer


async def _perform(bus: Bus, who: Identity, command: Command, of: Trace | None) -> Event:
    try:
        match command:
            case ReadHead():
                head = await chain.read_head(bus, who)
                return NoChain() if head is None else Superseded(head)
            case FindRequest():
                found = await _find(bus, who)
                if isinstance(found, Found):
                    await hooks.keep_of(bus, found.stored, found.stored.stored_at)
                return found
            case Append(link=link, expected=expected):
                return await chain.append(bus, who, link, expected, patience_s=PATIENCE_S, of=of)
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
        trace=waiting.trace,
    )
    return Found(stored)


async def serve_cancels(bus: Bus, by: str, clock: Clock) -> Subscription:
    """Answer `mmg.cancel.*.*`, sharing the questions with every other answerer.

    The answer is the `cancelled` link, or the error object with the header NATS services use.
    Where the question does not say who wants it, the link says `by`.
    """

    async def answer(msg: Msg) -> None:
        who = subjects.parse_pair(msg.subject)
        if who is None:
            return
        result = await cancel(bus, who, _who_asks(msg.data) or by, clock)
        log.info("cancel.answered", request=str(who), result=type(result).__name__)
        if isinstance(result, ErrorBody):
            await respond_error(bus, msg, result)
        else:
            await bus.respond(msg, codec.encode(result))

    return await bus.subscribe(subjects.CANCEL_ALL, answer, queue=subjects.QUEUE_CANCEL)


async def ask_cancel(
    bus: Bus, who: Identity, by: str | None = None, timeout_s: float = ANSWER_S
) -> Cancelled | ErrorBody:
    """Ask whoever answers to cancel, again where nothing is heard; `by` is shown in the link.

    Asking twice does no harm: what is cancelled stays so. Raises: NoResponders if nobody answers
    such questions now, NoAnswer if nothing was heard: then it may or may not be cancelled.
    """
    question = msgspec.json.encode(_Question(by=by))
    for ask in range(1, ASKS_MAX + 1):
        try:
            msg = await bus.request(subjects.cancel(who), question, timeout_s=timeout_s)
            return _read_answer(msg)
        except NoResponders:
            raise
        except NoAnswer:
            if ask == ASKS_MAX:
                raise
    raise AssertionError("the last ask returns or raises")


def _who_asks(data: bytes) -> str | None:
    """Read who wants it; an empty question, or one that cannot be read, does not say."""
    try:
        by = msgspec.json.decode(data or b"{}", type=_Question).by
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    return by if by and by.isprintable() and len(by) <= NAME_LENGTH_MAX else None


def _read_answer(msg: Msg) -> Cancelled | ErrorBody:
    """Read link or error. Raises: NoAnswer for anything else."""
    try:
        if codec.header(msg.headers, "Nats-Service-Error-Code") is not None:
            return codec.decode_error(msg.data)
        link = codec.decode_link(msg.data)
    except msgspec.DecodeError as error:
        raise NoAnswer(f"an answer on {msg.subject} that cannot be read") from error
    if not isinstance(link, Cancelled):
        raise NoAnswer(f"an answer on {msg.subject} that is no cancel")
    return link
