"""One request by its id: how it stands, its end on demand, and what is said of it afterwards.

Each answer is read anew. Must not keep anything about a request.
"""

from typing import Annotated, Final

import msgspec
from aiohttp import web
from msgspec import Meta

from agent.bus import chain, dead, facts
from agent.bus.cancel import cancel
from agent.bus.connection import Bus
from agent.bus.snapshot import read_snapshot
from agent.bus.submit import submit
from agent.clock import Clock, SystemClock
from agent.core.job import Head
from agent.gateway.access import Caller, caller_of
from agent.gateway.asked import JSON, asked_once, body_of, choice_of, word_of
from agent.gateway.describing import AGENT, Described, Param, choice, described
from agent.gateway.intake import PER_MINUTE, Accepted, Intake, require_priority
from agent.gateway.lookup import find, require, unknown
from agent.gateway.problems import Problem, could_not_say, problem
from agent.gateway.queueing import Queue
from agent.gateway.settings import API
from contracts import codec
from contracts.errors import ContractError, ErrorBody, ErrorCode
from contracts.events import AssetFact, Cancelled, Completed, Failed, Snapshot, Status, is_terminal
from contracts.requests import Priority, Request
from contracts.subjects import Identity

ONE: Final = f"{API}/requests/{{request_id}}"
REASON_MAX: Final = 500
REQUESTER: Final = Param(
    name="requester", text="whose request, where several have the id", shape=AGENT
)

Reason = Annotated[str, Meta(max_length=REASON_MAX)]


class Rating(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a person thinks of the pictures: 1 useless, 5 just right."""

    rating: Annotated[int, Meta(ge=1, le=5)]
    reason: Reason = ""


class Why(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Why somebody wants it, for whoever reads it later."""

    reason: Reason = ""


class Again(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How to send a request again; without a priority as it was."""

    priority: Priority | None = None


def _described(summary: str, answer: object, **more: object) -> Described:
    """Return what a route about one request says of itself."""
    fields: dict[str, object] = {
        "summary": summary,
        "params": (REQUESTER,),
        "answers": {200: answer},
        "errors": (ErrorCode.NOT_FOUND, ErrorCode.AMBIGUOUS_ID),
        "tag": "requests",
    }
    return msgspec.structs.replace(Described(summary=summary), **{**fields, **more})


_GONE: Final = (ErrorCode.NOT_FOUND, ErrorCode.AMBIGUOUS_ID, ErrorCode.ALREADY_COMPLETED)
_CHANGES: Final = (408, 413, 415)


class Requests:
    """The routes about one request."""

    def __init__(
        self, bus: Bus, queue: Queue, intake: Intake, *, clock: Clock | None = None
    ) -> None:
        """Read nothing yet."""
        self._bus = bus
        self._queue = queue
        self._intake = intake
        self._clock = clock or SystemClock()

    def routes(self) -> list[web.RouteDef]:
        """Return what to serve."""
        return [
            web.get(ONE, self.snapshot, allow_head=False),
            web.delete(ONE, self.cancel),
            web.post(f"{ONE}/rating", self.rate),
            web.post(f"{ONE}/pin", self.pin),
            web.post(f"{ONE}/unpin", self.unpin),
            web.post(f"{ONE}/replay", self.replay),
        ]

    @described(_described("How a request stands, with its whole chain", Snapshot))
    async def snapshot(self, request: web.Request) -> web.Response:
        """Answer with all that is known. Raises: ContractError, Problem, BusError."""
        who = await self._who(request)
        snapshot = await read_snapshot(self._bus, who)
        if snapshot is None:
            raise unknown(who.request_id, who.requester)
        if snapshot.status is Status.QUEUED and snapshot.priority is not None:
            place, expected = self._queue.expect(who, Priority(snapshot.priority))
            eta_s = None if expected is None else expected.start_s
            snapshot = msgspec.structs.replace(snapshot, position=place, eta_s=eta_s)
        return web.Response(body=codec.encode(snapshot), content_type=JSON)

    @described(_described("End a request, queued or running", Cancelled, errors=_GONE))
    async def cancel(self, request: web.Request) -> web.Response:
        """Cancel by this connection: a gateway may append, and asks nobody else."""
        who = await self._who(request)
        ended = await cancel(self._bus, who, caller_of(request).name, self._clock)
        if isinstance(ended, ErrorBody):
            raise could_not_say(ended)
        return web.Response(body=codec.encode(ended), content_type=JSON)

    @described(
        _described(
            "Say what a person thinks of the pictures", AssetFact, body=Rating, statuses=_CHANGES
        )
    )
    async def rate(self, request: web.Request) -> web.Response:
        """Keep a rating of a request that has pictures. Raises: Problem, BusError."""
        who = await self._who(request)
        asked = await body_of(request, Rating)
        if not isinstance((await self._head(who)).link, Completed):
            raise problem(
                ErrorCode.INVALID_REQUEST, f"{who.request_id} has no pictures to rate", status=409
            )
        by = _by(caller_of(request))
        told = await facts.rate(self._bus, who, asked.rating, by, self._clock, asked.reason)
        return _fact(told)

    @described(
        _described(
            "Keep the pictures for good",
            AssetFact,
            body=Why,
            body_needed=False,
            statuses=_CHANGES,
        )
    )
    async def pin(self, request: web.Request) -> web.Response:
        """Pin a request. Raises: Problem, BusError."""
        who, by, reason = await self._change(request)
        return _fact(await facts.pin(self._bus, who, by, self._clock, reason))

    @described(
        _described(
            "Let the pictures go when their time has come",
            AssetFact,
            body=Why,
            body_needed=False,
            statuses=_CHANGES,
        )
    )
    async def unpin(self, request: web.Request) -> web.Response:
        """Unpin a request. Raises: Problem, BusError."""
        who, by, reason = await self._change(request)
        return _fact(await facts.unpin(self._bus, who, by, self._clock, reason))

    @described(
        _described(
            "Send a request again that has ended without a picture, under a new id",
            Accepted,
            limit=PER_MINUTE,
            params=(
                REQUESTER,
                Param(name="again", text="1: also if it was sent again before", shape=choice("1")),
            ),
            answers={202: Accepted},
            body=Again,
            body_needed=False,
            errors=(*_GONE, ErrorCode.ID_REUSED, ErrorCode.QUEUE_FULL, ErrorCode.INTAKE_CLOSED),
            statuses=_CHANGES,
        )
    )
    async def replay(self, request: web.Request) -> web.Response:
        """Send it again in the name of its requester. Raises: ContractError, Problem, BusError.

        1. A dead letter is taken off its list. 2. Another end without a picture. 3. Anything else
        is refused.
        """
        who = await self._who(request, ("requester", "again"))
        caller = caller_of(request)
        asked = await body_of(request, Again, Again())
        again = choice_of(asked_once(request, ("requester", "again")), "again", ("1",))
        link = (await self._head(who)).link
        if isinstance(link, Failed) and link.dead:  # 1
            letter = await dead.find_letter(self._bus, who.request_id, who.requester)
            if letter.replayed and letter.dismissed is not None and again is None:
                raise ContractError(
                    ErrorCode.ID_REUSED, f"{who.request_id} was {letter.dismissed.reason} already"
                )
            found = letter.link.request
            _check_priority(caller, asked, found if isinstance(found, Request) else None)
            sent = await dead.replay(self._bus, letter, asked.priority, _by(caller), self._clock)
            return self._intake.accepted(sent, replay_of=who.request_id)
        if not is_terminal(link) or isinstance(link, Completed):  # 3
            raise ContractError(
                ErrorCode.ALREADY_COMPLETED if is_terminal(link) else ErrorCode.ID_REUSED,
                f"{who.request_id} is {link.status.value}; only what has ended without a picture"
                " is sent again",
            )
        snapshot = await read_snapshot(self._bus, who)
        first = None if snapshot is None else snapshot.request
        if first is None:
            raise problem(
                ErrorCode.INVALID_REQUEST,
                "this request could not be read, so it cannot be sent again",
                status=409,
            )
        _check_priority(caller, asked, first)
        renewed = msgspec.structs.replace(
            first,
            request_id=None,
            requester=who.requester,
            priority=asked.priority or first.priority,
            replay_of=who.request_id,
        )
        sent = await submit(self._bus, renewed, fresh=True, clock=self._clock)  # 2
        return self._intake.accepted(sent, replay_of=who.request_id)

    async def _change(self, request: web.Request) -> tuple[Identity, str, str]:
        """Return whose request, who asks and why; only what has begun can be pinned."""
        who = await self._who(request)
        asked = await body_of(request, Why, Why())
        await self._head(who)
        return who, _by(caller_of(request)), asked.reason

    async def _who(self, request: web.Request, names: tuple[str, ...] = ("requester",)) -> Identity:
        """Return whose request is meant. Raises: ContractError, Problem, BusError."""
        return await find_own(self._bus, request, names)

    async def _head(self, who: Identity) -> Head:
        """Return the last link. Raises: Problem where the request has not begun, BusError."""
        try:
            head = await chain.read_head(self._bus, who)
        except msgspec.DecodeError as error:
            raise problem(
                ErrorCode.INVALID_REQUEST,
                f"the chain of {who.request_id} is of a newer version",
                status=409,
            ) from error
        if head is None:
            raise problem(ErrorCode.INVALID_REQUEST, f"{who.request_id} has not begun", status=409)
        return head


async def find_own(
    bus: Bus, request: web.Request, names: tuple[str, ...] = ("requester",)
) -> Identity:
    """Return whose request is meant: for a requester its own. Raises: Problem, BusError."""
    request_id = request.match_info["request_id"]
    requester = caller_of(request).scope(word_of(asked_once(request, names), "requester"))
    require(bus)
    who = await find(bus, request_id, requester)
    if who is None:
        raise unknown(request_id, requester)
    return who


def _check_priority(caller: Caller, asked: Again, request: Request | None) -> None:
    known = None if request is None else request.priority
    require_priority(caller, asked.priority or known or Priority.MEDIUM)


def _by(caller: Caller) -> str:
    return caller.name


def _fact(fact: AssetFact) -> web.Response:
    return web.Response(body=msgspec.json.encode(fact), content_type=JSON)


__all__ = ["Problem", "Requests", "find_own"]
