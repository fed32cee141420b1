"""One simulated stretch of days: a worker with a card and cloud slots, around the real pure core.

Its own seeded loop of events; time is a number. The arbiter, the order, the waiting room, routing
and the books are the code that runs; the card, ComfyUI, Ollama and the clouds are `machine` and
what is drawn here. After each answer of the arbiter `day_rules` looks whether a promise was broken.
"""

from bisect import insort
from typing import Any

from agent.core import waiting_room
from agent.core.leases import Ask, Need
from agent.core.routing import route
from agent.core.waiting_room import Held
from tests.simulation.day_clouds import Clouds
from tests.simulation.day_loop import Job
from tests.simulation.traffic import Arrival


class Day(Clouds):
    """A worker's lanes, its waiting room and its jobs, beside the card and the clouds."""

    # --- requests ------------------------------------------------------------------------------

    def _arrive(self, arrival: Arrival) -> None:
        self._next_arrival()
        known = (arrival.quality, arrival.local_only)
        if known not in self._routes:
            self._routes[known] = route(arrival.request, self._facts)
        self.tally.requests += 1
        job = Job(self.tally.requests, arrival, self._routes[known])
        self.jobs[job.name] = job
        self.all.append(job)
        self.lanes[job.priority].append(job)
        self._pull()

    def _pull(self) -> None:
        """Pull while it is allowed, and hand back what the room does not hold."""
        while True:
            held = [self._held(job) for job in self.held.values()]
            pulls = waiting_room.pull_next(held, {}, self.config.lookahead)
            lane = next((self.lanes[pull.lane] for pull in pulls if self.lanes[pull.lane]), None)
            if lane is None:
                return
            job = lane.pop(0)
            self.held[job.name] = job
            self._place(job)
            held = [self._held(job) for job in self.held.values()]
            for back in waiting_room.overfull(held, self.config.lookahead):
                self._back(self.held[back.job])

    def _held(self, job: Job) -> Held:
        return Held(job=job.name, priority=job.priority, seq=job.seq, slot=job.place)

    def _back(self, job: Job) -> None:
        """Hand a job back to its lane."""
        self.held.pop(job.name, None)
        insort(self.lanes[job.priority], job)
        if job.place == "gpu":
            self.tell("release", job.name)
        job.place = ""

    def _place(self, job: Job) -> None:
        """Let a held job wait for the slot of its first engine."""
        is_cloud = job.candidates[0].is_cloud and job.clouds_left > 0
        if (is_cloud or job.local is None) and self._affords(job):
            job.place = "cloud"
            self._fill_cloud()
        else:
            self._ask(job)

    def _ask(self, job: Job, **changes: Any) -> None:
        local = job.local
        assert local is not None, "ComfyUI can draw all that comes here"
        job.place = "gpu"
        smaller = local.smaller
        arrival = job.arrival
        ask = Ask(
            job=job.name,
            priority=job.priority,
            quality=arrival.quality,
            need=Need(model=local.model, vram_mib=local.vram_mib),
            smaller=None
            if smaller is None
            else Need(model=smaller.model, vram_mib=smaller.vram_mib),
            cloud=job.clouds_left > 0 and self._affords(job),
            stored_at=job.wish.stored_at,
            max_wait_s=job.wish.max_wait_s,
            requester=arrival.requester,
            seq=job.seq,
            run_s=arrival.run_s,
            run_error_s=arrival.run_s * 0.15,
            preempted=job.preempted,
            **changes,
        )
        self.tell("request", ask)
