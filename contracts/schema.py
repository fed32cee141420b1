"""The generated descriptions of the wire: JSON Schema 2020-12, AsyncAPI, and examples.

Everything follows from the structs; checked in under `contracts/schemas`, compared by a test.
Must not say anything that the codec does not do.
"""

import inspect
import json
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

import msgspec

from contracts import CONTRACT_VERSION, asyncapi, codec, status
from contracts.errors import ErrorBody, ErrorCode
from contracts.events import LINK_TYPES, Link, Progress, Snapshot, Status
from contracts.examples import EXAMPLES
from contracts.field_notes import NOTES
from contracts.requests import AspectRatio, Priority, Quality, Request, Style
from contracts.status import Loaded, ModelWish, WorkerModels, WorkerReport
from contracts.status_notes import STATUS_NOTES

FOLDER: Final = Path(__file__).parent / "schemas"
DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"

Schema = dict[str, Any]
STATUS: Final = (WorkerReport, WorkerModels, ModelWish, Loaded)
_OF_STATUS: Final = frozenset(
    name for name, found in vars(status).items() if inspect.isclass(found)
)
_WEBHOOK: Final = r"^(https://|http://(127\.0\.0\.1|localhost|\[::1\])([:/?#]|$))"

_ENUMS: Final[tuple[type[StrEnum], ...]] = (
    AspectRatio,
    ErrorCode,
    Priority,
    Quality,
    Status,
    Style,
)
_ROOTS: Final[dict[str, str]] = {
    "request": "Request",
    **{str(link.__struct_config__.tag): link.__name__ for link in LINK_TYPES},
    "event": "Event",
    "progress": "Progress",
    "snapshot": "Snapshot",
    "error": "ErrorBody",
    "status": "WorkerReport",
    "models": "WorkerModels",
    "model-wish": "ModelWish",
    "loaded": "Loaded",
}
"""Name of the file -> name of the definition it describes."""


def files() -> dict[str, bytes]:
    """Return every generated file: path below the folder -> contents."""
    known = definitions()
    schemas = {f"{name}.schema.json": _standalone(name, known) for name in _ROOTS}
    examples = {
        f"examples/{name}.json": msgspec.json.format(codec.encode(message), indent=2) + b"\n"
        for name, message in EXAMPLES.items()
    }
    documents = {**schemas, "asyncapi.json": asyncapi.document(known)}
    return dict(sorted({**{path: _text(d) for path, d in documents.items()}, **examples}.items()))


def write(root: Path = FOLDER) -> list[str]:
    """Bring the folder up to date and return the paths that changed or went."""
    wanted, changed = files(), stale(root)
    for path in changed:
        if path in wanted:
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_bytes(wanted[path])
        else:
            (root / path).unlink()
    return changed


def stale(root: Path = FOLDER) -> list[str]:
    """Return the paths whose contents are missing, differ, or are generated no longer."""
    wanted = files()
    found = [*root.glob("*.schema.json"), *root.glob("examples/*.json")]
    left_over = {path.relative_to(root).as_posix() for path in found} - set(wanted)
    differing = {
        path
        for path, contents in wanted.items()
        if not (root / path).is_file() or (root / path).read_bytes() != contents
    }
    return sorted(left_over | differing)


def definitions() -> dict[str, Schema]:
    """Return the schema of every struct and enum by name; references point to `#/$defs/`."""
    (union, *_), found = msgspec.json.schema_components(
        [Link, Progress, Snapshot, Request, ErrorBody, *STATUS], ref_template="#/$defs/{name}"
    )
    known: dict[str, Schema] = dict(found)
    known["Event"] = {
        "title": "Event",
        "description": "A link of a request's chain, on the reply subject of the request.",
        **union,
    }
    for enum in _ENUMS:  # msgspec sorts them; the order they are declared in has a meaning.
        known[enum.__name__] |= {"type": "string", "enum": [member.value for member in enum]}
    for name, schema in known.items():
        schema["description"] = inspect.cleandoc(schema["description"])
        for field, shape in schema.get("properties", {}).items():
            shape["description"] = _note(name, field)
        _fix_status(schema)
    _say_what_types_cannot(known)
    return dict(sorted(known.items()))


def _note(name: str, field: str) -> str:
    """Return what a field means: what its class says first, then what its part of the wire says."""
    parts = (STATUS_NOTES, NOTES) if name in _OF_STATUS else (NOTES, STATUS_NOTES)
    found = (part.get(key) for key in (f"{name}.{field}", field) for part in parts)
    return next(note for note in found if note is not None)


def _fix_status(schema: Schema) -> None:
    """Each kind has one status, and it is always written."""
    status = schema.get("properties", {}).get("status", {})
    if "const" in status:
        del status["$ref"], status["default"]
        schema["required"].insert(schema["required"].index("id"), "status")


def _say_what_types_cannot(known: dict[str, Schema]) -> None:
    """Add the rules of `contracts.requests.check`, and the links inside a snapshot."""
    request, options, image = (
        known[name]["properties"] for name in ("Request", "Options", "ImageRef")
    )
    request["prompt"]["pattern"] = r"\S"
    request["webhook_url"]["anyOf"][0] |= {"format": "uri", "pattern": _WEBHOOK}
    known["Options"]["allOf"] = [
        {
            "if": {"required": [one], "properties": {one: {"type": "integer"}}},
            "then": {
                "required": [other],
                "properties": {other: {"type": "integer"}, "aspect_ratio": {"type": "null"}},
            },
        }
        for one, other in (("width", "height"), ("height", "width"))
    ]
    known["ImageRef"]["oneOf"] = [
        {
            "required": [one],
            "properties": {one: {"type": "string"}, other: {"type": "null"}},
        }
        for one, other in (("asset", "sha256"), ("sha256", "asset"))
    ]
    assert set(image) == {"asset", "sha256"}, "the rule above names both"
    assert {"width", "height", "aspect_ratio"} <= set(options), "the rule above names them"
    snapshot = known["Snapshot"]["properties"]
    snapshot["result"]["anyOf"] = [{"$ref": "#/$defs/Event"}, {"type": "null"}]
    snapshot["chain"]["items"] = {"$ref": "#/$defs/Event"}


def _standalone(name: str, known: dict[str, Schema]) -> Schema:
    """Return one schema with all it refers to, so that the file needs no other."""
    root = known[_ROOTS[name]]
    needed: set[str] = set()
    waiting = [root]
    while waiting:
        names = set(_references(waiting.pop())) - needed
        needed |= names
        waiting += [known[other] for other in sorted(names)]
    return {
        "$schema": DIALECT,
        "$id": f"urn:mmg:contract:{CONTRACT_VERSION}:{name}",
        **root,
        **({"$defs": {other: known[other] for other in sorted(needed)}} if needed else {}),
    }


def _references(schema: object) -> list[str]:
    """Return the names of the definitions that a schema refers to."""
    match schema:
        case {"$ref": str(target), **rest}:
            return [target.rpartition("/")[2], *_references(rest)]
        case dict():
            return [name for value in schema.values() for name in _references(value)]
        case list():
            return [name for value in schema for name in _references(value)]
        case _:
            return []


def _text(document: Schema) -> bytes:
    return (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode()
