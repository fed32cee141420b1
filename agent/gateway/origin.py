"""Which web pages may talk to this gateway from a browser: its own and no others.

Programs send no Origin and are not meant here. Must not know keys.
"""

import ipaddress
from typing import Final
from urllib.parse import urlsplit

from aiohttp import web

from agent.gateway.problems import problem
from agent.gateway.settings import GatewaySettings
from contracts.errors import ErrorCode

_LOCAL: Final = "localhost"


def check_host(request: web.Request, settings: GatewaySettings) -> None:
    """Refuse a foreign Host where only this machine can connect.

    A page whose name is made to resolve to this machine (DNS rebinding) sends its own name as
    Host and as Origin; nothing else tells it from the dashboard. Raises: Problem(forbidden).
    """
    if not is_loopback(settings.host):
        return
    host = _hostname(request.headers.get("Host", ""))
    ours = (None, settings.host.lower(), _hostname(_netloc(settings.public_url or "")))
    if host not in ours and not is_loopback(host or ""):
        raise problem(
            ErrorCode.FORBIDDEN,
            f"this gateway does not go by the name {(host or '')[:80]!r}; behind a proxy, set its"
            " public address (MMG_PUBLIC_URL)",
        )


def check_origin(request: web.Request, settings: GatewaySettings) -> None:
    """Refuse what another site's page opens or changes: browsers let it, without asking us.

    For WebSockets, and for every method that changes something. Raises: Problem(forbidden).
    """
    origin = request.headers.get("Origin")
    if origin is None or is_allowed(origin, settings):
        return
    netloc = _netloc(origin)
    ours = (request.headers.get("Host", "").lower(), _netloc(settings.public_url or ""))
    if not netloc or netloc not in ours:
        raise problem(ErrorCode.FORBIDDEN, "a page of another site may not do this")


def is_allowed(origin: str | None, settings: GatewaySettings) -> bool:
    """Tell whether pages of this origin may ask, because the settings name it."""
    return origin is not None and origin.lower() in settings.cors_origins


def allow(origin: str, response: web.StreamResponse) -> None:
    """Let a browser show an answer to the page of another site that may ask."""
    response.headers["Access-Control-Allow-Origin"] = origin
    response.headers["Access-Control-Expose-Headers"] = "ETag, Retry-After"
    response.headers.add("Vary", "Origin")


def preflight() -> web.Response:
    """Answer the question that a browser asks before a page of another site may ask itself."""
    answer = web.Response(status=204)
    answer.headers["Access-Control-Allow-Methods"] = "GET, HEAD, POST, DELETE"
    answer.headers["Access-Control-Allow-Headers"] = (
        "Authorization, Content-Type, Idempotency-Key, Last-Event-ID, traceparent, tracestate"
    )
    answer.headers["Access-Control-Max-Age"] = "600"
    return answer


def _netloc(url: str) -> str:
    try:
        return urlsplit(url).netloc.lower()
    except ValueError:
        return ""


def _hostname(netloc: str) -> str | None:
    """Return the host of `host:port`; None where there is none."""
    try:
        return urlsplit(f"//{netloc}").hostname
    except ValueError:
        return netloc


def is_loopback(host: str) -> bool:
    """Tell whether only this machine can connect to an address."""
    if host == _LOCAL:
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
