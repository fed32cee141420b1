"""Goal: the arbiter asks the scheduler who is next, preempts for CRITICAL, and says what to expect.

Method: events in, decisions out, on a bench that stands for the card.
"""

from datetime import timedelta
from math import inf

import pytest

from agent.core.leases import (
    Alert,
    Elsewhere,
    FreeComfyUI,
    Grant,
    Preempt,
    Refuse,
    Reload,
    ToCloud,
    UnloadModels,
    Wait,
)
from agent.core.scheduler import Night, Rules, Starts
from tests.simulation.card_bench import SD15, SDXL, START, Bench, llm, none, one

DUE = Starts(count=7)


def started(bench, count):
    """Let each job that draws end, and return who drew."""
    order = []
    for _ in range(count):
        order.append(bench.drawing)
        bench.tell("release", bench.drawing)
    return order


# --- the order ---------------------------------------------------------------------------------


def test_jobs_of_a_class_get_the_card_in_the_order_in_which_they_were_stored():
    bench = Bench()
    bench.ask("draws", seq=1)
    for seq in (5, 3, 4):
        bench.ask(f"s{seq}", seq=seq)
    assert started(bench, 4) == ["draws", "s3", "s4", "s5"]


def test_every_eighth_start_goes_to_the_one_longest_past_its_bound():
    bench = Bench()
    for number in range(20):
        bench.ask(f"h{number}", seq=number + 1)
    for number in range(3):
        bench.ask(f"l{number}", "LOW", seq=number + 50, stored_at=START - timedelta(seconds=900))
    order = started(bench, 20)
    assert [place for place, job in enumerate(order, 1) if job[0] == "l"] == [8, 16]
    assert [job for job in order if job[0] == "l"] == ["l0", "l1"]


def test_a_requester_with_many_jobs_takes_turns_with_one_that_has_few():
    bench = Bench()
    for number in range(4):
        bench.ask(f"a{number}", requester="A", seq=number + 1)
    bench.ask("b0", requester="B", seq=9)
    assert started(bench, 4) == ["a0", "b0", "a1", "a2"]


def test_running_jobs_of_other_slots_count_for_fairness():
    bench = Bench()
    bench.ask("draws", requester="C", seq=1)
    bench.ask("a", requester="A", seq=2)
    bench.ask("b", requester="B", seq=3)
    bench.tell("busy_elsewhere", Elsewhere(running=(("A", 1),)))
    assert started(bench, 3) == ["draws", "b", "a"]


def test_a_job_whose_model_comfyui_holds_goes_before_one_that_would_swap_it():
    bench = Bench()
    bench.ask("draws", seq=1)
    bench.hold(SDXL)
    bench.ask("small", "HIGH", "draft", SD15, seq=2)
    bench.ask("large", seq=3)
    assert started(bench, 2) == ["draws", "large"]


def test_a_low_past_its_bound_has_its_turn_also_where_an_llm_must_go_for_it():
    bench = Bench(llm(14))
    bench.ask("draws", "HIGH", "draft", SD15)
    bench.ask("h", "HIGH", "draft", SD15)
    bench.ask("l", "LOW", "high", stored_at=START - timedelta(seconds=900))
    bench.arbiter.starts = DUE
    said = bench.tell("release", "draws")
    assert one(said, UnloadModels).job == "l"
    assert one(bench.unload(said), Grant).job == "l"


def test_high_does_not_unload_while_somebody_is_ahead_of_it():
    """A MEDIUM that must start now is ahead, until its bound has passed."""
    bench = Bench(llm(14))
    bench.look()
    bench.ask("m", "MEDIUM", "high", stored_at=bench.now - timedelta(seconds=115))
    said = bench.ask("h", "HIGH", "high")
    assert [turn.job for turn in bench.arbiter.turns(bench.now)] == ["m", "h"]
    none(said + bench.wait(4), UnloadModels)
    assert one(bench.wait(2), UnloadModels)


# --- the night ---------------------------------------------------------------------------------

NIGHT = Rules(night=Night(from_hour=22, to_hour=6))


def test_low_waits_for_the_night_on_an_idle_card_and_starts_when_it_opens():
    bench = Bench(rules=NIGHT)
    bench.now = START + timedelta(hours=12)
    wait = one(bench.ask("l", "LOW", cloud=True, stored_at=bench.now), Wait)
    assert (wait.wait_for, wait.rule) == ("night", 7)
    assert "10.0 h" in wait.reason
    bench.now = START + timedelta(hours=22)
    assert one(bench.wait(2), Grant).job == "l"


def test_at_the_opening_of_the_night_the_low_of_the_day_do_not_all_go_to_the_cloud():
    bench = Bench(rules=NIGHT)
    bench.now = START + timedelta(hours=12)
    for number in range(3):
        bench.ask(f"l{number}", "LOW", cloud=True, stored_at=bench.now)
    bench.now = START + timedelta(hours=22)
    said = bench.wait(3)
    assert one(said, Grant).job == "l0"
    none(said, ToCloud)


def test_models_come_back_although_low_waits_for_the_night():
    bench = Bench(llm(14), rules=NIGHT)
    bench.now = START + timedelta(hours=12)
    bench.ask("l", "LOW", "high", stored_at=bench.now)
    bench.unload(bench.ask("h", "HIGH", "high", stored_at=bench.now))
    assert one(bench.tell("release", "h"), Reload)


# --- preemption --------------------------------------------------------------------------------


@pytest.mark.parametrize("priority", ["MEDIUM", "LOW"])
def test_a_critical_interrupts_a_lower_run_that_would_take_long(priority):
    bench = Bench()
    bench.ask("slow", priority, run_s=30)
    bench.wait(4)
    said = bench.ask("now", "CRITICAL", cloud=True)
    preempt = one(said, Preempt)
    assert (preempt.job, preempt.by) == ("slow", "now")
    assert preempt.lost_s == pytest.approx(4, abs=0.1)
    assert preempt.rest_s == pytest.approx(26, abs=0.1)
    assert "4 GPU seconds are thrown away" in preempt.reason
    none(said, ToCloud)
    none(bench.wait(1), Preempt, ToCloud)
    assert one(bench.tell("release", "slow"), Grant).job == "now"


@pytest.mark.parametrize(("ran_s", "is_cut"), [(4, True), (5.5, False), (10, False)])
def test_a_run_that_is_nearly_over_is_not_interrupted(ran_s, is_cut):
    bench = Bench()
    bench.ask("slow", "LOW", run_s=10)
    bench.wait(ran_s)
    said = bench.ask("now", "CRITICAL", cloud=True)
    assert bool([d for d in said if isinstance(d, Preempt)]) is is_cut
    none(said, ToCloud)


def test_a_run_that_takes_much_longer_than_expected_is_interrupted():
    bench = Bench()
    bench.ask("hangs", "LOW", run_s=10)
    bench.wait(40)
    assert one(bench.ask("now", "CRITICAL"), Preempt).rest_s == pytest.approx(30, abs=0.1)


@pytest.mark.parametrize("drawing", ["CRITICAL", "HIGH"])
def test_a_critical_interrupts_neither_another_nor_a_high(drawing):
    bench = Bench()
    bench.ask("draws", drawing, run_s=30)
    none(bench.ask("now", "CRITICAL") + bench.wait(5), Preempt)


@pytest.mark.parametrize("priority", ["HIGH", "MEDIUM", "LOW"])
def test_only_a_critical_interrupts(priority):
    bench = Bench()
    bench.ask("draws", "LOW", run_s=30)
    said = bench.ask("now", priority, stored_at=START - timedelta(seconds=900))
    none(said + bench.wait(5), Preempt)


@pytest.mark.parametrize(("times", "is_cut"), [(0, True), (1, True), (2, False), (3, False)])
def test_a_job_is_interrupted_at_most_twice(times, is_cut):
    bench = Bench()
    bench.ask("slow", "LOW", run_s=30, preempted=times)
    said = bench.ask("now", "CRITICAL")
    assert bool([d for d in said if isinstance(d, Preempt)]) is is_cut


def test_two_criticals_interrupt_once_and_the_second_follows_the_first():
    bench = Bench()
    bench.ask("slow", "LOW", run_s=30)
    assert one(bench.ask("first", "CRITICAL"), Preempt)
    none(bench.ask("second", "CRITICAL"), Preempt)
    assert one(bench.tell("release", "slow"), Grant).job == "first"
    assert one(bench.tell("release", "first"), Grant).job == "second"


def test_no_work_is_thrown_away_for_a_critical_that_could_not_start_then():
    bench = Bench(others_mib=14336)
    bench.ask("small", "LOW", "draft", SD15, run_s=30)
    said = bench.ask("now", "CRITICAL", "high", cloud=True)
    none(said, Preempt)
    assert one(said, ToCloud).job == "now"


def test_a_critical_that_is_cancelled_before_the_card_is_free_leaves_it_to_the_next():
    bench = Bench()
    bench.ask("slow", "LOW", run_s=30)
    bench.ask("h", "HIGH")
    bench.ask("now", "CRITICAL")
    bench.tell("cancel", "now")
    assert one(bench.tell("release", "slow"), Grant).job == "h"


def test_a_preempted_job_starts_again_after_the_critical():
    bench = Bench()
    bench.ask("slow", "LOW", run_s=30)
    bench.ask("now", "CRITICAL")
    bench.tell("release", "slow")
    bench.ask("slow", "LOW", run_s=30, preempted=1)
    assert one(bench.tell("release", "now"), Grant).job == "slow"


def test_only_critical_for_ten_minutes_while_others_wait_is_told_once():
    bench = Bench()
    bench.ask("c0", "CRITICAL", run_s=30)
    bench.ask("h", "HIGH")
    alerts = []
    for number in range(1, 60):
        bench.ask(f"c{number}", "CRITICAL", run_s=30)
        alerts += bench.wait(20, 5) + bench.tell("release", bench.drawing)
    assert one(alerts, Alert).what == "critical_starves"
    assert started(bench, 2)[-1] == "h"


# --- rule 6 with what the cloud has to do ------------------------------------------------------


@pytest.mark.parametrize(("rest_s", "goes"), [(4, False), (6, True)])
def test_a_critical_stays_for_a_wait_of_a_few_seconds(rest_s, goes):
    """A cloud takes longer to begin with."""
    bench = Bench()
    bench.ask("draws", "HIGH", run_s=rest_s)
    assert one(bench.ask("now", "CRITICAL", cloud=True), ToCloud if goes else Wait)


@pytest.mark.parametrize(("cloud_s", "goes"), [((0, 90), True), ((50, 60), False)])
def test_a_job_goes_to_the_cloud_only_if_it_starts_sooner_there(cloud_s, goes):
    bench = Bench()
    bench.ask("draws", run_s=40)
    bench.tell("busy_elsewhere", Elsewhere(cloud_s=cloud_s))
    assert one(bench.ask("h", cloud=True), ToCloud if goes else Wait)


def test_jobs_that_are_sent_to_the_cloud_fill_its_slots():
    bench = Bench()
    bench.ask("draws", run_s=40)
    bench.tell("busy_elsewhere", Elsewhere(cloud_s=(0, 0), cloud_run_s=35))
    for job in ("a", "b"):
        assert one(bench.ask(job, cloud=True), ToCloud)
    bench.wait(1)
    assert one(bench.ask("c", cloud=True), ToCloud)
    assert one(bench.ask("d", cloud=True), ToCloud)
    assert one(bench.ask("e", cloud=True, stored_at=bench.now - timedelta(seconds=20)), Wait)


# --- what each may expect ----------------------------------------------------------------------


def test_the_outlook_adds_up_the_runs_ahead_and_their_errors():
    bench = Bench()
    bench.ask("draws", run_s=20, run_error_s=3, seq=1)
    bench.ask("b", "MEDIUM", run_s=10, run_error_s=4, seq=2)
    bench.ask("a", run_s=15, run_error_s=4, seq=3)
    first, second = bench.arbiter.outlook(bench.now)
    assert [first.job, second.job] == ["a", "b"]
    assert first.start_s == pytest.approx(20, abs=0.1)
    assert second.start_s == pytest.approx(35, abs=0.1)
    assert (second.early_s, second.late_s) == pytest.approx((30, 40), abs=0.1)
    assert second.place == 2
    assert "draws draws on the card" in second.sentence
    assert "rule 4: 1 of higher classes come before MEDIUM" in second.sentence
    assert "a higher priority" in second.sentence


def test_the_outlook_of_a_job_that_waits_for_memory_says_when_it_may_unload():
    bench = Bench(llm(14))
    bench.ask("m", "MEDIUM", "high")
    (found,) = bench.arbiter.outlook(bench.now)
    assert found.start_s == pytest.approx(120, abs=1)
    assert "ollama llama 14.0 GB" in found.sentence
    assert "leave to use the cloud" in found.sentence
    assert "draft or standard" in found.sentence


def test_the_outlook_without_an_end_in_sight_says_so():
    bench = Bench(others_mib=14336)
    bench.ask("m", "MEDIUM", "high")
    assert bench.arbiter.outlook(bench.now)[0].start_s == inf


def test_the_outlook_of_low_outside_its_window_is_the_opening():
    bench = Bench(rules=NIGHT)
    bench.now = START + timedelta(hours=12)
    bench.ask("l", "LOW", stored_at=bench.now)
    (found,) = bench.arbiter.outlook(bench.now)
    assert found.start_s == pytest.approx(36000, abs=1)
    assert "night window" in found.sentence


def test_the_outlook_of_a_critical_says_what_alone_comes_before_it():
    bench = Bench()
    bench.ask("draws", run_s=20)
    bench.ask("c", "CRITICAL")
    assert "cannot be interrupted" in bench.arbiter.outlook(bench.now)[0].sentence


def test_an_outlook_changes_nothing():
    bench = Bench(llm(14))
    bench.ask("m", "MEDIUM", "high")
    before = dict(vars(bench.arbiter))
    bench.arbiter.outlook(bench.now)
    assert vars(bench.arbiter) == before
    none(bench.said, Refuse, FreeComfyUI)
