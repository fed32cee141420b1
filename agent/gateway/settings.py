"""What a gateway has to be told, and the addresses that follow from it. Must not read anything."""

from urllib.parse import urlencode, urlsplit

import msgspec

from agent.bus.submit import REQUESTER_DEFAULT
from contracts.subjects import Identity

SOCKET_PATH = "/ws/multimodal"


class GatewaySettings(msgspec.Struct, frozen=True, kw_only=True):
    """Where to listen and under which address people reach it.

    `port` 0 takes a free one; `public_url` None is the address that was bound.
    """

    host: str = "127.0.0.1"
    port: int = 54112
    public_url: str | None = None

    def bound(self, port: int) -> "GatewaySettings":
        """Return the settings with the port that was really bound and a public address."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        public_url = self.public_url or f"http://{host}:{port}"
        return GatewaySettings(host=self.host, port=port, public_url=public_url.rstrip("/"))

    def socket_url(self, who: Identity) -> str:
        """Return where a request is followed by WebSocket."""
        parts = urlsplit(self.public_url or "")
        scheme = "wss" if parts.scheme == "https" else "ws"
        query = "" if who.requester == REQUESTER_DEFAULT else f"?{urlencode(_whose(who))}"
        return f"{scheme}://{parts.netloc}{parts.path}{SOCKET_PATH}/{who.request_id}{query}"


def _whose(who: Identity) -> dict[str, str]:
    return {"requester": who.requester}
