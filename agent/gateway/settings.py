"""What a gateway has to be told, and the addresses that follow from it. Must not read anything."""

from pathlib import Path
from urllib.parse import urlencode, urlsplit

import msgspec

from agent.bus.submit import REQUESTER_DEFAULT
from contracts.subjects import Identity

API = "/api/multimodal"
SOCKET_PATH = "/ws/multimodal"


class HookSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What a gateway has to be told of webhooks.

    `secrets` sign for every requester that has none of its own in the file of keys; several while
    one replaces another. `allowed` are host:port that may be told although they are not public.
    `alert_url` is told each alert; None: nobody is.
    """

    secrets: tuple[str, ...] = ()
    allowed: frozenset[str] = frozenset()
    alert_url: str | None = None

    def __repr__(self) -> str:
        """Hide the secrets."""
        return f"HookSettings(secrets={len(self.secrets)}, allowed={sorted(self.allowed)})"


class GatewaySettings(msgspec.Struct, frozen=True, kw_only=True):
    """Where to listen, under which address people reach it, and who may.

    `port` 0 takes a free one; `public_url` None is the address that was bound. `keys_file` None:
    no keys, for this machine only. `trusted_proxies` are addresses and networks, `cors_origins`
    the pages of other sites that may ask. `agent_queued_max` None: one agent may fill the queue.
    """

    host: str = "127.0.0.1"
    port: int = 54112
    public_url: str | None = None
    keys_file: Path | None = None
    trusted_proxies: tuple[str, ...] = ()
    cors_origins: tuple[str, ...] = ()
    rate_limits: bool = True
    agent_queued_max: int | None = None
    hooks: HookSettings = HookSettings()

    def bound(self, port: int) -> "GatewaySettings":
        """Return the settings with the port that was really bound and a public address."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        public_url = self.public_url or f"http://{host}:{port}"
        return msgspec.structs.replace(self, port=port, public_url=public_url.rstrip("/"))

    def socket_url(self, who: Identity) -> str:
        """Return where a request is followed by WebSocket."""
        parts = urlsplit(self.public_url or "")
        scheme = "wss" if parts.scheme == "https" else "ws"
        return f"{scheme}://{parts.netloc}{parts.path}{SOCKET_PATH}/{who.request_id}{_whose(who)}"

    def events_url(self, who: Identity) -> str:
        """Return where a request is followed as server-sent events."""
        return f"{self.public_url}{API}/requests/{who.request_id}/events{_whose(who)}"


def _whose(who: Identity) -> str:
    if who.requester == REQUESTER_DEFAULT:
        return ""
    return f"?{urlencode({'requester': who.requester})}"
