"""What both clouds share: a server on a free port, keys, traps, a ledger, and a log of calls."""

import asyncio
import uuid
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from types import TracebackType
from typing import Any, Self

from aiohttp import web

from tests.doubles.clouds.traps import Traps
from tests.doubles.ending import killed, reset

KEY = "sk-double-0123456789"
SHUTDOWN_S = 0.2


@dataclass(frozen=True)
class Charge:
    """A picture that was charged: of which model, how much, for which prompt."""

    model: str
    usd: float
    prompt: str = ""


@dataclass
class Seen:
    """A call as it arrived, without its key."""

    method: str
    path: str
    content_type: str = ""
    fields: dict[str, Any] = field(default_factory=dict)


class CloudDouble:
    """A cloud on a free port: `url`, `trap(...)`, `ledger`, `seen`, `busy`.

    `draw_s` is how long a picture takes; `calls_max` in `window_s` lead to a time-out of `rest_s`.
    """

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        key: str = KEY,
        credit_usd: float = 10.0,
        draw_s: float = 0.0,
        calls_max: int = 150,
        window_s: float = 10.0,
        rest_s: float = 60.0,
    ) -> None:
        self.host, self.port, self.key = host, port, key
        self.credit_usd = credit_usd
        self.draw_s = draw_s
        self.calls_max, self.window_s, self.rest_s = calls_max, window_s, rest_s
        self.traps = Traps()
        self.ledger: list[Charge] = []
        self.seen: list[Seen] = []
        self.busy = 0
        self._times: deque[float] = deque()
        self._rest_until = 0.0
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://{self.host}:{self.port}"

    @property
    def charged_usd(self) -> float:
        """What it has charged so far."""
        return sum(charge.usd for charge in self.ledger)

    @property
    def paid(self) -> list[Seen]:
        """The calls that ask for pictures."""
        return [seen for seen in self.seen if seen.method == "POST"]

    def trap(self, name: str, times: int = 1, **values: Any) -> None:
        """Set a trap for the next paid calls."""
        self.traps.set(name, times, **values)

    def add_routes(self, app: web.Application) -> None:
        """Register what this cloud answers."""
        raise NotImplementedError

    def error(self, status: int, name: str, message: str) -> web.Response:
        """Return an error in the cloud's own shape."""
        raise NotImplementedError

    async def __aenter__(self) -> Self:
        app = web.Application(middlewares=[self._each])
        self.add_routes(app)
        app.router.add_get("/double/ledger", self._ledger)
        app.router.add_post("/double/trap", self._trap)
        self._runner = web.AppRunner(
            app, access_log=None, shutdown_timeout=SHUTDOWN_S, handler_cancellation=True
        )
        await self._runner.setup()
        await web.TCPSite(self._runner, self.host, self.port).start()
        self.port = int(self._runner.addresses[0][1])
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.stop()

    async def stop(self) -> None:
        """Listen no more; calls under way are reset."""
        runner, self._runner = self._runner, None
        if runner is not None:
            await killed(runner)

    # --- every call -----------------------------------------------------------------------------

    @web.middleware
    async def _each(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        if request.path.startswith("/double/"):
            return await handler(request)
        self.seen.append(Seen(request.method, request.path, request.content_type))
        self.busy += 1
        try:
            if request.headers.get("Authorization") != f"Bearer {self.key}":
                answer: web.StreamResponse = self.unauthorized(request)
            elif self._too_many():
                answer = self.rate_limited({})
            else:
                answer = await handler(request)
        finally:
            self.busy -= 1
        if not answer.prepared:
            answer.headers["x-request-id"] = uuid.uuid4().hex
        return answer

    def unauthorized(self, request: web.Request) -> web.Response:
        """Refuse a key as the cloud does."""
        return self.error(401, "unauthorized", "missing or invalid authorization header")

    def rate_limited(self, headers: dict[str, str]) -> web.Response:
        """Answer that there were too many calls."""
        answer = self.error(429, "rate_limit_exceeded", "You have exceeded the rate limit")
        answer.headers.update(headers)
        return answer

    def _too_many(self) -> bool:
        """Count calls in the window; over the limit everything is refused for a while."""
        now = asyncio.get_running_loop().time()
        if now < self._rest_until:
            return True
        while self._times and self._times[0] <= now - self.window_s:
            self._times.popleft()
        self._times.append(now)
        if len(self._times) > self.calls_max:
            self._rest_until = now + self.rest_s
            return True
        return False

    # --- a paid call ----------------------------------------------------------------------------

    async def refused(
        self, request: web.Request, name: str, values: dict[str, Any]
    ) -> web.StreamResponse | None:
        """Answer for traps that end a call before anything is drawn or charged."""
        match name:
            case "rate_limit":
                after = values["retry_after"]
                return self.rate_limited({} if after is None else {"Retry-After": str(after)})
            case "rate_date":
                now = datetime.now(UTC)  # noqa: TID251 - a peer has its own clock
                then = now + timedelta(seconds=values["seconds"])
                dates = {"Date": now, "Retry-After": then}
                return self.rate_limited(
                    {key: format_datetime(value, usegmt=True) for key, value in dates.items()}
                )
            case "rate_reset":
                return self.rate_limited(
                    {
                        "x-ratelimit-remaining-requests": "0",
                        "x-ratelimit-reset-requests": values["reset"],
                    }
                )
            case "too_large":
                return self.error(413, "payload_too_large", "request larger than 10MiB")
            case "rejected":
                return self.error(422, "unprocessable_entity", "the request was rejected")
            case "error":
                return self.error(values["status"], "internal_error", "an error has occurred")
            case "redirect":
                raise web.HTTPTemporaryRedirect("/elsewhere")
            case "cut" if values["when"] == "before":
                return cut(request)
        return None

    async def drawn(
        self, request: web.Request, name: str, values: dict[str, Any], answer: web.Response
    ) -> web.StreamResponse:
        """Send what was drawn and charged, unless a trap spoils it."""
        match name:
            case "cut" if values["when"] == "drawn":
                return cut(request)
            case "cut":
                return await half(request, answer)
            case "hang":
                await asyncio.Event().wait()
            case "proxy":
                return web.Response(status=values["status"], text="<html>Bad gateway</html>")
            case "garbage":
                return web.Response(text=values["body"], content_type="application/json")
        return answer

    def charge(self, model: str, usd: float, prompt: str) -> None:
        """Write a picture into the ledger and take its price off the account."""
        self.ledger.append(Charge(model, usd, prompt))
        self.credit_usd -= usd

    # --- control --------------------------------------------------------------------------------

    async def _ledger(self, _: web.Request) -> web.Response:
        return web.json_response(
            {
                "charged_usd": self.charged_usd,
                "charges": [vars(charge) for charge in self.ledger],
                "calls": [f"{seen.method} {seen.path}" for seen in self.seen],
            }
        )

    async def _trap(self, request: web.Request) -> web.Response:
        try:
            body = await request.json()
            self.trap(body.pop("name"), **body)
        except (ValueError, TypeError, AttributeError, KeyError) as error:
            return web.json_response({"error": str(error)}, status=400)
        return web.json_response({"set": True})


def cut(request: web.Request) -> web.Response:
    """Reset the connection."""
    reset(request.transport)
    return web.Response()


async def half(request: web.Request, answer: web.Response) -> web.StreamResponse:
    """Send headers and half of a body, then reset the connection."""
    body = answer.body
    assert isinstance(body, bytes)
    stream = web.StreamResponse(headers={"Content-Type": answer.content_type})
    stream.content_length = len(body)
    await stream.prepare(request)
    await stream.write(body[: len(body) // 2])
    cut(request)
    return stream
