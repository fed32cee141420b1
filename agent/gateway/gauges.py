"""What a gateway shows to Prometheus: the lanes, the streams, the ledger, its own sockets.

Read when somebody asks, at most once in a few seconds. The figures of the bus are those of
everybody: several gateways show the same. It must not change anything.
"""

import asyncio
from collections.abc import Callable, Iterator, Mapping
from typing import Final

import structlog
from aiohttp import web
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from agent import __version__
from agent.bus import measuring
from agent.bus.connection import Bus, BusError
from agent.bus.measuring import ConsumerFigures, StreamFigures
from agent.gateway.describing import Described, described
from agent.gateway.sockets import Sockets
from agent.ledger import Ledger, Projection
from agent.ledger.database import LedgerError
from agent.metrics import CONTENT_TYPE, Exposition, Figures

LOOK_EVERY_S: Final = 2.0
WEBHOOK_STATES: Final = ("delivered", "waiting", "undeliverable")
PATIENCE_S: Final = 4.0
"""Less than a scrape waits (10 s): an answer without the bus says more than none."""

log = structlog.get_logger()


class Gauges(Collector):
    """The gauges of one gateway.

    Order: `projection` is set where this process folds the ledger, `webhooks` where it tells them:
    how tries ended, by the state of the webhook after them.
    """

    def __init__(
        self,
        bus: Bus,
        sockets: Sockets,
        ledger: Ledger | None,
        certificates: Callable[[], Mapping[str, float]] = dict,
    ) -> None:
        """Nothing is asked before the first scrape; `certificates` says which expires when."""
        self.projection: Projection | None = None
        self.webhooks: Mapping[str, int] | None = None
        self._bus = bus
        self._sockets = sockets
        self._ledger = ledger
        self._certificates = certificates
        self._exposition = Exposition(self)
        self._figures: measuring.Figures | None = None
        self._dead: int | None = None
        self._raised: tuple[str, ...] | None = None
        self._looked_s = -LOOK_EVERY_S

    def routes(self) -> list[web.RouteDef]:
        """Return where it is served."""
        return [web.get("/metrics", self._serve, allow_head=False)]

    @described(
        Described(
            summary="Metrics in the text format of Prometheus",
            access="public",
            answers={200: "text/plain"},
            tag="operations",
        )
    )
    async def _serve(self, _request: web.Request) -> web.Response:
        """Show all figures: nothing of any request is in them."""
        await self._look()
        return web.Response(body=self._exposition.text(), headers={"Content-Type": CONTENT_TYPE})

    async def _look(self) -> None:
        """Ask anew, unless it was asked a moment ago. What nobody answers is left out."""
        loop = asyncio.get_running_loop()
        if loop.time() - self._looked_s < LOOK_EVERY_S:
            return  # Also while another scrape is asking: this one shows what was known before.
        self._looked_s = loop.time()
        try:
            async with asyncio.timeout(PATIENCE_S):
                self._figures = await measuring.measure(self._bus)
        except (BusError, TimeoutError) as error:
            log.info("metrics.no_bus", reason=str(error) or f"none within {PATIENCE_S:.0f} s")
            self._figures = None
        await self._look_at_ledger()

    async def _look_at_ledger(self) -> None:
        self._dead = self._raised = None
        if self._ledger is None:
            return
        try:
            self._dead = await self._ledger.dead_letters()
            self._raised = tuple(one.name for one in await self._ledger.troubles())
        except LedgerError as error:
            log.info("metrics.no_ledger", reason=str(error))

    def collect(self) -> Iterator[Metric]:
        """Put together what is known now. Order: on the event loop."""
        figures = Figures()
        figures.gauge(
            "mmg_build_info", "The version of this program.", 1, role="gateway", version=__version__
        )
        figures.gauge("mmg_bus_connected", "Whether nats-server is reachable.", self._bus.connected)
        figures.counter(
            "mmg_bus_permission_errors",
            "What the server did not let this process do.",
            self._bus.permission_errors,
        )
        figures.counter(
            "mmg_appends_refused",
            "Links that the server refused because somebody else had gone on with the chain.",
            self._bus.appends_refused,
        )
        figures.gauge("mmg_sockets", "WebSockets that are open.", self._sockets.count)
        figures.counter("mmg_sockets_opened", "WebSockets so far.", self._sockets.opened)
        figures.counter(
            "mmg_sockets_dropped",
            "WebSockets that were closed because their client was too slow.",
            self._sockets.dropped,
        )
        if self.webhooks is not None:
            _add_webhooks(figures, self.webhooks)
        self._add_ledger(figures)
        if self._figures is not None:
            _add_lanes(figures, self._figures)
            for name, stream in self._figures.streams.items():
                _add_stream(figures, name, stream)
                for consumer in self._figures.consumers[name]:
                    _add_consumer(figures, name, consumer)
        figures.certificates(self._certificates())
        yield from figures.families()

    def _add_ledger(self, figures: Figures) -> None:
        """Add how far the ledger is; behind what, only the process that folds it knows."""
        projection = self.projection
        if projection is not None and projection.behind is not None:
            figures.gauge(
                "mmg_ledger_behind_messages",
                "Events that are stored and not in the ledger yet.",
                projection.behind,
            )
        if self._dead is not None:
            figures.gauge(
                "mmg_dead_letters", "Requests that were given up, unless dismissed.", self._dead
            )
        for name in dict.fromkeys(self._raised or ()):
            figures.gauge(
                "mmg_alert_raised", "An alert of the bus that stands, by its name.", 1, alert=name
            )


def _add_webhooks(figures: Figures, tries: Mapping[str, int]) -> None:
    for state in WEBHOOK_STATES:
        figures.counter(
            "mmg_webhook_tries",
            "Webhooks that were tried: delivered, waiting for the next try, or given up.",
            tries.get(state, 0),
            state=state,
        )


def _add_lanes(figures: Figures, found: measuring.Figures) -> None:
    for lane in found.lanes:
        priority = lane.priority
        figures.gauge(
            "mmg_lane_stored_requests",
            "Requests that lie in the lane, those in work included.",
            lane.stored,
            priority=priority,
        )
        figures.gauge(
            "mmg_lane_waiting_requests",
            "Requests of the lane that have not begun, or were given back.",
            lane.waiting,
            priority=priority,
        )
        figures.gauge(
            "mmg_lane_oldest_seconds",
            "How long the oldest of these has waited; 0 where none waits.",
            lane.oldest_s,
            priority=priority,
        )


def _add_stream(figures: Figures, name: str, stream: StreamFigures) -> None:
    """Add one stream under the names of prometheus-nats-exporter: stock dashboards know them.

    Without its `consumer_count`: a gauge of that name is none by Prometheus's own rules.
    """
    values = {
        "total_messages": ("Messages in the stream.", stream.state.messages),
        "total_bytes": ("Bytes in the stream.", stream.state.bytes),
        "first_seq": ("First sequence in the stream.", stream.state.first_seq),
        "last_seq": ("Last sequence in the stream.", stream.state.last_seq),
        "limit_messages": ("Messages that it takes; -1: any number.", stream.config.max_msgs),
        "limit_bytes": ("Bytes that it takes; -1: any number.", stream.config.max_bytes),
    }
    for key, (text, value) in values.items():
        figures.gauge(
            f"jetstream_stream_{key}", text, value, stream_name=name, is_stream_leader="true"
        )


def _add_consumer(figures: Figures, stream: str, consumer: ConsumerFigures) -> None:
    values = {
        "num_pending": ("Messages not handed out yet.", consumer.num_pending),
        "num_ack_pending": ("Messages handed out and not settled.", consumer.num_ack_pending),
        "num_redelivered": ("Of these, handed out more than once.", consumer.num_redelivered),
        "num_waiting": ("Pulls that wait.", consumer.num_waiting),
        "delivered_consumer_seq": ("Last delivery.", consumer.delivered.consumer_seq),
        "delivered_stream_seq": ("Last message handed out.", consumer.delivered.stream_seq),
        "ack_floor_consumer_seq": (
            "All deliveries settled to here.",
            consumer.ack_floor.consumer_seq,
        ),
        "ack_floor_stream_seq": ("All messages settled to here.", consumer.ack_floor.stream_seq),
    }
    for key, (text, value) in values.items():
        figures.gauge(
            f"jetstream_consumer_{key}",
            text,
            value,
            stream_name=stream,
            consumer_name=consumer.name,
            is_consumer_leader="true",
        )
