"""Whether a run is interrupted for a CRITICAL, and how long a run still takes. Pure.

It must not decide who is first: `agent.core.scheduler` does.
"""

from datetime import datetime
from typing import Final

from agent.core.leases import Ask, Lease, Preempt
from contracts.requests import Priority

PREEMPTED_MAX: Final = 2
"""A job that was interrupted this often is not interrupted again."""
PREEMPTIBLE: Final = (Priority.MEDIUM, Priority.LOW)


def rest_s(lease: Lease, now: datetime) -> float:
    """Return how long the run is expected to go on.

    One that takes longer than expected is taken to need as much again as it is late: with each
    second less is known of its end.
    """
    return abs(lease.ask.run_s - ran_s(lease, now))


def ran_s(lease: Lease, now: datetime) -> float:
    """Return how long the job has had the card."""
    return max(0.0, (now - lease.granted_at).total_seconds())


def preempts(lease: Lease, first: Ask, after_s: float, now: datetime) -> Preempt | None:
    """Say whether the first who waits interrupts who draws.

    1. Only a CRITICAL does, and only a MEDIUM or a LOW is interrupted.
    2. Not where the rest takes no longer than `after_s`.
    3. Not more than twice the same job, and not twice at once.
    """
    drawing = lease.ask
    if first.priority is not Priority.CRITICAL or drawing.priority not in PREEMPTIBLE:  # 1
        return None
    rest = rest_s(lease, now)
    if rest <= after_s:  # 2
        return None
    if drawing.preempted >= PREEMPTED_MAX or lease.preempted_by:  # 3
        return None
    lost = ran_s(lease, now)
    return Preempt(
        job=drawing.job,
        by=first.job,
        lost_s=lost,
        rest_s=rest,
        reason=f"{first.job} is CRITICAL and {drawing.job}, {drawing.priority}, would take"
        f" {rest:.0f} s more; {lost:.0f} GPU seconds are thrown away",
    )
