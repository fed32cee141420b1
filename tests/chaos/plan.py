"""The plan of a trial: which requests come when, and what breaks when. All from one seed.

Data only; `trial` carries it out.
"""

import random
from dataclasses import asdict, dataclass, field
from typing import Any

LANES = ("critical", "high", "medium", "low")
AGENTS = ("L2-01", "L2-02")
WORKERS = ("w1", "w2")
FAULTS_FROM_S = 0.3
FAULTS_UNTIL_S = 5.0

STEPS_ALWAYS = (
    "append started",
    "takeslot",
    "draw",
    "freeslot",
    "keep",
    "append completed",
    "settle",
    "polish",
)
"""Steps of a request that goes well, as the worker names its crash points."""
STEPS_SOMETIMES = (
    "append failed",
    "append expired",
    "append retrying",
    "append released",
    "readhead",
    "readhistory",
    "asklane",
    "discard",
    "waituntil",
    "handback",
)
CRASH_POINTS = tuple(
    f"{when} {step}" for step in (*STEPS_ALWAYS, *STEPS_SOMETIMES) for when in ("before", "after")
)

WEIGHTS = {
    "kill worker": 4,
    "kill server": 2,
    "kill gateway": 1,
    "stop worker": 2,
    "freeze worker": 2,
    "cut connection": 2,
    "cut in a message": 2,
    "delay bytes": 1,
    "deaf connection": 2,
    "disk full": 1,
    "crash point": 4,
}
ENGINE_WEIGHTS = WEIGHTS | {"kill engine": 6}
"""With ComfyUI as engine its double dies too, in the middle of prompts."""
UNTARGETED = frozenset({"kill server", "kill gateway", "kill engine", "disk full"})
WIRE_FAULTS = frozenset({"cut connection", "cut in a message", "delay bytes", "deaf connection"})


@dataclass(frozen=True)
class Order:
    """One request: when it is published, and when somebody wants it cancelled."""

    at_s: float
    agent: str
    lane: str
    request_id: str
    body: dict[str, Any] | None
    """None: bytes that are no JSON."""
    message_id: bool
    cancel: str = ""
    """`start`: as soon as it is stored; `end`: when it is nearly drawn; else not at all."""
    again: str = ""
    """A lane in which the same identity is published a second time."""

    @property
    def who(self) -> str:
        """The identity as the auditor writes it."""
        return f"{self.agent}.{self.request_id}"


@dataclass(frozen=True)
class Fault:
    """Something that breaks at a time. `for_s`: how long, or until it is started again."""

    at_s: float
    kind: str
    target: str = ""
    for_s: float = 0.0
    detail: str = ""


@dataclass(frozen=True)
class Plan:
    """A whole trial."""

    seed: int
    trial: int
    orders: list[Order]
    faults: list[Fault] = field(default_factory=list)
    ack_wait_s: float = 3.0
    cluster: int = 1
    engine: str = "sketch"

    def as_json(self) -> dict[str, Any]:
        """Return it as plain data."""
        return asdict(self)


def make(
    seed: int,
    trial: int,
    *,
    requests: int,
    ack_wait_s: float,
    cluster: int,
    engine: str = "sketch",
) -> Plan:
    """Draw the plan of one trial; another engine than sketch gives another attack."""
    name = "" if engine == "sketch" else f" {engine}"
    rng = random.Random(f"{seed} {trial}{name}")
    orders = [_order(rng, trial, number) for number in range(requests)]
    weights = WEIGHTS if engine == "sketch" else ENGINE_WEIGHTS
    faults = [_fault(rng, ack_wait_s, weights) for _ in range(rng.randint(3, 6))]
    if cluster > 1 and not any(fault.kind == "kill server" for fault in faults):
        faults[0] = Fault(rng.uniform(1, 3), "kill server", for_s=rng.uniform(1, 5))
    faults = _one_crash_point_each(faults)
    return Plan(
        seed=seed,
        trial=trial,
        orders=orders,
        faults=sorted(faults, key=lambda fault: fault.at_s),
        ack_wait_s=ack_wait_s,
        cluster=cluster,
        engine=engine,
    )


def picture(number: int, *, side: int = 256, count: int = 1, **more: Any) -> dict[str, Any]:
    """Return the body of a good request."""
    options = {"width": side, "height": side, "count": count, "quality": "draft"}
    return {"type": "image", "prompt": f"Cover number {number}", "options": options, **more}


def _order(rng: random.Random, trial: int, number: int) -> Order:
    body: dict[str, Any] | None = picture(number, side=rng.choice((256, 512)))
    kind = rng.random()
    if kind < 0.35:
        body = picture(number, side=1024, count=10)
    elif kind < 0.40:
        body = {"type": "video", "prompt": "a film"}
    elif kind < 0.43:
        body = None
    elif kind < 0.47:
        body = picture(number, deadline_s=2)
    return Order(
        at_s=rng.uniform(0, FAULTS_UNTIL_S - 0.5),
        agent=rng.choice(AGENTS),
        lane=rng.choice(LANES),
        request_id=f"t{trial}-r{number}",
        body=body,
        message_id=rng.random() < 0.5,
        cancel=rng.choices(("", "start", "end"), (8, 1, 1))[0] if body is not None else "",
        again=rng.choice(LANES) if rng.random() < 0.1 else "",
    )


def _fault(rng: random.Random, ack_wait_s: float, weights: dict[str, int]) -> Fault:
    kind = rng.choices(tuple(weights), tuple(weights.values()))[0]
    at_s = rng.uniform(FAULTS_FROM_S, FAULTS_UNTIL_S)
    targets = (*WORKERS, "publisher") if kind in WIRE_FAULTS else WORKERS
    target = "" if kind in UNTARGETED else rng.choice(targets)
    for_s = rng.choice((0.0, rng.uniform(0.2, 2.5)))
    detail = ""
    match kind:
        case "freeze worker":
            for_s = ack_wait_s + rng.uniform(0.3, 2.0)
        case "delay bytes" | "disk full":
            for_s = rng.uniform(1.0, 3.0)
            detail = f"{rng.uniform(0.05, 0.6):.2f}"
        case "deaf connection":
            for_s = rng.uniform(1.0, ack_wait_s + 3.0)
            detail = rng.choice(("to_server", "to_client"))
        case "crash point":
            at_s = 0.0
            point = rng.choice(CRASH_POINTS)
            detail = f"{point}:{rng.randint(1, 4)}"
    return Fault(round(at_s, 3), kind, target, round(for_s, 3), detail)


def _one_crash_point_each(faults: list[Fault]) -> list[Fault]:
    """A process has one crash point at a time: keep the first of each worker."""
    seen: set[str] = set()
    kept = []
    for fault in faults:
        if fault.kind == "crash point":
            if fault.target in seen:
                continue
            seen.add(fault.target)
        kept.append(fault)
    return kept
