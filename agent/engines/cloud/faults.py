"""How a cloud call can fail, as faults with the codes of the wire.

None of them is tried again at once: money or a person's patience would pay for it.
"""

from agent.core.faults import Remedy
from agent.core.money import BudgetExceededFault, PaidFault, UnknownOutcomeFault
from contracts.errors import ErrorCode

__all__ = [
    "BudgetExceededFault",
    "CloudAwayFault",
    "FilteredFault",
    "KeyRefusedFault",
    "ModelGoneFault",
    "PaidFault",
    "RateLimitedFault",
    "RefusedFault",
    "UnknownOutcomeFault",
]


class CloudAwayFault(PaidFault):
    """The provider does not answer, or answers that it cannot work now; nothing was bought."""

    code = ErrorCode.ENGINE_DOWN
    remedy = Remedy.OTHER_ENGINE


class KeyRefusedFault(CloudAwayFault):
    """The provider does not accept the key, or does not let it do this."""


class RateLimitedFault(PaidFault):
    """Too many calls; `pause_s` is how long the provider wants none."""

    code = ErrorCode.RATE_LIMITED
    remedy = Remedy.OTHER_ENGINE

    def __init__(self, message: str, *, pause_s: float) -> None:
        """Keep the pause beside the sentence."""
        super().__init__(message)
        self.pause_s = pause_s


class FilteredFault(PaidFault):
    """The provider's filter refuses prompt or picture; another engine may take it."""

    code = ErrorCode.CONTENT_FILTERED
    remedy = Remedy.OTHER_ENGINE


class RefusedFault(PaidFault):
    """The provider cannot do what the request asks for; another engine may."""

    code = ErrorCode.INVALID_REQUEST
    remedy = Remedy.OTHER_ENGINE


class ModelGoneFault(PaidFault):
    """The provider has no such model, or no longer."""

    code = ErrorCode.MODEL_MISSING
    remedy = Remedy.OTHER_ENGINE
