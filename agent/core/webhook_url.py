"""Which addresses a webhook may be sent to: the public internet, and what an operator allows. Pure.

A requester chooses the address, but we stand inside the house: what only we can reach must not be
reached through us. Names are judged where they are resolved, by `address_refusal`.
"""

import re
from collections.abc import Collection
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import Final
from urllib.parse import SplitResult, urlsplit

HTTPS_PORT: Final = 443
HTTP_PORT: Final = 80

_GLOBAL_V6: Final = IPv6Network("2000::/3")
_NOT_GLOBAL_V6: Final = tuple(
    IPv6Network(text) for text in ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")
)
"""Within the global range, but tunnels (Teredo, 6to4), identifiers and examples.

Python 3.11.7 takes 6to4, NAT64 (64:ff9b::/96) and some more for global.
"""
_NUMBER_LIKE: Final = re.compile(r"(0x[0-9a-f]*|[0-9]+)", re.IGNORECASE)
_ALLOWED: Final = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):(?P<port>[0-9]{1,5})")
PORT_MAX: Final = 65535


def refusal(url: str, allowed: Collection[str]) -> str | None:
    """Say why a webhook may not be sent to an address; None: as far as its text tells, it may.

    1. What an operator allows, as host:port, may be any host and port, http as well.
    2. Otherwise it is https, on the port of https. 3. A host that is a number is an address in
    the usual spelling, and a public one: 0x7f.1 and 2130706433 are 127.0.0.1 to some resolvers.
    """
    try:
        parts = urlsplit(url)
        port = port_of(parts)
    except ValueError as error:
        return f"it is no address: {error}"
    host = parts.hostname
    if not host or parts.scheme not in ("http", "https") or parts.username is not None:
        return "it must be https://host/... without a user"
    if f"{_spelled(host)}:{port}" in allowed:
        return None  # 1
    if parts.scheme != "https" or port != HTTPS_PORT:
        return (
            f"only https on port {HTTPS_PORT} is used; an operator may allow"
            f" {_spelled(host)}:{port} in MMG_WEBHOOK_ALLOW"
        )  # 2
    try:
        address_text = str(ip_address(host))
    except ValueError:
        last = host.rstrip(".").rpartition(".")[2]
        if _NUMBER_LIKE.fullmatch(last):
            return f"{host[:80]!r} is no usual spelling of an address"  # 3
        return None
    return address_refusal(address_text)  # 3


def is_allowed(url: str, allowed: Collection[str]) -> bool:
    """Tell whether an operator allows this host and port, wherever the name leads."""
    try:
        parts = urlsplit(url)
        return f"{_spelled(parts.hostname or '')}:{port_of(parts)}" in allowed
    except ValueError:
        return False


def address_refusal(text: str) -> str | None:
    """Say why an address that a name has led to may not be connected to; None: it is public."""
    try:
        address: IPv4Address | IPv6Address = ip_address(text.partition("%")[0])
    except ValueError:
        return f"{text[:80]!r} is no address"
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    public = address.is_global and not address.is_multicast and not address.is_reserved
    if isinstance(address, IPv6Address):
        public = public and address in _GLOBAL_V6
        public = public and not any(address in network for network in _NOT_GLOBAL_V6)
    return None if public else f"{address} is not on the public internet"


def read_allowed(text: str) -> str:
    """Read one host:port of an operator, in the spelling that addresses are compared in.

    Raises: ValueError.
    """
    found = _ALLOWED.fullmatch(text)
    if found is None or not 0 < int(found["port"]) <= PORT_MAX:
        raise ValueError(f"{text[:80]!r} is not host:port")
    return f"{_spelled(found['host'].strip('[]').lower())}:{int(found['port'])}"


def port_of(parts: SplitResult) -> int:
    """Return the port of an address, the usual one where it names none. Raises: ValueError."""
    if parts.port is not None:
        return parts.port
    return HTTPS_PORT if parts.scheme == "https" else HTTP_PORT


def _spelled(host: str) -> str:
    return f"[{host}]" if ":" in host else host
