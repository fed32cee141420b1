"""One line of an examination: what was looked at, how it is, what was seen, and the way out."""

from enum import StrEnum
from typing import Self

import msgspec


class State(StrEnum):
    """How something is: `warn` works but deserves a look, `fail` does not do what it must."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """What was found about one thing; `way_out` is None where nothing needs to be done."""

    state: State
    what: str
    seen: str
    way_out: str | None = None

    @classmethod
    def ok(cls, what: str, seen: str) -> Self:
        """Nothing to do."""
        return cls(state=State.OK, what=what, seen=seen)

    @classmethod
    def warn(cls, what: str, seen: str, way_out: str) -> Self:
        """It works, but."""
        return cls(state=State.WARN, what=what, seen=seen, way_out=way_out)

    @classmethod
    def fail(cls, what: str, seen: str, way_out: str) -> Self:
        """It does not do what it must."""
        return cls(state=State.FAIL, what=what, seen=seen, way_out=way_out)
