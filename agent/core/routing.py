"""Which engines may do a job, in which order, and why. Pure.

Engines are described by plain data; the worker performs the choice. The arbiter's rules, budgets
and breakers join as further facts.
"""

import msgspec

from agent.core.faults import (
    Fault,
    ModelMissingFault,
    NoEngineFault,
    NotEnabledFault,
    WorkflowInvalidFault,
)
from agent.core.workflow import Workflow, choose
from contracts.requests import Options, Request


class EngineFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What routing knows of an engine.

    `down` is the reason why it is not up. An engine with workflows draws only through one of them;
    `problems` says which cannot run and why. A fallback stands in where no other engine can.
    """

    name: str
    slot: str
    models: tuple[str, ...]
    up: bool = True
    down: str = ""
    fallback: bool = False
    workflows: dict[str, Workflow] | None = None
    problems: dict[str, tuple[str, ...]] = {}


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """An engine that may do the job, with the sentence that ends in `started.reason`."""

    engine: str
    model: str
    slot: str
    reason: str
    workflow: str | None = None


def route(request: Request, engines: tuple[EngineFacts, ...]) -> tuple[Candidate, ...]:
    """Order the engines that may do `request`.

    1. Each engine says whether it can do what the options ask for, or the fault why not.
    2. Engines that are up come before those that are down, and proper ones before fallbacks;
       otherwise the configured order holds. Down ones are left out where any is up.
    3. Nobody can -> the fault that says best why.

    Raises: WorkflowInvalidFault, ModelMissingFault, NoEngineFault.
    """
    able: list[tuple[EngineFacts, Candidate]] = []
    faults: list[Fault] = []
    for facts in engines:  # 1
        found = _candidate(request.options, facts, only=len(engines) == 1)
        if isinstance(found, Fault):
            faults.append(found)
        else:
            able.append((facts, found))
    if not able:
        raise _best(request.options, engines, faults)  # 3
    ready = [(facts, found) for facts, found in able if facts.up] or able  # 2
    ready.sort(key=lambda pair: pair[0].fallback)
    return tuple(_explained(facts, found, able) for facts, found in ready)


def _candidate(options: Options, facts: EngineFacts, *, only: bool) -> Candidate | Fault:
    """Say how an engine would do it, or why it cannot."""
    if facts.workflows is not None:
        try:
            choice = choose(options, facts.workflows, facts.problems)
        except Fault as fault:
            return fault
        return Candidate(
            engine=facts.name,
            model=choice.workflow.manifest.model,
            slot=facts.slot,
            reason=f"{facts.name}: {choice.reason}",
            workflow=choice.workflow.name,
        )
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
        engine=facts.name, model=options.model or facts.models[0], slot=facts.slot, reason=reason
    )


def _explained(
    facts: EngineFacts, found: Candidate, able: list[tuple[EngineFacts, Candidate]]
) -> Candidate:
    """Add to a fallback's reason which engine it stands in for."""
    missing = next((other for other, _ in able if not other.up and not other.fallback), None)
    if not facts.fallback or missing is None:
        return found
    reason = f"{facts.name} stands in: {missing.name} is down ({missing.down})"
    return msgspec.structs.replace(found, reason=reason)


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


def missing_feature(request: Request) -> Fault | None:
    """Name a part of the contract that this build does not do yet, or None."""
    if request.dry_run:
        return NotEnabledFault("dry_run is not enabled in this build", "$.dry_run")
    if request.webhook_url is not None:
        return NotEnabledFault(
            "webhooks are not enabled in this build; subscribe to the reply subject",
            "$.webhook_url",
        )
    return None
