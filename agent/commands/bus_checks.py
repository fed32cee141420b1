"""Checks of the bus: reachable, new enough, durable, set up as designed, and somebody works.

They only ask. Source: nats-server 2.15.1 (`/varz` says `sync_always`; `$SYS.REQ.USER.INFO` names
the server to every user).
"""

import re
from typing import Final
from urllib.parse import urlsplit

import aiohttp
import msgspec

from agent.building import build_plan
from agent.bus.connection import Bus, BusError, NoAnswer
from agent.bus.provision import Difference, Plan, all_consumers, differences, streams
from agent.bus.snapshot import ask_snapshot
from agent.commands import engine_checks, session, site_checks, switch_checks
from agent.commands.findings import Finding, State
from agent.config import Config
from contracts import subjects

SERVER_MIN: Final = (2, 12)
MONITOR_PORT: Final = 8222
"""Where a nats-server usually has its monitoring; no client can ask it for the real port."""
ANSWER_S: Final = 2.0

_SYNC: Final = re.compile(r"^\s*sync_interval\s*[:=]?\s*\"?([^\s\"]+)", re.MULTILINE)
_ALWAYS: Final = "always: what is accepted survives a power loss"
_SYNC_WAY_OUT: Final = (
    "put `sync_interval: always` into jetstream { } of its configuration and restart it;"
    " until then a power loss can take accepted requests"
)
_DURATIONS: Final = frozenset({"max_age", "ack_wait", "duplicate_window"})


async def examine(config: Config) -> list[Finding]:
    """Connect and look at everything behind it."""
    places = ", ".join(_without_user(url) for url in session.urls(config))
    try:
        async with session.plain_bus(config) as bus:
            found = [Finding.ok("bus", f"connected to {places}"), _version(bus)]
            found += site_checks.of_connection(config, bus)
            found.append(await _sync(config, bus))
            assets = await _assets(bus, build_plan(config))
            as_designed = all(finding.state != State.FAIL for finding in assets)
            switches = await switch_checks.examine(bus, as_designed=as_designed)
            found += [*assets, await _workers(bus), *switches]
            return found + (await engine_checks.money(bus, config) if as_designed else [])
    except BusError as error:
        return [_unreachable(config, error)]


def _unreachable(config: Config, error: BusError) -> Finding:
    if config.bus.url is None:
        seen = f"no bus is configured and none runs here: {error}"
        return Finding.fail("bus", seen, "start `mmg up`, or set MMG_NATS_URL to a server")
    return Finding.fail("bus", str(error), "start that server, or correct MMG_NATS_URL")


def _version(bus: Bus) -> Finding:
    numbers = tuple(int(part) for part in re.findall(r"\d+", bus.server_version)[:3])
    text = ".".join(map(str, numbers))
    if numbers < SERVER_MIN:
        least = ".".join(map(str, SERVER_MIN))
        return Finding.fail("nats-server", f"{text}, needs {least}", f"upgrade to {least} or newer")
    return Finding.ok("nats-server", text)


async def _sync(config: Config, bus: Bus) -> Finding:
    """Find out whether the server syncs before it answers."""
    if session.urls(config) == (session.embedded_url(config),):
        path = config.storage.data_dir / "nats" / "nats-server.conf"
        try:
            return of_config_file(path.read_text(encoding="utf-8"))
        except OSError as error:
            return _sync_unknown(f"{path} cannot be read ({error.strerror})")
    host = urlsplit(str(bus.nc.connected_url.geturl() if bus.nc.connected_url else "")).hostname
    return await of_monitor(bus, f"http://{host or '127.0.0.1'}:{MONITOR_PORT}")


def of_config_file(text: str) -> Finding:
    """Judge the configuration that an embedded server was started with."""
    match = _SYNC.search(text)
    value = match[1] if match else "not set: 2 minutes"
    if value == "always":
        return Finding.ok("sync_interval", _ALWAYS)
    return Finding.fail("sync_interval", value, _SYNC_WAY_OUT)


class _Server(msgspec.Struct):
    id: str


class _Whoami(msgspec.Struct):
    server: _Server


class _JetStreamConfig(msgspec.Struct, frozen=True):
    sync_interval: int = 0
    sync_always: bool = False


class _JetStream(msgspec.Struct, frozen=True):
    config: _JetStreamConfig = _JetStreamConfig()


class _Varz(msgspec.Struct):
    server_id: str
    jetstream: _JetStream = _JetStream()


async def of_monitor(bus: Bus, monitor_url: str) -> Finding:
    """Ask the monitoring of the server that this bus is connected to."""
    timeout = aiohttp.ClientTimeout(total=ANSWER_S)
    url = f"{monitor_url}/varz"
    try:
        me = msgspec.json.decode((await bus.request("$SYS.REQ.USER.INFO")).data, type=_Whoami)
        async with aiohttp.ClientSession(timeout=timeout) as web, web.get(url) as answer:
            varz = msgspec.json.decode(await answer.read(), type=_Varz)
    except (aiohttp.ClientError, OSError, BusError, msgspec.DecodeError):
        return _sync_unknown(f"its monitoring does not answer on {monitor_url}")
    if varz.server_id != me.server.id:
        return _sync_unknown(f"on {monitor_url} another server answers")
    config = varz.jetstream.config
    if config.sync_always:
        return Finding.ok("sync_interval", _ALWAYS)
    seconds = config.sync_interval / 1e9
    return Finding.fail("sync_interval", f"every {seconds:g} s", _SYNC_WAY_OUT)


def _sync_unknown(reason: str) -> Finding:
    return Finding.warn(
        "sync_interval",
        f"unknown: {reason}",
        "see to it that its configuration says `sync_interval: always` in jetstream { }",
    )


async def _assets(bus: Bus, plan: Plan) -> list[Finding]:
    """Compare streams and consumers with the design."""
    what = "streams and lanes"
    try:
        found = await differences(bus, plan)
    except NoAnswer:
        way_out = "enable jetstream { } in its configuration, or for this account"
        return [Finding.fail(what, "JetStream does not answer", way_out)]
    except BusError as error:
        return [Finding.fail(what, str(error), "give this user the right to ask for them")]
    missing = [difference.asset for difference in found if difference.found is None]
    if len(missing) == len(streams(plan)) + len(all_consumers(plan)):
        names = ", ".join(missing)
        return [Finding.fail(what, f"missing: {names}", "`mmg provision` makes them")]
    return [_of(difference) for difference in found] or [Finding.ok(what, "as designed")]


def _of(difference: Difference) -> Finding:
    if difference.found is None:
        return Finding.fail(difference.asset, "missing", "`mmg provision` makes it")
    wanted, found = (
        _readable(difference.setting, v) for v in (difference.wanted, difference.found)
    )
    return Finding.fail(
        difference.asset,
        f"{difference.setting} is {found}, designed: {wanted}",
        "`mmg provision` changes it, or says what to do by hand",
    )


def _readable(setting: str, value: str) -> str:
    """Show nanoseconds as seconds."""
    if setting in _DURATIONS and value.isdigit():
        return f"{int(value) / 1e9:.15g} s"
    return value


async def _workers(bus: Bus) -> Finding:
    """Ask a question that every worker and gateway answers."""
    try:
        await ask_snapshot(bus, subjects.identity("user", "mmg-doctor"), ANSWER_S)
    except (NoAnswer, msgspec.DecodeError):
        way_out = "start `mmg worker` or `mmg up`; requests wait until then"
        return Finding.warn("workers", "nobody answers on the bus", way_out)
    return Finding.ok("workers", "somebody answers on the bus")


def _without_user(url: str) -> str:
    parts = urlsplit(url if "//" in url else f"nats://{url}")
    return f"{parts.scheme}://{parts.hostname}:{parts.port or 4222}"
