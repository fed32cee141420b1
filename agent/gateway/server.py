"""The gateway's HTTP server: which address leads where, from start to stop.

Each route is one function elsewhere. It must not hold anything about requests.
"""

from typing import Final

import structlog
from aiohttp import web
from aiohttp.typedefs import Handler
from nats.aio.subscription import Subscription

from agent.assets import AssetStore
from agent.bus.cancel import cancel
from agent.bus.connection import Bus
from agent.bus.snapshot import read_snapshot, serve_snapshots
from agent.clock import SystemClock
from agent.gateway import intake
from agent.gateway.history import History
from agent.gateway.lookup import find, require_streams, unknown
from agent.gateway.origin import check_host
from agent.gateway.problems import answer_problems, could_not_say, harden, problem
from agent.gateway.relay import Relay, unsubscribe
from agent.gateway.settings import SOCKET_PATH, GatewaySettings
from agent.gateway.sockets import STOP_PATIENCE_S, Sockets
from agent.ledger import Ledger
from contracts import codec
from contracts.codec import REQUEST_SIZE_MAX_BYTES
from contracts.errors import ErrorBody, ErrorCode

API: Final = "/api/multimodal"
NAME: Final = "gateway"
"""Who cancelled a request, for whoever reads its chain: people have no keys yet."""
IDLE_TIMEOUT_S: Final = 30.0
"""A connection that has not sent a whole request head by then is closed, also the first time."""
LINGER_S: Final = 2.0
STOP_TIMEOUT_S: Final = 0.4
"""aiohttp waits this long twice for what still runs: together with all else below 2 s."""

PICTURE_TYPES: Final = {".png": "image/png", ".jpg": "image/jpeg", ".webp": "image/webp"}
"""Not left to the machine: Python 3.11 does not know WebP, and a registry may say anything."""

IMMUTABLE: Final = "private, max-age=31536000, immutable"

log = structlog.get_logger()


class Gateway:
    """One HTTP server on one bus connection. Order: `start`, then `port`; `stop` at the end."""

    def __init__(
        self,
        bus: Bus,
        assets: AssetStore,
        settings: GatewaySettings,
        ledger: Ledger | None = None,
    ) -> None:
        """Nothing listens before `start`; without a ledger there is no history."""
        self._bus = bus
        self._assets = assets
        self._settings = settings
        self._history = History(bus, assets, ledger)
        self._relay = Relay(bus)
        self._sockets = Sockets(bus, self._relay)
        self._runner: web.AppRunner | None = None
        self._site: web.TCPSite | None = None
        self._snapshots: Subscription | None = None
        self._port: int | None = None

    @property
    def port(self) -> int:
        """The port that was bound."""
        assert self._port is not None, "the gateway was started"
        return self._port

    @property
    def public_url(self) -> str:
        """Where people reach it."""
        assert self._settings.public_url is not None, "the gateway was started"
        return self._settings.public_url

    async def start(self) -> None:
        """Subscribe, then listen. Raises: OSError if the port is taken, BusError."""
        await self._relay.start()
        self._snapshots = await serve_snapshots(self._bus)
        self._runner = web.AppRunner(
            self._app(),
            access_log=None,
            keepalive_timeout=IDLE_TIMEOUT_S,
            lingering_time=LINGER_S,
            auto_decompress=False,
            shutdown_timeout=STOP_TIMEOUT_S,
        )
        await self._runner.setup()
        try:
            site = web.TCPSite(self._runner, self._settings.host, self._settings.port)
            await site.start()
        except OSError:
            await self.stop()
            raise
        self._site = site
        self._port = self._runner.addresses[0][1]
        self._settings = self._settings.bound(self.port)
        log.info("gateway.listening", host=self._settings.host, port=self.port)

    async def stop(self) -> None:
        """Close the WebSockets with 1001, finish what is short, and stop; within 2 s."""
        if self._site is not None:
            await self._site.stop()
            self._site = None
        await self._relay.stop()
        await self._sockets.wait_closed(STOP_PATIENCE_S)
        if self._snapshots is not None:
            await unsubscribe(self._snapshots)
        self._snapshots = None
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    def _app(self) -> web.Application:
        app = web.Application(
            middlewares=[answer_problems, self._check_host], client_max_size=REQUEST_SIZE_MAX_BYTES
        )
        app.on_response_prepare.append(harden)
        app.add_routes(
            [
                web.get("/healthz", self._healthz),
                web.get("/readyz", self._readyz),
                web.post(f"{API}/generate", self._generate),
                web.get(f"{API}/requests/{{request_id}}", self._snapshot, allow_head=False),
                web.delete(f"{API}/requests/{{request_id}}", self._cancel),
                web.get(f"{API}/history", self._history.history, allow_head=False),
                web.get(f"{API}/stats", self._history.stats, allow_head=False),
                web.get(f"{API}/assets/{{kind}}/{{month}}/{{file}}", self._asset),
                web.get(f"{SOCKET_PATH}/{{request_id}}", self._socket, allow_head=False),
            ]
        )
        return app

    @web.middleware
    async def _check_host(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        check_host(request, self._settings)
        return await handler(request)

    async def _healthz(self, _request: web.Request) -> web.Response:
        """Say that the process lives, whatever its bus does."""
        return web.json_response({"status": "ok"})

    async def _readyz(self, _request: web.Request) -> web.Response:
        await require_streams(self._bus)
        return web.json_response({"status": "ready"})

    async def _generate(self, request: web.Request) -> web.Response:
        return await intake.generate(request, self._bus, self._settings)

    async def _snapshot(self, request: web.Request) -> web.Response:
        request_id = request.match_info["request_id"]
        requester = request.query.get("requester")
        who = await find(self._bus, request_id, requester)
        snapshot = None if who is None else await read_snapshot(self._bus, who)
        if snapshot is None:
            raise unknown(request_id, requester)
        return web.Response(body=codec.encode(snapshot), content_type=intake.JSON)

    async def _cancel(self, request: web.Request) -> web.Response:
        """Cancel by this connection: a gateway may append, and asks nobody else."""
        request_id = request.match_info["request_id"]
        requester = request.query.get("requester")
        who = await find(self._bus, request_id, requester)
        if who is None:
            raise unknown(request_id, requester)
        ended = await cancel(self._bus, who, NAME, SystemClock())
        if isinstance(ended, ErrorBody):
            raise could_not_say(ended)
        return web.Response(body=codec.encode(ended), content_type=intake.JSON)

    async def _asset(self, request: web.Request) -> web.StreamResponse:
        kind, month, file = (request.match_info[key] for key in ("kind", "month", "file"))
        path = await self._assets.find_or_make(kind, month, file)
        if path is None:
            raise problem(ErrorCode.NOT_FOUND, "there is no such asset")
        headers = {"Content-Type": PICTURE_TYPES[path.suffix], "Cache-Control": IMMUTABLE}
        return web.FileResponse(path, headers=headers)

    async def _socket(self, request: web.Request) -> web.StreamResponse:
        return await self._sockets.serve(request, self._settings)
