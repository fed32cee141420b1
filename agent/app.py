"""Builds the processes: worker, gateway, and `mmg up`, which is both beside an embedded server.

The only place that knows every part. It decides nothing about a request.
"""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Final, TypeVar
from uuid import uuid4

import msgspec
import structlog

from agent import watchdog
from agent.backstop import serve_backstop
from agent.building import (
    build_assets,
    build_engines,
    build_plan,
    build_server,
    build_slots,
    close_all,
    gateway_settings,
    limits,
    named,
    night,
    open_bus,
    own_name,
)
from agent.bus import lanes
from agent.bus.cancel import serve_cancels
from agent.bus.connection import ApiError, Bus, BusError, NoAnswer
from agent.bus.provision import provision
from agent.bus.snapshot import serve_snapshots
from agent.clock import OffsetClock, SystemClock
from agent.config import Config
from agent.desk import Desk, recorded
from agent.dispatch import Dispatch
from agent.embedded import EmbeddedError, EmbeddedServer
from agent.engines.cloud.reference import reference_usd
from agent.gateway import AlertPosts, Gateway, Webhooks
from agent.gauges import WorkerGauges
from agent.ledger import FILE, Ledger, Projection
from agent.monitor import Monitor
from agent.ollama import Enhancer, Ollama
from agent.quota import Quota
from agent.readiness import Readiness, StreamsGoneError
from agent.retention import Retention
from agent.styles import load_styles
from agent.tools import Tools
from agent.tracing.opening import open_tracer
from agent.turnstile import Turnstile

ONCE_PATIENCE_S: Final = 5.0
STREAMS_LOOK_S: Final = 2.0
SERVER_RESTART_S: Final = 1.0
STREAMS_GONE_EXIT: Final = 3
SWITCH_S: Final = 0.0001
"""How long a thread that writes files or scales pictures may keep the event loop waiting; Python's
default is fifty times as long, and a card would wait for its next job."""

log = structlog.get_logger()

T = TypeVar("T")


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """A whole system running in this process."""

    nats_url: str
    http_url: str
    assets_dir: Path
    engines: tuple[str, ...]
    dispatch: Dispatch


async def run_worker(config: Config, *, once: bool = False) -> int:
    """Run a worker until a signal, or with `once` until the lanes are empty; return its exit code.

    1: with `once`, the bus or its streams were not there. 3: the streams were deleted under it.
    """
    code = 0
    stop = _Stop()
    with stop.listening():
        async with AsyncExitStack() as stack:
            try:
                patience_s = ONCE_PATIENCE_S if once else None
                bus = await stack.enter_async_context(
                    await open_bus(config, "worker", patience_s=patience_s)
                )
                dispatch = await stack.enter_async_context(_worker(config, bus, wait=not once))
            except BusError as error:
                log.error("worker.cannot_start", reason=str(error))  # noqa: TRY400 - no traceback
                return 1
            stop.ask = partial(_ask_stop, dispatch, config.worker.drain_s)
            code = await _run(dispatch, once=once)
    return code


async def run_gateway(config: Config) -> int:
    """Run a gateway until a signal; return its exit code."""
    stopped = asyncio.Event()
    stop = _Stop()
    with stop.listening():
        async with (
            await open_bus(config, "gateway") as bus,
            _gateway(config, bus) as gateway,
        ):
            stop.ask = stopped.set
            log.info("gateway.ready", url=f"http://{config.http.host}:{gateway.port}")
            await stopped.wait()
    return 0


async def run_up(config: Config, tell: Callable[[Machine], None]) -> int:
    """Run server, worker and gateway until a signal; `tell` is called when all are ready."""
    code = 0
    stop = _Stop()
    with stop.listening():
        async with machine(config) as running:
            stop.ask = partial(_ask_stop, running.dispatch, config.worker.drain_s)
            tell(running)
            code = await _run(running.dispatch)
    return code


async def _run(dispatch: Dispatch, *, once: bool = False) -> int:
    """Carry requests; return the exit code."""
    try:
        await dispatch.run(once=once)
    except StreamsGoneError as error:
        log.error("worker.gives_up", reason=str(error))  # noqa: TRY400 - no traceback
        return STREAMS_GONE_EXIT
    return 0


@asynccontextmanager
async def machine(config: Config) -> AsyncIterator[Machine]:
    """Start everything but the worker's loop: `Machine.dispatch.run` is for the caller.

    Without MMG_NATS_URL an embedded server is started in the data folder and stopped at the end.
    Raises: EmbeddedError, BusError, OSError if the gateway's port is taken.
    """
    async with AsyncExitStack() as stack:
        urls = config.bus.urls
        if config.bus.url is None:
            server = build_server(config)
            await server.start()
            stack.push_async_callback(server.stop)
            urls = (server.url,)
            await stack.enter_async_context(_beside(_guard(server)))
        async with await open_bus(config, "provision", urls) as bus:
            report = await provision(bus, build_plan(config))
        for step in report.by_hand:
            log.warning("provision.by_hand", step=step)
        bus = await stack.enter_async_context(await open_bus(config, "worker", urls))
        front = await stack.enter_async_context(await open_bus(config, "gateway", urls))
        gateway = await stack.enter_async_context(_gateway(config, front))
        http = config.http.bound(gateway.port)
        config = msgspec.structs.replace(config, http=http)
        dispatch = await stack.enter_async_context(_worker(config, bus, wait=False))
        yield Machine(
            nats_url=urls[0],
            http_url=f"http://{http.host}:{http.port}",
            assets_dir=config.storage.assets_dir,
            engines=dispatch.status().engines,
            dispatch=dispatch,
        )


@asynccontextmanager
async def _worker(config: Config, bus: Bus, *, wait: bool) -> AsyncIterator[Dispatch]:
    """Build a worker on an open bus. Raises: BusError without streams, unless it may `wait`."""
    sys.setswitchinterval(SWITCH_S)
    with own_name(config.worker.name) as name:
        ack_wait_s = await _answered(partial(lanes.ack_wait_s, bus), wait=wait)
        clock = OffsetClock(SystemClock())
        config = named(config, name)
        engines = await build_engines(config, clock, name)
        assets = build_assets(config, name)
        await assets.remove_temporary()
        ollama = await Ollama(config.ollama.url, clock).open()
        slots = build_slots(config, bus, clock, engines, ollama)
        recorder = await recorded(config.storage.data_dir, slots, name)
        turnstile = Turnstile(bus, clock, name, limits(config))
        await _answered(partial(turnstile.open, tuple(engines.values())), wait=wait)
        tools = Tools(
            bus=bus,
            assets=assets,
            engines=engines,
            book=load_styles(config.storage.workflows_dir),
            clock=clock,
            new_nonce=uuid4,
            worker=name,
            ack_wait_s=ack_wait_s,
            turnstile=turnstile,
            slots=slots,
            cloud=config.cloud.mode,
            extender=Enhancer(ollama, config.ollama.enhance_model, clock),
            recorder=recorder,
            tracer=open_tracer("worker", name),
            run_timeout_s=config.worker.run_timeout_s,
        )
        readiness = Readiness(tools)
        dispatch = Dispatch(tools, readiness, config.worker.drain_s, config.worker.lookahead)
        desk = Desk(tools, dispatch, readiness, recorder)
        answering = [await serve_snapshots(bus)]
        answering += [await serve(bus, name, clock) for serve in (serve_cancels, serve_backstop)]
        await desk.open()
        gauges = WorkerGauges(
            *(desk.reporter.report, tools, readiness),
            night=night(config, clock.now()),
            certificates=bus.certificates,
        )
        monitor = Monitor("127.0.0.1", config.worker.http_port, dispatch.status, gauges)
        await monitor.start()
        log.info("worker.ready", worker=name, engines=list(engines), ack_wait_s=ack_wait_s)
        try:
            endless = [turnstile.run(), watchdog.run(), bus.stay()]
            endless += [engine.run() for engine in engines.values()]
            endless += [keeper.run() for keeper in slots.keepers.values()]
            endless += desk.endless()
            if config.bus.agent_queued_max is not None:
                endless.append(Quota(bus, name, clock, config.bus.agent_queued_max).run())
            async with _beside(*endless):
                yield dispatch
            await turnstile.close()
        finally:
            await monitor.stop()
            await desk.close()
            for subscription in answering:
                await bus.unsubscribe(subscription)
            await close_all(tools, ollama)


@asynccontextmanager
async def _gateway(config: Config, bus: Bus) -> AsyncIterator[Gateway]:
    settings = gateway_settings(config)
    file, cloud = config.storage.data_dir / FILE, config.cloud
    usd = reference_usd(cloud.order, cloud.stability_high_model, cloud.openai_model)
    assets = build_assets(config)
    tracer = open_tracer("gateway")
    gateway = Gateway(bus, assets, settings, Ledger(file, usd), tracer)
    projection = gateway.gauges.projection = Projection(bus, file)
    webhooks = Webhooks(bus, settings)
    gateway.gauges.webhooks = webhooks.counts
    storage = config.storage
    retention = Retention(bus, assets, storage.data_dir, storage.retention_days)
    await gateway.start()
    cancels = await serve_cancels(bus, "gateway", SystemClock())
    try:
        async with _beside(
            projection.run(),
            gateway.run(),
            webhooks.run(),
            AlertPosts(bus, settings.hooks).run(),
            retention.run(lambda: projection.caught_up),
            gateway.first_screen.strip.run(),
            watchdog.run(),
            bus.stay(),
        ):
            yield gateway
    finally:
        await bus.unsubscribe(cancels)
        await gateway.stop()
        await tracer.close()


async def _answered(ask: Callable[[], Awaitable[T]], *, wait: bool) -> T:
    """Ask the server; again where one may `wait` for it: streams to come, or a leader to be chosen.

    Raises: BusError.
    """
    while True:
        try:
            return await ask()
        except ApiError as error:
            if not error.not_found:
                raise
            reason = "the streams are not there; run `mmg provision`"
            if not wait:
                raise BusError(reason) from error
        except NoAnswer as error:
            if not wait:
                raise
            reason = str(error)
        log.warning("worker.waits", reason=reason, again_in_s=STREAMS_LOOK_S)
        await asyncio.sleep(STREAMS_LOOK_S)


async def _guard(server: EmbeddedServer) -> None:
    """Start the embedded server again whenever it ends by itself."""
    while True:
        await server.wait()
        log.error("embedded.died", again_in_s=SERVER_RESTART_S)
        await asyncio.sleep(SERVER_RESTART_S)
        try:
            await server.start()
        except EmbeddedError as error:
            log.error("embedded.not_back", reason=str(error))  # noqa: TRY400 - no traceback


@asynccontextmanager
async def _beside(*endless: Coroutine[None, None, None]) -> AsyncIterator[None]:
    """Run what never ends by itself beside a block, and cancel it with the block's end."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(coroutine) for coroutine in endless]
            try:
                yield
            finally:
                for task in tasks:
                    task.cancel()
    except BaseExceptionGroup as several:
        if len(several.exceptions) > 1:
            raise
        raise several.exceptions[0] from None  # What the block raised, as it raised it.


def _ask_stop(dispatch: Dispatch, drain_s: float) -> None:
    if dispatch.running:
        log.warning(
            "worker.stopping",
            waits_for_jobs=dispatch.running,
            at_most_s=drain_s,
            hint="a second signal stops at once",
        )
    dispatch.stop()


class _Stop:
    """What signals do to a process. `ask` is set once there is something to ask.

    The first SIGINT or SIGTERM asks for an end in order; while the process still waits for its
    bus, it ends the wait. The second one cancels whatever is under way.
    """

    def __init__(self) -> None:
        """Nothing was heard yet."""
        self.ask: Callable[[], None] | None = None
        self._heard = 0
        self._early = False
        self._task = asyncio.current_task()

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Listen while the block runs; a wait that was ended early ends the block in peace."""
        loop = asyncio.get_running_loop()
        watched = (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.getsignal(number) for number in watched}
        for number in watched:
            # Not loop.add_signal_handler: Windows has none.
            signal.signal(number, lambda *_: loop.call_soon_threadsafe(self._hear))
        try:
            yield
        except asyncio.CancelledError:
            if not self._early or self._heard > 1 or self._task is None:
                raise
            self._task.uncancel()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _hear(self) -> None:
        self._heard += 1
        if self._heard == 1 and self.ask is not None:
            self.ask()
            return
        self._early = self._early or self._heard == 1
        if self._heard > 1:
            log.warning("stopped_at_once", hint="a worker's requests come back after ack_wait")
        if self._task is not None:
            self._task.cancel()
