"""The configuration of nats-server for a site, as text: accounts with their rights, TLS, the rest.

Our own processes share one account, which owns the streams. Each agent has an account to itself and
imports from ours exactly what is about its own requests: a reply subject that it makes up leads
nowhere but to itself. Source: nats-server 2.15.1; each rule has a test against it.
Pure text. It must not write files.
"""

import json
from collections.abc import Iterable
from pathlib import PurePath
from typing import Final

from agent.site import rights
from agent.site.rights import Rights
from agent.site.roster import AgentEntry, Roster
from contracts import subjects

OURS: Final = "MMG"
SYSTEM: Final = "SYS"
LIMITS: Final = "max_streams: 20, max_consumers: 2000"

_MADE: Final = "# Made by `mmg key`; the next change of it overwrites this file.\n"
_SERVER: Final = """\
# nats-server of a site of mmg:  nats-server -c {folder}/nats.conf
# After `mmg key add-agent`, `remove-agent` or `rotate`:  nats-server --signal reload
# Made once by `mmg key init`, and never overwritten: change here what the site needs.

server_name: {name}
host: "0.0.0.0"                   # from the network: nobody gets in without TLS and a key
port: {port}
http: "127.0.0.1:8222"            # /healthz, /varz, /jsz; it has no login, therefore loopback only

max_payload: 1MB                  # messages are kilobytes; images travel by URL, never on the bus
max_pending: 16MB                 # outbound bytes kept for one connection before it counts as slow
max_connections: 1000
max_subscriptions: 20000          # of one connection
write_deadline: "10s"             # then a slow reader is dropped instead of buffered for ever
ping_interval: "20s"
ping_max: 3
lame_duck_grace_period: "5s"
lame_duck_duration: "30s"

jetstream {{
  store_dir: {store}
  max_memory_store: 64MB          # no stream of ours lives in memory
  max_file_store: 4GB             # requests, 2 GB of events, progress, and room to spare
  sync_interval: always           # fsync before each answer: what is accepted survives a power loss
  strict: true                    # refuse unknown fields in JetStream calls
  limits {{ default_max_consumers: 2000 }}
}}

include "tls.conf"
include "accounts.conf"
"""


def server(roster: Roster, folder: PurePath) -> str:
    """Return `nats.conf`, which includes the two others. `folder` is where they will lie."""
    store = _quoted((folder / "jetstream").as_posix())
    return _SERVER.format(
        folder=folder.as_posix(), name=_quoted(roster.name), port=roster.port, store=store
    )


def tls(folder: PurePath) -> str:
    """Return `tls.conf`; the server takes paths from where it was started, so they are whole."""
    certificate, key = (folder / "tls" / name for name in ("server.pem", "server.key"))
    return (
        f"{_MADE}tls {{\n"
        f"  cert_file: {_quoted(certificate.as_posix())}\n"
        f"  key_file: {_quoted(key.as_posix())}\n"
        "  timeout: 3\n"
        '  min_version: "1.3"\n'
        "}\n"
    )


def accounts(roster: Roster) -> str:
    """Return `accounts.conf`: everybody, by public key, with exactly what they may do."""
    lines = [_MADE.rstrip(), f"system_account: {SYSTEM}", "accounts {"]
    lines += [f"  {SYSTEM}: {{}}", *_ours(roster)]
    for entry in roster.agents:
        lines += _agent(entry)
    return "\n".join([*lines, "}", ""])


def account_of(agent: str) -> str:
    """Return the account of an agent, by its token."""
    return f"AGENT_{agent}"


def _ours(roster: Roster) -> list[str]:
    lines = [
        f"  {OURS}: {{",
        f"    jetstream: {{ max_mem: 64MB, max_file: 4GB, {LIMITS} }}",
        *_exports(roster),
        "    users: [",
    ]
    for role, holder in roster.roles.items():
        lines.append(f"      # {role}")
        lines += [line for key in holder.keys for line in _user(key, rights.of_role(role))]
    return [*lines, "    ]", "  }"]


def _exports(roster: Roster) -> list[str]:
    """Return what agents may import, each agent only what is its own."""
    if not roster.agents:
        return []
    lines = ["    exports: ["]
    for entry in roster.agents:
        only = f"accounts: [{_quoted(account_of(entry.token))}]"
        lines += [
            f"      {{ service: {_quoted(one)}, response_type: Singleton, {only} }}"
            for one in rights.services_of(entry.token, entry.highest)
        ]
        lines += [
            f"      {{ stream: {_quoted(one)}, {only} }}"
            for one in subjects.answers_of(entry.token)
        ]
    return [*lines, "    ]"]


def _agent(entry: AgentEntry) -> list[str]:
    token = entry.token
    lines = [
        f"  # agent {entry.agent}, up to {entry.highest.value}",
        f"  {_quoted(account_of(token))}: {{",
        "    imports: [",
    ]
    lines += [
        f"      {{ service: {{ account: {OURS}, subject: {_quoted(one)} }} }}"
        for one in rights.services_of(token, entry.highest)
    ]
    lines += [
        f"      {{ stream: {{ account: {OURS}, subject: {_quoted(one)} }} }}"
        for one in subjects.answers_of(token)
    ]
    lines += ["    ]", "    users: ["]
    allowed = rights.of_agent(token, entry.highest)
    lines += [line for key in entry.holder.keys for line in _user(key, allowed)]
    return [*lines, "    ]", "  }"]


def _user(key: str, allowed: Rights) -> list[str]:
    return [
        f"      {{ nkey: {key}, permissions: {{",
        *_allow("publish", allowed.publish),
        *_allow("subscribe", allowed.subscribe),
        "      } }",
    ]


def _allow(what: str, names: Iterable[str]) -> list[str]:
    return [
        f"        {what}: {{ allow: [",
        *(f"          {_quoted(name)}" for name in names),
        "        ] }",
    ]


def _quoted(text: str) -> str:
    return json.dumps(text)
