"""Goal: no promise about order, card, LLM and cloud is broken on thirty simulated days.

Method: the real core in a seeded loop of events; each step is judged by what is true. That the
judge would notice is shown by cores with one rule less.
"""

import pytest
from msgspec.structs import replace

from contracts.requests import Priority
from tests.simulation import arbiter_mutants, card_mutants, days, order_mutants
from tests.simulation.day import Day
from tests.simulation.day_loop import Config
from tests.simulation.edited import edited
from tests.simulation.source import Edit
from tests.simulation.traffic import Traffic
from tests.simulation.violation import Violation

EDITS = {
    **{one.name: Edit(one.module, one.old, one.new) for one in arbiter_mutants.MUTANTS},
    **{one.name: Edit(one.module, one.old, one.new) for one in order_mutants.MUTANTS},
    **{one.name: Edit(one.module, one.old, one.new) for one in card_mutants.MUTANTS},
}
LARGE = Config(name="large", traffic=Traffic(per_day=1500, days=0.5), llm="20g", cloud_slots=0)
GOOD = replace(LARGE, trouble=0.0)
BAD = replace(LARGE, trouble=0.2)
BUSY = Config(name="busy", traffic=Traffic.of_load(1.1, days=0.2), cloud_slots=0)
CLOUD = Config(name="cloud", traffic=Traffic.of_load(0.95, days=0.2), llm="20g")


@pytest.mark.timeout(300)  # seven seconds, on a machine that does nothing else
def test_thirty_simulated_days_break_no_promise():
    assert len(days.QUICK) == 30
    played = [days.play(seed) for seed in range(1, len(days.QUICK) + 1)]
    assert [one.broken for one in played if one.broken] == []
    assert sum(one.tally.requests for one in played) > 5000
    assert all(one.tally.unloads for one in played if one.config.llm == "20g")


def test_a_seed_is_always_the_same_day():
    first, again = (days.play(24).tally for _ in range(2))
    assert vars(first) == vars(again)


@pytest.mark.parametrize(("load_", "most"), [(0.6, 3.5), (1.1, 3.5)])
def test_with_two_cloud_slots_high_starts_in_time(load_, most):
    """A few hours; the table in docs/scheduling.md has longer runs."""
    traffic = Traffic.of_load(load_, days=0.2)
    tally = Day(Config(name="high", traffic=traffic), seed=3).run()
    assert tally.late_share(Priority.HIGH) <= most
    assert len(tally.waits_s[Priority.HIGH]) > 100


@pytest.mark.parametrize(
    ("mutant", "config", "rule"),
    [
        ("reserve ignored", LARGE, "fit the card"),
        ("rule 1 without measuring", LARGE, "fit the card"),
        ("old reading granted on", LARGE, "fit the card"),
        ("rule 4 for everyone at once", LARGE, "MEDIUM and LOW wait"),
        ("debt never paid", GOOD, "the LLM comes back"),
        ("failed reload clears the debt", BAD, "a debt is cleared"),
        ("no start in eight", BUSY, "one start in eight"),
        ("every unload of medium and low at once", LARGE, "one unload in ten minutes"),
        ("medium and low leave an idle card", CLOUD, "idle card"),
        ("high is preempted", BUSY, "only MEDIUM and LOW"),
        ("high quality downgraded", LARGE, "never downgraded"),
        ("oom ends the job", BUSY, "every request ends"),
    ],
)
def test_the_judge_of_the_days_notices_a_missing_rule(mutant, config, rule):
    with edited(EDITS[mutant]) as modules:
        arbiter = modules["agent.core.arbiter"].Arbiter
    with pytest.raises(Violation, match=rule):
        Day(config, 5, arbiter).run()
