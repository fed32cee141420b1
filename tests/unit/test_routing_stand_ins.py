"""Goal: a link says for whom its engine stands in, whichever engine that is and why it is first.

Method: engines as plain data, one or more of them in trouble; the reason of the first candidate.
"""

import pytest

from agent.core.routing import EngineFacts, Policy, route
from contracts.requests import Options, Quality, Request

LOCAL = EngineFacts(name="local", slot="gpu", models=("one",))
STABILITY = EngineFacts(name="stability", slot="cloud", models=("core",))
OPENAI = EngineFacts(name="openai", slot="cloud", models=("image",))
BUDGET = "the budget of the day is spent"


def closed(facts: EngineFacts, why: str) -> EngineFacts:
    return EngineFacts(name=facts.name, slot=facts.slot, models=facts.models, closed=why)


def reason(*engines: EngineFacts, quality: Quality = Quality.STANDARD) -> str:
    options = Options(quality=quality)
    request = Request(type="image", prompt="a lighthouse", options=options)
    return route(request, engines, Policy())[0].reason


def test_a_local_engine_stands_in_for_a_cloud_that_would_have_come_first():
    said = reason(LOCAL, closed(STABILITY, BUDGET), quality=Quality.PREMIUM)
    assert f"local stands in: stability gets no jobs ({BUDGET})" in said


def test_a_cloud_that_comes_first_says_why_and_for_which_cloud_it_stands_in():
    said = reason(LOCAL, closed(STABILITY, "3 faults"), OPENAI, quality=Quality.PREMIUM)
    assert "premium goes to the cloud first" in said
    assert "openai stands in: stability gets no jobs (3 faults)" in said


@pytest.mark.parametrize("quality", [Quality.STANDARD, Quality.PREMIUM])
def test_trouble_of_an_engine_that_would_have_come_later_is_not_mentioned(quality):
    later = {Quality.STANDARD: closed(STABILITY, "3 faults"), Quality.PREMIUM: STABILITY}
    assert "stands in" not in reason(LOCAL, later[quality], closed(OPENAI, "x"), quality=quality)
