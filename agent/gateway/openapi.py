"""The OpenAPI 3.1 document, made of the routes themselves and of what they say about themselves.

What a route takes and answers with are the structs that it decodes and encodes. Must not say
anything that the routes do not do.
"""

import inspect
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec
from aiohttp import web

from agent import __version__
from agent.gateway.describing import JSON, Described, Param, description
from agent.gateway.problems import PROBLEM_TYPE, ProblemDetails
from contracts import schema
from contracts.errors import HTTP_STATUS, ErrorCode
from contracts.subjects import TOKEN_PATTERN

Document = dict[str, Any]

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
_DEFS: Final = "#/$defs/"
_COMPONENTS: Final = "#/components/schemas/"
_PATHS: Final[Mapping[str, Document]] = {
    "request_id": {"type": "string", "pattern": f"^{TOKEN_PATTERN}$"},
}
_ALWAYS: Final = (ErrorCode.INVALID_REQUEST, ErrorCode.INTERNAL)
_BUS_AWAY: Final = 503
_NO_KEY: Final = 401
_TOO_MANY: Final = 429
_METHOD: Final = 405
_OF_BODIES: Final = (408, 413, 415)
_NOT_ALL: Final = {"properties": {"all": {"const": False}}}
_ONE_WAY_TO_CLEAR: Final = [
    {
        "required": ["all"],
        "properties": {
            "all": {"const": True},
            "priority": {"type": "null"},
            "requester": {"type": "null"},
        },
    },
    {
        **_NOT_ALL,
        "anyOf": [
            {"required": [name], "properties": {name: {"type": "string"}}}
            for name in ("priority", "requester")
        ],
    },
]
"""What the types of a body that clears cannot say."""
_REASONS: Final = {
    200: "Done.",
    202: "Stored.",
    204: "Nothing follows.",
    101: "The WebSocket is open.",
    206: "A part of it.",
    304: "It has not changed.",
}


def document(routes: Iterable[web.AbstractRoute], url: str) -> Document:
    """Return the document of these routes; `url` is where the gateway is reached."""
    known = [(route, description(route.handler)) for route in _each(routes)]
    schemas = _schemas([words for _, words in known])
    paths: dict[str, Document] = {}
    for route, words in known:
        path = route.resource.canonical if route.resource is not None else "/"
        operation = _operation(path, route.method, words, schemas)
        paths.setdefault(path, {})[route.method.lower()] = operation
    return {
        "openapi": "3.1.0",
        "jsonSchemaDialect": DIALECT,
        "info": {
            "title": "mmg, the L2 Multimodal Generator",
            "version": __version__,
            "description": (
                "Requests in, images out. Errors are RFC 9457 problem details: the code is stable,"
                " the detail is a sentence for people. Until the first key is made (mmg key add)"
                " only this machine may ask, and needs none; then every call that is not for"
                " everybody carries one: Authorization: Bearer mmg_..."
            ),
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": url}],
        "paths": dict(sorted(paths.items())),
        "components": {
            "schemas": dict(sorted(schemas.items())),
            "securitySchemes": {
                "key": {"type": "http", "scheme": "bearer", "description": "`mmg key add`"}
            },
        },
    }


def _each(routes: Iterable[web.AbstractRoute]) -> list[web.AbstractRoute]:
    """Return the routes without the HEAD that comes with a GET."""
    return [route for route in routes if route.method not in ("HEAD", "*")]


def _operation(path: str, method: str, words: Described, schemas: Document) -> Document:
    found: Document = {
        "summary": words.summary,
        "operationId": _name(method, path),
        "tags": [words.tag],
        "security": [] if words.access == "public" else [{}, {"key": []}],
        "x-access": words.access,
        "parameters": [
            *({"name": n, "in": "path", "required": True, "schema": s} for n, s in _in(path)),
            *(_parameter(param) for param in words.params),
        ],
        "responses": {
            **{str(status): _answer(status, kind) for status, kind in words.answers.items()},
            **_errors(path, method, words),
        },
    }
    if words.limit is not None:
        found["x-per-minute"] = words.limit.per_minute
    if words.body is not None:
        found["requestBody"] = {
            "required": words.body_needed,
            "content": {JSON: {"schema": _reference(words.body)}},
        }
        assert words.body.__name__ in schemas, "every body was collected"
    return found


def _in(path: str) -> list[tuple[str, Document]]:
    """Return the parameters in a path with their shapes."""
    names = re.findall(r"\{(\w+)\}", path)
    return [(name, _PATHS.get(name, {"type": "string"})) for name in names]


def _parameter(param: Param) -> Document:
    return {
        "name": param.name,
        "in": param.where,
        "required": param.needed,
        "description": param.text,
        "schema": param.shape,
    }


def _answer(status: int, kind: object) -> Document:
    words = _REASONS.get(status, "Done.")
    match kind:
        case None:
            return {"description": words}
        case str() if kind == JSON:
            return {"description": words, "content": {JSON: {"schema": {"type": "object"}}}}
        case str():
            shape = {"schema": {"type": "string"}} if kind.startswith("text/html") else {}
            return {"description": words, "content": {kind: shape}}
        case _:
            return {"description": words, "content": {JSON: {"schema": _reference(kind)}}}


def _errors(path: str, method: str, words: Described) -> Document:
    """Return the statuses of errors, each with the codes that it may carry."""
    by_status: dict[int, set[str]] = {}
    missing = (ErrorCode.NOT_FOUND,) if "{" in path else ()
    statuses = (*words.statuses, *(_OF_BODIES if method == "POST" else ()))
    for code in (*_ALWAYS, *missing, *words.errors):
        by_status.setdefault(HTTP_STATUS.get(code, 500), set()).add(code.value)
    for status in (*statuses, _METHOD, _BUS_AWAY):
        by_status.setdefault(status, set()).add(ErrorCode.INVALID_REQUEST.value)
    by_status[_BUS_AWAY] = (by_status[_BUS_AWAY] - {"invalid_request"}) | {"internal"}
    by_status.setdefault(403, set()).add(ErrorCode.FORBIDDEN.value)
    if words.access != "public":
        by_status[_NO_KEY] = {ErrorCode.FORBIDDEN.value}
    by_status.setdefault(_TOO_MANY, set()).add(ErrorCode.RATE_LIMITED.value)
    return {
        str(status): {
            "description": f"An error: {', '.join(sorted(codes))}.",
            "content": {PROBLEM_TYPE: {"schema": _reference(ProblemDetails)}},
        }
        for status, codes in sorted(by_status.items())
    }


def _schemas(words: list[Described]) -> Document:
    """Return the schema of every struct that is taken or answered with."""
    kinds = [one.body for one in words if one.body is not None]
    kinds += [kind for one in words for kind in one.answers.values() if _is_struct(kind)]
    kinds.append(ProblemDetails)
    _, found = msgspec.json.schema_components(
        list(dict.fromkeys(kinds)), ref_template=f"{_COMPONENTS}{{name}}"
    )
    shapes: Document = {name: _moved(shape) for name, shape in found.items()}
    known = {name: _moved(shape) for name, shape in schema.definitions().items()}
    # What the contract says of its own messages counts: it knows the rules that types do not.
    shapes |= {name: known[name] for name in _closed(set(shapes) & set(known), known)}
    for shape in shapes.values():
        if "description" in shape:
            shape["description"] = inspect.cleandoc(shape["description"])
    if "Clear" in shapes:
        shapes["Clear"]["oneOf"] = _ONE_WAY_TO_CLEAR
    return shapes


def _closed(names: set[str], known: Document) -> set[str]:
    """Return the names with all that they refer to."""
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found.add(name)
        waiting += [target for target in _targets(known[name]) if target in known]
    return found


def _targets(shape: object) -> list[str]:
    match shape:
        case {"$ref": str(target), **rest}:
            return [target.rpartition("/")[2], *_targets(rest)]
        case dict():
            return [name for value in shape.values() for name in _targets(value)]
        case list():
            return [name for value in shape for name in _targets(value)]
        case _:
            return []


def _moved(shape: object) -> Any:
    """Return a schema whose references point into this document.

    A pair says what its parts may be, not which is which: many readers know no `prefixItems`.
    """
    match shape:
        case {"prefixItems": list(parts), **rest}:
            kinds = [part for n, part in enumerate(parts) if part not in parts[:n]]
            items = kinds[0] if len(kinds) == 1 else {"anyOf": kinds}
            return _moved({**rest, "items": items})
        case dict():
            return {key: _moved(value) for key, value in shape.items()}
        case list():
            return [_moved(value) for value in shape]
        case str() if shape.startswith(_DEFS):
            return shape.replace(_DEFS, _COMPONENTS, 1)
        case _:
            return shape


def _reference(kind: Any) -> Document:
    return {"$ref": f"{_COMPONENTS}{kind.__name__}"}


def _is_struct(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)


def _name(method: str, path: str) -> str:
    words = re.findall(r"[A-Za-z]+", path.removeprefix("/api/multimodal"))
    ending = ["Folder"] if path.endswith("/") else []
    return "".join([method.lower(), *(word.capitalize() for word in words), *ending])
