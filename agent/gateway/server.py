"""The gateway's HTTP server: which address leads where, from start to stop.

Each route is one function elsewhere. It must not hold anything about requests.
"""

import asyncio
from typing import Final

import structlog
from aiohttp import web
from aiohttp.typedefs import Handler
from nats.aio.subscription import Subscription

from agent.assets import AssetStore
from agent.bus.connection import Bus, BusError
from agent.bus.snapshot import serve_snapshots
from agent.gateway import openapi
from agent.gateway.access import Access
from agent.gateway.assets import Pictures
from agent.gateway.clearing import Clearing
from agent.gateway.dashboard import Dashboard
from agent.gateway.describing import Described, Param, described, number
from agent.gateway.doors import Doors
from agent.gateway.events import Events
from agent.gateway.everything import Everything
from agent.gateway.gauges import Gauges
from agent.gateway.hearing import Hearing
from agent.gateway.history import History
from agent.gateway.hook_door import HookDoor
from agent.gateway.intake import Intake
from agent.gateway.lookup import require_streams
from agent.gateway.machines import Machines
from agent.gateway.models import Models
from agent.gateway.origin import check_host
from agent.gateway.pages import Pages
from agent.gateway.problems import answer_problems, harden
from agent.gateway.queueing import Queue
from agent.gateway.relay import Relay, unsubscribe
from agent.gateway.requests import REQUESTER, Requests
from agent.gateway.runbook import Runbook
from agent.gateway.settings import SOCKET_PATH, GatewaySettings
from agent.gateway.situation import FirstScreen
from agent.gateway.sockets import AFTER_MAX, STOP_PATIENCE_S, WAIT_MAX_S, Sockets
from agent.ledger import Ledger
from agent.tracing import UNTRACED, Tracer
from contracts.codec import REQUEST_SIZE_MAX_BYTES
from contracts.errors import ErrorCode

IDLE_TIMEOUT_S: Final = 30.0
"""A connection that has not sent a whole request head by then is closed, also the first time."""
LINGER_S: Final = 2.0
STOP_TIMEOUT_S: Final = 0.4
"""aiohttp waits this long twice for what still runs: together with all else below 2 s."""
LEARN_S: Final = 5.0
"""How long people wait for a gateway that reads a long queue before it listens."""
HEADER_LINE_MAX_BYTES: Final = 8190
HEADERS_MAX: Final = 64

log = structlog.get_logger()


class Gateway:
    """One HTTP server on one bus connection. Order: `start`, then `port`; `stop` at the end.

    `run` keeps what is known of the queue true, beside it.
    """

    def __init__(
        self,
        bus: Bus,
        assets: AssetStore,
        settings: GatewaySettings,
        ledger: Ledger | None = None,
        tracer: Tracer = UNTRACED,
    ) -> None:
        """Nothing listens before `start`; without a ledger there is no history."""
        self._bus = bus
        self._settings = settings
        self._relay = Relay(bus)
        self._machines = Machines(bus)
        self._hearing = Hearing(bus, self._relay, ledger)
        self._access = Access(settings)
        self._queue = Queue(bus, self._hearing, self._machines)
        self._sockets = Sockets(bus, self._relay, self._queue)
        self._everything = Everything(self._relay, self._sockets, ledger)
        door = HookDoor(bus, settings)
        self._intake = Intake(bus, settings, self._queue, self._hearing, door, tracer)
        self.gauges = Gauges(bus, self._sockets, ledger, bus.certificates)
        self.first_screen = FirstScreen(bus, ledger)
        self._parts = (
            self._intake,
            Requests(bus, self._queue, self._intake),
            Events(bus, self._relay, self._sockets, self._queue),
            self._queue,
            Clearing(bus, self._hearing),
            Pictures(assets),
            History(bus, assets, ledger, self._machines, self._hearing),
            Models(bus, self._machines),
            Doors(self._access),
            self._everything,
            Pages(self._document),
            self.gauges,
            self.first_screen,
            Runbook(),
            Dashboard(),
        )
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
        """Subscribe, then listen.

        Raises: OSError if the port is taken, KeyFileError where keys are missing, BusError.
        """
        await self._access.open()
        await self._relay.start()
        await self._machines.open()
        await self._learn()
        self._snapshots = await serve_snapshots(self._bus)
        self._runner = web.AppRunner(
            self._app(),
            access_log=None,
            keepalive_timeout=IDLE_TIMEOUT_S,
            lingering_time=LINGER_S,
            auto_decompress=False,
            shutdown_timeout=STOP_TIMEOUT_S,
            max_line_size=HEADER_LINE_MAX_BYTES,
            max_field_size=HEADER_LINE_MAX_BYTES,
            max_headers=HEADERS_MAX,
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
        self._intake.settings = self._everything.settings = self._settings
        log.info("gateway.listening", host=self._settings.host, port=self.port)

    async def run(self) -> None:
        """Keep what is known of the queue as the lanes have it, until cancelled."""
        await self._hearing.run()

    async def stop(self) -> None:
        """Close the WebSockets with 1001, finish what is short, and stop; within 2 s."""
        if self._site is not None:
            await self._site.stop()
            self._site = None
        await self._relay.stop()
        self._everything.stop()
        await self._sockets.wait_closed(STOP_PATIENCE_S)
        await self._machines.close()
        if self._snapshots is not None:
            await unsubscribe(self._snapshots)
        self._snapshots = None
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _learn(self) -> None:
        """Read the queue once; a bus that takes long, or has no streams, is asked again later."""
        await self._hearing.seed()
        try:
            async with asyncio.timeout(LEARN_S):
                await self._hearing.load()
        except (BusError, TimeoutError) as error:
            log.info("gateway.queue_unknown", reason=str(error) or "it takes long")

    def _app(self) -> web.Application:
        app = web.Application(
            middlewares=[answer_problems, self._check_host, self._admit],
            client_max_size=REQUEST_SIZE_MAX_BYTES,
        )
        app.on_response_prepare.append(self._access.show)
        app.on_response_prepare.append(harden)
        for part in self._parts:
            app.add_routes(part.routes())
        app.add_routes(
            [
                web.get("/healthz", self._healthz),
                web.get("/readyz", self._readyz),
                web.get(f"{SOCKET_PATH}/{{request_id}}", self._socket, allow_head=False),
            ]
        )
        return app

    def _document(self) -> openapi.Document:
        assert self._runner is not None, "asked by a request, so it was started"
        return openapi.document(self._runner.app.router.routes(), self.public_url)

    @web.middleware
    async def _check_host(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        check_host(request, self._settings)
        return await handler(request)

    @web.middleware
    async def _admit(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        return await self._access.check(request, handler)

    @described(Described(summary="Whether the process lives", access="public", tag="health"))
    async def _healthz(self, _request: web.Request) -> web.Response:
        """Say that the process lives, whatever its bus does."""
        return web.json_response({"status": "ok"})

    @described(Described(summary="Whether it can take requests now", access="public", tag="health"))
    async def _readyz(self, _request: web.Request) -> web.Response:
        await require_streams(self._bus)
        return web.json_response({"status": "ready"})

    @described(
        Described(
            summary="Follow a request until it ends (WebSocket)",
            ticket=True,
            params=(
                REQUESTER,
                Param(name="after", text="begin behind this link", shape=number(0, AFTER_MAX, 0)),
                Param(name="previews", text="1: binary frames, too", shape=number(0, 1, 0)),
                Param(name="wait", text="seconds to wait for it", shape=number(0, WAIT_MAX_S, 0)),
                Param(name="ticket", text="a one-time ticket instead of a key"),
            ),
            answers={101: None},
            errors=(ErrorCode.NOT_FOUND, ErrorCode.AMBIGUOUS_ID),
            statuses=(426,),
            tag="live",
        )
    )
    async def _socket(self, request: web.Request) -> web.StreamResponse:
        return await self._sockets.serve(request, self._settings)
