"""The last resort: a request that the server has handed out too often is ended and taken out.

After max_deliver hand-overs the server stops handing a message out but keeps it, invisible
(nats-server 2.15.1); its advisory is the only sign, and it comes with the next pull. That takes a
thousand hand-overs without an end, which nothing here should ever cause.
"""

from uuid import uuid4

import msgspec
import structlog
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from agent.bus import chain, hooks, lanes
from agent.bus.connection import Bus, BusError
from agent.bus.lanes import Waiting
from agent.clock import Clock
from agent.core.job import EMPTY, History, StoredRequest, place_after
from agent.core.links import Author, Pen
from agent.core.steps import Stored, Superseded
from contracts import codec, subjects
from contracts.errors import ContractError, ErrorCode, error_body
from contracts.events import is_terminal

log = structlog.get_logger()


class _Advisory(msgspec.Struct):
    stream_seq: int
    deliveries: int


async def serve_backstop(bus: Bus, worker: str, clock: Clock) -> Subscription:
    """End what the server gives up on; one worker answers each advisory."""

    async def hear(msg: Msg) -> None:
        try:
            advisory = msgspec.json.decode(msg.data, type=_Advisory)
            await end_undeliverable(bus, advisory.stream_seq, worker, clock)
        except (BusError, msgspec.DecodeError) as error:
            log.error("backstop.failed", reason=str(error))  # noqa: TRY400 - no traceback

    return await bus.subscribe(
        subjects.ADVISORY_MAX_DELIVERIES, hear, queue=subjects.QUEUE_ADVISORY
    )


async def end_undeliverable(bus: Bus, seq: int, worker: str, clock: Clock) -> bool:
    """Write the dead letter of stored request `seq`, then take it out of its lane.

    Order: the message is deleted only once its chain is known to have ended. Returns whether it
    was. Raises: BusError.
    """
    waiting = await lanes.read_waiting(bus, seq)
    if waiting is None:
        return False
    stored = stored_request(waiting)
    if stored is None:
        return False
    who = stored.who
    await hooks.keep_of(bus, stored, clock.now())
    head = await chain.read_head(bus, who)
    if head is None or not is_terminal(head.link):
        place = EMPTY if head is None else place_after(head.seq, head.link)
        error = error_body(
            ErrorCode.INTERNAL, "it was handed out too often without coming to an end"
        )
        author = Author(worker=worker, nonce=uuid4())
        pen = Pen(stored=stored, author=author, place=place, now=clock.now())
        link = pen.failed(error, History(), dead=True)
        outcome = await chain.append(bus, who, link, place.seq, of=stored.trace)
        ended = isinstance(outcome, Stored) or (
            isinstance(outcome, Superseded) and is_terminal(outcome.head.link)
        )
        if not ended:
            return False
    log.error("backstop.ended", request=str(who), seq=seq)
    await lanes.remove(bus, seq)
    return True


def stored_request(waiting: Waiting) -> StoredRequest | None:
    """Return what lies in a lane as a request; None where it names nobody to answer."""
    who = subjects.raw_pair(waiting.subject)
    if who is None or waiting.stored_at is None:
        return None
    try:
        request = codec.receive(waiting.subject, None, waiting.data).request
    except ContractError:
        request = None
    return StoredRequest(
        who=who,
        priority=subjects.LANES[-1],
        seq=waiting.seq,
        stored_at=waiting.stored_at,
        request=request,
        trace=waiting.trace,
    )
