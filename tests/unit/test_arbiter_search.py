"""Goal: no failure of a call, a card or a worker makes the arbiter over-commit, stick or forget.

Method: the real arbiter in small worlds whose states are all visited. That the search would notice
is shown by mutants: each takes one rule out of the code and has to be found.
"""

import pytest

from tests.simulation.arbiter_mutants import MUTANTS, hunt
from tests.simulation.arbiter_search import LARGE, WORLDS, line, search
from tests.simulation.arbiter_state import FAULTS


@pytest.mark.parametrize("config", WORLDS, ids=lambda config: config.name.replace(" ", "-"))
def test_no_state_of_this_world_breaks_a_rule_and_all_can_end(config):
    found = search(config)
    print(line(found))  # noqa: T201 - shown with `pytest -rP`
    if found.rule is not None:
        pytest.fail("\n".join((line(found), *found.trace)), pytrace=False)
    assert found.complete
    assert found.states > 15


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name.replace(" ", "-"))
def test_the_search_notices_a_missing_rule(mutant):
    found = hunt(mutant)
    assert found.rule is not None, f"{mutant.name} survived {found.states} states"


def test_every_name_is_one_world_and_one_mutant_and_every_fault_happens():
    names = [config.name for config in (*WORLDS, *LARGE)]
    assert len(set(names)) == len(names)
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)
    assert {world for mutant in MUTANTS for world in mutant.worlds} <= {
        config.name for config in WORLDS
    }
    assert {fault for config in WORLDS for fault in config.faults} == set(FAULTS)
