"""What a day of many workers asks of the bus, and what that is of what a machine carried.

The rates follow from the code, named beside each; the prices are those that
`python -m ops.bench.units` measured on a cluster of three nats-servers 2.15.1 with fsync of every
message, all on one machine of two cores. The limit of a kind of call is what uses up two cores of
servers, or what that machine's disk carried.
"""

from typing import Final

import msgspec

from agent import presence, readiness, turnstile
from agent.bus.provision import Plan

EVENT_BYTES: Final = 3552
"""A chain of `started` and `completed` with its headers, as the stream counts it."""
PROGRESS: Final = 20
"""Steps of an image that are told: at most ten a second, so a run of some seconds tells all."""
BEAT_S: Final = Plan().ack_wait_s / 3
LOOKED_AT: Final = 2
"""Streams whose state each look of `agent.readiness` reads; beside them it reads one key."""
KEYS: Final = 3
"""What `agent.turnstile` reads: the breakers of two engines, and the money."""
DAY_S: Final = 86_400
CORES: Final = 2
FULL: Final = readiness.EVENTS_CLOSED * Plan().events_max_bytes


WRITES: Final = 2
"""What a purchase writes: money is held, then settled. Each change rings all workers."""


class Price(msgspec.Struct, frozen=True):
    """The CPU of all servers together for one call, in us, and what was carried in a second.

    `carried_s` None: the servers wait for no disk and for nobody; only their CPU ends it.
    """

    servers_us: float
    carried_s: float | None = None

    @property
    def limit_s(self) -> float:
        """How many a second use up two cores, or the disk."""
        return self.carried_s or CORES * 1e6 / self.servers_us


PRICES: Final = {
    "store": Price(107, 9_381),
    "chain": Price(264, 2_651),
    "empty pull": Price(7),
    "good pull": Price(61),
    "beat": Price(7),
    "ack": Price(24),
    "info": Price(59),
    "key": Price(52),
    "delivery": Price(15),
    "progress": Price(22, 40_282),
    "fold": Price(17, 14_270),
    "purchase": Price(11_471, 49),
}


class Rates(msgspec.Struct, frozen=True, kw_only=True):
    """What a day asked. Units: all but `workers` and `drawing` (requests at once) a second.

    `sweeps_s` are pulls without a doorbell, `vain_s` those after one that another has answered. A
    power of 2: all workers look, at something that each of them does.
    """

    workers: int
    requests_s: float
    bells_s: float
    sweeps_s: float
    vain_s: float
    vain_power: int
    sweeps_power: int
    rings_s: float
    bought_s: float
    drawing: float


class Use(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of call. `power`: 1 grows with the workers, 2 with their square."""

    name: str
    price: str
    rate_s: float
    power: int

    @property
    def share(self) -> float:
        """The part of what two cores or the disk can do."""
        return self.rate_s / PRICES[self.price].limit_s

    @property
    def cores(self) -> float:
        """The CPU of all servers together, in cores."""
        return self.rate_s * PRICES[self.price].servers_us / 1e6

    def breaks_at(self, workers: int) -> float:
        """Return with how many workers, as busy as these, this alone uses up all."""
        return workers * (1 / self.share) ** (1 / self.power) if self.share else float("inf")


def woken(workers: int, idle: int, heard_s: float) -> int:
    """Return how many idle workers look after a bell before they hear that it was answered."""
    spread_s = presence.spread_s(workers - 1)
    return idle if spread_s <= heard_s else max(1, round(idle * heard_s / spread_s))


def uses(rates: Rates) -> tuple[Use, ...]:
    """Return every kind of call of a day, by what grows fastest."""
    n, r = rates.workers, rates.requests_s
    beats = r + rates.drawing / BEAT_S
    looks = n / readiness.LOOK_EVERY_S
    rows = (
        ("idle bells, heard by all", "delivery", rates.rings_s * n, 2),
        ("presence, heard by all", "delivery", n * n / presence.EVERY_S, 2),
        ("doorbells, heard by all", "delivery", rates.bells_s * n, 2),
        ("`started`, heard by all", "delivery", r * n, 2),
        ("pulls after a bell, in vain", "empty pull", rates.vain_s, rates.vain_power),
        ("pulls of idle workers", "empty pull", rates.sweeps_s, rates.sweeps_power),
        ("keys read when money moved", "key", rates.bought_s * WRITES * KEYS * n, 2),
        ("pulls that bring a request", "good pull", r, 1),
        ("requests stored", "store", r, 1),
        ("chains of two links", "chain", r, 1),
        ("signs of life", "beat", beats, 1),
        ("acks", "ack", r, 1),
        ("progress stored", "progress", r * PROGRESS, 1),
        ("looks at streams", "info", looks * LOOKED_AT, 1),
        ("keys read", "key", looks + n * KEYS / turnstile.LOOK_EVERY_S, 1),
        ("links folded by a gateway", "fold", 2 * r, 1),
        ("purchases, full books", "purchase", rates.bought_s, 1),
    )
    return tuple(
        Use(name=name, price=price, rate_s=rate, power=power) for name, price, rate, power in rows
    )


def full_after_days(rates: Rates) -> float:
    """Return after how many days the event store is so full that nobody takes work any more."""
    return FULL / (rates.requests_s * EVENT_BYTES * DAY_S)


def table(rates: Rates) -> str:
    """Return a row for each kind of call, the one that breaks first on top, then the store."""
    lines = [f"{'':<30}{'a second':>12}{'of limit':>12}{'cores':>8}{'breaks at workers':>20}"]
    ordered = sorted(uses(rates), key=lambda one: -one.share)
    lines += [
        f"{one.name:<30}{one.rate_s:>12,.1f}{one.share:>12.1%}{one.cores:>8.2f}"
        f"{one.breaks_at(rates.workers):>20,.0f}"
        for one in ordered
    ]
    days = full_after_days(rates)
    lines.append(f"the event store takes no more after {days:,.1f} days; it keeps 30")
    return "\n".join(lines)
