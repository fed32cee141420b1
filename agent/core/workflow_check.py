"""Judges a manifest against its graph: the holes, the output, the classes, the links.

Pure, and without a ComfyUI: what a server lacks is for `agent.engines.comfyui.graph`.
"""

import re
from collections.abc import Iterator
from typing import Final, NamedTuple

from agent.core.workflow import HOLES, Graph, Manifest

OUTPUTS: Final = frozenset({"SaveImage", "PreviewImage"})

STOCK: Final = OUTPUTS | frozenset(
    [
        "CheckpointLoaderSimple",
        "CLIPLoader",
        "CLIPSetLastLayer",
        "CLIPTextEncode",
        "CLIPTextEncodeFlux",
        "CLIPTextEncodeSD3",
        "CLIPTextEncodeSDXL",
        "CLIPTextEncodeSDXLRefiner",
        "ConditioningAverage",
        "ConditioningCombine",
        "ConditioningConcat",
        "ConditioningSetArea",
        "ConditioningSetTimestepRange",
        "ConditioningZeroOut",
        "ControlNetApplyAdvanced",
        "ControlNetLoader",
        "DualCLIPLoader",
        "EmptyImage",
        "EmptyLatentImage",
        "EmptySD3LatentImage",
        "FluxGuidance",
        "FreeU_V2",
        "ImageBlur",
        "ImageCrop",
        "ImageInvert",
        "ImageScale",
        "ImageScaleBy",
        "ImageScaleToTotalPixels",
        "ImageSharpen",
        "ImageUpscaleWithModel",
        "KSampler",
        "KSamplerAdvanced",
        "LatentUpscale",
        "LatentUpscaleBy",
        "LoadImage",
        "LoraLoader",
        "LoraLoaderModelOnly",
        "ModelSamplingDiscrete",
        "ModelSamplingFlux",
        "ModelSamplingSD3",
        "PatchModelAddDownscale",
        "PerturbedAttentionGuidance",
        "RepeatLatentBatch",
        "RescaleCFG",
        "TripleCLIPLoader",
        "UNETLoader",
        "UpscaleModelLoader",
        "VAEDecode",
        "VAEDecodeTiled",
        "VAEEncode",
        "VAEEncodeForInpaint",
        "VAEEncodeTiled",
        "VAELoader",
    ]
)
"""Classes of a stock ComfyUI that only compute and read models; others the manifest names."""

NODES_MAX: Final = 500
_FILE: Final = re.compile(r"[^\\/:*?\"<>|\x00-\x1f][^\\:*?\"<>|\x00-\x1f]*")
_TEXT: Final = frozenset({"prompt", "negative", "prefix", "checkpoint", "image"})


class Flaw(NamedTuple):
    """What is wrong, and in which field of the manifest (`""`: in the graph)."""

    field: str
    what: str


def flaws(manifest: Manifest, graph: Graph) -> list[Flaw]:
    """Return everything that keeps a manifest and its graph from being used."""
    if not graph:
        return [Flaw("", "the graph has no nodes")]
    if len(graph) > NODES_MAX:
        return [Flaw("", f"the graph has {len(graph)} nodes, at most {NODES_MAX}")]
    if dangling := list(_links(graph)):
        return dangling
    return [
        *_output(manifest, graph),
        *_classes(manifest, graph),
        *_holes(manifest, graph),
        *_pairs(manifest),
        *_files(manifest, graph),
    ]


def link(value: object) -> tuple[str, int] | None:
    """Return node and output where an input is a link, else None."""
    match value:
        case [str() as node, int() as output]:
            return node, output
    return None


def upstream(graph: Graph, output: str) -> frozenset[str]:
    """Return the nodes that feed `output`, itself included: those that ComfyUI runs."""
    seen: set[str] = set()
    todo = [output]
    while todo:
        name = todo.pop()
        if name in seen or name not in graph:
            continue
        seen.add(name)
        found = (link(value) for value in graph[name]["inputs"].values())
        todo += [end[0] for end in found if end is not None]
    return frozenset(seen)


def _links(graph: Graph) -> Iterator[Flaw]:
    """Name links into nothing, and circles."""
    ahead: dict[str, set[str]] = {}
    for name, node in graph.items():
        ends = {key: link(value) for key, value in node["inputs"].items()}
        for key, end in ends.items():
            if end is not None and end[0] not in graph:
                yield Flaw("", f"node {name}: {key} comes from node {end[0]}, which is not there")
        ahead[name] = {end[0] for end in ends.values() if end is not None and end[0] in graph}
    while free := [name for name, before in ahead.items() if not before & ahead.keys()]:
        for name in free:
            del ahead[name]
    if ahead:
        yield Flaw("", f"nodes {', '.join(sorted(ahead))} feed each other in a circle")


def _output(manifest: Manifest, graph: Graph) -> Iterator[Flaw]:
    name = manifest.output
    if name not in graph:
        yield Flaw("output", f"there is no node {name!r}")
        return
    if (kind := graph[name]["class_type"]) not in OUTPUTS:
        yield Flaw("output", f"node {name} is a {kind}; a SaveImage or PreviewImage is needed")
        return
    for other, node in graph.items():
        if other != name and node["class_type"] in OUTPUTS:
            yield Flaw("", f"node {other} is a second output ({node['class_type']}); remove it")


def _classes(manifest: Manifest, graph: Graph) -> Iterator[Flaw]:
    used = {node["class_type"] for node in graph.values()}
    for name in sorted(used - STOCK - set(manifest.classes)):
        yield Flaw("classes", f"the graph uses {name}, which has to be allowed here by name")
    for name in sorted(set(manifest.classes) - used):
        yield Flaw("classes", f"{name} is allowed, but the graph does not use it")


def _holes(manifest: Manifest, graph: Graph) -> Iterator[Flaw]:
    running = upstream(graph, manifest.output) or graph.keys()  # a bad output is named elsewhere
    taken: dict[tuple[str, str], str] = {}
    for hole in HOLES:
        for node, name in manifest.holes.places(hole):
            if wrong := _place(graph, node, name, hole):
                yield Flaw(f"holes.{hole}", wrong)
            elif node not in running:
                yield Flaw(f"holes.{hole}", f"node {node} does not lead to the output")
            elif (node, name) in taken:
                yield Flaw(f"holes.{hole}", f"{node}.{name} is also the hole {taken[node, name]}")
            taken[node, name] = hole


def _place(graph: Graph, node: str, name: str, hole: str) -> str | None:
    """Say what is wrong with one place of a hole."""
    if not node or not name:
        return f"{node + name!r} is no place; write node.input, as 6.text"
    if node not in graph:
        return f"there is no node {node!r}"
    inputs = graph[node]["inputs"]
    if name not in inputs:
        return f"node {node} has no input {name!r}; it has {', '.join(inputs) or 'none'}"
    value = inputs[name]
    if link(value) is not None:
        return f"{node}.{name} comes from another node; unlink it in the editor"
    if hole in _TEXT:
        return None if isinstance(value, str) else f"{node}.{name} is {value!r}, no text"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return f"{node}.{name} is {value!r}, no number"
    return None


def _pairs(manifest: Manifest) -> Iterator[Flaw]:
    """Name holes and fields that need each other."""
    has = manifest.has
    if not has("prompt"):
        yield Flaw("holes.prompt", "a workflow needs a place for the prompt")
    if not has("seed"):
        yield Flaw("holes.seed", "a workflow needs a place for the seed")
    if has("width") != has("height"):
        missing = "height" if has("width") else "width"
        yield Flaw(f"holes.{missing}", "width and height come together")
    if has("image") != manifest.takes_image:
        there = "is a place for it" if has("image") else "is no place for it"
        yield Flaw(
            "takes_image", f"is {str(manifest.takes_image).lower()}, but there {there} in holes"
        )
    if has("checkpoint") and manifest.checkpoint is None:
        yield Flaw("checkpoint", "the file for the hole checkpoint is missing")


def _files(manifest: Manifest, graph: Graph) -> Iterator[Flaw]:
    """Name the prefix and the files of models that cannot be used."""
    node = graph.get(manifest.output)
    if node is not None and node["class_type"] == "SaveImage":
        expected = ((manifest.output, "filename_prefix"),)
        if manifest.holes.places("prefix") != expected:
            yield Flaw("holes.prefix", f"has to be {manifest.output}.filename_prefix")
    elif manifest.has("prefix"):
        yield Flaw("holes.prefix", "only a SaveImage has a prefix")
    files = [("checkpoint", manifest.checkpoint)] if manifest.checkpoint is not None else []
    for folder, listed in manifest.needs.items():
        files += [(f"needs.{folder}", file) for file in listed]
    for field, file in files:
        if not _FILE.fullmatch(file) or ".." in file.split("/"):
            yield Flaw(field, f"{file!r} is no file inside a folder of models")
