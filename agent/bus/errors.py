"""How the bus can fail: refused, not answered, or nobody there. Must not decide what follows."""

from typing import Final

import msgspec

NOT_FOUND: Final = 404
STALE_WRITER: Final = frozenset({10071, 10164})
"""Wrong last sequence: 10071 on one replica, usually 10164 on a replicated stream."""


class BusError(Exception):
    """The bus did not do what it was asked; the text says what and why."""


class NoAnswer(BusError):
    """Nobody answered in time: what was asked may or may not have happened."""


class NoResponders(NoAnswer):
    """Nobody listens there: it certainly did not happen."""


class ApiError(BusError):
    """The server refused; `err_code` is JetStream's number for the reason."""

    def __init__(self, code: int, err_code: int, description: str) -> None:
        """Keep the numbers apart from the sentence."""
        super().__init__(f"{description} ({err_code or code})")
        self.code = code
        self.err_code = err_code
        self.description = description

    @property
    def not_found(self) -> bool:
        """Whether what was asked for does not exist."""
        return self.code == NOT_FOUND

    @property
    def stale(self) -> bool:
        """Whether a compare-and-set was refused because somebody else was first."""
        return self.err_code in STALE_WRITER


class _WireError(msgspec.Struct):
    code: int = 0
    err_code: int = 0
    description: str = ""


class _Envelope(msgspec.Struct):
    error: _WireError | None = None


_envelope: Final = msgspec.json.Decoder(_Envelope)


def raise_refusal(data: bytes) -> None:
    """Raise ApiError if this answer of JetStream is one."""
    try:
        error = _envelope.decode(data).error
    except msgspec.DecodeError:
        return
    if error is not None:
        raise ApiError(error.code, error.err_code, error.description)
