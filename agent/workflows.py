"""Reads the workflows: in each folder, pairs of `<name>.json` (the graph) and `<name>.toml`.

Only reads and judges; what a workflow means is in `agent.core.workflow`. Never takes one from
the bus: who can write into these folders decides what runs on the GPU host.
"""

import re
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import msgspec

from agent.core.workflow import Graph, Manifest, Workflow
from agent.core.workflow_check import flaws

NOT_MANIFESTS: Final = frozenset({"styles.toml"})
FILE_SIZE_MAX_BYTES: Final = 4 * 1024**2
WORKFLOWS_MAX: Final = 500

_AT: Final = re.compile(r"^(?P<what>.*?) - at `(?:key in )?\$\.?(?P<field>[^`]*)`$", re.DOTALL)
_EDITOR_KEYS: Final = ("nodes", "links")


class WorkflowError(Exception):
    """The workflows cannot be used; the text names file and field, one line for each fault."""


def load_workflows(folders: Iterable[Path]) -> dict[str, Workflow]:
    """Read all workflows of several folders, by name.

    Raises: WorkflowError with everything that is wrong; also where two have the same name.
    """
    found: dict[str, Workflow] = {}
    places: dict[str, Path] = {}
    faults: list[str] = []
    for folder in folders:
        try:
            manifests = _manifests(folder)
        except WorkflowError as error:
            faults.append(str(error))
            continue
        for path in manifests:
            try:
                workflow = read_workflow(path)
                _refuse_second(path, workflow.name, places)
            except WorkflowError as error:
                faults.append(str(error))
                continue
            found[workflow.name] = workflow
            places[workflow.name] = path
    if faults:
        raise WorkflowError("\n".join(faults))
    return found


def read_workflow(manifest_path: Path) -> Workflow:
    """Read one manifest and the graph beside it. Raises: WorkflowError."""
    manifest = _manifest(manifest_path)
    if manifest.name != manifest_path.stem:
        raise WorkflowError(
            f"{manifest_path}: name is {manifest.name!r}; it has to be that of the file,"
            f" {manifest_path.stem!r}"
        )
    graph_path = manifest_path.with_suffix(".json")
    graph = _graph(graph_path)
    if found := flaws(manifest, graph):
        raise WorkflowError(
            "\n".join(
                f"{manifest_path}: {flaw.field}: {flaw.what}"
                if flaw.field
                else f"{graph_path}: {flaw.what}"
                for flaw in found
            )
        )
    return Workflow(manifest=manifest, graph=graph)


def _manifests(folder: Path) -> list[Path]:
    """List the manifests of a folder; each graph needs one. Raises: WorkflowError."""
    try:
        entries = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise WorkflowError(f"{folder} cannot be read: {error.strerror or error}") from error
    manifests = [p for p in entries if p.suffix == ".toml" and p.name not in NOT_MANIFESTS]
    if len(manifests) > WORKFLOWS_MAX:
        raise WorkflowError(f"{folder} has {len(manifests)} manifests, at most {WORKFLOWS_MAX}")
    alone = [p for p in entries if p.suffix == ".json" and p.with_suffix(".toml") not in manifests]
    if alone:
        raise WorkflowError(
            "\n".join(f"{path} has no manifest {path.stem}.toml beside it" for path in alone)
        )
    return manifests


def _manifest(path: Path) -> Manifest:
    """Read one manifest. Raises: WorkflowError."""
    raw = _read(path)
    try:
        table = tomllib.loads(raw.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise WorkflowError(f"{path} is not TOML: {error}") from error
    try:
        return msgspec.convert(table, Manifest)
    except msgspec.ValidationError as error:
        raise WorkflowError(f"{path}: {_plain(error)}") from error


def _graph(path: Path) -> Graph:
    """Read one graph in API format. Raises: WorkflowError."""
    raw = _read(path)
    try:
        content = msgspec.json.decode(raw.removeprefix(b"\xef\xbb\xbf"))
    except (msgspec.DecodeError, RecursionError) as error:
        raise WorkflowError(f"{path} is not JSON: {error}") from error
    if isinstance(content, dict) and all(key in content for key in _EDITOR_KEYS):
        raise WorkflowError(
            f"{path} is in the editor's own format; save it with Export (API) in ComfyUI"
        )
    try:
        return msgspec.convert(content, Graph)
    except msgspec.ValidationError as error:
        raise WorkflowError(f"{path} is not in ComfyUI's API format: {_plain(error)}") from error


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            raw = file.read(FILE_SIZE_MAX_BYTES + 1)
    except OSError as error:
        raise WorkflowError(f"{path} cannot be read: {error.strerror or error}") from error
    if len(raw) > FILE_SIZE_MAX_BYTES:
        raise WorkflowError(f"{path} is larger than {FILE_SIZE_MAX_BYTES} bytes")
    return raw


def _plain(error: msgspec.ValidationError) -> str:
    """Return field and reason of an error of msgspec."""
    match = _AT.match(str(error))
    return f"{match['field']}: {match['what']}" if match and match["field"] else str(error)


def _refuse_second(path: Path, name: str, places: dict[str, Path]) -> None:
    if name in places:
        raise WorkflowError(f"{path}: name: {name!r} is already that of {places[name]}")
