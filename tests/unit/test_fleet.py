"""Goal: many workers on the same lanes keep no request waiting beside a card that is free.

Method: hours of a simulated site around the real waiting room and order; that workers who all look
at once do worse shows that the judge can tell. Then what it costs, by the table of prices.
"""

from collections import Counter

import pytest
from msgspec.structs import replace

from contracts.requests import Priority
from tests.simulation import fleet_costs
from tests.simulation.fleet import ALL_AT_ONCE, IN_TURN, Fleet, Manners, play
from tests.simulation.fleet_costs import Use

FEW, MANY = 4, 120


def quiet(size: int, manners: Manners, seed: int = 1) -> Fleet:
    return play(size, 1000.0 * size, manners, seed, days=0.03)


def first(fleet: Fleet) -> Use:
    found = (one for one in fleet_costs.uses(fleet.rates()) if one.power == 2)
    return min(found, key=lambda one: one.breaks_at(len(fleet.cards)))


@pytest.mark.parametrize("size", [FEW, MANY])
def test_nobody_waits_beside_a_card_that_is_free(size):
    fleet = quiet(size, IN_TURN)
    assert fleet.tally.requests > 20 * size
    assert fleet.counts["beside"] == 0
    assert fleet.tally.late[Priority.CRITICAL] == 0


def test_who_becomes_idle_gets_what_waits_behind_a_run():
    fleet = play(20, 4000.0 * 20, IN_TURN, seed=1, days=0.1)
    kept = replace(IN_TURN, gives_first=False)
    before = play(20, 4000.0 * 20, kept, seed=1, days=0.1)
    late = Priority.CRITICAL
    assert fleet.tally.late_share(late) < before.tally.late_share(late)
    assert fleet.counts["beside"] < before.counts["beside"] / 4


def test_workers_that_all_look_at_once_keep_requests_from_free_cards():
    fleet = quiet(MANY, ALL_AT_ONCE)
    assert fleet.counts["beside"] > fleet.tally.requests / 20
    assert fleet.counts["vain"] > 4 * quiet(MANY, IN_TURN).counts["vain"]


@pytest.mark.parametrize("manners", [IN_TURN, ALL_AT_ONCE])
def test_with_more_work_than_cards_every_request_starts_once(manners):
    fleet = play(FEW, 9500.0 * FEW, manners, seed=2, days=0.02)
    started = Counter({one: len(waits) for one, waits in fleet.tally.waits_s.items()})
    assert started.total() == fleet.tally.requests > 500
    assert not any(fleet.lanes.values())
    assert not any(card.room or card.draws for card in fleet.cards)
    assert fleet.tally.wait_s(Priority.HIGH, 0.5) < fleet.tally.wait_s(Priority.LOW, 0.5)


def test_a_seed_is_always_the_same_site():
    one, two = (quiet(FEW, IN_TURN, seed=5) for _ in range(2))
    assert vars(one.tally) == vars(two.tally)
    assert one.rates() == two.rates()


def test_where_one_idle_bell_is_enough_a_site_may_be_thrice_as_large():
    before, now = first(quiet(MANY, ALL_AT_ONCE)), first(quiet(MANY, IN_TURN))
    assert before.name in ("idle bells, heard by all", "pulls of idle workers")
    assert now.name == "presence, heard by all"
    assert now.breaks_at(MANY) > 3 * before.breaks_at(MANY)


def test_the_event_store_holds_its_thirty_days_for_eighteen_workers_and_not_for_twenty():
    days = [
        fleet_costs.full_after_days(
            fleet_costs.Rates(
                workers=size,
                requests_s=1000 * size / 86_400,
                bells_s=0,
                sweeps_s=0,
                vain_s=0,
                vain_power=1,
                sweeps_power=1,
                rings_s=0,
                bought_s=0,
                drawing=0,
            )
        )
        for size in (18, 20)
    ]
    assert days[0] > 30 > days[1]
