"""Dead letters: requests given up after their tries were spent, kept for a person to judge.

The `failed` link is the letter; nothing is copied and nothing is deleted. A letter leaves the list
by a `dismissed` fact behind it. It must not decide whether a request is worth another try.
"""

from collections import deque
from typing import Final

import msgspec
import structlog

from agent.bus import facts, history, whose
from agent.bus.connection import Bus
from agent.bus.submit import Submitted, submit
from agent.clock import Clock
from contracts import codec, subjects
from contracts.errors import ContractError, ErrorCode
from contracts.events import AssetFact, Failed
from contracts.requests import Priority, Request
from contracts.subjects import Identity

LISTED_MAX: Final = 10_000
"""Letters in one list, the newest: more are counted, but not read by anybody."""
DISMISSED: Final = "dismissed"
REPLAYED: Final = "replayed"
"""How the reason of a dismissal begins where the request was sent again."""
_FACTS_MAX: Final = 100

log = structlog.get_logger()


class Letter(msgspec.Struct, frozen=True, kw_only=True):
    """One dead letter; `dismissed` is None while it waits for a person."""

    who: Identity
    link: Failed
    dismissed: AssetFact | None = None

    @property
    def replayed(self) -> bool:
        """Whether it was dismissed because its request was sent again."""
        return self.dismissed is not None and self.dismissed.reason.startswith(REPLAYED)


class Letters(msgspec.Struct, frozen=True, kw_only=True):
    """The newest letters, newest first, and how many there are in all."""

    letters: tuple[Letter, ...]
    total: int


async def read_letters(bus: Bus, requester: str | None = None, limit: int = LISTED_MAX) -> Letters:
    """Read the letters that nobody has dismissed, of one requester or of all.

    Raises: BusError.
    """
    dismissed: set[Identity | None] = set()
    async for batch in history.batches(bus, subjects.STREAM_EVENTS, subjects.DISMISSED_ALL):
        dismissed |= {subjects.parse_pair(fact.subject) for fact in batch}
    newest: deque[Letter] = deque(maxlen=limit)
    total = 0
    async for batch in history.batches(bus, subjects.STREAM_EVENTS, subjects.DEAD_ALL):
        for message in batch:
            letter = _letter(message.subject, message.data)
            if letter is None or letter.who in dismissed:
                continue
            if requester in (None, letter.who.requester):
                newest.append(letter)
                total += 1
    return Letters(letters=tuple(reversed(newest)), total=total)


async def find_letter(bus: Bus, request_id: str, requester: str | None = None) -> Letter:
    """Return one letter, a dismissed one too.

    Raises: ContractError (not_found, ambiguous_id, invalid_request), BusError.
    """
    if requester is None:
        wanted = subjects.dead_any_agent(request_id)
    else:
        wanted = subjects.chain(subjects.identity(requester, request_id), "failed")
    kept = await history.read(bus, subjects.STREAM_EVENTS, wanted, history.BATCH)
    read = [_letter(message.subject, message.data) for message in kept]
    found = {letter.who: letter for letter in read if letter is not None}
    who = whose.the_one(set(found), request_id)
    if who is None:
        of = "" if requester is None else f" of {requester}"
        raise ContractError(ErrorCode.NOT_FOUND, f"there is no dead letter {request_id}{of}")
    return msgspec.structs.replace(found[who], dismissed=await _dismissal(bus, who))


async def replay(
    bus: Bus, letter: Letter, priority: Priority | None, by: str, clock: Clock
) -> Submitted:
    """Send the request again under a new id, in the name of its requester, and dismiss the letter.

    In this order: where the second step fails, the letter stays in the list and nothing is lost.
    Raises: ContractError (invalid_request without a body, and what `submit` raises), BusError.
    """
    request = letter.link.request
    if not isinstance(request, Request):
        raise ContractError(
            ErrorCode.INVALID_REQUEST, "this request could not be read, so it cannot be sent again"
        )
    again = msgspec.structs.replace(
        request,
        request_id=None,
        requester=letter.who.requester,
        priority=priority or request.priority,
        replay_of=letter.who.request_id,
    )
    sent = await submit(bus, again, fresh=True, clock=clock)
    await dismiss(bus, letter.who, by, f"{REPLAYED} as {sent.who.request_id}", clock)
    return sent


async def dismiss(bus: Bus, who: Identity, by: str, reason: str, clock: Clock) -> None:
    """Take a letter off the list; its chain stays. Raises: BusError."""
    await facts.tell(bus, who, DISMISSED, by=by, clock=clock, reason=reason)


async def _dismissal(bus: Bus, who: Identity) -> AssetFact | None:
    """Return the last dismissal of a letter."""
    wanted = subjects.asset_fact(who, DISMISSED)
    found = await history.read(bus, subjects.STREAM_EVENTS, wanted, _FACTS_MAX)
    return msgspec.json.decode(found[-1].data, type=AssetFact) if found else None


def _letter(subject: str, data: bytes) -> Letter | None:
    """Read a bad end; None if it is no dead letter, or none that can be read here."""
    who = subjects.parse_pair(subject)
    try:
        link = codec.decode_link(data)
    except msgspec.DecodeError as error:
        log.warning("dead.unreadable", subject=subject, reason=str(error))
        return None
    if who is None or not isinstance(link, Failed) or not link.dead:
        return None
    return Letter(who=who, link=link)
