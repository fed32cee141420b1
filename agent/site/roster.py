"""Who is on a site: the public keys of its roles and of its agents. No secret is in it.

Pure: a change returns a new roster. It must not know files.
"""

from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from agent.site.rights import ROLES
from contracts import subjects
from contracts.requests import Priority

AGENTS_MAX: Final = 500


class RosterError(Exception):
    """A change that cannot be made; the text says why."""


class Holder(msgspec.Struct, frozen=True, kw_only=True):
    """Who holds a key. `retiring` are keys before a rotation, good until it is finished."""

    key: str
    retiring: tuple[str, ...] = ()

    @property
    def keys(self) -> tuple[str, ...]:
        """Every key that is good now, the newest first."""
        return (self.key, *self.retiring)


class AgentEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One agent: the highest priority it may use, and its key."""

    agent: str
    highest: Priority
    holder: Holder

    @property
    def token(self) -> str:
        """The agent as it stands in subjects."""
        return subjects.identity(self.agent, "any").agent


class Roster(msgspec.Struct, frozen=True, kw_only=True):
    """Everybody on a site, and the names and addresses its server answers to."""

    name: str
    hosts: tuple[str, ...]
    port: int
    roles: Mapping[str, Holder]
    agents: tuple[AgentEntry, ...] = ()

    def find(self, who: str) -> Holder | None:
        """Return a role or an agent by name."""
        entry = next((one for one in self.agents if one.agent == who), None)
        return self.roles.get(who) if entry is None else entry.holder


def new(name: str, hosts: tuple[str, ...], port: int, make: Callable[[str], str]) -> Roster:
    """Return a site with a key for each role and no agent; `make` makes a key and returns it."""
    roles = {role: Holder(key=make(role)) for role in ROLES}
    return Roster(name=name, hosts=hosts, port=port, roles=roles)


def require_free(roster: Roster, agent: str) -> None:
    """Raise RosterError where an agent cannot be added; ContractError if it is no agent id."""
    token = subjects.identity(agent, "any").agent
    if agent in ROLES:
        raise RosterError(f"{agent} is the name of a role")
    if any(one.token == token for one in roster.agents):
        raise RosterError(f"{agent} is there already; `mmg key rotate {agent}` gives it a new key")
    if len(roster.agents) >= AGENTS_MAX:
        raise RosterError(f"{AGENTS_MAX} agents are as many as one site takes")


def with_agent(roster: Roster, agent: str, highest: Priority, key: str) -> Roster:
    """Return the roster with one more agent. Raises: as `require_free`."""
    require_free(roster, agent)
    entry = AgentEntry(agent=agent, highest=highest, holder=Holder(key=key))
    agents = sorted((*roster.agents, entry), key=lambda one: one.agent)
    return msgspec.structs.replace(roster, agents=tuple(agents))


def without_agent(roster: Roster, agent: str) -> Roster:
    """Return the roster without an agent. Raises: RosterError if it is not there."""
    left = tuple(one for one in roster.agents if one.agent != agent)
    if len(left) == len(roster.agents):
        raise RosterError(f"there is no agent {agent} on this site")
    return msgspec.structs.replace(roster, agents=left)


def rotated(roster: Roster, who: str, key: str, *, at_once: bool) -> Roster:
    """Return the roster with a new key; `at_once`: the key before is good no more.

    Raises: RosterError for somebody who is not there.
    """
    holder = _known(roster, who)
    retiring = () if at_once else holder.keys
    return _replaced(roster, who, Holder(key=key, retiring=retiring))


def finished(roster: Roster, who: str) -> Roster:
    """Return the roster where only the newest key of `who` is good. Raises: RosterError."""
    return _replaced(roster, who, Holder(key=_known(roster, who).key))


def _known(roster: Roster, who: str) -> Holder:
    holder = roster.find(who)
    if holder is None:
        raise RosterError(f"there is no role and no agent {who} on this site")
    return holder


def _replaced(roster: Roster, who: str, holder: Holder) -> Roster:
    if who in roster.roles:
        return msgspec.structs.replace(roster, roles={**roster.roles, who: holder})
    agents = tuple(
        msgspec.structs.replace(one, holder=holder) if one.agent == who else one
        for one in roster.agents
    )
    return msgspec.structs.replace(roster, agents=agents)
