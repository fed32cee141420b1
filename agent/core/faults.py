"""Faults as data: why a try failed and what may help.

Engines and stores raise a subclass of `Fault`; the worker turns it into a link of the chain.
A fault is never a broken program (that is an `assert`) and never a peer that is merely slow.
"""

from enum import StrEnum
from typing import ClassVar

from contracts.errors import ErrorBody, ErrorCode, error_body


class Remedy(StrEnum):
    """What may still help after a fault."""

    RETRY = "retry"
    OTHER_ENGINE = "other_engine"
    GIVE_UP = "give_up"


class Fault(Exception):
    """The job could not be done."""

    code: ClassVar[ErrorCode] = ErrorCode.INTERNAL
    remedy: ClassVar[Remedy] = Remedy.RETRY

    def __init__(self, message: str, detail: str | None = None) -> None:
        """Keep the sentence a person reads and, where there is one, the place of the fault."""
        super().__init__(message)
        self.message = message
        self.detail = detail

    def body(self) -> ErrorBody:
        """Return the wire form of this fault."""
        return error_body(self.code, self.message, self.detail)


class InternalFault(Fault):
    """Something broke inside mmg; the log has the traceback."""


class TriesSpentFault(InternalFault):
    """Every engine that could do it has used up its tries."""


class CancelledFault(Fault):
    """The job was interrupted because somebody asked for it."""

    code = ErrorCode.CANCELLED
    remedy = Remedy.GIVE_UP


class NoEngineFault(Fault):
    """No engine here can do what the request asks for."""

    code = ErrorCode.NO_ENGINE
    remedy = Remedy.GIVE_UP


class ModelMissingFault(Fault):
    """The model that was asked for is not installed."""

    code = ErrorCode.MODEL_MISSING
    remedy = Remedy.OTHER_ENGINE


class WorkflowInvalidFault(Fault):
    """The workflow that was asked for does not exist or does not fit the request."""

    code = ErrorCode.WORKFLOW_INVALID
    remedy = Remedy.GIVE_UP


class EngineDownFault(Fault):
    """The engine does not answer."""

    code = ErrorCode.ENGINE_DOWN
    remedy = Remedy.OTHER_ENGINE


class OutOfMemoryFault(Fault):
    """The card ran out of memory while the engine drew."""

    code = ErrorCode.OUT_OF_MEMORY
    remedy = Remedy.RETRY


class CardTooSmallFault(OutOfMemoryFault):
    """The card has no more room for the job, also with what may be freed."""

    remedy = Remedy.OTHER_ENGINE


class HangFault(Fault):
    """The engine took longer than it may."""

    code = ErrorCode.HANG
    remedy = Remedy.RETRY


class PictureMissingFault(Fault):
    """The picture to start from is not among those of the requester."""

    code = ErrorCode.NOT_FOUND
    remedy = Remedy.GIVE_UP


class DiskFullFault(Fault):
    """The disk that holds the assets is full."""

    code = ErrorCode.DISK_FULL
    remedy = Remedy.RETRY
