"""One agent on the bus: it asks for pictures and waits for them.

What happens to a request after it was stored is none of its business; it only follows.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Final, Self, TypedDict, Unpack

import msgspec

from agent.bus import connection
from agent.bus.cancel import ask_cancel
from agent.bus.connection import Bus, NoAnswer
from agent.bus.login import NOBODY, Login
from agent.bus.snapshot import ask_snapshot, read_snapshot
from agent.bus.submit import new_request_id, submit
from agent.client.following import ASK_TIMEOUT_S, ChainReader, Events
from agent.client.order import Event
from contracts import codec, subjects, trace
from contracts.errors import ContractError, ErrorBody, ErrorCode, error_body
from contracts.events import Cancelled, Completed, Expired, Failed, Progress, Snapshot
from contracts.requests import AspectRatio, ImageRef, Options, Priority, Quality, Request, Style
from contracts.subjects import Identity

DEFAULT_URL: Final = "nats://127.0.0.1:4222"
CONNECT_PATIENCE_S: Final = 10.0

_OPTIONS: Final = frozenset(Options.__struct_fields__)


class Fields(TypedDict, total=False):
    """Everything a request may say beside its prompt; the contract checks the values."""

    request_id: str
    priority: Priority | str
    quality: Quality | str
    style: Style | str | None
    aspect_ratio: AspectRatio | str | None
    seed: int | None
    negative_prompt: str | None
    count: int
    enhance_prompt: bool
    previews: bool
    steps: int | None
    cfg: float | None
    width: int | None
    height: int | None
    model: str | None
    workflow: str | None
    image: ImageRef | None
    webhook_url: str | None
    deadline_s: int | None
    local_only: bool
    dry_run: bool


class Ticket(msgspec.Struct, frozen=True, kw_only=True):
    """What names a request that was accepted; `joined`: it was known already, nothing was added."""

    request_id: str
    requester: str
    joined: bool


class GenerationFailed(Exception):
    """The request ended without a picture: failed, expired or cancelled.

    `error` says why; `link` is the end of the chain, None where this client cannot read it.
    """

    def __init__(self, error: ErrorBody, link: Failed | Expired | Cancelled | None) -> None:
        """Keep the error and the link."""
        super().__init__(f"{error.code}: {error.message}")
        self.error = error
        self.link = link

    @classmethod
    def by(cls, link: Failed | Expired | Cancelled) -> Self:
        """Build it from the end of a chain."""
        if isinstance(link, Cancelled):
            return cls(error_body(ErrorCode.CANCELLED, f"cancelled by {link.by}"), link)
        return cls(link.error, link)

    @classmethod
    def unreadable(cls) -> Self:
        """Build it for a chain that ended with a link of a kind not known here."""
        message = "the request ended in a way this client cannot read; it is older than the worker"
        return cls(error_body(ErrorCode.UNSUPPORTED_CONTRACT, message), None)


def build_request(prompt: str | Request, **fields: Unpack[Fields]) -> Request:
    """Return the checked request; fields given here replace those of a `Request`.

    Raises: ContractError with the code and JSON path of the first fault.
    """
    body: dict[str, object] = {"type": "image", "prompt": prompt}
    if isinstance(prompt, Request):
        body = msgspec.to_builtins(prompt)
    options = dict(msgspec.convert(body.get("options", {}), dict[str, object]))
    for name, value in fields.items():
        (options if name in _OPTIONS else body)[name] = value
    return codec.decode_request(msgspec.json.encode(body | {"options": options}))


@contextlib.asynccontextmanager
async def connect(
    url: str | Sequence[str] = DEFAULT_URL,
    *,
    agent: str,
    patience_s: float | None = CONNECT_PATIENCE_S,
    login: Login = NOBODY,
) -> AsyncIterator["Client"]:
    """Connect to the bus as `agent`, for instance `L2.05.03`, and close at the end.

    Afterwards it reconnects for ever. `patience_s` None also waits for ever at the start. `login`
    is the agent's key and the site's certificate authority, where the bus asks for them.
    Raises: BusError if no server answers or the key cannot be used, ContractError if `agent` is no
    agent id.
    """
    subjects.identity(agent, "any")
    urls = [url] if isinstance(url, str) else list(url)
    async with await connection.connect(urls, agent, patience_s=patience_s, login=login) as bus:
        yield Client(bus, agent)


class Client:
    """One agent on the bus. Any number of calls may run side by side."""

    def __init__(self, bus: Bus, agent: str) -> None:
        """Wrap an open connection; `connect` makes both."""
        self._bus = bus
        self._agent = agent
        self._reader = ChainReader(bus)

    async def submit(
        self,
        prompt: str | Request,
        *,
        traced: Mapping[str, str] | None = None,
        **fields: Unpack[Fields],
    ) -> Ticket:
        """Store a request in its lane and return; a worker takes it when its turn comes.

        Without `request_id` one is made. The same id with the same body joins the known request.
        `traced` holds `traceparent` and `tracestate` as OpenTelemetry's `inject` writes them.
        Raises: ContractError (invalid_request, id_reused, queue_full ...), BusError when it is
        not known whether it was stored: submit again with the same id.
        """
        asked = build_request(prompt, **fields)
        return await self._store(self._complete(asked), traced, fresh=asked.request_id is None)

    async def _store(
        self, request: Request, traced: Mapping[str, str] | None, *, fresh: bool
    ) -> Ticket:
        """Store a complete request; `fresh`: its id was made here just now."""
        stored = await submit(self._bus, request, of=trace.read(traced), fresh=fresh)
        who = self._identity(request)
        return Ticket(request_id=who.request_id, requester=who.requester, joined=stored.joined)

    def follow(self, request_id: str, *, after: int = 0, requester: str | None = None) -> Events:
        """Return the events of a request as a context: subscribed on entry, ended on exit.

        Enter it before `submit` to miss nothing; iterate to the end or leave when you like.
        Raises: ContractError if the id is none.
        """
        who = subjects.identity(requester or self._agent, request_id)
        return Events(self._bus, self._reader, who, after)

    async def watch(
        self, request_id: str, *, after: int = 0, requester: str | None = None
    ) -> AsyncIterator[Event]:
        """Yield the links after place `after`, then what comes; ends after the terminal link.

        Waits for ever for a request that does not exist: ask `snapshot` first where that matters.
        """
        async with self.follow(request_id, after=after, requester=requester) as events:
            async for event in events:
                yield event

    async def generate(
        self,
        prompt: str | Request,
        *,
        timeout_s: float | None = None,
        on_event: Callable[[Event], None] | None = None,
        traced: Mapping[str, str] | None = None,
        **fields: Unpack[Fields],
    ) -> Completed:
        """Submit, wait for the end and return it; `on_event` sees everything on the way.

        Raises: GenerationFailed; TimeoutError after `timeout_s` (the request itself goes on);
        what `submit` raises.
        """
        asked = build_request(prompt, **fields)
        request = self._complete(asked)
        assert request.request_id is not None, "completed"
        async with asyncio.timeout(timeout_s), self.follow(request.request_id) as events:
            await self._store(request, traced, fresh=asked.request_id is None)
            async for event in events:
                check_same(request, event)
                if on_event is not None:
                    on_event(event)
                if isinstance(event, Completed):
                    return event
                if isinstance(event, Failed | Expired | Cancelled):
                    raise GenerationFailed.by(event)
        raise GenerationFailed.unreadable()

    async def snapshot(self, request_id: str, *, requester: str | None = None) -> Snapshot | None:
        """Return the state of a request; None if nothing of it is known.

        Raises: BusError if nobody can be asked.
        """
        who = subjects.identity(requester or self._agent, request_id)
        try:
            return await ask_snapshot(self._bus, who, ASK_TIMEOUT_S)
        except NoAnswer:
            if not self._bus.may_read:
                raise
            return await read_snapshot(self._bus, who)

    async def cancel(self, request_id: str, *, requester: str | None = None) -> Cancelled:
        """End a request, queued or running, and return the last link of its chain.

        Raises: ContractError (not_found; already_completed: any other end stands); BusError if
        nobody answers: it may or may not be cancelled, and asking again does no harm.
        """
        who = subjects.identity(requester or self._agent, request_id)
        answer = await ask_cancel(self._bus, who, self._agent)
        if isinstance(answer, ErrorBody):
            raise ContractError(answer.code, answer.message, answer.detail)
        return answer

    def _complete(self, request: Request) -> Request:
        """Fill in what the subject carries. Raises: ContractError for somebody else's name."""
        if request.requester not in (None, self._agent):
            raise ContractError(
                ErrorCode.FORBIDDEN,
                f"this client is {self._agent}, it cannot ask for {request.requester}",
                "$.requester",
            )
        return msgspec.structs.replace(
            request,
            request_id=request.request_id or new_request_id(),
            requester=self._agent,
            priority=request.priority or Priority.MEDIUM,
        )

    def _identity(self, request: Request) -> Identity:
        assert request.request_id is not None, "completed"
        return subjects.identity(self._agent, request.request_id)


def check_same(sent: Request, event: Event) -> None:
    """Compare what was sent with the request in the first link of the chain.

    Raises: ContractError(id_reused) if the chain belongs to another request with this id.
    """
    if isinstance(event, Progress) or not isinstance(event.request, Request):
        return
    if not codec.same_request(sent, event.request):
        raise ContractError(
            ErrorCode.ID_REUSED,
            f"request_id {sent.request_id} was used before for another request",
            "$.request_id",
        )
