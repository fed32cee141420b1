"""The gateway's own papers: OpenAPI, AsyncAPI, and pages that need no network and no script.

Made once, of the routes. Must not describe what is not served.
"""

import html
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
from aiohttp import web

from agent.gateway.asked import JSON, asked_once
from agent.gateway.describing import Described, described
from agent.gateway.markdown import render
from contracts import asyncapi, schema

HTML: Final = "text/html"
_ERRORS: Final = (
    Path(__file__).resolve().parents[2] / "docs" / "errors.md",
    Path(__file__).resolve().parents[1] / "commands" / "errors.md",
)
_POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"
_STYLE: Final = """
:root{color-scheme:light dark}
body{font:15px/1.5 system-ui,sans-serif;max-width:62rem;margin:2rem auto;padding:0 1rem}
h1{font-size:1.5rem}h2{margin-top:2.5rem;font-size:1.15rem;border-bottom:1px solid #8886}
h3{font-size:1rem;margin:1.6rem 0 .2rem}code,pre{font:13px ui-monospace,monospace}
pre{overflow:auto;background:#8882;padding:.7rem;border-radius:.4rem}
table{border-collapse:collapse;margin:.3rem 0}td,th{text-align:left;padding:.15rem .9rem .15rem 0;
vertical-align:top}th{font-weight:600}.m{font-weight:700}.a{opacity:.7}
nav a{margin-right:1rem}"""

_FIRST: Final = ("requests", "live", "queue", "history", "assets", "models")
_TRY: Final = """\
curl -X POST {0}/api/multimodal/generate -H 'Content-Type: application/json' \\
  -d '{{"type": "image", "prompt": "a lighthouse at dusk"}}'
curl {0}/api/multimodal/queue"""

Routes = Callable[[], dict[str, Any]]


class Pages:
    """The routes of the papers; `document` makes the OpenAPI document, once the port is known."""

    def __init__(self, document: Routes) -> None:
        """Make nothing yet."""
        self._document = document
        self._made: dict[str, bytes] = {}

    def routes(self) -> list[web.RouteDef]:
        """Return what to serve."""
        return [
            web.get("/openapi.json", self.openapi, allow_head=False),
            web.get("/asyncapi.json", self.asyncapi, allow_head=False),
            web.get("/docs", self.docs, allow_head=False),
            web.get("/docs/errors", self.errors, allow_head=False),
        ]

    @described(Described(summary="This document", access="public", tag="papers"))
    async def openapi(self, request: web.Request) -> web.Response:
        """Answer with the OpenAPI document."""
        asked_once(request, ())
        body = self._once("openapi", lambda: msgspec.json.encode(self._document()))
        return web.Response(body=body, content_type=JSON)

    @described(Described(summary="The messages on the bus", access="public", tag="papers"))
    async def asyncapi(self, request: web.Request) -> web.Response:
        """Answer with the AsyncAPI document."""
        asked_once(request, ())
        body = self._once(
            "asyncapi", lambda: msgspec.json.encode(asyncapi.document(schema.definitions()))
        )
        return web.Response(body=body, content_type=JSON)

    @described(
        Described(summary="The API as a page", access="public", answers={200: HTML}, tag="papers")
    )
    async def docs(self, request: web.Request) -> web.Response:
        """Answer with the API for people."""
        asked_once(request, ())
        return _page(self._once("docs", lambda: _docs(self._document()).encode()))

    @described(
        Described(
            summary="Every error code: cause, and what to do",
            access="public",
            answers={200: HTML},
            tag="papers",
        )
    )
    async def errors(self, request: web.Request) -> web.Response:
        """Answer with the page of errors."""
        asked_once(request, ())
        return _page(self._once("errors", lambda: _frame("Errors", render(_errors())).encode()))

    def _once(self, name: str, make: Callable[[], bytes]) -> bytes:
        if name not in self._made:
            self._made[name] = make()
        return self._made[name]


def _page(body: bytes) -> web.Response:
    return web.Response(
        body=body,
        content_type=HTML,
        charset="utf-8",
        headers={"Content-Security-Policy": _POLICY},
    )


def _errors() -> str:
    for path in _ERRORS:
        if path.is_file():
            return path.read_text("utf-8")
    return "# Errors\n\nThe page is not installed."


def _frame(title: str, inner: str) -> str:
    links = "".join(
        f'<a href="{to}">{name}</a>'
        for to, name in (
            ("/docs", "API"),
            ("/docs/errors", "Errors"),
            ("/openapi.json", "openapi.json"),
            ("/asyncapi.json", "asyncapi.json"),
            ("/multimodal", "Dashboard"),
        )
    )
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>mmg: {title}</title>'
        '<meta name="viewport" content="width=device-width">'
        f"<style>{_STYLE}</style><body><nav>{links}</nav><main>{inner}</main></body></html>"
    )


def _docs(document: Mapping[str, Any]) -> str:
    """Return the whole API as one page: routes by tag, then the shapes."""
    by_tag: dict[str, list[str]] = {}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            text = _route(method.upper(), path, operation)
            by_tag.setdefault(operation["tags"][0], []).append(text)
    parts = [f"<h1>{_text(document['info']['title'])}</h1>"]
    parts.append(f"<p>{_text(document['info']['description'])}</p>")
    parts.append(f"<pre>{_text(_TRY.format(document['servers'][0]['url']))}</pre>")
    for tag, texts in sorted(by_tag.items(), key=lambda one: (_rank(one[0]), one[0])):
        parts += [f"<h2>{_text(tag)}</h2>", *texts]
    parts.append("<h2>Shapes</h2>")
    for name, shape in document["components"]["schemas"].items():
        body = _text(msgspec.json.format(msgspec.json.encode(shape), indent=1).decode())
        parts.append(
            f'<details id="{_text(name)}"><summary><code>{_text(name)}</code></summary>'
            f"<pre>{body}</pre></details>"
        )
    return _frame("API", "".join(parts))


def _rank(tag: str) -> int:
    """Return where a tag stands: what most people look for comes first."""
    return _FIRST.index(tag) if tag in _FIRST else len(_FIRST)


def _route(method: str, path: str, operation: Mapping[str, Any]) -> str:
    limit = operation.get("x-per-minute")
    who = {"public": "everybody", "any": "any key", "operator": "operators"}[operation["x-access"]]
    about = f"for {who}" + (f", {limit} a minute" if limit else "")
    rows = [
        f"<tr><th><code>{_text(one['name'])}</code></th><td>{_text(one['in'])}</td>"
        f"<td>{_text(one.get('description', ''))}{_allowed(one['schema'])}</td></tr>"
        for one in operation["parameters"]
    ]
    body = operation.get("requestBody")
    if body is not None:
        content = next(iter(body["content"].values()))
        rows.append(f"<tr><th>body</th><td></td><td>{_shape(content['schema'])}</td></tr>")
    answers = [
        f"<tr><th>{_text(status)}</th><td></td><td>{_text(one['description'])} {_contents(one)}"
        "</td></tr>"
        for status, one in operation["responses"].items()
    ]
    return (
        f'<h3><span class="m">{method}</span> <code>{_text(path)}</code></h3>'
        f'<p>{_text(operation["summary"])}. <span class="a">{about}</span></p>'
        f"<table>{''.join(rows)}</table><details><summary>answers</summary>"
        f"<table>{''.join(answers)}</table></details>"
    )


def _allowed(shape: Mapping[str, Any]) -> str:
    """Return what a parameter may be, and what it is where nobody says it."""
    words = [", ".join(map(str, shape["enum"]))] if "enum" in shape else []
    words += [f"{shape['minimum']} to {shape['maximum']}"] if "maximum" in shape else []
    words += [f"default {shape['default']}"] if "default" in shape else []
    return f' <span class="a">({_text("; ".join(words))})</span>' if words else ""


def _contents(answer: Mapping[str, Any]) -> str:
    return " ".join(
        f"{_text(kind)} {_shape(one.get('schema', {}))}"
        for kind, one in answer.get("content", {}).items()
    )


def _shape(shape: Mapping[str, Any]) -> str:
    name = str(shape.get("$ref", "")).rpartition("/")[2]
    return f'<a href="#{_text(name)}"><code>{_text(name)}</code></a>' if name else ""


def _text(value: object) -> str:
    return html.escape(str(value))
