"""Goal: models come back, leases end well, and nothing is granted on what is not known.

Method: events in, decisions out, on a bench that stands for the card.
"""

from datetime import timedelta

import pytest

from agent.core.card import Card, ComfyUI, Debt, Owed, Reading
from agent.core.leases import (
    Alert,
    ClearDebt,
    FreeComfyUI,
    Grant,
    Refuse,
    Reload,
    Revoke,
    ToCloud,
    UnloadModels,
    Wait,
    WriteDebt,
)
from tests.simulation.card_bench import (
    SDXL,
    START,
    Bench,
    kinds,
    llm,
    none,
    one,
)

# --- the debt ----------------------------------------------------------------------------------


def test_the_debt_is_paid_when_no_gpu_job_waits_after_comfyui_has_freed():
    bench = Bench(llm(14, expires_s=300))
    bench.unload(bench.ask())
    bench.hold(SDXL)
    said = bench.tell("release", "a")
    assert kinds(said) == ["FreeComfyUI"]
    said = bench.free(said)
    assert one(said, Reload).models[0].keep_alive_s == 300
    assert kinds(bench.reload(said)) == ["ClearDebt"]
    assert bench.arbiter.debt is None


def test_the_debt_is_not_paid_between_two_jobs():
    bench = Bench(llm(14))
    bench.unload(bench.ask("a"))
    bench.ask("b")
    bench.hold(SDXL)
    said = bench.tell("release", "a")
    assert one(said, Grant).job == "b"
    none(said, FreeComfyUI, Reload)


def test_the_debt_is_paid_120_s_after_the_unload_although_jobs_wait():
    bench = Bench(llm(14))
    bench.unload(bench.ask("a"))
    bench.ask("b", "MEDIUM", "high")
    bench.hold(SDXL)
    bench.wait(121)
    said = bench.tell("release", "a")
    none(said, Grant)
    said = bench.free(said)
    assert "120 s" in one(said, Reload).reason
    assert one(bench.reload(said), ClearDebt)
    assert bench.arbiter.lease is None


def test_models_that_came_back_between_jobs_stay_for_half_a_minute_unless_it_is_critical():
    bench = Bench(llm(14))
    bench.unload(bench.ask("a", "HIGH", "high"))
    bench.ask("b", "HIGH", "high")
    bench.wait(121)
    said = bench.reload(bench.tell("release", "a"))
    none(said + bench.tell("tick"), UnloadModels)
    assert one(bench.ask("c", "CRITICAL", "high"), UnloadModels)


def test_an_overdue_debt_waits_for_a_critical_job_that_would_only_unload_it_again():
    bench = Bench(llm(14))
    bench.unload(bench.ask("a"))
    bench.ask("b", "CRITICAL")
    bench.wait(121)
    assert one(bench.tell("release", "a"), Grant).job == "b"


def test_a_running_job_is_not_interrupted_for_the_debt():
    bench = Bench(llm(14))
    bench.unload(bench.ask())
    none(bench.wait(200), Revoke, Reload, FreeComfyUI)


def test_a_debt_found_at_the_start_is_paid():
    debt = Debt(
        owed=(Owed(tenant="ollama", model="llama", vram_mib=14336, keep_alive_s=None),),
        unloaded_at=START - timedelta(days=1),
    )
    bench = Bench(debt=debt)
    bench.hold(SDXL)
    said = bench.tell("tick")
    assert kinds(said) == ["FreeComfyUI"]
    said = bench.reload(bench.free(said))
    assert kinds(said) == ["ClearDebt"]


def test_a_partial_offload_after_the_reload_is_alarmed():
    bench = Bench(llm(14))
    bench.unload(bench.ask())
    said = bench.reload(bench.tell("release", "a"), vram_mib=9000)
    assert kinds(said) == ["Alert", "ClearDebt"]
    assert one(said, Alert).what == "partial_offload"


def test_a_reload_that_fails_is_tried_again_and_the_debt_stays():
    bench = Bench(llm(14))
    bench.unload(bench.ask())
    number = one(bench.tell("release", "a"), Reload).number
    said = bench.tell("reload_failed", number, "500")
    assert one(said, Alert).what == "reload_failed"
    assert bench.arbiter.debt is not None
    none(bench.wait(9), Reload)
    assert one(bench.reload(bench.wait(2)), ClearDebt)


def test_a_reload_that_lists_nothing_has_failed():
    bench = Bench(llm(14))
    bench.unload(bench.ask())
    said = bench.tell("reloaded", one(bench.tell("release", "a"), Reload).number)
    assert one(said, Alert).what == "reload_failed"
    none(said, ClearDebt)


def test_a_model_that_the_tenant_does_not_know_any_more_is_not_owed():
    bench = Bench(llm(14))
    bench.unload(bench.ask())
    reload = one(bench.tell("release", "a"), Reload)
    bench.tell("reload_failed", reload.number, "404", unknown=reload.models)
    assert one(bench.wait(12), ClearDebt)


def test_a_second_unload_adds_to_the_debt_and_keeps_the_first_keep_alive():
    bench = Bench(llm(14, "a", expires_s=300))
    bench.unload(bench.ask("x"))
    bench.ask("y")
    bench.models = {"a": llm(7, "a", expires_s=999), "b": llm(7, "b", expires_s=50)}
    said = bench.tell("release", "x")
    debt = one(said, WriteDebt).debt
    assert (debt.owed[0].model, debt.owed[0].keep_alive_s) == ("a", 300)


def test_nothing_is_reloaded_while_other_peoples_prompts_need_the_memory():
    bench = Bench(llm(14))
    bench.unload(bench.ask())
    bench.comfyui = ComfyUI(held=("theirs",), held_mib=12288, foreign=1)
    none(bench.tell("release", "a") + bench.wait(30), Reload, FreeComfyUI)
    bench.comfyui = ComfyUI(held=("theirs",), held_mib=12288)
    assert one(bench.wait(4), FreeComfyUI)


def test_a_comfyui_that_does_not_free_keeps_the_llm_away_only_until_that_is_known():
    """A slow LLM is better than none."""
    bench = Bench(llm(14))
    bench.unload(bench.ask())
    bench.hold(SDXL)
    number = one(bench.tell("release", "a"), FreeComfyUI).number
    said = bench.tell("free_failed", number, "it hangs")
    assert kinds(said + bench.wait(1)) == ["Alert", "Reload"]


def test_memory_that_others_took_is_no_failure_of_comfyui():
    bench = Bench(llm(14))
    bench.unload(bench.ask())
    bench.hold(SDXL)
    number = one(bench.tell("release", "a"), FreeComfyUI).number
    bench.empty()
    bench.others_mib = 10000
    said = bench.tell("freed", number) + bench.wait(11)
    none(said, Alert)
    assert one(said, Reload)


# --- what happens to a lease -------------------------------------------------------------------


def test_chat_traffic_that_reloads_the_model_in_mid_lease_is_told_and_not_loaded_twice():
    bench = Bench(llm(14))
    bench.unload(bench.ask())
    bench.look()
    bench.models["llama"] = llm(14)
    said = bench.look() + bench.look()
    assert one(said, Alert).what == "tenant_grew"
    assert kinds(bench.tell("release", "a")) == ["ClearDebt"]


def test_a_model_that_chat_traffic_reloaded_partly_is_loaded_again():
    bench = Bench(llm(14))
    bench.unload(bench.ask())
    bench.models["llama"] = llm(14, vram_mib=8192)
    said = bench.tell("release", "a")
    assert one(said, Reload).again == one(said, Reload).models


def test_out_of_memory_frees_and_runs_once_more_then_downgrades_then_ends():
    bench = Bench()
    bench.ask()
    for model in ("sdxl", "sd15"):
        bench.hold(SDXL)
        said = bench.tell("oom", "a")
        assert one(said, FreeComfyUI).reason == "sdxl ran out of memory"
        assert one(bench.free(said), Grant).model == model
    said = bench.tell("oom", "a")
    assert one(bench.free(said) + said, Refuse).why == "out_of_memory"


def test_out_of_memory_twice_goes_to_the_cloud_where_nothing_smaller_is_allowed():
    bench = Bench()
    bench.ask(quality="high", cloud=True)
    for expected in (Grant, ToCloud):
        bench.hold(SDXL)
        assert one(bench.free(bench.tell("oom", "a")), expected)


def test_runs_out_of_memory_of_an_earlier_worker_count():
    assert one(Bench().ask(ooms=2), Grant).model == "sd15"


def test_a_lost_card_revokes_the_lease_and_sends_who_waits_elsewhere():
    bench = Bench()
    bench.ask("runs")
    bench.ask("b", run_s=1)
    bench.ask("c", "LOW", cloud=True)
    bench.no_card = "fell off the bus"
    said = bench.tell("card_lost", "GpuIsLost: fell off the bus")
    assert one(said, Revoke).job == "runs"
    assert one(said, Refuse).job == "b"
    assert one(said, ToCloud).job == "c"
    assert one(said, Alert).what == "card_lost"
    assert bench.arbiter.lease is None


def test_a_lost_card_that_is_back_is_granted_again_and_its_debt_paid():
    bench = Bench(llm(14))
    bench.unload(bench.ask())
    bench.no_card = "gone"
    bench.tell("card_lost", "gone")
    none(bench.wait(5), Reload, Grant)
    assert bench.arbiter.debt is not None
    bench.no_card = ""
    assert one(bench.reload(bench.tell("card_back") + bench.wait(1)), ClearDebt)
    bench.models.clear()
    assert one(bench.ask("b"), Grant)


@pytest.mark.parametrize("why", ["LibRmVersionMismatch: the driver was upgraded", "no NVML"])
def test_without_a_driver_gpu_engines_are_off(why):
    bench = Bench()
    bench.no_card = why
    said = bench.ask()
    refused = one(said, Refuse)
    assert (refused.why, refused.reason) == ("no_card", why)


def test_without_a_card_comfyui_on_the_cpu_still_draws():
    bench = Bench()
    bench.no_card = "no NVML"
    bench.comfyui = ComfyUI(on_cpu=True)
    assert one(bench.ask(), Grant).rule == 0
    none(bench.tell("card_lost", "no NVML"), Revoke)
    assert one(bench.ask("b"), Wait).wait_for == "card"


def test_release_and_cancel_may_be_called_twice_and_for_who_waits():
    bench = Bench()
    bench.ask("a")
    bench.ask("b")
    bench.tell("cancel", "b")
    assert bench.tell("release", "a") == []
    assert bench.tell("release", "a") == []
    assert bench.tell("cancel", "nobody") == []
    assert bench.arbiter.lease is None
    assert not bench.arbiter.waiting


def test_a_cancel_during_the_unload_ends_in_a_reload():
    bench = Bench(llm(14))
    said = bench.ask()
    none(bench.tell("cancel", "a"), Reload)
    assert one(bench.reload(bench.unload(said)), ClearDebt)


# --- what is not known -------------------------------------------------------------------------


def test_no_grant_without_a_reading():
    bench = Bench()
    bench.frozen = True
    assert one(bench.ask(), Wait).wait_for == "reading"


def test_no_grant_on_a_reading_older_than_three_seconds():
    bench = Bench()
    bench.look()
    bench.frozen = True
    bench.now += timedelta(seconds=4)
    none(bench.ask(), Grant)


def test_no_grant_on_a_reading_from_before_the_last_release():
    bench = Bench()
    bench.ask("a")
    bench.look()
    bench.frozen = True
    none(bench.tell("release", "a") + bench.ask("b"), Grant)
    bench.frozen = False
    assert one(bench.look(), Grant)


def test_a_reading_that_arrives_late_does_not_replace_a_newer_one():
    bench = Bench(llm(14))
    old = Reading(taken_at=START, card=Card(total_mib=24576, free_mib=24576), comfyui=ComfyUI())
    bench.ask(priority="LOW", quality="high")
    none(bench.tell("reading", old), Grant)


def test_a_frozen_nvml_is_alarmed_and_the_cloud_takes_over():
    bench = Bench()
    bench.frozen = True
    bench.ask("a", "LOW", cloud=True)
    bench.ask("b", "LOW")
    said = bench.wait(6)
    assert one(said, Alert).what == "card_unknown"
    assert one(said, ToCloud).job == "a"
    bench.frozen = False
    assert one(bench.wait(2), Grant).job == "b"


def test_other_peoples_prompts_are_a_busy_card():
    bench = Bench()
    bench.comfyui = ComfyUI(foreign=2)
    wait = one(bench.ask(), Wait)
    assert wait.wait_for == "card"
    assert "2 of other people's prompts" in wait.reason
    bench.empty()
    assert one(bench.wait(4), Grant)


def test_a_comfyui_that_does_not_answer_gets_nothing():
    bench = Bench()
    bench.comfyui = None
    assert one(bench.ask("a"), Wait).wait_for == "comfyui"
    assert one(bench.ask("b", cloud=True), ToCloud)
