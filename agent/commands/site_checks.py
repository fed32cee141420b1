"""Checks of keys and certificates: do they fit, are they hidden, how long do they last.

It only looks. Source of what the server itself shows: the certificate of the open connection.
"""

from datetime import UTC, datetime
from typing import Final

from agent.bus.connection import Bus
from agent.clock import SystemClock
from agent.commands.findings import Finding
from agent.config import Config
from agent.site.folder import SiteFolder
from agent.site.layout import SiteError

DAYS_WARN: Final = 30
RENEW: Final = "`mmg key rotate tls`, then `nats-server --signal reload`"
RENEW_CA: Final = (
    "make a new site with `mmg key init --dir`, and move to it as docs/security.md says"
)


def examine(config: Config) -> list[Finding]:
    """Look at the folder of the site; nothing where none is configured."""
    if config.site.dir is None:
        return []
    site = SiteFolder(config.site.dir)
    try:
        roster, expiries = site.roster(), site.expiries()
    except SiteError as error:
        return [Finding.fail("site", str(error), "correct MMG_SITE_DIR")]
    found = [Finding.ok("site", f"{len(roster.agents)} agents, {site.path}")]
    now = SystemClock().now()
    found += [
        _lasts(
            f"certificate {one.name}", one.ends_at, now, RENEW if one.name == "server" else RENEW_CA
        )
        for one in expiries
    ]
    for path in site.exposed():
        found.append(Finding.warn("keys", f"others may read {path}", f"chmod 600 {path}"))
    names = [*roster.roles, *(one.agent for one in roster.agents)]
    for name in names:
        holder = roster.find(name)
        if holder is not None and holder.retiring:
            seen = f"{name} has {len(holder.retiring)} older key(s) that are still good"
            found.append(Finding.warn("keys", seen, f"`mmg key rotate {name} --finish`"))
    return found


def of_connection(config: Config, bus: Bus) -> list[Finding]:
    """Look at how this connection is protected; nothing where nobody asked for protection."""
    site = config.site
    if (site.dir or site.nkey or site.creds or site.ca) is None:
        return []
    shown = bus.certificates()
    if not shown:
        way_out = "set MMG_NATS_CA; without it a key can be used by whoever stands between"
        return [Finding.warn("bus encryption", "the connection is not encrypted", way_out)]
    if config.site.dir is not None:
        return [Finding.ok("bus encryption", "TLS, and the server has proved itself")]
    now = SystemClock().now()
    return [
        _lasts(f"certificate {name}", datetime.fromtimestamp(ends_s, UTC), now, RENEW)
        for name, ends_s in shown.items()
    ]


def _lasts(what: str, ends_at: datetime, now: datetime, way_out: str) -> Finding:
    days = (ends_at - now).days
    if ends_at <= now:
        return Finding.fail(what, f"it has ended on {ends_at:%Y-%m-%d}", way_out)
    seen = f"good until {ends_at:%Y-%m-%d}, {days} days left"
    return Finding.warn(what, seen, way_out) if days < DAYS_WARN else Finding.ok(what, seen)
