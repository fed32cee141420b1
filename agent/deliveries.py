"""What a delivery holds: the stored request, or why its bytes break the contract."""

from agent.bus.lanes import Delivery
from agent.core.job import StoredRequest
from contracts import codec, subjects, trace
from contracts.errors import ContractError, ErrorBody
from contracts.requests import Priority


def read_delivery(delivery: Delivery) -> tuple[StoredRequest | None, ErrorBody | None]:
    """Read a delivery: the stored request, and the error where its bytes break the contract.

    Without a stored request not even an answer could be addressed.
    """
    error: ErrorBody | None = None
    request = None
    try:
        received = codec.receive(delivery.subject, delivery.headers, delivery.data)
    except ContractError as broken:
        error = broken.body
        who = subjects.raw_pair(delivery.subject)
        if who is None:
            return None, error
        priority = Priority(delivery.subject.split(".")[2].upper())
    else:
        who, priority, request = received.who, received.priority, received.request
    stored = StoredRequest(
        who=who,
        priority=priority,
        seq=delivery.seq,
        stored_at=delivery.stored_at,
        request=request,
        trace=trace.read(delivery.headers),
    )
    return stored, error
