"""Fills the holes of a workflow, and says what keeps it from running on a ComfyUI.

Pure: no network, no files, no clock; the answers of `/object_info` and `/models/<folder>` come in
as arguments. The template is never changed: each fill is a deep copy.
"""

import copy
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Final

import msgspec

from agent.core.faults import WorkflowInvalidFault
from agent.core.workflow import HOLES, Graph, Manifest, Node, Workflow
from agent.core.workflow_check import link
from contracts.requests import SEED_MAX

Folders = Mapping[str, Sequence[str]]
"""Folder of models -> its files, as `/models/<folder>` lists them."""

CHECKPOINTS: Final = "checkpoints"
TEXT_LENGTH_MAX: Final = 8000
BATCH_MAX: Final = 10
STEPS_MAX: Final = 100
CFG_MAX: Final = 30
SIDE_MIN: Final = 256
SIDE_MAX: Final = 2048
SIDE_STEP: Final = 64

_PREFIX: Final = re.compile(r"mmg/\d{4}-\d{2}/[\w-]{1,64}\.[\w-]{1,64}\.a[1-9]\d{0,5}", re.ASCII)
_FILE: Final = re.compile(r"[^\x00-\x1f:*?\"<>|]{1,255}")
_RANGES: Final[Mapping[str, tuple[float, float]]] = {
    "seed": (0, SEED_MAX),
    "steps": (1, STEPS_MAX),
    "cfg": (0, CFG_MAX),
    "width": (SIDE_MIN, SIDE_MAX),
    "height": (SIDE_MIN, SIDE_MAX),
    "batch": (1, BATCH_MAX),
}


class Values(msgspec.Struct, frozen=True, kw_only=True):
    """What one job puts into the holes. Units: `width`, `height` in pixels.

    `checkpoint` None: the manifest's. On a server that lists it in a folder or with backslashes,
    `spelled` gives its form there. `image` is the name that the upload answered, with its
    subfolder. `prefix` comes from `prefix()`.
    """

    prompt: str
    negative: str
    seed: int
    steps: int
    cfg: float
    width: int
    height: int
    batch: int
    prefix: str
    checkpoint: str | None = None
    image: str | None = None


def prefix(agent: str, request_id: str, attempt: int, month: str) -> str:
    """Return the file name prefix of an attempt, `month` as YYYY-MM.

    Unique per attempt, so that a cached graph saves a new file; dated, because SaveImage lists
    its folder at each save. Source: facts on ComfyUI 0.3.64, a cached prompt names the old file.
    """
    return f"mmg/{month}/{agent}.{request_id}.a{attempt}"


def fill(workflow: Workflow, values: Values, *, preview: bool = False) -> Graph:
    """Return the graph of one job.

    A hole that the workflow lacks keeps the graph's own value; more than one picture without a
    hole for the batch is refused. With `preview` the output goes to ComfyUI's temp folder, for a
    server whose output folder cannot be cleaned by us.

    Raises: WorkflowInvalidFault naming the value that does not fit.
    """
    manifest = workflow.manifest
    _check(manifest, values)
    graph = copy.deepcopy(workflow.graph)
    for hole in HOLES:
        value = getattr(values, hole)
        if hole == "checkpoint" and value is None:
            value = manifest.checkpoint
        for node, name in manifest.holes.places(hole):
            graph[node]["inputs"][name] = value
    if preview:
        output = graph[manifest.output]
        graph[manifest.output] = {
            "class_type": "PreviewImage",
            # PreviewImage has no prefix; an input it does not know makes it run, and save, anew.
            "inputs": {"images": output["inputs"]["images"], "mmg": values.prefix},
        }
    return graph


def _check(manifest: Manifest, values: Values) -> None:
    """Refuse values out of range. Raises: WorkflowInvalidFault."""
    for hole, (low, high) in _RANGES.items():
        value = getattr(values, hole)
        kinds = int | float if hole == "cfg" else int
        if isinstance(value, bool) or not isinstance(value, kinds) or not low <= value <= high:
            raise _unfit(manifest, hole, f"is {value!r}, not {low} to {high}")
    for hole in ("width", "height"):
        if getattr(values, hole) % SIDE_STEP:
            raise _unfit(manifest, hole, f"is no multiple of {SIDE_STEP}")
    for hole in ("prompt", "negative"):
        if len(text := getattr(values, hole)) > TEXT_LENGTH_MAX or "\0" in text:
            raise _unfit(manifest, hole, f"has more than {TEXT_LENGTH_MAX} characters, or a NUL")
    if not _PREFIX.fullmatch(values.prefix):
        raise _unfit(manifest, "prefix", f"is {values.prefix!r}")
    if values.checkpoint is not None and not _is_inside(values.checkpoint):
        raise _unfit(manifest, "checkpoint", f"is {values.checkpoint!r}")
    if values.batch > 1 and not manifest.has("batch"):
        raise _unfit(manifest, "batch", "is more than one, and it makes one picture at a time")
    if (values.image is not None) != manifest.takes_image:
        raise _unfit(manifest, "image", "is missing" if manifest.takes_image else "is not taken")
    if values.image is not None and not _is_inside(values.image):
        raise _unfit(manifest, "image", f"is {values.image!r}")


def _is_inside(file: str) -> bool:
    """Tell whether a name stays in its folder."""
    parts = file.replace("\\", "/").split("/")
    return bool(_FILE.fullmatch(file)) and not {"", ".", ".."} & set(parts)


def _unfit(manifest: Manifest, hole: str, what: str) -> WorkflowInvalidFault:
    return WorkflowInvalidFault(f"workflow {manifest.name!r}: {hole} {what}", f"$.{hole}")


def spelled(file: str, listed: Iterable[str]) -> str | None:
    """Return how a server spells a file of models, or None if it has none of that name.

    A server lists `sdxl/base.safetensors`, on Windows with a backslash; a graph has to use that
    very form. A file in a subfolder also answers to its bare name, if only one does.
    """
    names = {name.replace("\\", "/"): name for name in listed}
    if file in names:
        return names[file]
    tails = [name for path, name in names.items() if path.endswith(f"/{file}")]
    return tails[0] if len(tails) == 1 else None


def folders_of(workflow: Workflow) -> frozenset[str]:
    """Return the folders of models that `against` has to see for this workflow."""
    return frozenset({CHECKPOINTS, *workflow.manifest.needs})


def against(
    workflow: Workflow, object_info: Mapping[str, object], folders: Folders
) -> tuple[str, ...]:
    """Return why a workflow cannot run on a server, in words; nothing where it can.

    1. Files: the checkpoint and what the manifest needs, in their folders.
    2. Nodes: each class is known.
    3. Inputs: none is missing, constants are in range or in the list, links fit the type.

    Inputs that the graph has and the server does not know are left alone: ComfyUI ignores them,
    and so one graph serves several versions. Source: ComfyUI 0.3.64, facts on validation.
    """
    lost = [
        (folder, file)
        for folder, file in _wanted(workflow)
        if spelled(file, folders.get(folder, ())) is None
    ]
    found = [f"the file {file} is missing in its models/{folder}" for folder, file in lost]  # 1
    used = {node["class_type"] for node in workflow.graph.values()}
    lacking = sorted(used - object_info.keys())
    found += [f"it needs the node {name}, which is not installed there" for name in lacking]  # 2
    named = {file for _, file in lost}
    for name, node in workflow.graph.items():  # 3
        if node["class_type"] in object_info:
            wrong = _inputs(workflow, name, object_info, named)
            found += (f"node {name}: {what}" for what in wrong)
    return tuple(found)


def _wanted(workflow: Workflow) -> Iterator[tuple[str, str]]:
    manifest = workflow.manifest
    if manifest.checkpoint is not None:
        yield CHECKPOINTS, manifest.checkpoint
    for folder, files in manifest.needs.items():
        yield from ((folder, file) for file in files)


def _inputs(
    workflow: Workflow, name: str, object_info: Mapping[str, object], named: AbstractSet[str]
) -> Iterator[str]:
    """Name what is wrong with the inputs of one node, but for the files `named` already."""
    node = workflow.graph[name]
    holes = {place for hole in HOLES for place in workflow.manifest.holes.places(hole)}
    for key, spec, is_required in _specs(object_info, node["class_type"]):
        if key not in node["inputs"]:
            if is_required:
                yield f"its input {key} is missing ({node['class_type']})"
            continue
        value = node["inputs"][key]
        if (end := link(value)) is not None:
            wrong = _link(spec, end, workflow, object_info)
        elif (name, key) in holes or (isinstance(value, str) and value in named):
            wrong = None
        else:
            wrong = _constant(spec, value)
        if wrong:
            yield f"{key} {wrong}"


def _specs(
    object_info: Mapping[str, object], class_type: str
) -> Iterator[tuple[str, Sequence[object], bool]]:
    """Yield name, specification and need of each input of a class."""
    groups = _table(_table(object_info[class_type]).get("input"))
    for group in ("required", "optional"):
        for key, spec in _table(groups.get(group)).items():
            if isinstance(spec, list) and spec:
                yield key, spec, group == "required"


def _table(value: object) -> dict[str, object]:
    """Return a JSON object; of another shape: an empty one."""
    return value if isinstance(value, dict) else {}


def _constant(spec: Sequence[object], value: object) -> str | None:
    """Say what is wrong with a constant: ["INT", {min, max}], [[choices], {}] or ["COMBO", ...]."""
    kind = spec[0]
    limits = spec[1] if len(spec) > 1 and isinstance(spec[1], dict) else {}
    choices = kind if isinstance(kind, list) else limits.get("options") if kind == "COMBO" else None
    if isinstance(choices, list):
        return None if value in choices else f"{value!r} is not known there"
    if kind in ("INT", "FLOAT"):
        if isinstance(value, bool) or not isinstance(value, int | float):
            return f"{value!r} is no number"
        low, high = limits.get("min"), limits.get("max")
        if isinstance(low, int | float) and value < low:
            return f"{value!r} is below {low}"
        if isinstance(high, int | float) and value > high:
            return f"{value!r} is above {high}"
    return None


def _link(
    spec: Sequence[object],
    end: tuple[str, int],
    workflow: Workflow,
    object_info: Mapping[str, object],
) -> str | None:
    """Say what is wrong with a link: the output does not exist, or is of another type."""
    source: Node = workflow.graph[end[0]]
    match object_info.get(source["class_type"]):
        case {"output": [*outputs]}:
            if not 0 <= end[1] < len(outputs):
                return f"comes from output {end[1]} of node {end[0]}, which has {len(outputs)}"
            given, wanted = outputs[end[1]], spec[0]
            simple = isinstance(given, str) and isinstance(wanted, str)
            if simple and "*" not in (given, wanted) and not _overlap(str(given), str(wanted)):
                return f"wants {wanted}, and node {end[0]} gives {given}"
    return None


def _overlap(given: str, wanted: str) -> bool:
    """Tell whether two types meet; a comma lists several, as in `IMAGE,MASK`."""
    return bool(set(given.split(",")) & set(wanted.split(",")))
