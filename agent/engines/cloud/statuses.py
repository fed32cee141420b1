"""What an HTTP status of a cloud means where the provider's own code says nothing else. Pure."""

from http import HTTPStatus

from agent.engines.cloud.faults import (
    BudgetExceededFault,
    CloudAwayFault,
    KeyRefusedFault,
    PaidFault,
    RateLimitedFault,
    RefusedFault,
)
from agent.engines.cloud.pauses import pause_s
from agent.engines.cloud.provider import Answer


def fault_of(answer: Answer, title: str, key_name: str, said: str, rest_s: float) -> PaidFault:
    """Return the fault of an answer that is no picture; `said` are the provider's words.

    Its words about a key are left out: they quote parts of it. Units: `rest_s` is how long no call
    is made after a 429 that names no time.
    """
    match answer.status:
        case HTTPStatus.UNAUTHORIZED:
            return KeyRefusedFault(f"{title} does not accept the key: check {key_name}")
        case HTTPStatus.PAYMENT_REQUIRED:
            return BudgetExceededFault(f"the account at {title} is out of credits")
        case HTTPStatus.TOO_MANY_REQUESTS:
            wait_s = pause_s(answer.headers, rest_s)
            return RateLimitedFault(
                f"{title} takes no calls for {wait_s:.0f} s: too many of them", pause_s=wait_s
            )
        case (
            HTTPStatus.BAD_REQUEST
            | HTTPStatus.REQUEST_ENTITY_TOO_LARGE
            | HTTPStatus.UNPROCESSABLE_ENTITY
        ):
            return RefusedFault(f"{title} refuses the request: {said}")
    return CloudAwayFault(f"{title} cannot draw now: HTTP {answer.status}, {said}")
