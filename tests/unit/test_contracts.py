"""Goal: the wire keeps its promises: what goes in comes out, and what is bad is named.

Method: round trips over generated messages, and one bad request per rule with the code and the
JSON path that its sender gets.
"""

import json
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts import codec, examples, subjects
from contracts.errors import ContractError, ErrorCode
from contracts.events import LINK_TYPES, is_terminal, kind_of
from contracts.requests import (
    AspectRatio,
    ImageRef,
    Options,
    Priority,
    Quality,
    Request,
    Style,
    check,
)
from contracts.subjects import Identity

WHO = Identity("L2-05-03", "r-1")
SUBJECT = subjects.request(Priority.HIGH, WHO)

tokens = st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True)
agent_ids = st.from_regex(r"[A-Za-z0-9_.]{1,64}", fullmatch=True)
names = st.from_regex(r"[A-Za-z0-9_.-]{1,64}", fullmatch=True)
priorities = st.sampled_from(Priority)
sentences = st.text(max_size=40).filter(lambda text: text.strip())
moments = st.datetimes(datetime(2020, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 - hypothesis wants naive bounds


def maybe(strategy):
    return st.none() | strategy


@st.composite
def options(draw):
    sized = draw(st.booleans())
    side = st.integers(4, 32).map(lambda n: n * 64)
    return Options(
        quality=draw(st.sampled_from(Quality)),
        style=draw(maybe(st.sampled_from(Style))),
        aspect_ratio=None if sized else draw(maybe(st.sampled_from(AspectRatio))),
        seed=draw(maybe(st.integers(0, 2**32 - 1))),
        negative_prompt=draw(maybe(st.text(max_size=20))),
        count=draw(st.integers(1, 10)),
        enhance_prompt=draw(st.booleans()),
        previews=draw(st.booleans()),
        steps=draw(maybe(st.integers(1, 100))),
        cfg=draw(maybe(st.floats(0, 30))),
        width=draw(side) if sized else None,
        height=draw(side) if sized else None,
        model=draw(maybe(names)),
        workflow=draw(maybe(names)),
        image=draw(maybe(st.just(ImageRef(sha256="0" * 64)))),
    )


requests = st.builds(
    Request,
    type=st.just("image"),
    prompt=sentences,
    options=options(),
    request_id=maybe(tokens),
    priority=maybe(priorities),
    requester=maybe(agent_ids),
    webhook_url=maybe(st.just("https://example.org/hook")),
    deadline_s=maybe(st.integers(1, 86400)),
    local_only=st.booleans(),
    dry_run=st.booleans(),
    replay_of=maybe(tokens),
)
links = st.builds(
    msgspec.structs.replace,
    st.sampled_from(list(examples.LINKS.values())),
    n=st.integers(1, 100),
    message=st.text(max_size=40),
    progress_percent=st.integers(0, 100),
    at=moments,
    attempt=st.integers(0, 100),
    request_seq=st.integers(0, 2**53),
    request=st.just(msgspec.UNSET) | st.none() | requests.map(codec.public),
)


def body(**fields):
    return json.dumps({"type": "image", "prompt": "x", **fields}).encode()


def refused(data, subject=SUBJECT, headers=None):
    with pytest.raises(ContractError) as caught:
        codec.receive(subject, headers, data)
    return caught.value.body


# --- round trips -------------------------------------------------------------------------------


@given(requests)
def test_a_request_survives_its_bytes(request_):
    assert codec.decode_request(codec.encode(request_)) == request_


@given(links)
def test_a_link_survives_its_bytes_and_a_relay_can_read_its_head(link):
    data = codec.encode(link)
    assert codec.decode_link(data) == link
    head = codec.decode_head(data)
    assert (head.id, head.n, head.attempt) == (link.id, link.n, link.attempt)
    assert (head.kind, head.status) == (kind_of(link), link.status)


def test_readers_of_links_ignore_fields_they_do_not_know():
    fields = json.loads(codec.encode(examples.RELEASED))
    data = json.dumps({**fields, "a_later_field": {"x": [1]}}).encode()
    assert codec.decode_link(data) == examples.RELEASED
    with pytest.raises(msgspec.DecodeError):
        codec.decode_link(json.dumps({**fields, "kind": "a_later_kind"}).encode())
    assert codec.decode_head(json.dumps({**fields, "kind": "later"}).encode()).kind == "later"


def test_a_link_without_a_time_zone_is_refused():
    fields = json.loads(codec.encode(examples.RELEASED))
    with pytest.raises(msgspec.DecodeError):
        codec.decode_link(json.dumps({**fields, "at": "2026-03-02T09:15:00"}).encode())


@pytest.mark.parametrize("snapshot", [examples.SNAPSHOT, examples.SNAPSHOT_RUNNING])
def test_a_snapshot_survives_its_bytes_with_those_of_its_links(snapshot):
    assert codec.decode_snapshot(codec.encode(snapshot)) == snapshot


def test_four_kinds_close_a_chain():
    closing = {kind_of(link) for link in examples.LINKS.values() if is_terminal(link)}
    assert closing == {"completed", "failed", "expired", "cancelled"}
    assert {type(link) for link in examples.LINKS.values()} == set(LINK_TYPES)


@given(requests, tokens, agent_ids, priorities)
def test_the_same_request_may_name_its_subject_or_not(request_, request_id, requester, priority):
    bare = codec.public(
        msgspec.structs.replace(request_, request_id=None, requester=None, priority=None)
    )
    named = msgspec.structs.replace(
        bare, request_id=request_id, requester=requester, priority=priority
    )
    assert codec.same_request(bare, named)
    assert codec.same_request(request_, named)
    assert not codec.same_request(bare, msgspec.structs.replace(named, prompt=bare.prompt + "!"))
    assert not codec.same_request(
        bare, msgspec.structs.replace(named, local_only=not bare.local_only)
    )


# --- receive -----------------------------------------------------------------------------------


@given(requests, priorities, tokens, tokens)
def test_receive_fills_in_what_the_subject_says(request_, priority, agent, request_id):
    bare = msgspec.structs.replace(request_, request_id=None, requester=None, priority=None)
    who = Identity(agent, request_id)
    received = codec.receive(subjects.request(priority, who), None, codec.encode(bare))
    assert (received.who, received.priority) == (who, priority)
    assert received.request.request_id == request_id
    assert received.request.requester == agent.replace("-", ".")
    assert received.request.priority == priority
    assert codec.same_request(received.request, bare)


def test_a_body_that_agrees_with_its_subject_is_received():
    data = body(request_id="r-1", requester="L2.05.03", priority="HIGH")
    assert codec.receive(SUBJECT, {"mmg-contract": "1"}, data).who == WHO


BAD = {
    "unknown field": (body(foo=1), "$.foo", "unknown field 'foo'"),
    "unknown option": (body(options={"foo": 1}), "$.options.foo", "unknown field 'foo'"),
    "unknown in image": (body(options={"image": {"path": "x"}}), "$.options.image.path", "path"),
    "long unknown": (body(**{"f" * 9000: 1}), "$." + "f" * 80, "unknown field"),
    "no prompt": (b'{"type":"image"}', "$.prompt", "prompt is required"),
    "no type": (b'{"prompt":"x"}', "$.type", "type is required"),
    "type no text": (body(type=5), "$.type", "type: expected `str`, got `int`"),
    "prompt no text": (body(prompt=5), "$.prompt", "prompt: expected `str`, got `int`"),
    "prompt empty": (body(prompt=""), "$.prompt", "1 to 4000"),
    "prompt blank": (body(prompt=" \n\t"), "$.prompt", "has 0"),
    "prompt long": (body(prompt="x" * 4001), "$.prompt", "has 4001"),
    "negative long": (
        body(options={"negative_prompt": "x" * 2001}),
        "$.options.negative_prompt",
        "",
    ),
    "options null": (body(options=None), "$.options", "expected `object`, got `null`"),
    "bad quality": (
        body(options={"quality": "best"}),
        "$.options.quality",
        "quality must be one of draft, standard, high, premium",
    ),
    "bad style": (
        body(options={"style": "poster"}),
        "$.options.style",
        "style must be one of technical-diagram, report-cover, infographic",
    ),
    "bad aspect": (
        body(options={"aspect_ratio": "3:2"}),
        "$.options.aspect_ratio",
        "aspect_ratio must be one of 1:1, 16:9, 4:3, 9:16",
    ),
    "bad priority": (
        body(priority="high"),
        "$.priority",
        "priority must be one of CRITICAL, HIGH, MEDIUM, LOW",
    ),
    **{
        f"seed {seed!r}": (body(options={"seed": seed}), "$.options.seed", "options.seed: ")
        for seed in (-1, 2**32, 1.5, "x", True, [1])
    },
    "count 11": (body(options={"count": 11}), "$.options.count", "10"),
    "cfg 31": (body(options={"cfg": 31}), "$.options.cfg", "30"),
    "cfg huge": (b'{"type":"image","prompt":"x","options":{"cfg":1e999}}', "$.options.cfg", ""),
    "width alone": (body(options={"width": 512}), "$.options.height", "come together"),
    "height alone": (body(options={"height": 512}), "$.options.width", "come together"),
    "width odd": (body(options={"width": 500, "height": 512}), "$.options.width", "multiple"),
    "width and aspect": (
        body(options={"width": 512, "height": 512, "aspect_ratio": "1:1"}),
        "$.options.aspect_ratio",
        "exclude",
    ),
    "image empty": (body(options={"image": {}}), "$.options.image", "exactly one"),
    "image both": (
        body(options={"image": {"asset": "a.b", "sha256": "0" * 64}}),
        "$.options.image",
        "exactly one",
    ),
    "asset path": (
        body(options={"image": {"asset": "../x"}}),
        "$.options.image.asset",
        "must match [A-Za-z0-9_-]{1,64}",
    ),
    "deadline 0": (body(deadline_s=0), "$.deadline_s", "1"),
    "webhook http": (body(webhook_url="http://example.org"), "$.webhook_url", "https"),
    "webhook user": (body(webhook_url="https://u@example.org"), "$.webhook_url", "https"),
    "webhook broken": (body(webhook_url="https://[x"), "$.webhook_url", "no URL"),
    "webhook long": (body(webhook_url="https://x/" + "y" * 2048), "$.webhook_url", "2048"),
    "other id": (body(request_id="r-2"), "$.request_id", "'r-2' in the body but 'r-1'"),
    "other requester": (body(requester="L2.05.04"), "$.requester", "but 'L2.05.03'"),
    "other priority": (body(priority="LOW"), "$.priority", "'LOW'"),
    "id no token": (body(request_id="a.b"), "$.request_id", "must match [A-Za-z0-9_-]{1,64}"),
    "requester token": (
        body(requester="L2-05-03"),
        "$.requester",
        "must match [A-Za-z0-9_.]{1,64}",
    ),
    "no JSON": (b"a picture, please", "$", "not JSON"),
    "nothing": (b"", "$", "not JSON"),
    "two values": (b'{"type":"image","prompt":"x"} {}', "$", "not JSON"),
    "a list": (b"[1]", "$", "Expected `object`, got `array`"),
    "NaN": (b'{"type":"image","prompt":"x","options":{"cfg":NaN}}', "$", "not JSON"),
    "not UTF-8": (b'{"type":"image","prompt":"\xff"}', "$", "not JSON"),
    "lone surrogate": (b'{"type":"image","prompt":"a\\ud800b"}', "$", "not JSON"),
    "too large": (body(prompt="x" * 65536), "$", "the limit is 65536"),
    "deep in unknown": (
        b'{"type":"image","foo":' + b"[" * 30000 + b"]" * 30000 + b',"prompt":"x"}',
        "$",
        "nested too deep",
    ),
    "deep and open": (b"[" * 65536, "$", "Expected `object`, got `array`"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_request_is_answered_with_the_path_of_its_fault(name):
    data, path, words = BAD[name]
    error = refused(data)
    assert (error.code, error.detail) == (ErrorCode.INVALID_REQUEST, path)
    assert words in error.message
    assert len(error.message) < 300
    assert not error.retryable


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("request_id", {"request_id": "r-1\n"}),
        ("requester", {"requester": "L2.05.03\n"}),
        ("replay_of", {"replay_of": "r-0\n"}),
        ("options.model", {"options": {"model": "sketch\n"}}),
        ("options.workflow", {"options": {"workflow": "w\n"}}),
        ("options.image.asset", {"options": {"image": {"asset": "a.b\n"}}}),
        ("options.image.sha256", {"options": {"image": {"sha256": "0" * 64 + "\n"}}}),
    ],
)
def test_a_newline_at_the_end_of_a_name_is_refused(path, fields):
    error = refused(body(**fields))
    assert (error.code, error.detail) == (ErrorCode.INVALID_REQUEST, f"$.{path}")


def test_a_prompt_is_measured_after_trimming():
    assert codec.decode_request(body(prompt="  " + "x" * 4000 + "\n")).prompt.startswith("  x")


@pytest.mark.parametrize("rest", [{}, {"voice": "alto", "prompt": None}, {"options": {"seed": -1}}])
@pytest.mark.parametrize(
    ("kind", "code"),
    [
        ("voice", ErrorCode.NOT_ENABLED),
        ("video", ErrorCode.UNSUPPORTED_TYPE),
        ("Image", ErrorCode.UNSUPPORTED_TYPE),
        ("", ErrorCode.UNSUPPORTED_TYPE),
    ],
)
def test_another_type_is_answered_as_such_whatever_else_is_wrong(kind, code, rest):
    error = refused(body(**{**rest, "type": kind}))
    assert (error.code, error.detail) == (code, "$.type")


def test_check_measures_structs_built_by_hand_too():
    with pytest.raises(ContractError):
        check(Request(type="image", prompt=" "))
    with pytest.raises(ContractError):
        check(Request(type="image", prompt="x", request_id="a\n"))


def test_a_subject_that_is_none_is_refused_before_the_body_is_read():
    assert refused(b"?", subject="mmg.request.high.a").code is ErrorCode.INVALID_REQUEST


# --- contract header ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["Mmg-Contract", "mmg-contract", "MMG-CONTRACT"])
@pytest.mark.parametrize("version", ["2", "x", "", "0", "-1", "1e0", "\u00b9", "9" * 5000])
def test_another_contract_is_refused(name, version):
    error = refused(body(), headers={name: version})
    assert error.code is ErrorCode.UNSUPPORTED_CONTRACT
    assert len(error.message) < 100


@pytest.mark.parametrize("headers", [None, {}, {"Mmg-Contract": "1"}, {"mmg-contract": "1.4"}])
def test_this_contract_or_none_is_spoken(headers):
    assert codec.receive(SUBJECT, headers, body()).who == WHO


# --- headers -----------------------------------------------------------------------------------


def test_link_headers_are_cloud_events_in_binary_mode():
    headers = codec.link_headers(examples.STARTED, '/mmg/a "b" 100% é')
    assert headers == {
        "ce-specversion": "1.0",
        "ce-id": examples.STARTED.id,
        "ce-type": "mmg.started",
        "ce-source": "/mmg/a%20%22b%22%20100%25%20%C3%A9",
        "ce-time": "2026-03-02T09:15:00.520000Z",
        "ce-datacontenttype": "application/json",
        "Mmg-Contract": "1",
    }
    assert codec.link_headers(examples.STARTED, "/") is not codec.link_headers(
        examples.STARTED, "/"
    )


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=30))
def test_header_values_are_visible_ascii_without_quotes(source):
    value = codec.link_headers(examples.STARTED, source)["ce-source"]
    assert all("!" <= sign <= "~" and sign != '"' for sign in value)


def test_a_header_is_found_whatever_its_case():
    assert codec.header({"CE-Id": "7"}, "ce-id") == "7"
    assert codec.header({"ce-id": "7"}, "Ce-Id") == "7"
    assert codec.header({"ce-id": "7"}, "ce-time") is None
    assert codec.header(None, "ce-id") is None


def test_times_are_written_in_utc():
    later = msgspec.structs.replace(examples.STARTED, at=examples.STARTED.at + timedelta(seconds=1))
    assert codec.link_headers(later, "/")["ce-time"].endswith("Z")
    assert json.loads(codec.encode(later))["at"].endswith("Z")
