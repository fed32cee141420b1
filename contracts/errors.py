"""The error table of the wire: one stable code per way a request can go wrong.

The same object appears in events, problem+json, RPC answers and command line exits.
It must not know how an error came about; `agent.core.faults` does.
"""

from enum import StrEnum
from typing import Final

import msgspec


class ErrorCode(StrEnum):
    """Stable codes; docs/errors.md explains each. Codes are only ever added."""

    INVALID_REQUEST = "invalid_request"
    UNSUPPORTED_TYPE = "unsupported_type"
    UNSUPPORTED_CONTRACT = "unsupported_contract"
    NOT_ENABLED = "not_enabled"
    FORBIDDEN = "forbidden"
    NOT_FOUND = "not_found"
    AMBIGUOUS_ID = "ambiguous_id"
    ID_REUSED = "id_reused"
    ALREADY_COMPLETED = "already_completed"
    QUEUE_FULL = "queue_full"
    INTAKE_CLOSED = "intake_closed"
    RATE_LIMITED = "rate_limited"
    QUOTA = "quota"
    EXPIRED = "expired"
    CANCELLED = "cancelled"
    ENGINE_DOWN = "engine_down"
    NO_ENGINE = "no_engine"
    OUT_OF_MEMORY = "out_of_memory"
    MODEL_MISSING = "model_missing"
    WORKFLOW_INVALID = "workflow_invalid"
    CONTENT_FILTERED = "content_filtered"
    BUDGET_EXCEEDED = "budget_exceeded"
    HANG = "hang"
    WORKER_LOST = "worker_lost"
    DISK_FULL = "disk_full"
    UNKNOWN_OUTCOME = "unknown_outcome"
    INTERNAL = "internal"


HTTP_STATUS: Final[dict[ErrorCode, int]] = {
    ErrorCode.INVALID_REQUEST: 400,
    ErrorCode.UNSUPPORTED_TYPE: 400,
    ErrorCode.UNSUPPORTED_CONTRACT: 400,
    ErrorCode.NOT_ENABLED: 501,
    ErrorCode.FORBIDDEN: 403,
    ErrorCode.NOT_FOUND: 404,
    ErrorCode.AMBIGUOUS_ID: 409,
    ErrorCode.ID_REUSED: 409,
    ErrorCode.ALREADY_COMPLETED: 409,
    ErrorCode.QUEUE_FULL: 503,
    ErrorCode.INTAKE_CLOSED: 503,
    ErrorCode.RATE_LIMITED: 429,
    ErrorCode.QUOTA: 429,
}
"""Status of the codes that answer an HTTP request; every other code is a 500 there."""

RETRYABLE: Final[frozenset[ErrorCode]] = frozenset(
    {
        ErrorCode.QUEUE_FULL,
        ErrorCode.INTAKE_CLOSED,
        ErrorCode.RATE_LIMITED,
        ErrorCode.QUOTA,
        ErrorCode.ENGINE_DOWN,
        ErrorCode.NO_ENGINE,
        ErrorCode.OUT_OF_MEMORY,
        ErrorCode.BUDGET_EXCEEDED,
        ErrorCode.HANG,
        ErrorCode.WORKER_LOST,
        ErrorCode.DISK_FULL,
        ErrorCode.INTERNAL,
    }
)
"""Codes where the same request may succeed later (the R of the error table)."""


class ErrorBody(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An error as everybody sees it: `message` is a sentence for a person.

    `detail` names the place (a JSON path such as `$.options.seed`, a node, a file name),
    never a secret and never a path of the server.
    """

    code: ErrorCode
    message: str
    retryable: bool
    detail: str | None = None


def error_body(code: ErrorCode, message: str, detail: str | None = None) -> ErrorBody:
    """Build the error object of `code`; whether a retry may help follows from the table."""
    return ErrorBody(code=code, message=message, retryable=code in RETRYABLE, detail=detail)


class ContractError(Exception):
    """A request breaks the contract; carries the answer its sender gets."""

    def __init__(self, code: ErrorCode, message: str, detail: str | None = None) -> None:
        """Keep the answer in `body`; `detail` is the JSON path of the fault, if it has one."""
        super().__init__(message)
        self.body = error_body(code, message, detail)
