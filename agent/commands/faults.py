"""What can be expected to go wrong in a command: a line or two on stderr, and the exit code."""

import errno
import sys
from typing import Final

from agent.assets import RemoteError
from agent.bus.connection import BusError, NoAnswer, NoResponders
from agent.commands import exits
from agent.config import ConfigError
from agent.embedded import EmbeddedError
from agent.gateway.keys import KeyFileError
from agent.ledger.database import LedgerError
from agent.site.layout import SiteError
from agent.site.roster import RosterError
from agent.styles import StyleError
from contracts.errors import ContractError, ErrorCode

EXPECTED: Final[tuple[type[Exception], ...]] = (
    BusError,
    ConfigError,
    ContractError,
    EmbeddedError,
    KeyFileError,
    LedgerError,
    RemoteError,
    RosterError,
    SiteError,
    StyleError,
    OSError,
)

_REQUEST_IS_WRONG: Final = frozenset(
    {
        ErrorCode.INVALID_REQUEST,
        ErrorCode.UNSUPPORTED_TYPE,
        ErrorCode.UNSUPPORTED_CONTRACT,
        ErrorCode.NOT_ENABLED,
        ErrorCode.FORBIDDEN,
        ErrorCode.AMBIGUOUS_ID,
        ErrorCode.ID_REUSED,
    }
)


def complain(text: str, *way_out: str) -> None:
    """Print what is wrong, then what to do about it."""
    print(f"mmg: {text}", file=sys.stderr)
    for line in way_out:
        print(f"     {line}", file=sys.stderr)


def explain(error: Exception) -> int:
    """Say what went wrong and return the exit code for it; of a group, the first."""
    match error:
        case ExceptionGroup():
            return explain(error.exceptions[0])
        case ContractError():
            place = f" (at {error.body.detail})" if error.body.detail else ""
            way_out = ["It may work later."] if error.body.retryable else []
            complain(f"{error.body.code}: {error.body.message}{place}", *way_out)
            return exits.USAGE if error.body.code in _REQUEST_IS_WRONG else exits.FAILED
        case ConfigError():
            complain("the settings cannot be used:", *error.faults)
            return exits.USAGE
        case NoAnswer() if not isinstance(error, NoResponders):
            complain(
                str(error),
                "Is it running? `mmg up` starts one; MMG_NATS_URL names another.",
                "`mmg doctor` says more.",
            )
            return exits.UNREACHABLE
        case BusError():
            complain(str(error), "`mmg doctor` says more.")
            return exits.FAILED
        case EmbeddedError():
            complain(str(error))
            return exits.UNREACHABLE
        case LedgerError():
            complain(str(error), "A gateway makes and mends it: `mmg gateway` or `mmg up`.")
            return exits.FAILED
        case KeyFileError():
            complain(str(error))
            return exits.USAGE
        case OSError(errno=errno.EADDRINUSE):
            complain(str(error), "MMG_HTTP_PORT names another port; 0 takes a free one.")
            return exits.FAILED
        case _:
            complain(str(error) or type(error).__name__)
            return exits.FAILED
