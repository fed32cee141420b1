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
from contracts.requests import Request


class EngineFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What routing knows of an engine."""

    name: str
    slot: str
    models: tuple[str, ...]


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """An engine that may do the job, with the sentence that ends in `started.reason`."""

    engine: str
    model: str
    slot: str
    reason: str


def route(request: Request, engines: tuple[EngineFacts, ...]) -> tuple[Candidate, ...]:
    """Order the engines that may do `request`.

    1. A workflow or an image input needs an engine with workflows: none here -> fault.
    2. A named model -> only engines that have it; none -> fault.
    3. Otherwise every engine in configured order.

    Raises: WorkflowInvalidFault, ModelMissingFault, NoEngineFault.
    """
    options = request.options
    if options.workflow is not None:  # 1
        raise WorkflowInvalidFault(
            f"no installed workflow is called {options.workflow!r}", "$.options.workflow"
        )
    if options.image is not None:
        raise NoEngineFault("no engine here takes an image as input", "$.options.image")
    if options.model is not None:  # 2
        having = tuple(facts for facts in engines if options.model in facts.models)
        if not having:
            known = ", ".join(sorted({m for facts in engines for m in facts.models})) or "none"
            raise ModelMissingFault(
                f"model {options.model!r} is not installed here; installed: {known}",
                "$.options.model",
            )
        return tuple(
            Candidate(
                engine=facts.name,
                model=options.model,
                slot=facts.slot,
                reason=f"{facts.name} has the model that was asked for",
            )
            for facts in having
        )
    if not engines:
        raise NoEngineFault("no engine is configured; see `mmg doctor`")
    only = len(engines) == 1  # 3
    return tuple(
        Candidate(
            engine=facts.name,
            model=facts.models[0],
            slot=facts.slot,
            reason=f"{facts.name} is the only engine here" if only else f"{facts.name} is next",
        )
        for facts in engines
    )


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
