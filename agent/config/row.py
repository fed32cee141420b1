"""One row of the table of settings. It must not know any setting."""

from typing import Literal

import msgspec

from agent.config.values import Parser


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One setting. `default` is text as a person would write it; None: not set, see `unset`.

    A row without a parser is a path: what it means depends on the directory of the process.
    `hide` is what of it is never shown; where it is not "nothing", it may hold a secret, and
    `<NAME>_FILE` may name a file with the value.
    """

    name: str
    section: str
    key: str
    default: str | None
    unset: str = ""
    parse: Parser | None
    allowed: str
    help: str
    hide: Literal["nothing", "user", "all"] = "nothing"
