"""Goal: what the gateway says of itself is valid, complete and true, and can be read offline.

Method: the OpenAPI document of a running gateway through a validator and through schemathesis,
which asks everything that it allows and much that it does not; the pages parsed for links.
"""

import asyncio
import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from agent.gateway.describing import is_described
from contracts.errors import ErrorCode
from tests.integration.gateway_rig import rig
from tests.integration.told_rig import told_rig

CONFIG = Path(__file__).parents[1] / "schemathesis.toml"
SECONDS = 60
NOT_ASKED = "^/(ws|multimodal|docs|api/multimodal/dashboard)"
"""A plain GET of a WebSocket tells nothing, and what people read takes only its address."""
VOID = ("meta", "link", "img", "script", "br")


@pytest.fixture
async def gate(tmp_path):
    async with rig(tmp_path) as made:
        yield made


async def read(gate, path):
    async with gate.http.get(f"{gate.url}{path}") as answer:
        assert answer.status == 200
        return await answer.text(), answer.headers


async def test_the_openapi_document_is_one_and_has_every_route(gate):
    document = json.loads((await read(gate, "/openapi.json"))[0])
    assert [str(error) for error in OpenAPIV31SpecValidator(document).iter_errors()] == []
    assert document["openapi"].startswith("3.1.")
    assert document["servers"] == [{"url": gate.url}]
    routes = [one for one in gate.gateway._runner.app.router.routes() if one.method != "HEAD"]
    served = {(one.resource.canonical, one.method.lower()) for one in routes}
    described = {(path, method) for path, ways in document["paths"].items() for method in ways}
    assert described == served
    assert len(served) > 30
    assert [one.handler.__qualname__ for one in routes if not is_described(one.handler)] == []


async def test_every_answer_that_is_json_has_a_shape_and_every_error_is_a_problem(gate):
    document = json.loads((await read(gate, "/openapi.json"))[0])
    for path, ways in document["paths"].items():
        for operation in ways.values():
            assert operation["summary"]
            statuses = {int(status) for status in operation["responses"]}
            assert {400, 405, 500, 503} <= statuses, path
            for status, answer in operation["responses"].items():
                if int(status) >= 400:
                    assert list(answer["content"]) == ["application/problem+json"], (path, status)
    problem = document["components"]["schemas"]["ProblemDetails"]
    assert {"type", "title", "status", "detail", "code", "retryable"} <= set(problem["required"])


async def test_the_asyncapi_document_is_that_of_the_contract(gate):
    document = json.loads((await read(gate, "/asyncapi.json"))[0])
    assert document["asyncapi"] == "3.0.0"
    assert "mmg.event.{agent}.{request_id}.{kind}" in json.dumps(document)


class Links(HTMLParser):
    """Collects what a page would fetch, where it leads, and what it can be led to."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.leads: list[str] = []
        self.ids: set[str] = set()
        self.open: list[str] = []

    def handle_starttag(self, tag, attrs):
        known = dict(attrs)
        self.fetched += [known[name] for name in ("src", "data") if name in known]
        self.fetched += [known["href"]] if tag == "link" else []
        self.leads += [known["href"]] if tag == "a" else []
        self.ids |= {known["id"]} if "id" in known else set()
        assert tag != "script"
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.mark.parametrize("path", ["/docs", "/docs/errors"])
async def test_the_pages_need_nothing_but_themselves_and_lead_nowhere_that_is_not_there(gate, path):
    text, headers = await read(gate, path)
    assert headers["Content-Type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    page = Links()
    page.feed(text)
    assert page.open == []
    assert page.fetched == []
    assert "@import" not in text
    assert "url(" not in text
    for lead in page.leads:
        if lead.startswith("#"):
            assert lead[1:] in page.ids, lead
        else:
            async with gate.http.get(f"{gate.url}{lead}") as answer:
                assert answer.status == 200, lead


async def test_the_page_of_errors_has_every_code_where_problems_lead(gate):
    text, _ = await read(gate, "/docs/errors")
    page = Links()
    page.feed(text)
    assert {code.value for code in ErrorCode} <= page.ids
    _, answer, _ = await gate.ask("GET", "/api/multimodal/requests/none")
    path, _, code = answer["type"].partition("#")
    assert (path, code) == ("/docs/errors", "not_found")


async def test_whatever_the_document_allows_is_answered_as_it_says(tmp_path, record_property):
    async with told_rig(tmp_path) as told:
        story = await told.gate.story(request_id="done")
        await story.started()
        await story.completed()
        running = await asyncio.create_subprocess_exec(
            Path(sys.executable).with_name("schemathesis"),
            *("--config-file", CONFIG, "run", f"{told.gate.url}/openapi.json"),
            *("--phases", "examples,coverage", "--max-examples", "1"),
            *("--request-timeout", "5", "--exclude-path-regex", NOT_ASKED),
            cwd=tmp_path,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        async with asyncio.timeout(SECONDS):
            out, _ = await running.communicate()
    text = out.decode()
    made = re.search(r"(\d+) generated", text)
    assert running.returncode == 0, text
    assert made is not None
    record_property("answers", int(made[1]))
    assert int(made[1]) > 300
