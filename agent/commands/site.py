"""`mmg key init|add-agent|remove-agent|rotate|site`: who may use the bus, and for what.

It writes into the folder of the site and never sends a secret anywhere; seeds are named, not shown.
"""

import argparse
import socket
import subprocess
from datetime import datetime
from pathlib import Path
from typing import Final

import msgspec

from agent.clock import SystemClock
from agent.commands import exits, session
from agent.config import Config
from agent.config.sections import NATS_PORT
from agent.embedded import EmbeddedError, find_binary, reload
from agent.site.folder import Expiry, SiteFolder
from agent.site.layout import SiteError
from contracts.requests import Priority

TLS: Final = "tls"
CHECK_S: Final = 10.0
FOLDER: Final = "site"


class _Agent(msgspec.Struct, frozen=True, kw_only=True):
    agent: str
    max: Priority
    retiring: int


class _Shown(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    roles: tuple[str, ...]
    agents: tuple[_Agent, ...]
    certificates: tuple[Expiry, ...]


def run(arguments: argparse.Namespace) -> int:
    """Do what the verb says and print what holds now."""
    config = session.read_config()
    site = SiteFolder(_folder(arguments, config))
    now = SystemClock().now()
    match arguments.verb:
        case "init":
            lines = _init(arguments, config, site, now)
        case "site":
            lines = _show(site, now, as_json=arguments.json)
        case _:
            lines = [*_change(arguments, site, now), *_take_over(config, site)]
    for line in lines:
        print(line)
    return exits.OK


def _folder(arguments: argparse.Namespace, config: Config) -> Path:
    if arguments.dir is not None:
        return Path(arguments.dir)
    return config.site.dir or config.storage.data_dir / FOLDER


def _init(
    arguments: argparse.Namespace, config: Config, site: SiteFolder, now: datetime
) -> list[str]:
    if arguments.if_missing and site.exists:
        return []
    hosts = dict.fromkeys(
        ("127.0.0.1", "::1", "localhost", *arguments.host, socket.gethostname(), socket.getfqdn())
    )
    site.make(arguments.name, [host for host in hosts if host], config.bus.port or NATS_PORT, now)
    _check(site)
    return [
        f"made {site.path}",
        f"  everything on this machine   MMG_SITE_DIR={site.path} mmg up",
        f"  a server of its own          nats-server -c {site.server_conf}",
        f"  another machine needs        its seed from {site.keys} and {site.ca}:",
        "                               MMG_NATS_NKEY_FILE=... MMG_NATS_CA=... mmg worker",
        f"  keep elsewhere               {site.authority_key}: it signs the next certificate",
    ]


def _change(arguments: argparse.Namespace, site: SiteFolder, now: datetime) -> list[str]:
    who = arguments.who
    if arguments.verb == "add-agent":
        seed = site.add_agent(who, Priority(arguments.max))
        return [
            f"{who} may ask for pictures up to {arguments.max}",
            f"  its key           {seed}",
            f"  what it trusts    {site.ca}",
        ]
    if arguments.verb == "remove-agent":
        site.remove_agent(who)
        return [f"{who} has no rights any more; what it has asked for goes on"]
    if who == TLS:
        ends_at = site.renew_certificate(now)
        return [f"the server has a new certificate, good until {ends_at:%Y-%m-%d}"]
    if arguments.finish:
        site.finish(who)
        return [f"only the newest key of {who} is good now"]
    seed = site.rotate(who, at_once=arguments.now)
    before = "the one before is good no more" if arguments.now else "both are good"
    later = [] if arguments.now else [f"  when all use it   mmg key rotate {who} --finish"]
    return [f"{who} has a new key, {before}", f"  its key           {seed}", *later]


def _take_over(config: Config, site: SiteFolder) -> list[str]:
    """Let a running server read the change: ours by a signal, another one by a person."""
    _check(site)
    ours = config.site.dir is not None and session.embedded_url(config) is not None
    if ours and reload(config.storage.data_dir / "nats"):
        return ["  the nats-server of `mmg up` has taken it over"]
    return [
        "  then              nats-server --signal reload, twice: an account that is new",
        "                    gets its imports only with the second one (nats-server 2.15)",
    ]


def _check(site: SiteFolder) -> None:
    """Let nats-server judge the configuration, where there is one. Raises: SiteError."""
    try:
        binary = find_binary()
    except EmbeddedError:
        return
    try:
        tried = subprocess.run(  # noqa: S603 - the program that will read it
            [binary, "-t", "-c", site.server_conf],
            capture_output=True,
            text=True,
            timeout=CHECK_S,
            check=False,
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise SiteError(f"{site.server_conf} could not be tried: {error}") from error
    if tried.returncode != 0:
        words = (tried.stderr or tried.stdout).strip()
        raise SiteError(f"nats-server does not take {site.server_conf}: {words}")


def _show(site: SiteFolder, now: datetime, *, as_json: bool) -> list[str]:
    roster, certificates = site.roster(), tuple(site.expiries())
    agents = tuple(
        _Agent(agent=one.agent, max=one.highest, retiring=len(one.holder.retiring))
        for one in roster.agents
    )
    if as_json:
        shown = _Shown(
            name=roster.name, roles=tuple(roster.roles), agents=agents, certificates=certificates
        )
        return [msgspec.json.encode(shown).decode()]
    roles = [
        f"role   {name:<20} {_retiring(name, len(holder.retiring))}"
        for name, holder in roster.roles.items()
    ]
    listed = [
        f"agent  {one.agent:<20} up to {one.max.value}{_retiring(one.agent, one.retiring)}"
        for one in agents
    ]
    ends = [
        f"until  {one.ends_at:%Y-%m-%d}           certificate {one.name},"
        f" {(one.ends_at - now).days} days left"
        for one in certificates
    ]
    return [line.rstrip() for line in (*roles, *listed, *ends)]


def _retiring(who: str, count: int) -> str:
    if count == 0:
        return ""
    return f"  {count} older key(s) still good: mmg key rotate {who} --finish"
