"""W3C trace context: which piece of somebody's work a message belongs to, in its headers only.

It is passed on and decides nothing. What cannot be read is ignored, as the standard asks, and is
never an error. Source: W3C Trace Context, level 1 (2021) and the `random` flag of level 2.
"""

import re
from collections.abc import Mapping
from typing import Final

import msgspec

PARENT: Final = "traceparent"
STATE: Final = "tracestate"
PARENT_MAX: Final = 512
"""Characters of a traceparent; this version has 55, a later one may append to them."""
STATE_MAX: Final = 512
"""Characters of a tracestate that are passed on: as many as the standard asks for."""
MEMBERS_MAX: Final = 32
MEMBER_LONG: Final = 128
"""Longer members go first where not all of them can be passed on."""
SAMPLED: Final = 1

_FLAGS_KNOWN: Final = 0b11
_PARENT: Final = re.compile(
    r"(?P<version>[0-9a-f]{2})-(?P<trace>[0-9a-f]{32})-(?P<span>[0-9a-f]{16})"
    r"-(?P<flags>[0-9a-f]{2})(?P<more>-.*)?"
)
_KEY: Final = r"[a-z][a-z0-9_*/-]{0,255}|[a-z0-9][a-z0-9_*/-]{0,240}@[a-z][a-z0-9_*/-]{0,13}"
_MEMBER: Final = re.compile(rf"(?P<key>{_KEY})=[ -+\--<>-~]{{0,255}}[!-+\--<>-~]")
_BLANKS: Final = " \t"


class Trace(msgspec.Struct, frozen=True, kw_only=True):
    """The trace of a request and the place in it where the request was made.

    Ids are lower-case hex, 32 and 16 digits, never all zero. `state` is for whom it concerns.
    """

    trace_id: str
    span_id: str
    flags: int = 0
    state: str = ""

    @property
    def parent(self) -> str:
        """The value of `traceparent`."""
        return f"00-{self.trace_id}-{self.span_id}-{self.flags:02x}"


def headers(trace: Trace | None) -> dict[str, str]:
    """Return the headers that carry a trace; none for None. A fresh dict each time."""
    if trace is None:
        return {}
    return {PARENT: trace.parent} | ({STATE: trace.state} if trace.state else {})


def read(received: Mapping[str, str] | None) -> Trace | None:
    """Read the trace from headers, whatever the case of their names; None: there is none to use.

    A mapping that repeats names, as HTTP has them, is read whole: two traceparents are none, and
    several tracestates are one list.
    """
    found = [(name.lower(), value) for name, value in (received or {}).items()]
    parents = [value for name, value in found if name == PARENT]
    if len(parents) != 1:
        return None
    return parse(parents[0], ",".join(value for name, value in found if name == STATE))


def parse(parent: str, state: str = "") -> Trace | None:
    """Read a trace context; None where `parent` breaks the standard.

    1. Lower-case hex in the four fields; version ff and ids of zeros are none. 2. Version 00 ends
    there; a later one may go on, and is passed on as 00 with the flags known here. 3. A `state`
    that breaks the standard is dropped alone.
    """
    match = _PARENT.fullmatch(parent) if len(parent) <= PARENT_MAX else None
    if match is None or match["version"] == "ff":  # 1
        return None
    if match["version"] == "00" and match["more"] is not None:  # 2
        return None
    if not (match["trace"].strip("0") and match["span"].strip("0")):  # 1
        return None
    return Trace(
        trace_id=match["trace"],
        span_id=match["span"],
        flags=int(match["flags"], 16) & _FLAGS_KNOWN,
        state=_state(state),  # 3
    )


def _state(text: str) -> str:
    """Return the list as it is passed on: whole, shortened by whole members, or empty."""
    stripped = (member.strip(_BLANKS) for member in text.split(","))
    members = [member for member in stripped if member]
    matches = [_MEMBER.fullmatch(member) for member in members]
    keys = {match["key"] for match in matches if match is not None}
    if len(members) > MEMBERS_MAX or len(keys) < len(members):  # One is bad, or is there twice.
        return ""
    if len(",".join(members)) > STATE_MAX:
        members = [member for member in members if len(member) <= MEMBER_LONG]
    while len(",".join(members)) > STATE_MAX:
        members.pop()
    return ",".join(members)
