"""Goal: the checked-in schemas, examples and error page say what the code does.

Method: generated again and compared; each example and each bad variant goes through the codec and
through its schema, and both must agree; the AsyncAPI document goes through the official schema.
"""

import copy
import functools
import itertools
import json
import re
from pathlib import Path

import pytest
from jsonschema import (  # type: ignore[import-untyped] # it has no types of its own
    Draft7Validator,
    Draft202012Validator,
)
from referencing import Registry
from referencing.jsonschema import DRAFT202012

from contracts import codec, examples, schema, subjects
from contracts.errors import HTTP_STATUS, RETRYABLE, ContractError, ErrorBody, ErrorCode
from contracts.events import Progress, Snapshot, is_terminal, kind_of
from contracts.field_notes import NOTES
from contracts.requests import Priority, Request
from contracts.status import Loaded, ModelWish, WorkerModels, WorkerReport
from contracts.status_notes import STATUS_NOTES

ROOT = Path(__file__).resolve().parents[2]
FILES = schema.files()
SCHEMAS = {
    path.removesuffix(".schema.json"): json.loads(contents)
    for path, contents in FILES.items()
    if path.endswith(".schema.json")
}
ASYNCAPI = json.loads(FILES["asyncapi.json"])
IN_THE_MIDDLE = {"started", "retrying", "preempted", "released"}


@functools.cache
def validator(name):
    """With a registry that holds nothing else: every file stands alone."""
    registry = Registry().with_resource("", DRAFT202012.create_resource(SCHEMAS[name]))
    return Draft202012Validator(
        SCHEMAS[name], registry=registry, format_checker=Draft202012Validator.FORMAT_CHECKER
    )


@functools.cache
def asyncapi_validator():
    return Draft7Validator(json.loads((ROOT / "tests/asyncapi-3.0.0.schema.json").read_text()))


def request_with(**fields):
    return {"type": "image", "prompt": "x", **fields}


# --- generated files ---------------------------------------------------------------------------


def test_the_checked_in_files_are_those_generated_from_the_contracts():
    assert schema.stale() == [], "run `make schemas`"


def test_write_mends_what_is_missing_changed_or_left_over_and_then_has_nothing_to_do(tmp_path):
    (tmp_path / "examples").mkdir()
    (tmp_path / "request.schema.json").write_text("{}")
    (tmp_path / "voice.schema.json").write_text("{}")
    (tmp_path / "notes.json").write_text("{}")
    assert schema.write(tmp_path) == sorted({*FILES, "voice.schema.json"})
    assert schema.write(tmp_path) == schema.stale(tmp_path) == []
    assert (tmp_path / "notes.json").exists()


def test_generating_twice_gives_the_same_bytes_that_end_with_a_newline():
    assert schema.files() == FILES
    assert list(FILES) == sorted(FILES)
    assert all(contents.endswith(b"\n") for contents in FILES.values())


@pytest.mark.parametrize("name", SCHEMAS)
def test_each_schema_is_valid_and_describes_itself(name):
    found = SCHEMAS[name]
    Draft202012Validator.check_schema(found)
    assert found["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert found["$id"] == f"urn:mmg:contract:1:{name}"
    for part in (found, *found.get("$defs", {}).values()):
        assert part["title"]
        assert part["description"]
        assert all(shape["description"] for shape in part.get("properties", {}).values())


def test_no_field_note_is_left_over():
    known = {
        key
        for name, shape in schema.definitions().items()
        for field in shape.get("properties", {})
        for key in (field, f"{name}.{field}")
    }
    assert set(NOTES) | set(STATUS_NOTES) <= known


def test_patterns_are_plain_ecma_expressions():
    patterns = re.findall(rb'"pattern": "(.*)"', b"".join(FILES.values()))
    assert patterns
    assert not [pattern for pattern in patterns if re.search(rb"\\\\[AZz]|\(\?", pattern)]


# --- examples ----------------------------------------------------------------------------------


def decode(message, data):
    match message:
        case Request():
            return codec.decode_request(data)
        case Progress():
            return codec.decode_progress(data)
        case Snapshot():
            return codec.decode_snapshot(data)
        case ErrorBody():
            return codec.decode_error(data)
        case WorkerReport() | WorkerModels() | ModelWish() | Loaded():
            return codec.decode_answer(data, type(message))
        case _:
            return codec.decode_link(data)


def schema_of(example):
    return example if example in SCHEMAS else example.rpartition("-")[0]


@pytest.mark.parametrize("name", examples.EXAMPLES)
def test_each_example_is_the_codecs_bytes_and_fits_its_schema(name):
    message, written = examples.EXAMPLES[name], FILES[f"examples/{name}.json"]
    compact = json.dumps(json.loads(written), separators=(",", ":"), ensure_ascii=False).encode()
    assert compact == codec.encode(message)
    assert decode(message, compact) == message
    decode(message, written)
    validator(schema_of(name)).validate(json.loads(written))


@pytest.mark.parametrize("name", examples.LINKS)
def test_each_link_example_is_an_event_and_fits_no_other_kind(name):
    written = json.loads(FILES[f"examples/{name}.json"])
    validator("event").validate(written)
    fitting = {
        k for k in ASYNCAPI["channels"]["event"]["messages"] if validator(k).is_valid(written)
    }
    assert fitting == {kind_of(examples.LINKS[name])}


def test_the_example_chain_is_one_that_a_worker_may_write():
    chain = examples.CHAIN
    assert [link.n for link in chain] == list(range(1, len(chain) + 1))
    assert [is_terminal(link) for link in chain] == [False] * (len(chain) - 1) + [True]
    for before, after in itertools.pairwise(chain):
        begins = kind_of(after) == "started"
        assert after.attempt == before.attempt + begins
        assert after.progress_percent >= before.progress_percent or begins
        assert after.at > before.at
    assert len({link.id for link in chain}) == len(chain)
    assert {kind_of(link) for link in chain} == IN_THE_MIDDLE | {"completed"}
    assert examples.COMPLETED.retry_count == examples.COMPLETED.attempt - 1


# --- what is refused ---------------------------------------------------------------------------

OPTIONS: tuple[dict[str, object], ...] = (
    {"seed": -1},
    {"seed": 2**32},
    {"seed": 1.5},
    {"seed": "7"},
    {"seed": True},
    {"quality": "best"},
    {"style": "poster"},
    {"aspect_ratio": "3:2"},
    {"count": 0},
    {"count": 11},
    {"steps": 101},
    {"cfg": 30.5},
    {"width": 512},
    {"height": 512},
    {"width": 512, "height": None},
    {"width": 500, "height": 512},
    {"width": 192, "height": 512},
    {"width": 512, "height": 512, "aspect_ratio": "1:1"},
    {"model": "a b"},
    {"workflow": ""},
    {"image": {}},
    {"image": {"asset": "a.b", "sha256": "0" * 64}},
    {"image": {"asset": "../a"}},
    {"colour": "red"},
)
BAD_REQUESTS = [
    {"prompt": "x"},
    {"type": "image"},
    request_with(foo=1),
    request_with(type="video"),
    request_with(type="voice"),
    request_with(prompt=""),
    request_with(prompt=" \n"),
    request_with(prompt="x" * 4001),
    request_with(prompt=5),
    request_with(priority="high"),
    request_with(request_id="a.b"),
    request_with(requester="a-b"),
    request_with(deadline_s=0),
    request_with(webhook_url="http://example.org/"),
    request_with(local_only="yes"),
    request_with(options=None),
    *(request_with(options=options) for options in OPTIONS),
]
GOOD_REQUESTS = [
    request_with(),
    request_with(options={}),
    request_with(request_id=None, priority="LOW", requester="L2.05.03"),
    request_with(options={"seed": 0, "width": None, "aspect_ratio": "16:9", "height": None}),
    request_with(options={"width": 512, "height": 2048, "aspect_ratio": None, "seed": 2**32 - 1}),
    request_with(options={"image": {"asset": None, "sha256": "0" * 64}}),
    request_with(prompt="x" * 4000, webhook_url="https://example.org/"),
]


@pytest.mark.parametrize("body", BAD_REQUESTS, ids=lambda body: json.dumps(body)[:70])
def test_the_schema_refuses_what_the_codec_refuses(body):
    with pytest.raises(ContractError):
        codec.decode_request(json.dumps(body).encode())
    assert not validator("request").is_valid(body)


@pytest.mark.parametrize("body", GOOD_REQUESTS, ids=lambda body: json.dumps(body)[:70])
def test_the_schema_accepts_what_the_codec_accepts(body):
    codec.decode_request(json.dumps(body).encode())
    validator("request").validate(body)


@pytest.mark.parametrize(
    "change",
    [
        {"status": "failed"},
        {"kind": "begun"},
        {"n": 0},
        {"progress_percent": 101},
        {"at": 5},
        {"worker": None},
    ],
    ids=str,
)
def test_the_event_schema_refuses_what_no_worker_writes(change):
    good = json.loads(FILES["examples/started.json"])
    assert not validator("event").is_valid({**good, **change})
    assert validator("event").is_valid({**good, "a_later_field": 1})


def test_a_snapshot_may_hold_only_links():
    snapshot = json.loads(FILES["examples/snapshot.json"])
    assert not validator("snapshot").is_valid({**snapshot, "chain": [{"kind": "started"}]})


# --- asyncapi ----------------------------------------------------------------------------------


def test_the_asyncapi_document_is_valid():
    asyncapi_validator().validate(ASYNCAPI)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("operations", "sendEvent", "action"), "publish"),
        (("operations", "sendEvent", "bindings", "nats"), {"stream": "MMG_EVENTS"}),
        (("channels", "request", "parameters", "agent", "pattern"), "^a$"),
        (("asyncapi",), "2.6.0"),
    ],
    ids=str,
)
def test_the_check_of_the_asyncapi_document_can_fail(path, value):
    broken = copy.deepcopy(ASYNCAPI)
    place = functools.reduce(lambda part, key: part[key], path[:-1], broken)
    place[path[-1]] = value
    assert not asyncapi_validator().is_valid(broken)


def resolve(reference):
    return functools.reduce(lambda part, key: part[key], reference[2:].split("/"), ASYNCAPI)


def references(part):
    if isinstance(part, dict):
        own = [part["$ref"]] if isinstance(part.get("$ref"), str) else []
        return own + [found for value in part.values() for found in references(value)]
    return (
        [found for value in part for found in references(value)] if isinstance(part, list) else []
    )


def test_every_reference_of_the_asyncapi_document_leads_somewhere():
    found = set(references(ASYNCAPI))
    assert found
    for reference in found:
        assert reference.startswith("#/")
        assert resolve(reference)


def test_addresses_have_the_parameters_they_declare_and_match_the_subjects():
    for channel in ASYNCAPI["channels"].values():
        named = set(re.findall(r"\{(\w+)\}", channel["address"] or ""))
        assert named == set(channel.get("parameters", {}))
    who = subjects.identity("L2.05.03", "r-1")
    address = ASYNCAPI["channels"]["queued"]["address"]
    filled = address.format(priority="high", agent=who.agent, request_id=who.request_id)
    assert filled == subjects.queued(Priority.HIGH, who)


def test_examples_in_the_asyncapi_document_fit_its_own_schemas_and_headers():
    for name, message in ASYNCAPI["components"]["messages"].items():
        for example in message.get("examples", ()):
            whole = {**message["payload"], "components": ASYNCAPI["components"]}
            Draft7Validator(whole).validate(example["payload"])
        if name in examples.LINKS:
            headers = codec.link_headers(examples.LINKS[name], examples.SOURCE)
            Draft7Validator(message["headers"]).validate(headers)


# --- error page --------------------------------------------------------------------------------

ENTRY = re.compile(
    r"^### (?P<code>\w+)\n\nHTTP (?P<status>\d+), a retry (?P<retry>may help|does not help)\."
    r"(?P<reserved> \*Not raised by this build\.\*)?\n\n"
    r"- Meaning: .+\n- Usual cause: .+\n- Agents: .+\n- Operators: .+\n",
    re.MULTILINE,
)


def test_the_error_page_has_every_code_with_its_status_and_retry():
    page = (ROOT / "docs/errors.md").read_text()
    found = {
        entry["code"]: (int(entry["status"]), entry["retry"] == "may help")
        for entry in ENTRY.finditer(page)
    }
    assert found == {code: (HTTP_STATUS.get(code, 500), code in RETRYABLE) for code in ErrorCode}
    assert len(re.findall(r"^### ", page, re.MULTILINE)) == len(found)


RAISED = re.compile(r"(?:\b(?:ContractError|error_body|problem)\(\s*|code = )ErrorCode\.([A-Z_]+)")


def test_codes_that_the_error_page_calls_not_raised_are_raised_nowhere_in_the_agent():
    page = (ROOT / "docs/errors.md").read_text()
    reserved = {entry["code"].upper() for entry in ENTRY.finditer(page) if entry["reserved"]}
    sources = "".join(path.read_text() for path in (ROOT / "agent").rglob("*.py"))
    raised = set(RAISED.findall(sources))
    assert "ENGINE_DOWN" in raised, "the expression above finds none"
    assert not reserved & raised, "docs/errors.md: they are raised now, say when and what to do"


def test_the_asyncapi_document_has_every_code():
    assert ASYNCAPI["x-error-codes"] == {
        code: {"http_status": HTTP_STATUS.get(code, 500), "retryable": code in RETRYABLE}
        for code in ErrorCode
    }
