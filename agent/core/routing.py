"""Which engines may do a job, in which order, and why. Pure.

Engines are described by plain data; the worker performs the choice. Whether the card is free is
for `agent.core.arbiter`, which may send a job on to the next candidate.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Literal

import msgspec

from agent.core.faults import (
    Fault,
    ModelMissingFault,
    NoEngineFault,
    WorkflowInvalidFault,
)
from agent.core.workflow import Workflow, candidates
from contracts.requests import Options, Quality, Request


class EngineFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What routing knows of an engine.

    `down` is the reason why it is not up; `closed` why a breaker or a budget keeps jobs away from
    an engine that is, and `closed_until` when that ends by itself. An engine with workflows draws
    only through one of them; `problems` says which cannot run and why. A fallback stands in where
    no other engine can. `ignores_seed`: the same seed gives another picture. `by_quality` is the
    model that draws a quality where the request names none.
    """

    name: str
    slot: str
    models: tuple[str, ...]
    up: bool = True
    down: str = ""
    closed: str = ""
    closed_until: datetime | None = None
    fallback: bool = False
    workflows: dict[str, Workflow] | None = None
    problems: dict[str, tuple[str, ...]] = {}
    ignores_seed: bool = False
    by_quality: Mapping[Quality, str] = {}

    @property
    def is_cloud(self) -> bool:
        """Whether its pictures are bought, and the request leaves the house."""
        return self.slot == "cloud"

    @property
    def is_ready(self) -> bool:
        """Whether a job could go there now."""
        return self.up and not self.closed

    @property
    def trouble(self) -> str:
        """Why no job should go there now; nothing: it may."""
        if not self.up:
            return f"is down ({self.down})"
        return f"gets no jobs ({self.closed})" if self.closed else ""


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """What an operator and a style prefer: `cloud` is MMG_CLOUD, `style` the style's route."""

    cloud: Literal["off", "fallback", "on"] = "fallback"
    style: Literal["any", "local", "cloud"] = "any"


class Smaller(msgspec.Struct, frozen=True, kw_only=True):
    """What a job may be downgraded to. Units: `vram_mib` at the peak of a run."""

    model: str
    workflow: str
    vram_mib: int


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """An engine that may do the job, with the sentence that ends in `started.reason`.

    `trouble` is why it should not begin now; nothing: it may. `vram_mib` is what a run takes on
    the card at its peak, 0 where no card is needed.
    """

    engine: str
    model: str
    slot: str
    reason: str
    workflow: str | None = None
    vram_mib: int = 0
    smaller: Smaller | None = None
    trouble: str = ""

    @property
    def is_cloud(self) -> bool:
        """Whether its pictures are bought, and the request leaves the house."""
        return self.slot == "cloud"

    def because(self, why: str) -> "Candidate":
        """Return it with more of an explanation in front of its reason."""
        return msgspec.structs.replace(self, reason=f"{why}; {self.reason}")


def route(
    request: Request, engines: tuple[EngineFacts, ...], policy: Policy | None = None
) -> tuple[Candidate, ...]:
    """Order the engines that may do `request`.

    1. Each engine says whether it can do what the options ask for, or the fault why not.
    2. `local_only`, or clouds that are switched off: no cloud, whatever happens.
    3. A seed that the request names has to hold: no engine that ignores seeds.
    4. Local engines come before clouds. Clouds come first for a style that prefers them; for
       quality premium, or where clouds are switched on freely, unless the style prefers local.
    5. Fallbacks come last; within all this the configured order holds.
    6. Those in trouble are left out where any other is left.
    7. Nobody can -> the fault that says best why.

    Raises: WorkflowInvalidFault, ModelMissingFault, NoEngineFault.
    """
    policy = policy or Policy()
    able: list[tuple[EngineFacts, Candidate]] = []
    faults: list[Fault] = []
    for facts in engines:
        found = _barred(request, facts, policy) or _candidate(
            request.options, facts, only=len(engines) == 1
        )
        if isinstance(found, Fault):
            faults.append(found)
        else:
            able.append((facts, found))
    if not able:
        raise _best(request.options, engines, faults)  # 7
    why_cloud = _cloud_first(request, policy)  # 4
    able.sort(key=lambda pair: _rank(pair[0], cloud_first=bool(why_cloud)))
    ready = [(facts, found) for facts, found in able if facts.is_ready] or able  # 6
    return tuple(_explained(facts, found, able, why_cloud) for facts, found in ready)


def _barred(request: Request, facts: EngineFacts, policy: Policy) -> Fault | None:
    """Say why an engine must not get the request, whatever it can do."""
    if facts.is_cloud and request.local_only:  # 2
        return NoEngineFault("local_only keeps it from the clouds", "$.local_only")
    if facts.is_cloud and policy.cloud == "off":  # 2
        return NoEngineFault("the clouds are switched off: MMG_CLOUD")
    if facts.ignores_seed and request.options.seed is not None:  # 3
        return NoEngineFault(f"{facts.name} ignores seeds", "$.options.seed")
    return None


def _cloud_first(request: Request, policy: Policy) -> str:
    """Say why clouds come before local engines; nothing: they do not."""
    if policy.style == "cloud":
        return "its style prefers the cloud"
    if policy.style == "local":
        return ""
    if request.options.quality is Quality.PREMIUM:
        return "premium goes to the cloud first"
    return "the clouds are switched on freely" if policy.cloud == "on" else ""


def _rank(facts: EngineFacts, *, cloud_first: bool) -> tuple[bool, bool]:
    return facts.fallback, facts.is_cloud != cloud_first  # 5, 4


def _candidate(options: Options, facts: EngineFacts, *, only: bool) -> Candidate | Fault:
    """Say how an engine would do it, or why it cannot: rule 1."""
    if facts.workflows is not None:
        return _by_workflow(options, facts)
    if options.workflow is not None:
        return WorkflowInvalidFault(
            f"no installed workflow is called {options.workflow!r}", "$.options.workflow"
        )
    if options.image is not None:
        return NoEngineFault("no engine here takes an image as input", "$.options.image")
    if options.model is not None and options.model not in facts.models:
        return ModelMissingFault(f"{facts.name} has no model {options.model!r}", "$.options.model")
    reason = f"{facts.name} is the only engine here" if only else f"{facts.name} can do it"
    if options.model is not None:
        reason = f"{facts.name} has the model that was asked for"
    return Candidate(
        engine=facts.name,
        model=options.model or facts.by_quality.get(options.quality) or facts.models[0],
        slot=facts.slot,
        reason=reason,
        trouble=facts.trouble,
    )


def _by_workflow(options: Options, facts: EngineFacts) -> Candidate | Fault:
    """Say with which workflow an engine would do it, and what it may be downgraded to.

    Only a request that leaves model and workflow to us has something smaller; whether its quality
    allows it is for `agent.core.admission`.
    """
    try:
        choices = candidates(options, facts.workflows or {}, facts.problems)
    except Fault as fault:
        return fault
    chosen = choices[0].workflow.manifest
    free = options.workflow is None and options.model is None
    lighter = [
        choice.workflow.manifest
        for choice in choices
        if free and choice.workflow.manifest.vram_mib < chosen.vram_mib
    ]
    smaller = None
    if lighter:
        best = max(lighter, key=lambda manifest: manifest.vram_mib)
        smaller = Smaller(model=best.model, workflow=best.name, vram_mib=best.vram_mib)
    return Candidate(
        engine=facts.name,
        model=chosen.model,
        slot=facts.slot,
        reason=f"{facts.name}: {choices[0].reason}",
        workflow=chosen.name,
        vram_mib=chosen.vram_mib,
        smaller=smaller,
        trouble=facts.trouble,
    )


def _explained(
    facts: EngineFacts,
    found: Candidate,
    able: list[tuple[EngineFacts, Candidate]],
    why_cloud: str,
) -> Candidate:
    """Add why an engine comes before those that would have come first, if they worked."""
    if facts.is_cloud and why_cloud:
        found = found.because(why_cloud)
    before = able[: next(place for place, (one, _) in enumerate(able) if one is facts)]
    missing = next((one for one, _ in before if not one.is_ready and not one.fallback), None)
    if missing is None:
        return found
    return found.because(f"{facts.name} stands in: {missing.name} {missing.trouble}")


def _best(options: Options, engines: tuple[EngineFacts, ...], faults: list[Fault]) -> Fault:
    """Return the fault that says best why no engine can."""
    if not engines:
        return NoEngineFault("no engine is configured; see `mmg doctor`")
    if options.model is not None and all(isinstance(f, ModelMissingFault) for f in faults):
        known = ", ".join(sorted({m for facts in engines for m in facts.models})) or "none"
        return ModelMissingFault(
            f"model {options.model!r} is not installed here; installed: {known}",
            "$.options.model",
        )
    return faults[0]
