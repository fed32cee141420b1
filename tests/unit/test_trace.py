"""Goal: a trace context is read as W3C asks, whatever a stranger sends, and never breaks a request.

Method: properties over contexts that are right, over ones with one mistake, and over any text; an
independent reader is the parser of OpenTelemetry, which the `otel` extra brings.
"""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict
from opentelemetry.trace import get_current_span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from contracts import trace

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
HEX = "0123456789abcdef"

ids = st.text(HEX, min_size=32, max_size=32).filter(lambda text: text.strip("0"))
spans = st.text(HEX, min_size=16, max_size=16).filter(lambda text: text.strip("0"))
flags = st.integers(0, 255)
keys = st.from_regex(r"[a-z][a-z0-9_*/-]{0,20}(@[a-z][a-z0-9_*/-]{0,13})?", fullmatch=True)
values = st.from_regex(r"[ -+\--<>-~]{0,40}[!-+\--<>-~]", fullmatch=True)
members = st.dictionaries(keys, values, max_size=40)


@given(ids, spans, flags)
def test_what_is_right_is_read_and_written_as_it_came_but_for_unknown_flags(
    trace_id, span_id, bits
):
    found = trace.parse(f"00-{trace_id}-{span_id}-{bits:02x}")
    assert found == trace.Trace(trace_id=trace_id, span_id=span_id, flags=bits & 3)
    assert found is not None
    assert trace.parse(found.parent) == found
    assert trace.headers(found) == {"traceparent": f"00-{trace_id}-{span_id}-{bits & 3:02x}"}


@pytest.mark.parametrize(
    "text",
    [
        "",
        PARENT.upper(),
        PARENT.replace("00-4", "ff-4"),
        PARENT.replace("4bf92f3577b34da6a3ce929d0e0e4736", "0" * 32),
        PARENT.replace("00f067aa0ba902b7", "0" * 16),
        PARENT + "-",
        PARENT + "-01",
        PARENT + "\n",
        " " + PARENT,
        PARENT.replace("-", "_"),
        PARENT[:-1],
        PARENT[:-3],
        PARENT.replace("4736-", "473-"),
        PARENT.replace("00-4", "0-4"),
        PARENT.replace("a3ce", "a3cg"),
        PARENT.replace("a3ce", "a3c\u0665"),
        "01-" + PARENT[3:] + "x",
        "01-" + PARENT[3:] + "-" + "x" * trace.PARENT_MAX,
    ],
)
def test_what_breaks_the_standard_is_ignored(text):
    assert trace.parse(text, "a=1") is None
    assert trace.read({"traceparent": text, "tracestate": "a=1"}) is None


@given(st.text(), st.text())
def test_any_text_is_read_or_ignored(parent, state):
    assert trace.parse(parent, state) is None
    found = trace.parse(PARENT, state)
    assert found is not None
    assert re.fullmatch(r"[ -~]*", found.state)


@given(st.integers(0, len(PARENT) - 1), st.text(HEX + "-z \n", max_size=2))
def test_no_more_is_read_than_opentelemetry_reads(place, instead):
    text = PARENT[:place] + instead + PARENT[place + 1 :]
    ours = trace.parse(text)
    carrier = TraceContextTextMapPropagator().extract({"traceparent": text})
    theirs = get_current_span(carrier).get_span_context()
    assert ours is None or (theirs.trace_id, theirs.span_id) == (
        int(ours.trace_id, 16),
        int(ours.span_id, 16),
    )


def test_a_later_version_is_passed_on_as_the_one_known_here():
    found = trace.parse("cc" + PARENT[2:-2] + "ff-what-comes-later")
    assert found is not None
    assert found.parent == PARENT[:-2] + "03"


@given(members)
def test_a_state_that_is_right_is_passed_on_whole_or_by_whole_members(pairs):
    whole = [f"{key}={value}" for key, value in pairs.items()]
    found = trace.parse(PARENT, " ,\t".join(whole))
    assert found is not None
    kept = found.state.split(",") if found.state else []
    assert len(found.state) <= trace.STATE_MAX
    if len(whole) > trace.MEMBERS_MAX:
        assert not kept
    elif len(",".join(whole)) <= trace.STATE_MAX:
        assert kept == [member.strip() for member in whole]
    else:
        assert kept == [one for one in (member.strip() for member in whole) if one in kept]


@pytest.mark.parametrize(
    ("state", "kept"),
    [
        ("rojo=00f067aa0ba902b7,congo=t61rcWkgMzE", "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE"),
        ("a=1, ,b=2,", "a=1,b=2"),
        ("a=1,a=2", ""),
        ("A=1", ""),
        ("a=1,b", ""),
        ("a==1", ""),
        ("a=\u00e4", ""),
        ("a=1\r\nNats-Msg-Id: x", ""),
        (",".join(f"k{n}=1" for n in range(33)), ""),
        (f"a={'x' * 200},b={'y' * 200},c={'z' * 120},d=1,e={'z' * 120}", None),
        ("a=" + "x" * 257, ""),
    ],
)
def test_a_state_with_a_mistake_is_dropped_alone_and_a_long_one_is_shortened(state, kept):
    found = trace.parse(PARENT, state)
    assert found is not None
    assert found.parent == PARENT
    if kept is None:  # The long members go first.
        kept = f"c={'z' * 120},d=1,e={'z' * 120}"
    assert found.state == kept
    assert trace.headers(found).get("tracestate", "") == kept


def test_a_state_of_short_members_loses_its_end():
    found = trace.parse(PARENT, ",".join(f"k{n:02}={'x' * 26}" for n in range(20)))
    assert found is not None
    assert found.state == ",".join(f"k{n:02}={'x' * 26}" for n in range(16))


def test_headers_are_found_whatever_their_case_and_two_parents_are_none():
    assert trace.read(None) is None
    assert trace.read({}) is None
    assert trace.read({"tracestate": "a=1"}) is None
    found = trace.read({"TraceParent": PARENT, "TRACESTATE": "a=1"})
    assert found is not None
    assert (found.parent, found.state) == (PARENT, "a=1")
    assert trace.read({"traceparent": PARENT, "Traceparent": PARENT}) is None
    http = CIMultiDict([("Traceparent", PARENT), ("Tracestate", "a=1"), ("tracestate", "b=2")])
    found = trace.read(http)
    assert found is not None
    assert found.state == "a=1,b=2"
    http.add("traceparent", PARENT)
    assert trace.read(http) is None
    assert trace.headers(None) == {}
