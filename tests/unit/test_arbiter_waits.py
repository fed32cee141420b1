"""Goal: who waits and who goes to the cloud follows rules 6 and 7 of the design's section 5.

Method: events in, decisions out, on a bench that stands for the card.
"""

from datetime import timedelta

import pytest

from agent.core.leases import Grant, ToCloud, UnloadModels, Wait
from tests.simulation.card_bench import SD15, START, Bench, llm, none, one

# --- rules 6 and 7 -----------------------------------------------------------------------------


def test_a_job_whose_memory_nobody_can_give_back_goes_to_the_cloud():
    said = Bench(others_mib=14336).ask(priority="MEDIUM", quality="high", cloud=True)
    assert "no end is in sight" in one(said, ToCloud).reason


@pytest.mark.parametrize("priority", ["MEDIUM", "LOW"])
def test_medium_and_low_never_go_to_the_cloud_while_nobody_draws(priority):
    """Rule 4 reaches them in the end, also where the two have had their unload."""
    bench = Bench(llm(14))
    old = START - timedelta(seconds=700)
    bench.unload(bench.ask("first", priority, "high", stored_at=old))
    bench.reload(bench.tell("release", "first"))
    said = bench.ask("second", priority, "high", stored_at=old, cloud=True) + bench.wait(590, 2)
    none(said, ToCloud, UnloadModels)
    assert one(bench.wait(20), UnloadModels)


@pytest.mark.parametrize(("expires_s", "goes"), [(20, False), (50, True)])
def test_a_job_waits_for_an_llm_that_expires_soon_enough(expires_s, goes):
    """The LLM's turn keeps a HIGH from unloading it: it has just come back."""
    bench = Bench(llm(14, expires_s=300))
    bench.unload(bench.ask("a", quality="high"))
    bench.ask("b", "LOW", "high")
    bench.wait(121)
    reload = bench.tell("release", "a")
    expires_s += (bench.now - START).total_seconds()
    bench.reload(reload, expires_s=expires_s)
    stored_at = bench.now - timedelta(seconds=5)
    said = bench.ask("c", "HIGH", "high", cloud=True, stored_at=stored_at)
    assert one(said, ToCloud if goes else Wait)


@pytest.mark.parametrize(("run_s", "goes"), [(20, False), (40, True)])
def test_a_job_goes_to_the_cloud_where_those_ahead_take_longer_than_its_bound(run_s, goes):
    bench = Bench()
    bench.ask("ahead", run_s=run_s)
    assert one(bench.ask("b", cloud=True), ToCloud if goes else Wait)


def test_a_job_that_may_not_go_to_the_cloud_waits_with_all_that_it_waits_for():
    said = Bench(llm(14)).ask(priority="MEDIUM", quality="high")
    wait = one(said, Wait)
    assert wait.rule == 7
    assert "ollama llama 14.0 GB" in wait.reason
    assert "120 s" in wait.until


def test_a_wait_is_told_once():
    bench = Bench(llm(14))
    bench.ask(priority="MEDIUM", quality="high")
    assert bench.wait(30) == []


def test_a_waiting_job_is_granted_when_the_llm_has_expired():
    bench = Bench(llm(14))
    bench.ask(priority="LOW", quality="high")
    bench.models.clear()
    assert one(bench.wait(4), Grant)


def test_a_job_whose_model_fits_overtakes_one_whose_model_does_not():
    bench = Bench(llm(14))
    bench.ask("big", "MEDIUM", "high")
    assert one(bench.ask("small", "LOW", "draft", SD15), Grant).job == "small"
