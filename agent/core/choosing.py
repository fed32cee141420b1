"""Which engine a request tries next, after all that has happened to it. Pure.

Routing orders the engines that may do it; here is left out what its tries have used up, and what
has no slot for it now. `agent.core.story` tells the tries.
"""

from collections.abc import Mapping
from datetime import timedelta

import msgspec

from agent.core import routing
from agent.core.faults import Fault, OutOfMemoryFault, Remedy, TriesSpentFault
from agent.core.job import TRIES_MAX, History, StoredRequest
from agent.core.routing import Candidate
from agent.core.steps import Elsewhere, Seen, TakeSlot

NEVER = ("too_big", "out_of_memory")

Passed = Mapping[str, Elsewhere]
"""Engine -> why it had no slot when it was asked."""


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """What one choice among engines rested on; see `choices`."""

    stored: StoredRequest
    seen: Seen
    history: History
    passed: dict[str, Elsewhere]
    last: tuple[str | None, Remedy]

    def made(self) -> tuple[Candidate, ...] | Fault:
        """Choose: the engines in their order, or why there is none."""
        return choices(self.stored, self.seen, self.history, self.passed, self.last)


Chosen = tuple[Choice, tuple[Candidate, ...] | Fault]
"""A choice and what came of it."""


def choices(
    stored: StoredRequest,
    seen: Seen,
    history: History,
    passed: Passed,
    last: tuple[str | None, Remedy] = (None, Remedy.RETRY),
) -> tuple[Candidate, ...] | Fault:
    """Order the engines that have tries left, or say why there is none.

    1. Routing says who may do it at all.
    2. Three tries an engine; one that answered that it never will is not asked again, nor is a
       card that is too small.
    3. Who had no slot comes after the others: it is asked again where nobody else is left.
    4. `last` is the engine of the last try: RETRY stays with it, OTHER_ENGINE leaves it.
    """
    request = stored.request
    assert request is not None, "an unreadable request is refused, not routed"
    try:
        found = routing.route(request, seen.engines, seen.policy)  # 1
    except Fault as fault:
        return fault
    left = [  # 2
        one
        for one in found
        if history.tries(one.engine) < TRIES_MAX
        and not _gave_up(history, one)
        and not (one.engine in passed and passed[one.engine].why in NEVER)
    ]
    if not left:
        never = [answer for answer in passed.values() if answer.why in NEVER]
        if never:
            return OutOfMemoryFault(never[-1].reason)
        return TriesSpentFault("no engine is left that could be tried")
    engine, remedy = last
    stay = remedy is Remedy.RETRY
    left.sort(key=lambda one: (one.engine in passed, (one.engine == engine) != stay))  # 3, 4
    return tuple(_because(one, passed) for one in left)


def wish(
    stored: StoredRequest,
    history: History,
    found: tuple[Candidate, ...],
    passed: Passed,
    *,
    is_first: bool,
) -> TakeSlot:
    """Return the wish for a slot for the first of the candidates.

    `is_first`: it has never started; only then can it still miss its deadline.
    """
    first, *others = found
    request = stored.request
    due = None
    if request is not None and request.deadline_s is not None and is_first:
        due = stored.stored_at + timedelta(seconds=request.deadline_s)
    return TakeSlot(
        first,
        cloud=any(one.is_cloud and not one.trouble and one.engine not in passed for one in others),
        preempted=history.preempted,
        ooms=history.ooms(first.engine),
        due=due,
    )


def _gave_up(history: History, candidate: Candidate) -> bool:
    """Tell whether an engine answered that it never will: OTHER_ENGINE moved on from it."""
    return any(
        fault.engine == candidate.engine and not fault.error.retryable for fault in history.faults
    )


def _because(candidate: Candidate, passed: Passed) -> Candidate:
    """Say in the reason of a candidate why one before it was passed over."""
    if candidate.engine in passed or not passed:
        return candidate
    return candidate.because("; ".join(answer.reason for answer in passed.values()))
