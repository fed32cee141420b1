"""ComfyUI workflows as data: a graph, the manifest that names its holes, and which one to take.

Pure. Reading files is for `agent.workflows`, filling holes for `agent.engines.comfyui.graph`;
whether a manifest fits its graph is judged in `agent.core.workflow_check`.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Final, Literal, TypedDict

import msgspec
from msgspec import Meta

from agent.core import catalog
from agent.core.catalog import StyleSheet
from agent.core.faults import Fault, ModelMissingFault, NoEngineFault, WorkflowInvalidFault
from contracts.requests import AspectRatio, Name, Options, Quality

VRAM_DEFAULT_MIB: Final = 12288


class Node(TypedDict):
    """One node of a graph: an input is a constant or a link `[node, output]`."""

    class_type: str
    inputs: dict[str, object]


Graph = dict[str, Node]
"""ComfyUI's API format: what `POST /prompt` takes as `prompt`."""

Table = Literal["sdxl", "sd15"]

SIZES: Final[Mapping[Table, Mapping[AspectRatio, tuple[int, int]]]] = {
    "sdxl": catalog.SIZES,
    "sd15": {
        AspectRatio.SQUARE: (512, 512),
        AspectRatio.WIDE: (768, 448),
        AspectRatio.CLASSIC: (704, 512),
        AspectRatio.TALL: (448, 768),
    },
}
"""Width and height in pixels that a family of models draws well; multiples of 64."""

_Places = str | tuple[str, ...]
_Steps = Annotated[int, Meta(ge=1, le=100)]
_Cfg = Annotated[float, Meta(ge=0, le=30)]


class Holes(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the values of a job go: `node.input`, or several of them."""

    prompt: _Places
    seed: _Places
    negative: _Places = ()
    steps: _Places = ()
    cfg: _Places = ()
    width: _Places = ()
    height: _Places = ()
    batch: _Places = ()
    prefix: _Places = ()
    checkpoint: _Places = ()
    image: _Places = ()

    def places(self, hole: str) -> tuple[tuple[str, str], ...]:
        """Return the (node, input) pairs of a hole; none where the workflow lacks it."""
        value: _Places = getattr(self, hole)
        listed = (value,) if isinstance(value, str) else value
        pairs = (place.partition(".") for place in listed)
        return tuple((node, name) for node, _, name in pairs)


HOLES: Final = Holes.__struct_fields__


class Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What mmg knows of a workflow: one TOML file beside its graph.

    `qualities` are those it may be chosen for without being named; none: by name only. `classes`
    are node classes it may use beyond `STOCK`. `needs` lists files per folder of models. Units:
    `vram_mib` in MiB.
    """

    class Steps(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
        """Sampling steps by quality; premium is drawn like high."""

        draft: _Steps = 15
        standard: _Steps = 25
        high: _Steps = 40

    class Defaults(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
        """What holds where neither request nor style says otherwise."""

        cfg: _Cfg = 7.0

    name: Name
    about: Annotated[str, Meta(min_length=1, max_length=300)]
    model: Name
    output: str
    holes: Holes
    checkpoint: str | None = None
    sizes: Table = "sdxl"
    takes_image: bool = False
    vram_mib: Annotated[int, Meta(ge=256, le=1_048_576)] = VRAM_DEFAULT_MIB
    qualities: tuple[Quality, ...] = ()
    classes: tuple[str, ...] = ()
    needs: dict[str, tuple[str, ...]] = {}
    steps: Steps = Steps()
    defaults: Defaults = Defaults()

    def has(self, hole: str) -> bool:
        """Tell whether the workflow has this hole."""
        return bool(self.holes.places(hole))


class Workflow(msgspec.Struct, frozen=True, kw_only=True):
    """A manifest and its graph, checked against each other. The graph is never changed."""

    manifest: Manifest
    graph: Graph

    @property
    def name(self) -> str:
        """The name a request asks for."""
        return self.manifest.name


Workflows = Mapping[str, Workflow]
Problems = Mapping[str, Sequence[str]]
"""Workflow name -> why it cannot run on a ComfyUI, in words; nothing: it can."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Sampler settings of one job."""

    steps: int
    cfg: float


def settings(options: Options, style: StyleSheet, manifest: Manifest) -> Settings:
    """Return steps and cfg of a job.

    1. What the request names holds.
    2. Steps of draft, high and premium: the workflow's for that quality.
    3. Steps of standard, and cfg: the style's, else the workflow's.
    """
    by_quality = {
        Quality.DRAFT: manifest.steps.draft,
        Quality.STANDARD: style.sampler.steps or manifest.steps.standard,  # 3
        Quality.HIGH: manifest.steps.high,
        Quality.PREMIUM: manifest.steps.high,
    }
    cfg = style.sampler.cfg if style.sampler.cfg is not None else manifest.defaults.cfg
    return Settings(
        steps=options.steps if options.steps is not None else by_quality[options.quality],
        cfg=options.cfg if options.cfg is not None else cfg,
    )


def size(options: Options, style: StyleSheet, table: Table) -> tuple[int, int]:
    """Return width and height in pixels: asked for, else the table's for the aspect ratio."""
    if options.width is not None and options.height is not None:
        return options.width, options.height
    return SIZES[table][options.aspect_ratio or style.aspect_ratio]


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """A workflow for a request, with the sentence that ends in `started.reason`."""

    workflow: Workflow
    reason: str


def choose(options: Options, workflows: Workflows, problems: Problems) -> Choice:
    """Return the workflow for a request.

    Raises: WorkflowInvalidFault, ModelMissingFault, NoEngineFault, as `candidates` does.
    """
    return candidates(options, workflows, problems)[0]


def candidates(options: Options, workflows: Workflows, problems: Problems) -> tuple[Choice, ...]:
    """Order the workflows that can do a request, best first; at least one.

    1. A named workflow: that one or a fault, nothing in its place.
    2. Only those that run here, may be chosen for the quality, have the model that was named
       and a hole for everything the request asks for.
    3. A workflow for this quality alone comes first; then for draft the lightest, otherwise the
       strongest (by VRAM).

    Raises: WorkflowInvalidFault for a named one that does not exist, run or fit;
    ModelMissingFault, NoEngineFault where nothing is left.
    """
    if options.workflow is not None:  # 1
        return (_named(options, options.workflow, workflows, problems),)
    able = [  # 2
        workflow
        for workflow in workflows.values()
        if not problems.get(workflow.name)
        and options.quality in workflow.manifest.qualities
        and unfit(options, workflow.manifest) is None
    ]
    if not able:
        raise _nothing(options, workflows, problems)
    draft = options.quality is Quality.DRAFT

    def rank(workflow: Workflow) -> tuple[bool, int, str]:
        manifest = workflow.manifest
        weight = manifest.vram_mib if draft else -manifest.vram_mib
        return len(manifest.qualities) > 1, weight, manifest.name

    able.sort(key=rank)  # 3
    return tuple(Choice(workflow=workflow, reason=_reason(options, workflow)) for workflow in able)


def unfit(options: Options, manifest: Manifest) -> tuple[str, str] | None:
    """Say what of a request a workflow cannot do and at which JSON path, or None."""
    if options.model is not None and options.model != manifest.model:
        return f"draws with {manifest.model}, not {options.model}", "$.options.model"
    if manifest.takes_image and options.image is None:
        return "needs a picture to start from: options.image", "$.options.image"
    if options.image is not None and not manifest.takes_image:
        return "takes no picture as input", "$.options.image"
    asked = (
        ("batch", "count", options.count > 1, "makes one picture at a time"),
        ("width", "width", options.width is not None, "has a size of its own"),
        ("steps", "steps", options.steps is not None, "has its own number of steps"),
        ("cfg", "cfg", options.cfg is not None, "has a cfg of its own"),
        ("negative", "negative_prompt", bool(options.negative_prompt), "has no negative prompt"),
    )
    for hole, field, is_asked, what in asked:
        if is_asked and not manifest.has(hole):
            return what, f"$.options.{field}"
    return None


def models(workflows: Workflows, problems: Problems) -> tuple[str, ...]:
    """Return the models that some workflow can run here, the strongest first."""
    able = [workflow.manifest for workflow in workflows.values() if not problems.get(workflow.name)]
    able.sort(key=lambda manifest: (not manifest.qualities, -manifest.vram_mib, manifest.name))
    return tuple(dict.fromkeys(manifest.model for manifest in able))


def _named(options: Options, name: str, workflows: Workflows, problems: Problems) -> Choice:
    """Return the workflow that a request names. Raises: WorkflowInvalidFault."""
    workflow = workflows.get(name)
    if workflow is None:
        known = ", ".join(sorted(workflows)) or "none"
        raise WorkflowInvalidFault(
            f"no installed workflow is called {name!r}; installed: {known}", "$.options.workflow"
        )
    if found := problems.get(name):
        raise WorkflowInvalidFault(
            f"workflow {name!r} cannot run here: {'; '.join(found)}", "$.options.workflow"
        )
    if wrong := unfit(options, workflow.manifest):
        raise WorkflowInvalidFault(f"workflow {name!r} {wrong[0]}", wrong[1])
    return Choice(workflow=workflow, reason=f"{name} was asked for")


def _reason(options: Options, workflow: Workflow) -> str:
    manifest = workflow.manifest
    if options.model is not None:
        return f"{manifest.name} has the model that was asked for"
    if options.image is not None:
        return f"{manifest.name} takes a picture as input"
    if len(manifest.qualities) == 1:
        return f"{manifest.name} is made for {options.quality}"
    return f"{manifest.name} serves {options.quality}"


def _nothing(options: Options, workflows: Workflows, problems: Problems) -> Fault:
    """Return the fault that says best why no workflow is left."""
    here = models(workflows, problems)
    known = ", ".join(here) or "none"
    if options.model is not None and options.model not in here:
        return ModelMissingFault(
            f"model {options.model!r} cannot run here; there is: {known}", "$.options.model"
        )
    if options.image is not None:
        return NoEngineFault("no workflow here takes a picture as input", "$.options.image")
    if not here:
        first = next((f"{name}: {why[0]}" for name, why in sorted(problems.items()) if why), "")
        return ModelMissingFault(f"no workflow can run here; {first or 'none is installed'}")
    return NoEngineFault("no workflow here can do all of what the request asks for")
