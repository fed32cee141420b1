"""How this worker stands, in full: cards, jobs, slots, engines, money, alerts, decisions.

It reads what the parts know and measures the card for whoever asks; it must not change anything.
"""

import asyncio
from collections.abc import Iterable
from math import inf
from typing import Final

import msgspec

from agent import __version__
from agent.alerts import Alerts
from agent.card_report import CardReporter
from agent.core.breaker import CLOSED, Breaker
from agent.core.money import rolled
from agent.core.outlook import Outlook, outlook_of_places
from agent.core.routing import EngineFacts
from agent.decisions import Recorder
from agent.dispatch import Dispatch
from agent.engines.protocol import EngineJob
from agent.slots import GPU, job_name
from agent.tools import Tools
from agent.worker import Job
from contracts.status import (
    HOLDS_MAX,
    JOBS_MAX,
    MODELS_MAX,
    TEXT_MAX,
    BreakerState,
    EngineState,
    HoldState,
    MoneyState,
    RunningJob,
    SlotState,
    UnknownState,
    WaitingJob,
    WorkerReport,
)

GAUGES_S: Final = 0.3
"""Who asks for a report waits no longer for a card: he hears what was last known."""
MICRO: Final = 1_000_000


class Reporter:
    """Writes the report of one worker."""

    def __init__(
        self, tools: Tools, dispatch: Dispatch, alerts: Alerts, recorder: Recorder, trial: EngineJob
    ) -> None:
        """Report on these parts; `trial` is a usual picture, to ask engines for its price."""
        self._tools = tools
        self._dispatch = dispatch
        self._alerts = alerts
        self._recorder = recorder
        self._trial = trial
        self._started_at = tools.clock.now()
        self._cards = tuple(
            CardReporter(keeper, tools.clock) for keeper in tools.slots.keepers.values()
        )

    async def report(self) -> WorkerReport:
        """Write it, with cards measured now where that is quick."""
        async with asyncio.TaskGroup() as group:
            for card in self._cards:
                group.create_task(card.look(GAUGES_S), name="measures for a report")
        short = self._dispatch.status()
        fields = {name: getattr(short, name) for name in short.__struct_fields__}
        fields["running"] = short.running[:JOBS_MAX]
        fields["waiting"] = short.waiting[:JOBS_MAX]
        return WorkerReport(
            **fields,
            at=self._tools.clock.now(),
            version=__version__,
            started_at=self._started_at,
            cards=tuple(card.state() for card in self._cards),
            jobs=self._jobs(),
            waits=self._waits(),
            slots=self._slots(),
            engine_states=tuple(self._engine(facts) for facts in self._tools.facts),
            money=self._money(),
            alerts=self._alerts.raised,
            decisions=self._recorder.recent,
        )

    # --- jobs ----------------------------------------------------------------------------------

    def _jobs(self) -> tuple[RunningJob, ...]:
        working = (job for job in self._dispatch.jobs if not job.slot.waits)
        return tuple(_running(job) for job in _first(working))

    def _waits(self) -> tuple[WaitingJob, ...]:
        """Return who waits for a slot, in the order of each kind."""
        waiting = {
            job_name(job.stored): job
            for job in self._dispatch.jobs
            if job.slot.waits and not job.handed_back
        }
        found: list[WaitingJob] = []
        for kind, looks in self._outlooks():
            for one in looks:
                job = waiting.pop(one.job, None)
                if job is not None:
                    found.append(self._waiting(job, kind, one))
        # They wait for no slot yet: for a retry, or for an engine that works again.
        for place, job in enumerate(waiting.values(), start=1):
            found.append(self._waiting(job, job.slot.kind, self._aside(job, place)))
        return tuple(found[:JOBS_MAX])

    def _outlooks(self) -> Iterable[tuple[str, tuple[Outlook, ...]]]:
        slots, now = self._tools.slots, self._tools.clock.now()
        for keeper in slots.keepers.values():
            yield GPU, keeper.arbiter.outlook(now)
        for kind, places in slots.places.items():
            ready_s = places.ready_in_s(waiting=False)
            yield kind, outlook_of_places(kind, places.waiting, places.turns(), ready_s)

    def _aside(self, job: Job, place: int) -> Outlook:
        """Say what a job waits for that has asked for no slot."""
        troubles = [
            f"{facts.name} {seen.trouble}"
            for facts in self._tools.facts
            if (seen := self._tools.turnstile.seen(facts, "", 0.0)).trouble
        ]
        what = f"; {'; '.join(troubles)}" if troubles else ""
        sentence = f"it waits for its next try, or for an engine that may draw it{what}."
        return Outlook(
            job=job_name(job.stored),
            place=place,
            start_s=inf,
            early_s=inf,
            late_s=inf,
            rule=0,
            sentence=sentence,
        )

    def _waiting(self, job: Job, kind: str, one: Outlook) -> WaitingJob:
        stored = job.stored
        bound_s = self._tools.slots.bounds[stored.priority]
        return WaitingJob(
            job=one.job,
            request_id=stored.who.request_id,
            requester=stored.who.requester,
            priority=stored.priority,
            stored_at=stored.stored_at,
            slot=kind,
            place=one.place,
            rule=one.rule,
            sentence=_sentence(one.sentence),
            start_s=_seconds(one.start_s),
            early_s=_seconds(one.early_s),
            late_s=_seconds(one.late_s),
            max_wait_s=bound_s,
            left_s=round(bound_s - stored.waited_s(self._tools.clock.now()), 1),
        )

    def _slots(self) -> tuple[SlotState, ...]:
        slots = self._tools.slots
        found = []
        if slots.keepers:
            arbiters = [keeper.arbiter for keeper in slots.keepers.values()]
            taken = sum(arbiter.lease is not None for arbiter in arbiters)
            waiting = sum(len(arbiter.waiting) for arbiter in arbiters)
            found.append(SlotState(kind=GPU, size=len(arbiters), taken=taken, waiting=waiting))
        for kind, places in slots.places.items():
            found.append(
                SlotState(
                    kind=kind,
                    size=places.size,
                    taken=len(places.taken),
                    waiting=len(places.waiting),
                )
            )
        return tuple(found)

    # --- engines and money ---------------------------------------------------------------------

    def _engine(self, facts: EngineFacts) -> EngineState:
        tools = self._tools
        price_usd = tools.engines[facts.name].price_usd(self._trial)
        seen = tools.turnstile.seen(facts, "", price_usd if facts.is_cloud else 0.0)
        return EngineState(
            name=facts.name,
            slot=facts.slot,
            up=facts.up,
            ready=seen.is_ready,
            reason=seen.trouble[:TEXT_MAX],
            models=facts.models[:MODELS_MAX],
            price_usd=round(price_usd, 6),
            breaker=self._breaker(tools.turnstile.breakers.get(facts.name, CLOSED)),
        )

    def _breaker(self, found: Breaker) -> BreakerState:
        if found.until is None:
            return BreakerState(state="closed", faults=found.faults, until=None)
        is_over = self._tools.clock.now() >= found.until
        state = BreakerState(state="open", faults=found.faults, until=found.until)
        return msgspec.structs.replace(state, state="half_open") if is_over else state

    def _money(self) -> MoneyState:
        turnstile, today = self._tools.turnstile, self._tools.clock.now().date()
        books, limits = rolled(turnstile.books, today), turnstile.limits
        by_requester = sorted(books.requesters.items(), key=lambda pair: -pair[1])
        return MoneyState(
            day=books.day or today.isoformat(),
            spent_usd=books.spent_usd,
            held_usd=books.held_usd,
            day_limit_usd=limits.day_usd,
            request_limit_usd=limits.request_usd,
            requester_limit_usd=limits.requester_usd,
            by_requester=tuple((who, spent / MICRO) for who, spent in by_requester[:HOLDS_MAX]),
            holds=tuple(
                HoldState(
                    request=hold.request,
                    engine=hold.engine,
                    worker=hold.worker,
                    usd=hold.amount / MICRO,
                )
                for hold in books.holds[:HOLDS_MAX]
            ),
            unknown=tuple(
                UnknownState(
                    request=one.request, engine=one.engine, day=one.day, usd=one.amount / MICRO
                )
                for one in books.unknown[: -HOLDS_MAX - 1 : -1]
            ),
        )


def _running(job: Job) -> RunningJob:
    stored, candidate = job.stored, job.slot.candidate
    pen = job.progress_pen()
    return RunningJob(
        job=job_name(stored),
        request_id=stored.who.request_id,
        requester=stored.who.requester,
        priority=stored.priority,
        stored_at=stored.stored_at,
        attempt=pen.place.attempt,
        engine=candidate.engine if candidate is not None else "",
        model=candidate.model if candidate is not None else "",
        slot=job.slot.kind,
        reason=(candidate.reason if candidate is not None else "")[:TEXT_MAX],
        started_at=job.slot.since,
        progress_percent=pen.percent,
    )


def _first(jobs: Iterable[Job]) -> list[Job]:
    return sorted(jobs, key=lambda job: job.stored.seq)[:JOBS_MAX]


def _sentence(text: str) -> str:
    """Return a sentence with a capital letter, within its bound."""
    return f"{text[:1].upper()}{text[1:TEXT_MAX]}"


def _seconds(value: float) -> float | None:
    return None if value == inf else round(value, 1)
