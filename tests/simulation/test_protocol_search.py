"""Goal: no order of crashes, lost answers, takeovers and cancels breaks a rule of the protocol.

Method: the real generators in a small world whose states are all visited. That the search would
notice is shown by mutants: each takes one guard out of the code and has to be found.
"""

import re
from pathlib import Path

import pytest

from agent.core import cancel, job, story
from tests.simulation.configs import LARGE, QUICK
from tests.simulation.protocol import line, search
from tests.simulation.protocol_mutants import MUTANTS, hunt
from tests.simulation.source import load

WORLDS = {config.name: config for config in QUICK}


@pytest.fixture(scope="module")
def code():
    return load()


@pytest.mark.parametrize("name", WORLDS)
def test_no_state_of_this_world_breaks_a_rule_and_all_can_end(name, code):
    found = search(WORLDS[name], code)
    print(line(found))  # noqa: T201 - shown with `pytest -rP`
    if found.rule is not None:
        pytest.fail("\n".join((line(found), *found.trace)), pytrace=False)
    assert found.complete
    assert found.states > 300


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name.replace(" ", "-"))
def test_the_search_notices_a_missing_guard(mutant):
    found = hunt(mutant)
    assert found.rule is not None, f"{mutant.name} survived {found.states} states"
    assert len(found.trace) > 1


@pytest.mark.parametrize("name", ["crashes", "delayed", "two-cancels", "one-cannot-read"])
def test_actors_that_are_taken_for_one_behave_alike(name, code):
    assert search(WORLDS[name], code, check=True).rule is None


def test_nobody_decides_by_the_id_of_a_link():
    """Links are told without the ids of others; `agent.bus.chain` alone compares them."""
    for module in (story, cancel, job):
        assert module.__file__ is not None
        text = Path(module.__file__).read_text()
        assert not re.search(r"\.id\b", text), module.__name__


def test_every_name_is_one_world_and_one_mutant():
    worlds = [config.name for config in (*QUICK, *LARGE)]
    assert len(set(worlds)) == len(worlds)
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)
    assert {world for mutant in MUTANTS for world in mutant.worlds} <= set(WORLDS)


def test_the_page_names_every_world_and_mutant():
    page = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text()
    names = [*(config.name for config in (*QUICK, *LARGE)), *(mutant.name for mutant in MUTANTS)]
    assert not [name for name in names if f"| {name} |" not in page]
