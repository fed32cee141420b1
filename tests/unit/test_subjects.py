"""Goal: subjects are built and parsed without loss, and nothing else passes for one.

Method: build and parse as inverses over all legal tokens; illegal ones refused by name.
"""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts import subjects
from contracts.errors import ContractError, ErrorCode
from contracts.requests import Priority
from contracts.subjects import Identity

WHO = Identity("L2-05-03", "r-1")

tokens = st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True)
agent_ids = st.from_regex(r"[A-Za-z0-9_.]{1,64}", fullmatch=True)
priorities = st.sampled_from(Priority)


@given(priorities, tokens, tokens)
def test_subjects_are_parsed_back_to_what_built_them(priority, agent, request_id):
    who = Identity(agent, request_id)
    assert subjects.checked(agent, request_id) == who
    subject = subjects.request(priority, who)
    assert subjects.parse_request(subject) == (priority, who)
    assert subjects.raw_pair(subject) == who
    pairs = [subjects.progress(who), subjects.snapshot(who)]
    pairs += [subjects.event(who, "started"), subjects.chain(who, "started")]
    assert {subjects.parse_pair(pair) for pair in pairs} == {who}


@given(agent_ids)
def test_agent_id_and_token_are_two_spellings_of_one_thing(agent_id):
    who = subjects.identity(agent_id, "r-1")
    assert who.requester == agent_id
    assert subjects.checked(who.agent, "r-1") == who


@given(tokens)
def test_every_token_belongs_to_one_agent_id(token):
    assert subjects.identity(Identity(token, "r-1").requester, "r-1").agent == token


@pytest.mark.parametrize("bad", ["", "a.b", "a b", "a*", ">", "ä", "a\n", "x" * 65, "a\u0000"])
def test_what_is_no_token_is_refused_by_name(bad):
    with pytest.raises(ContractError, match="request_id"):
        subjects.checked("L2-05-03", bad)
    with pytest.raises(ContractError, match="requester"):
        subjects.checked(bad, "r-1")
    assert subjects.parse_pair(f"mmg.event.{bad}.r-1.started") != Identity(bad, "r-1")


@pytest.mark.parametrize("bad", ["", "L2-05-03", "a b", "a\n", "x" * 65, "*", "é"])
def test_what_is_no_agent_id_is_refused_by_name(bad):
    with pytest.raises(ContractError, match="requester"):
        subjects.identity(bad, "r-1")


@pytest.mark.parametrize(
    "subject",
    [
        "",
        "mmg.request",
        "mmg.request.high.a",
        "mmg.request.high.a.b.c",
        "mmg.request.urgent.a.b",
        "mmg.request..a.b",
        "mmg.request.high..b",
        "mmg.request.high.a.b\n",
        "mmg.event.high.a.b",
        "xmg.request.high.a.b",
    ],
)
def test_what_is_no_request_subject_is_refused(subject):
    with pytest.raises(ContractError) as caught:
        subjects.parse_request(subject)
    assert caught.value.body.code is ErrorCode.INVALID_REQUEST


def test_templates_name_their_parameters_in_braces():
    filled = {
        "priority": "high",
        "agent": WHO.agent,
        "request_id": WHO.request_id,
        "kind": "failed",
    }
    assert subjects.template_request().format(**filled) == subjects.request(Priority.HIGH, WHO)
    assert subjects.template_queued().format(**filled) == subjects.queued(Priority.HIGH, WHO)
    assert subjects.template_chain().format(**filled) == subjects.chain(WHO, "failed")
    assert subjects.template_event().format(**filled) == subjects.event(WHO, "failed")
    assert subjects.template_progress().format(**filled) == subjects.progress(WHO)
    assert subjects.template_snapshot().format(**filled) == subjects.snapshot(WHO)
