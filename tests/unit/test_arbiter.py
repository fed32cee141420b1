"""Goal: the arbiter keeps the seven rules of the design's section 5, row by row.

Method: events in, decisions out, on a bench that stands for the card.
"""

from datetime import timedelta

import pytest

from agent.core.card import Owed, Tenant, owed, smallest_set
from agent.core.leases import (
    Alert,
    Downgrade,
    FreeComfyUI,
    Grant,
    Refuse,
    Reload,
    ToCloud,
    UnloadModels,
    Wait,
    WriteDebt,
)
from tests.simulation.card_bench import (
    GIB,
    MAX_WAIT_S,
    RESERVE,
    SD15,
    SDXL,
    START,
    Bench,
    kinds,
    llm,
    none,
    one,
)

# --- rules 1 to 3: what fits -------------------------------------------------------------------


def test_a_second_sdxl_image_runs_with_sdxl_resident():
    """Free memory alone would never allow it: what ComfyUI holds counts as used."""
    bench = Bench(llm(6.7))
    bench.hold(SDXL)
    assert bench.free_mib - RESERVE < SDXL.vram_mib
    grant = one(bench.ask(), Grant)
    assert (grant.model, grant.rule, grant.downgraded) == ("sdxl", 1, False)
    assert "already holds sdxl" in grant.reason


def test_sdxl_on_an_empty_card_is_granted_by_rule_2():
    grant = one(Bench().ask(), Grant)
    assert (grant.model, grant.rule, grant.vram_mib) == ("sdxl", 2, 12288)
    assert "12.0 GB" in grant.reason
    assert "2.0 GB" in grant.reason


@pytest.mark.parametrize("gib", [7.0, 6.7])
@pytest.mark.parametrize("priority", MAX_WAIT_S)
def test_a_7b_or_8b_llm_stays_beside_sdxl_on_24_gb(gib, priority):
    said = Bench(llm(gib)).ask(priority=priority)
    assert one(said, Grant).rule == 2
    none(said, UnloadModels, WriteDebt)


def test_an_8b_llm_stays_beside_sd15():
    assert one(Bench(llm(6.7)).ask(quality="draft", need=SD15), Grant).model == "sd15"


def test_a_13b_llm_must_go_for_sdxl():
    bench = Bench(llm(14))
    said = bench.ask()
    assert kinds(said) == ["WriteDebt", "UnloadModels", "Wait"]
    assert one(bench.unload(said), Grant).model == "sdxl"


def test_a_13b_llm_stays_beside_sd15():
    assert one(Bench(llm(14)).ask(quality="draft", need=SD15), Grant).rule == 2


@pytest.mark.parametrize(("total_mib", "fits"), [(14336, True), (14335, False)])
def test_the_reserve_stays_free_to_the_mebibyte(total_mib, fits):
    said = Bench(total_mib=total_mib).ask(quality="high")
    assert bool([d for d in said if isinstance(d, Grant)]) == fits


def test_a_desktop_that_holds_one_and_a_half_gib_counts_as_used():
    assert one(Bench(llm(6.7), others_mib=1536).ask(), Grant).rule == 2
    assert one(Bench(total_mib=16384, others_mib=1536).ask(), Grant).rule == 2
    said = Bench(llm(7.5), total_mib=24576, others_mib=3072).ask()
    assert one(said, UnloadModels).models[0].model == "llama"


def test_comfyuis_other_models_are_freed_before_the_grant():
    bench = Bench(llm(6.7))
    bench.hold(SD15)
    said = bench.ask()
    assert kinds(said) == ["FreeComfyUI", "Wait"]
    assert one(said, Wait).wait_for == "freeing"
    none(bench.tell("freed", one(said, FreeComfyUI).number), Grant)
    grant = one(bench.free(said), Grant)
    assert (grant.model, grant.rule) == ("sdxl", 2)


def test_other_models_stay_where_everything_fits():
    bench = Bench()
    bench.hold(SD15)
    assert kinds(bench.ask()) == ["Grant"]


def test_comfyui_that_never_frees_is_given_up_after_ten_seconds():
    bench = Bench(llm(6.7))
    bench.hold(SD15)
    said = bench.ask()
    bench.tell("freed", one(said, FreeComfyUI).number)
    none(bench.wait(9), Alert, UnloadModels, Grant)
    later = bench.wait(2)
    assert one(later, Alert).what == "free_failed"
    assert one(later, UnloadModels)


# --- rule 4: who may unload --------------------------------------------------------------------


def test_the_debt_is_written_before_the_unload_and_names_the_rest_of_the_keep_alive():
    said = Bench(llm(14, expires_s=95)).ask()
    debt = one(said, WriteDebt).debt
    assert kinds(said).index("WriteDebt") < kinds(said).index("UnloadModels")
    assert debt.owed == (Owed(tenant="ollama", model="llama", vram_mib=14336, keep_alive_s=95),)
    assert one(said, UnloadModels).debt == debt
    assert "HIGH" in one(said, UnloadModels).reason


def test_a_model_loaded_for_good_is_owed_for_good_and_one_about_to_leave_for_a_second():
    tenant = Tenant(name="ollama")
    assert owed(tenant, llm(1), START).keep_alive_s is None
    assert owed(tenant, llm(1, expires_s=0.2), START).keep_alive_s == 1


def test_nothing_is_granted_until_the_model_is_unlisted_and_its_memory_shows():
    bench = Bench(llm(14))
    number = one(bench.ask(), UnloadModels).number
    none(bench.tell("unloaded", number) + bench.wait(1), Grant)
    bench.others_mib, model = 14336, bench.models.pop("llama")
    none(bench.wait(1), Grant)
    bench.models["llama"], bench.others_mib = model, 0
    bench.total_mib += 14336
    none(bench.wait(1), Grant)
    del bench.models["llama"]
    assert one(bench.wait(1), Grant)


def test_an_ollama_that_does_not_answer_has_unloaded_nothing():
    bench = Bench(llm(14))
    bench.tell("unloaded", one(bench.ask(), UnloadModels).number)
    bench.tenant_answers = False
    bench.models.clear()
    none(bench.wait(5), Grant)
    bench.tenant_answers = True
    assert one(bench.wait(1), Grant)


@pytest.mark.parametrize("priority", ["CRITICAL", "HIGH"])
def test_critical_and_high_unload_at_once(priority):
    assert one(Bench(llm(14)).ask(priority=priority, quality="high"), UnloadModels)


@pytest.mark.parametrize("priority", ["MEDIUM", "LOW"])
def test_medium_and_low_unload_only_past_their_max_wait(priority):
    bench = Bench(llm(14))
    said = bench.ask(priority=priority, quality="high")
    assert (one(said, Wait).rule, one(said, Wait).wait_for) == (7, "memory")
    none(bench.wait(MAX_WAIT_S[priority] - 1), UnloadModels)
    assert one(bench.wait(2), UnloadModels)


def test_medium_and_low_together_unload_once_in_ten_minutes():
    bench = Bench(llm(14))
    old = START - timedelta(seconds=700)
    bench.unload(bench.ask("a", "MEDIUM", "high", stored_at=old))
    said = bench.tell("release", "a")
    bench.reload(said)
    said = bench.ask("b", "LOW", "high", stored_at=old)
    none(said + bench.wait(590, 2), UnloadModels)
    assert one(bench.wait(20), UnloadModels)


def test_high_with_something_ahead_waits_for_its_turn():
    """A HIGH that came later may not unload for the one before it, nor past it."""
    bench = Bench(llm(14))
    bench.frozen = True
    bench.ask("first", "HIGH", "high")
    bench.ask("second", "HIGH", "high")
    bench.frozen = False
    said = bench.look()
    unload = one(said, UnloadModels)
    assert one(bench.unload([unload]), Grant).job == "first"


def test_critical_comes_before_high_and_high_before_low():
    bench = Bench()
    bench.ask("running")
    for priority in ("LOW", "HIGH", "CRITICAL", "MEDIUM"):
        bench.ask(priority.lower(), priority)
    order = []
    for _ in range(4):
        bench.tell("release", bench.drawing)
        order.append(bench.drawing)
    assert order == ["critical", "high", "medium", "low"]


def test_as_few_models_as_suffice_and_of_these_the_smallest_are_unloaded():
    bench = Bench(llm(3, "small"), llm(5, "middle"), llm(6, "large"), total_mib=24576)
    # 10240 free, 8192 beside the reserve, 4096 are missing.
    assert [m.model for m in one(bench.ask(), UnloadModels).models] == ["middle"]


def test_two_small_models_go_where_no_single_one_suffices():
    reading = Bench(llm(3, "a"), llm(4, "b"), llm(5, "c")).measured()
    assert {m.model for m in smallest_set(reading, 7 * GIB) or ()} == {"a", "b"}
    assert smallest_set(reading, 13 * GIB) is None
    assert smallest_set(reading, 0) is None


def test_no_model_is_unloaded_in_vain():
    """Where even all of them would not do, they stay."""
    bench = Bench(llm(4), others_mib=12288)
    said = bench.ask(quality="high") + bench.wait(60)
    none(said, UnloadModels, Grant)


def test_comfyuis_models_go_before_an_llm_and_only_what_still_lacks_is_unloaded():
    bench = Bench(llm(9, "large"), llm(5, "small"))
    bench.hold(SD15)
    said = bench.ask()
    assert kinds(said) == ["FreeComfyUI", "Wait"]
    assert "rule 4" in one(said, FreeComfyUI).reason
    later = bench.free(said)
    assert [m.model for m in one(later, UnloadModels).models] == ["small"]


def test_an_llm_that_grew_beside_the_resident_model_is_unloaded_and_the_model_kept():
    bench = Bench(llm(14))
    bench.hold(SDXL, 8192)
    said = bench.ask()
    none(said, FreeComfyUI)
    assert one(bench.unload(said), Grant).rule == 1


# --- plan B ------------------------------------------------------------------------------------


def test_an_unload_that_never_frees_falls_to_the_next_rule_after_ten_seconds():
    bench = Bench(llm(14))
    said = bench.ask()
    bench.tell("unloaded", one(said, UnloadModels).number)
    none(bench.wait(9.5), Grant, Alert)
    later = bench.wait(1)
    assert kinds(later) == ["Alert", "Downgrade", "Grant"]
    assert one(later, Alert).what == "unload_failed"
    assert one(later, Grant).model == "sd15"


def test_an_unload_that_fails_falls_to_the_next_rule_at_once():
    bench = Bench(llm(14))
    number = one(bench.ask(quality="high", cloud=True, priority="CRITICAL"), UnloadModels).number
    later = bench.tell("unload_failed", number, "connection refused")
    assert "connection refused" in one(later, Alert).reason
    assert one(later, ToCloud).job == "a"


def test_a_failed_unload_is_tried_again_after_a_minute_not_at_once():
    bench = Bench(llm(14))
    number = one(bench.ask(quality="high"), UnloadModels).number
    none(bench.tell("unload_failed", number, "no"), UnloadModels)
    none(bench.wait(59), UnloadModels)
    assert one(bench.wait(2), UnloadModels)


def test_an_answer_to_an_act_that_is_over_changes_nothing():
    bench = Bench(llm(14))
    number = one(bench.ask(quality="high"), UnloadModels).number
    bench.tell("unload_failed", number, "no")
    second = one(bench.wait(61), UnloadModels).number
    none(bench.tell("unload_failed", number, "late"), Alert)
    assert bench.arbiter.act is not None
    assert bench.arbiter.act.number == second


def test_models_that_were_still_stopping_are_loaded_again_before_the_debt_is_cleared():
    """Ollama unloads a busy model when its chat ends, long after we gave up on it."""
    bench = Bench(llm(14))
    said = bench.ask()
    bench.tell("unloaded", one(said, UnloadModels).number)
    bench.wait(11)
    later = bench.tell("release", "a")
    assert [m.model for m in one(later, Reload).models] == ["llama"]
    assert kinds(bench.reload(later)) == ["ClearDebt"]


# --- rule 5 ------------------------------------------------------------------------------------


def test_standard_is_downgraded_where_the_llm_may_not_be_unloaded():
    said = Bench(llm(14)).ask(priority="LOW")
    assert kinds(said) == ["Downgrade", "Grant"]
    down = one(said, Downgrade)
    assert (down.wanted, down.model) == ("sdxl", "sd15")
    grant = one(said, Grant)
    assert (grant.model, grant.downgraded, grant.rule) == ("sd15", True, 5)


@pytest.mark.parametrize("quality", ["high", "premium"])
def test_high_and_premium_are_never_downgraded(quality):
    said = Bench(llm(14)).ask(priority="LOW", quality=quality, smaller=SD15)
    none(said, Grant, Downgrade)


@pytest.mark.parametrize(("first", "expected"), [(False, UnloadModels), (True, Downgrade)])
def test_downgrade_first_restores_the_specs_order(first, expected):
    assert one(Bench(llm(14), downgrade_first=first).ask(priority="CRITICAL"), expected)


def test_downgrade_first_still_unloads_where_nothing_smaller_fits():
    assert one(Bench(llm(18), downgrade_first=True).ask(), UnloadModels)


def test_comfyui_frees_for_a_downgrade_that_needs_it():
    bench = Bench(llm(14))
    bench.hold(SDXL, 6144)
    said = bench.ask(priority="LOW")
    assert "rule 5" in one(said, FreeComfyUI).reason
    assert one(bench.free(said), Grant).model == "sd15"


def test_a_model_too_big_for_the_card_is_replaced_by_the_smaller_and_that_one_may_unload():
    bench = Bench(llm(6.7), total_mib=12288)
    said = bench.ask()
    grant = one(bench.unload(said), Grant)
    assert (grant.model, grant.downgraded) == ("sd15", True)


def test_a_model_too_big_for_the_card_is_refused_with_the_numbers():
    said = Bench(total_mib=12288).ask(quality="high")
    refused = one(said, Refuse)
    assert refused.why == "too_big"
    assert "10.0 GB" in refused.reason
