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
    if not _is_loopback(settings.host):
        return
    host = _hostname(request.headers.get("Host", ""))
    ours = (None, settings.host.lower(), _hostname(_netloc(settings.public_url or "")))
    if host not in ours and not _is_loopback(host or ""):
        raise problem(
            ErrorCode.FORBIDDEN,
            f"this gateway does not go by the name {(host or '')[:80]!r}; behind a proxy, set its"
            " public address (MMG_PUBLIC_URL)",
        )


def check_origin(request: web.Request, settings: GatewaySettings) -> None:
    """Refuse a WebSocket that another site's page opens: browsers let it, and send cookies.

    Raises: Problem(forbidden).
    """
    origin = request.headers.get("Origin")
    if origin is None:
        return
    netloc = _netloc(origin)
    ours = (request.headers.get("Host", "").lower(), _netloc(settings.public_url or ""))
    if not netloc or netloc not in ours:
        raise problem(ErrorCode.FORBIDDEN, "a page of another site may not open this WebSocket")


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


def _is_loopback(host: str) -> bool:
    if host == _LOCAL:
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
