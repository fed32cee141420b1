"""The door for requests: a JSON body in, 202 with the place to follow it out.

The body is the request contract and is judged by it. Must not decide where the work runs.
"""

import hashlib
from typing import Final, Protocol

import msgspec
from aiohttp import web

from agent.bus.connection import Bus
from agent.bus.submit import REQUESTER_DEFAULT, Submitted, submit
from agent.gateway.access import Caller, caller_of
from agent.gateway.asked import JSON, asked_once, bytes_of
from agent.gateway.describing import Described, Limit, Param, described
from agent.gateway.hearing import Hearing
from agent.gateway.lookup import require
from agent.gateway.problems import problem
from agent.gateway.queueing import Queue
from agent.gateway.settings import API, GatewaySettings
from agent.tracing import UNTRACED, Tracer
from contracts import codec, subjects, trace
from contracts.errors import ErrorCode
from contracts.events import Status
from contracts.requests import Priority, Request
from contracts.subjects import Identity

PER_MINUTE: Final = Limit(name="generate", per_minute=30)
IDEMPOTENCY: Final = "Idempotency-Key"
IDEMPOTENCY_MAX: Final = 255
TRACE: Final = (
    Param(name=trace.PARENT, where="header", text="W3C Trace Context; ignored where malformed"),
    Param(name=trace.STATE, where="header", text="goes with it, 512 characters at most"),
)
_DIGITS: Final = 32


class WebhookDoor(Protocol):
    """What looks at the webhook of a request before it is taken."""

    async def require(self, url: str | None, requester: str) -> None:
        """Refuse a webhook that could not be told. Raises: Problem, ContractError, BusError."""

    async def keep(self, who: Identity, url: str | None) -> None:
        """Keep the webhook of a request that was just stored; never raises."""


class Accepted(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to a request that is stored. `joined`: it was known before.

    Units: seconds; the band holds two times out of three. Null: nobody can tell, or it has begun.
    `replay_of` names the request that is sent again.
    """

    request_id: str
    requester: str
    status: Status
    joined: bool
    estimated_wait_seconds: float | None
    estimated_wait_band: tuple[float, float] | None
    queue_position: int | None
    websocket_url: str
    events_url: str
    replay_of: str | None = None


class Intake:
    """The route that takes requests. `settings` are replaced once the port is known."""

    def __init__(
        self,
        bus: Bus,
        settings: GatewaySettings,
        queue: Queue,
        hearing: Hearing,
        hooks: WebhookDoor | None = None,
        tracer: Tracer = UNTRACED,
    ) -> None:
        """Take nothing yet."""
        self._bus = bus
        self._queue = queue
        self._hearing = hearing
        self._hooks = hooks
        self._tracer = tracer
        self.settings = settings

    def routes(self) -> list[web.RouteDef]:
        """Return what to serve."""
        return [web.post(f"{API}/generate", self.generate)]

    @described(
        Described(
            summary="Ask for a picture",
            limit=PER_MINUTE,
            params=(
                Param(
                    name=IDEMPOTENCY,
                    where="header",
                    text="the same key with the same body is the same request, for 30 days",
                    shape={"type": "string", "pattern": "^[!-~]{1,255}$"},
                ),
                *TRACE,
            ),
            body=Request,
            answers={202: Accepted},
            errors=(
                ErrorCode.UNSUPPORTED_TYPE,
                ErrorCode.NOT_ENABLED,
                ErrorCode.ID_REUSED,
                ErrorCode.QUEUE_FULL,
                ErrorCode.INTAKE_CLOSED,
                ErrorCode.QUOTA,
            ),
            statuses=(408, 413, 415),
            tag="requests",
        )
    )
    async def generate(self, request: web.Request) -> web.Response:
        """Store the request in the body. Raises: ContractError, Problem, BusError."""
        asked_once(request, ())
        if request.content_type != JSON:
            # Also what keeps pages of other sites out: with this type a browser asks first.
            raise problem(
                ErrorCode.INVALID_REQUEST,
                f"send the request as {JSON}, not as {request.content_type[:80]}",
                status=415,
            )
        body = await bytes_of(request)
        caller = caller_of(request)
        asked = _named(codec.decode_request(body), caller, request.headers.get(IDEMPOTENCY))
        require(self._bus)
        if self._hooks is not None:
            await self._hooks.require(asked.webhook_url, asked.requester or REQUESTER_DEFAULT)
        with self._tracer.send(trace.read(request.headers)) as sending:
            most = self.settings.agent_queued_max
            stored = await submit(self._bus, asked, of=sending.trace, most=most)
            sending.stored(stored.who, stored.priority, joined=stored.joined)
        if self._hooks is not None and not stored.joined:
            await self._hooks.keep(stored.who, asked.webhook_url)
        return self.accepted(stored)

    def accepted(self, stored: Submitted, replay_of: str | None = None) -> web.Response:
        """Answer that a request is stored, with its place and how long it is expected to wait."""
        place, expected = None, None
        if stored.status is Status.QUEUED:
            place, expected = self._queue.expect(stored.who, stored.priority)
        if expected is not None and not stored.joined:
            self._hearing.calibration.promise(stored.who, expected)
        accepted = Accepted(
            request_id=stored.who.request_id,
            requester=stored.who.requester,
            status=stored.status,
            joined=stored.joined,
            estimated_wait_seconds=None if expected is None else expected.start_s,
            estimated_wait_band=None if expected is None else (expected.early_s, expected.late_s),
            queue_position=place,
            websocket_url=self.settings.socket_url(stored.who),
            events_url=self.settings.events_url(stored.who),
            replay_of=replay_of,
        )
        return web.Response(status=202, body=msgspec.json.encode(accepted), content_type=JSON)


def _named(asked: Request, caller: Caller, idempotency: str | None) -> Request:
    """Return the request in the name of whoever asks, with an id that follows from its key.

    The id makes the key hold for every gateway and for as long as chains are kept, without a list.
    Raises: Problem.
    """
    if caller.agent is not None and asked.requester not in (None, caller.agent):
        raise problem(
            ErrorCode.FORBIDDEN,
            f"this key is {caller.agent}'s; it does not speak for {asked.requester}",
            "$.requester",
        )
    requester = asked.requester or caller.agent or REQUESTER_DEFAULT
    require_priority(caller, asked.priority or Priority.MEDIUM)
    request_id = asked.request_id
    if idempotency is not None:
        if not 0 < len(idempotency) <= IDEMPOTENCY_MAX or not _is_visible(idempotency):
            raise problem(
                ErrorCode.INVALID_REQUEST,
                f"{IDEMPOTENCY} must have 1 to {IDEMPOTENCY_MAX} visible ASCII characters",
            )
        made = hashlib.sha256(f"{requester}\n{idempotency}".encode()).hexdigest()[:_DIGITS]
        request_id = request_id or f"mmg-key-{made}"
    return msgspec.structs.replace(asked, requester=requester, request_id=request_id)


def require_priority(caller: Caller, priority: Priority) -> None:
    """Refuse a class above the highest that a key may ask for. Raises: Problem(forbidden)."""
    lanes = subjects.LANES
    if lanes.index(priority) < lanes.index(caller.highest):
        raise problem(
            ErrorCode.FORBIDDEN, f"this key asks for {caller.highest} at most", "$.priority"
        )


def _is_visible(text: str) -> bool:
    return text.isascii() and text.isprintable() and " " not in text
