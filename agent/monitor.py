"""A worker's own small HTTP server: /healthz and /metrics, on loopback.

A port that is taken is a warning: monitoring must never keep a worker from working.
"""

from collections.abc import Callable

import structlog
from aiohttp import web

from agent import metrics
from agent.gauges import WorkerGauges
from contracts.events import WorkerStatus

log = structlog.get_logger()


class Monitor:
    """Order: `start`, then `stop`. `status` is asked for each /healthz."""

    def __init__(
        self,
        host: str,
        port: int,
        status: Callable[[], WorkerStatus],
        gauges: WorkerGauges | None = None,
    ) -> None:
        """Nothing listens before `start`; `port` 0 takes a free one."""
        self._gauges = gauges
        shown = () if gauges is None else (gauges,)
        self._exposition = metrics.Exposition(*metrics.WORKER, *shown)
        self._host = host
        self._port = port
        self._status = status
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        """Listen, or say why not."""
        app = web.Application()
        app.add_routes([web.get("/healthz", self._healthz), web.get("/metrics", self._metrics)])
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, self._host, self._port).start()
        except OSError as error:
            log.warning("monitor.not_listening", port=self._port, reason=error.strerror)
            return
        log.info("monitor.listening", host=self._host, port=self._runner.addresses[0][1])

    async def stop(self) -> None:
        """Stop listening."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _healthz(self, _request: web.Request) -> web.Response:
        """200 while this worker takes work or stops in order; 503 while it cannot take any."""
        status = self._status()
        closed = status.state == "closed"
        body = {"status": status.state, "reason": status.reason, "worker": status.worker}
        return web.json_response(body, status=503 if closed else 200)

    async def _metrics(self, _request: web.Request) -> web.Response:
        if self._gauges is not None:
            await self._gauges.look()
        return web.Response(
            body=self._exposition.text(), headers={"Content-Type": metrics.CONTENT_TYPE}
        )
