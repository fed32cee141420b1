"""Who asks, and whether they may: a key, a one-time ticket, or nobody from elsewhere.

Without a file of keys everybody on this machine is an operator; there is no such thing anywhere
else. Must not know what a route does.
"""

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import Final

import msgspec
import structlog
from aiohttp import web

from agent.clock import Clock, SystemClock
from agent.core.rate import Rates
from agent.gateway import keys, origin, signing
from agent.gateway.describing import Described, description
from agent.gateway.keys import KeyFile, KeyFileError, Role
from agent.gateway.problems import Problem, problem
from agent.gateway.settings import API, GatewaySettings
from contracts.errors import ErrorCode
from contracts.requests import Priority

TICKET_S: Final = 30
TICKETS_MAX: Final = 10_000
LOOK_EVERY_S: Final = 1.0
"""A revoked key is good for at most so long after its line has gone."""
ASSETS: Final = f"{API}/assets/"
_SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_BEARER: Final = "bearer "
_PREFIX_V6: Final = 64
"""Whoever has one IPv6 address has all of its network."""

log = structlog.get_logger()

Next = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Caller(msgspec.Struct, frozen=True, kw_only=True):
    """Who asks. `agent` None: this machine without keys, who may speak for anybody.

    `name` is what the chain and the log say, `bucket` whose allowance is used.
    """

    name: str
    bucket: str
    agent: str | None = None
    is_operator: bool = True
    highest: Priority = Priority.CRITICAL

    def require_own(self, requester: str | None) -> None:
        """Raise Problem(forbidden) for what is somebody else's, unless an operator asks."""
        if not self.is_operator and requester not in (None, self.agent):
            raise problem(ErrorCode.FORBIDDEN, f"this key is {self.agent}'s and sees only its own")

    def scope(self, requester: str | None) -> str | None:
        """Return whose requests are meant: a requester's own ones, else as asked for.

        Raises: Problem(forbidden).
        """
        self.require_own(requester)
        return requester if self.is_operator else self.agent


CALLER: Final = web.RequestKey("caller", Caller)


def caller_of(request: web.Request) -> Caller:
    """Return who asks. Order: behind the middleware of `Access`."""
    return request[CALLER]


class Access:
    """The door of one gateway. Order: `open` before the first request."""

    def __init__(self, settings: GatewaySettings, clock: Clock | None = None) -> None:
        """Know no key yet."""
        self._settings = settings
        self._clock = clock or SystemClock()
        self._rates = Rates()
        self._tickets: dict[str, tuple[Caller, float]] = {}
        self._proxies = tuple(ip_network(one) for one in settings.trusted_proxies)
        self._file: KeyFile | None = None
        self._seen: tuple[int, int, int] | None = None
        self._look_at_s = 0.0

    async def open(self) -> None:
        """Read the keys. Raises: KeyFileError: they cannot be read, or are missing but needed."""
        path = self._settings.keys_file
        if path is not None:
            self._file = await asyncio.to_thread(keys.read, path)
            if self._file is not None and not await asyncio.to_thread(keys.is_private, path):
                log.warning("access.keys_not_private", file=path.name, hint="chmod 600")
        if origin.is_loopback(self._settings.host):
            return
        if self._file is None or not self._file.keys:
            raise KeyFileError(
                f"without keys this gateway may listen on this machine only, not on"
                f" {self._settings.host}; make one: mmg key add AGENT --role operator"
            )
        log.info("access.keys", count=len(self._file.keys))

    @property
    def keys(self) -> KeyFile | None:
        """The keys that hold; None: none are demanded."""
        return self._file

    async def check(self, request: web.Request, go_on: Next) -> web.StreamResponse:
        """Let a request through, or not.

        1. A page of another site: only those that are named. 2. A route that is public. 3. Who
        asks, and what for. 4. Not too often. Raises: Problem.
        """
        asked_from = request.headers.get("Origin")
        if request.method == "OPTIONS" and origin.is_allowed(asked_from, self._settings):
            return origin.preflight()  # 1
        if request.method not in _SAFE:
            origin.check_origin(request, self._settings)  # 1
        words = description(request.match_info.handler)
        if words.access != "public" and request.match_info.http_exception is None:  # 2
            await self._look()
            request[CALLER] = self._admit(request, words)  # 3, 4
        return await go_on(request)

    async def show(self, request: web.BaseRequest, response: web.StreamResponse) -> None:
        """Let pages of the other sites that are named see an answer, also one that is an error."""
        asked_from = request.headers.get("Origin")
        if asked_from is not None and origin.is_allowed(asked_from, self._settings):
            origin.allow(asked_from, response)

    def make_ticket(self, caller: Caller) -> str:
        """Return a word that opens one WebSocket in the caller's name, for 30 s."""
        now_s = self._clock.monotonic_s()
        self._tickets = {word: one for word, one in self._tickets.items() if one[1] > now_s}
        if len(self._tickets) >= TICKETS_MAX:
            raise problem(ErrorCode.RATE_LIMITED, "too many tickets are waiting to be used")
        word = secrets.token_urlsafe(32)
        self._tickets[word] = (caller, now_s + TICKET_S)
        return word

    def sign(self, path: str) -> str:
        """Return an address of an asset that opens by itself for an hour, where that is needed."""
        if self._file is None:
            return path
        until_s = int(self._clock.now().timestamp()) + signing.VALID_S
        return f"{path}?{signing.sign(path, self._file.secret, until_s)}"

    def _admit(self, request: web.Request, words: Described) -> Caller:
        """Return who asks. Raises: Problem: 401, 403 or 429."""
        address = self._address(request)
        caller = self._who(request, words, address)
        if words.access == "operator" and not caller.is_operator:
            raise problem(ErrorCode.FORBIDDEN, "this is for operators; the key is a requester's")
        if request.path.startswith(ASSETS) and request.method in _SAFE and caller.agent:
            owner = request.path.rpartition("/")[2].partition(".")[0]
            caller.require_own(owner.replace("-", "."))
        if words.limit is not None and self._settings.rate_limits:
            limit = words.limit
            bucket = f"{limit.name} {caller.bucket}"
            wait_s = self._rates.take(bucket, limit.per_minute, self._clock.monotonic_s())
            if wait_s:
                raise problem(
                    ErrorCode.RATE_LIMITED,
                    f"at most {limit.per_minute} a minute of these; again in {wait_s} s",
                    headers={"Retry-After": str(wait_s)},
                )
        return caller

    def _who(self, request: web.Request, words: Described, address: str) -> Caller:
        """Tell who asks.

        1. A ticket, where the route takes one; it is used up. 2. A key. 3. An address that we
        signed, for a picture. 4. Nobody in particular, while no keys are demanded.
        """
        ticket = request.query.get("ticket")
        if words.ticket and ticket is not None:
            return self._redeem(ticket)  # 1
        given = request.headers.get("Authorization")
        if self._file is None:
            return Caller(name="gateway", bucket=address)  # 4
        if given is not None and given[: len(_BEARER)].lower() == _BEARER:
            key = self._file.find(given[len(_BEARER) :].strip())
            if key is not None:
                return Caller(  # 2
                    name=f"{key.agent} (key {key.id})",
                    bucket=key.id,
                    agent=key.agent,
                    is_operator=key.role is Role.OPERATOR,
                    highest=key.highest,
                )
            raise _unknown("this key is not known here")
        if request.path.startswith(ASSETS) and request.method in _SAFE and self._signed(request):
            return Caller(name="signed address", bucket=address, agent="", is_operator=False)  # 3
        raise _unknown("this gateway wants a key: Authorization: Bearer mmg_...")

    def _redeem(self, ticket: str) -> Caller:
        caller, until_s = self._tickets.pop(ticket, (None, 0.0))
        if caller is None or until_s <= self._clock.monotonic_s():
            raise _unknown("this ticket is not known, was used, or is too old")
        return caller

    def _signed(self, request: web.Request) -> bool:
        assert self._file is not None, "asked only while keys hold"
        now_s = self._clock.now().timestamp()
        return signing.is_signed(request.path, dict(request.query), self._file.secret, now_s)

    async def _look(self) -> None:
        """Read the keys again when their file has changed, at most once a second.

        A file that cannot be read, or is gone, changes nothing: what was demanded stays so.
        """
        path, now_s = self._settings.keys_file, self._clock.monotonic_s()
        if path is None or now_s < self._look_at_s:
            return
        self._look_at_s = now_s + LOOK_EVERY_S
        seen = await asyncio.to_thread(_stamp, path)
        if seen == self._seen or seen is None:
            return
        try:
            found = await asyncio.to_thread(keys.read, path)
        except KeyFileError as error:
            log.error("access.keys_unreadable", reason=str(error))  # noqa: TRY400 - no traceback
            return
        self._seen = seen
        if found is not None and found != self._file:
            self._file = found
            log.info("access.keys", count=len(found.keys))

    def _address(self, request: web.Request) -> str:
        """Return the address that asks, behind the proxies that we trust to name it."""
        found = request.remote or ""
        named = ",".join(request.headers.getall("X-Forwarded-For", [])).split(",")
        while named and self._is_proxy(found):
            following = named.pop().strip()
            if not _is_address(following):
                break
            found = following
        return _network(found)

    def _is_proxy(self, text: str) -> bool:
        return _is_address(text) and any(ip_address(text) in one for one in self._proxies)


Network = IPv4Network | IPv6Network


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def _network(text: str) -> str:
    """Return what one household has: an IPv4 address, or an IPv6 network."""
    if not _is_address(text):
        return text
    address = ip_address(text)
    if not isinstance(address, IPv6Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ip_network((address, _PREFIX_V6), strict=False))


def _stamp(path: Path) -> tuple[int, int, int] | None:
    """Return what changes with the file; None without one."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def _unknown(text: str) -> Problem:
    return problem(
        ErrorCode.FORBIDDEN, text, status=401, headers={"WWW-Authenticate": 'Bearer realm="mmg"'}
    )
