"""Goal: every named rule of sections 4 to 6 has a test that fails without it.

Method: each mutant takes one rule out of the real code; the unit tests are run on what is left.
"""

import pytest

from tests.simulation import card_mutants, order_mutants, spending_mutants
from tests.simulation.edited import edited
from tests.simulation.retest import cases, failing
from tests.simulation.retested import hunt
from tests.simulation.source import Edit

MUTANTS = (*order_mutants.MUTANTS, *card_mutants.MUTANTS, *spending_mutants.MUTANTS)
NOTHING = Edit("agent.core.scheduler", "ONE_IN: Final = 8", "ONE_IN: Final = 8  # as it is")


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name.replace(" ", "-"))
def test_unit_tests_notice_a_missing_rule(mutant):
    found = hunt(mutant)
    assert found.rule is not None, f"{mutant.name} survived {found.states} cases"


def test_code_that_is_as_it_was_passes():
    """Else every mutant would be found, whatever it does."""
    for files in sorted({mutant.files for mutant in MUTANTS}):
        test, count = failing(files, NOTHING)
        assert test is None
        assert count > 5


def test_the_edited_code_is_gone_afterwards():
    from agent.core import arbiter, scheduler  # noqa: PLC0415 - what is imported now is the point

    with edited(Edit(NOTHING.module, NOTHING.old, "ONE_IN: Final = 3")) as modules:
        assert modules["agent.core.scheduler"].ONE_IN == 3
        assert modules["agent.core.arbiter"].Arbiter is not arbiter.Arbiter
    from agent.core.arbiter import Arbiter  # noqa: PLC0415 - the same

    assert Arbiter is arbiter.Arbiter
    assert scheduler.ONE_IN == 8


def test_every_set_of_parameters_is_a_case():
    with edited(NOTHING, ("tests.unit.test_routing",)) as modules:
        found = list(cases(modules["tests.unit.test_routing"]))
    many = [case for test, case in found if test.__name__.startswith("test_local_only_never")]
    assert len(many) == 4 * 3 * 3
    assert not [test for test, _ in found if hasattr(test, "hypothesis")]


def test_every_mutant_has_its_own_name():
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS) >= 40
