"""Slots: the places on the CPU and in the cloud, and the leases of the cards.

Who waits for a place of a kind gets it in the scheduler's order (`agent.places`); who waits for a
card, in the arbiter's. A slot is held by one job at a time and given back exactly once.
"""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Final

import msgspec

from agent.clock import Clock
from agent.core.durations import Durations, Kind
from agent.core.job import StoredRequest
from agent.core.leases import Ask, Grant, Need, Refuse, ToCloud
from agent.core.leases import Elsewhere as BusyElsewhere
from agent.core.routing import Candidate
from agent.core.scheduler import MAX_WAIT_S, Wish
from agent.core.steps import Elsewhere, Placed, TakeSlot
from agent.gpu.keeper import Answer, Holder, Keeper
from agent.places import Places
from contracts.requests import Priority

GPU: Final = "gpu"
CLOUD: Final = "cloud"
CLOUD_RUN_S: Final = 15.0


class Slots:
    """All slots of one worker."""

    def __init__(
        self,
        places: Mapping[str, Places],
        keepers: Mapping[str, Keeper],
        clock: Clock,
        *,
        bounds: Mapping[Priority, float] = MAX_WAIT_S,
    ) -> None:
        """Use `places` by kind; `keepers` by the name of the server whose card they keep."""
        self.places = dict(places)
        self.keepers = dict(keepers)
        self.clock = clock
        self.durations = Durations()
        self.on_change: Callable[[], None] = lambda: None
        self.bounds = bounds

    def free(self) -> dict[str, int]:
        """Return how many slots of each kind nobody has or waits for."""
        found = {kind: places.free for kind, places in self.places.items()}
        if self.keepers:
            idle = (
                keeper
                for keeper in self.keepers.values()
                if not keeper.lost and keeper.arbiter.lease is None and not keeper.arbiter.waiting
            )
            found[GPU] = sum(1 for _ in idle)
        return found

    def busy(self) -> tuple[str, ...]:
        """Return the kinds of which every slot is in use."""
        found = [kind for kind, places in self.places.items() if places.taken and not places.free]
        cards = [keeper for keeper in self.keepers.values() if not keeper.lost]
        if cards and all(keeper.arbiter.lease is not None for keeper in cards):
            found.append(GPU)
        return tuple(found)

    def has_card(self) -> bool:
        """Tell whether any card is this worker's now."""
        return any(not keeper.lost for keeper in self.keepers.values())

    def why_no_card(self) -> str:
        """Say why no card is this worker's."""
        return "; ".join(keeper.lost for keeper in self.keepers.values() if keeper.lost)

    def changed(self) -> None:
        """Tell the arbiters what goes on beside their cards, and who waits that may start."""
        cloud = self.places.get(CLOUD)
        running: dict[str, int] = {}
        for places in self.places.values():
            for seat in places.taken.values():
                running[seat.wish.requester] = running.get(seat.wish.requester, 0) + 1
        elsewhere = BusyElsewhere(
            running=tuple(sorted(running.items())),
            cloud_s=tuple(round(s) for s in cloud.ready_in_s()) if cloud is not None else (),
            cloud_run_s=CLOUD_RUN_S,
        )
        for keeper in self.keepers.values():
            keeper.busy_elsewhere(elsewhere)
        self.on_change()

    def order(self) -> tuple[str, ...]:
        """Return the jobs that wait for a card, in the order in which they would start."""
        now = self.clock.now()
        return tuple(
            turn.job for keeper in self.keepers.values() for turn in keeper.arbiter.turns(now)
        )

    def tick(self) -> None:
        """Let time pass: LOW may start at another hour."""
        for places in self.places.values():
            places.assign()

    def for_job(self, stored: StoredRequest) -> "HeldSlot":
        """Return the slot of one job, which holds nothing yet."""
        return HeldSlot(self, stored)

    def ask(self, stored: StoredRequest, wish: TakeSlot, place: str) -> Ask:
        """Write the wish of one job for the card of one server."""
        request, candidate = stored.request, wish.candidate
        assert request is not None, "an unreadable request needs no card"
        smaller = candidate.smaller
        run_s, error_s = self.durations.expected(_kind(candidate), request, place)
        return Ask(
            job=job_name(stored),
            priority=stored.priority,
            quality=request.options.quality,
            need=Need(model=candidate.model, vram_mib=candidate.vram_mib),
            smaller=None
            if smaller is None
            else Need(model=smaller.model, vram_mib=smaller.vram_mib),
            stored_at=stored.stored_at,
            max_wait_s=self.bounds[stored.priority],
            cloud=wish.cloud,
            requester=stored.who.agent,
            seq=stored.seq,
            run_s=run_s,
            run_error_s=error_s,
            ooms=wish.ooms,
            preempted=wish.preempted,
        )

    def wish(self, stored: StoredRequest, wish: TakeSlot) -> Wish:
        """Write the wish for a place on the CPU or in the cloud."""
        request = stored.request
        assert request is not None, "an unreadable request needs no place"
        run_s, _ = self.durations.expected(_kind(wish.candidate), request)
        return Wish(
            job=job_name(stored),
            priority=stored.priority,
            requester=stored.who.agent,
            seq=stored.seq,
            stored_at=stored.stored_at,
            max_wait_s=self.bounds[stored.priority],
            run_s=run_s,
        )


class HeldSlot:
    """The slot of one job; `free` may be called again without harm."""

    def __init__(self, slots: Slots, stored: StoredRequest) -> None:
        """Hold nothing yet.

        `kind` is what it holds or waits for last, `candidate` what for, and `since` when it got it.
        """
        self.kind = ""
        self.holds = False
        self.downgraded = False
        self.stuck_since_s: float | None = None
        """Since when no engine can begin the job; None: one may, or nobody has looked."""
        self.candidate: Candidate | None = None
        self.since: datetime | None = None
        self._slots = slots
        self._stored = stored
        self._job = job_name(stored)
        self._place: str | None = None
        self._wish: TakeSlot | None = None
        self._asked: Ask | None = None
        self._is_done = False

    @property
    def waits(self) -> bool:
        """Whether it waits for a slot, or is about to."""
        return not self.holds and not self._is_done

    async def take(self, wish: TakeSlot, holder: Holder) -> Placed | Elsewhere:
        """Wait for a slot for the candidate, in its order."""
        self.free()
        self._is_done = self.downgraded = False
        self.stuck_since_s = None
        self._wish, self.kind = wish, wish.candidate.slot
        if self.kind == GPU and self._slots.keepers:
            return await self._lease(wish, holder)
        places = self._slots.places.get(self.kind)
        if places is None or places.size == 0:
            reason = f"this worker has no slot of kind {self.kind}: MMG_SLOTS"
            return Elsewhere("no_card", reason)
        taking = places.take(self._slots.wish(self._stored, wish))
        self._slots.changed()
        self._place = await taking
        self.holds = True
        self._slots.changed()
        return self._got(wish.candidate)

    @property
    def is_awaited(self) -> bool:
        """Whether another job of this worker is about to start on the card it had last."""
        keeper = self._keeper()
        return keeper is not None and bool(keeper.arbiter.waiting)

    @property
    def has_card(self) -> bool:
        """Whether it holds a card, and not a place."""
        keeper = self._keeper()
        return self.holds and keeper is not None and keeper.has(self._job)

    @property
    def is_revoked(self) -> bool:
        """Whether it held a card that is gone."""
        return self.holds and self._keeper() is not None and not self.has_card

    def waits_for_an_engine(self, *, stuck: bool) -> None:
        """Note whether the job waits because no engine can begin it now."""
        if stuck and self.stuck_since_s is None:
            self.stuck_since_s = self._slots.clock.monotonic_s()

    @property
    def vram_mib(self) -> int | None:
        """What the run takes on the card at its peak so far; None: nothing was measured."""
        keeper = self._keeper()
        return None if keeper is None else keeper.peak_mib(self._job)

    async def oom(self, holder: Holder) -> Placed | Elsewhere:
        """Say that the run was out of memory; wait for the card again, or hear why not."""
        keeper = self._keeper()
        assert keeper is not None, "only who holds a card runs out of its memory"
        self.holds = False
        return self._answered(await keeper.oom(self._job, holder))

    def change(self, *, cloud: bool) -> None:
        """Note that a cloud may draw it now, or no longer, while it waits for a card."""
        keeper = self._keeper()
        if keeper is None or self._asked is None or self.holds or self._asked.cloud == cloud:
            return
        self._asked = msgspec.structs.replace(self._asked, cloud=cloud)
        keeper.change(self._asked)

    def free(self) -> None:
        """Give the slot back, if one is held."""
        self._is_done = True
        if not self.holds:
            return
        self.holds = False
        keeper = self._keeper()
        if keeper is not None:
            keeper.release(self._job)
        else:
            self._slots.places[self.kind].give(self._job, self._place)
        self._slots.changed()

    def ran(self, seconds: float) -> None:
        """Note how long the run took that has just succeeded."""
        if self.candidate is not None and self._stored.request is not None:
            place = self._place if self._keeper() is not None else None
            learn = self._slots.durations.learn
            learn(_kind(self.candidate), self._stored.request, seconds, place)

    async def _lease(self, wish: TakeSlot, holder: Holder) -> Placed | Elsewhere:
        name, keeper = min(
            self._slots.keepers.items(),
            key=lambda pair: (
                bool(pair[1].lost),
                pair[1].arbiter.lease is not None,
                len(pair[1].arbiter.waiting),
            ),
        )
        self._place = name
        self._asked = self._slots.ask(self._stored, wish, name)
        return self._answered(await keeper.lease(self._asked, holder))

    def _answered(self, answer: Answer) -> Placed | Elsewhere:
        """Turn the arbiter's answer into the story's words."""
        assert self._wish is not None, "an answer follows a wish"
        match answer:
            case Grant(downgraded=downgraded, rule=rule, reason=reason):
                self.holds, self.downgraded = True, downgraded
                candidate = self._wish.candidate
                if downgraded and candidate.smaller is not None:
                    smaller = candidate.smaller
                    candidate = msgspec.structs.replace(
                        candidate, model=smaller.model, workflow=smaller.workflow
                    )
                said = f"{candidate.reason}; rule {rule}: {reason}"
                return self._got(msgspec.structs.replace(candidate, reason=said))
            case ToCloud(reason=reason):
                return Elsewhere("cloud", reason)
            case Refuse(why=why, reason=reason):
                return Elsewhere(why, reason)

    def _got(self, candidate: Candidate) -> Placed:
        self.candidate, self.since = candidate, self._slots.clock.now()
        return Placed(candidate, self._place)

    def _keeper(self) -> Keeper | None:
        if self.kind != GPU or self._place is None:
            return None
        return self._slots.keepers.get(self._place)


def _kind(candidate: Candidate) -> Kind:
    return Kind(candidate.engine, candidate.model, candidate.workflow)


def job_name(stored: StoredRequest) -> str:
    """Name a job among those of one worker: two stored requests may share an identity."""
    return f"{stored.who}#{stored.seq}"
