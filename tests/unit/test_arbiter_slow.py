"""Goal: an LLM is left as whole as it was found, and a failed unload costs no more than it must.

Method: events in, decisions out, on a bench that stands for the card.
"""

from datetime import timedelta

from agent.core.leases import Alert, ClearDebt, FreeComfyUI, Reload, UnloadModels, WriteDebt
from tests.simulation.card_bench import SDXL, START, Bench, kinds, llm, none, one

# --- a slow LLM --------------------------------------------------------------------------------


def slow_bench():
    """A chat has loaded the LLM while ComfyUI held SDXL: a part of it runs on the CPU."""
    bench = Bench(llm(14, vram_mib=8192))
    bench.hold(SDXL)
    return bench


def test_comfyui_frees_for_an_llm_that_is_slow_because_of_it_and_the_llm_is_loaded_whole():
    bench = slow_bench()
    said = bench.look() + bench.tell("tick")
    assert one(said, WriteDebt).debt.owed[0].vram_mib == 14336
    assert one(said, FreeComfyUI)
    later = bench.free(said)
    assert one(later, Reload).again == one(later, Reload).models
    assert kinds(bench.reload(later)) == ["ClearDebt"]
    none(bench.wait(5), WriteDebt, FreeComfyUI, Reload)


def test_nobody_frees_for_a_slow_llm_while_a_job_waits_or_draws():
    bench = Bench()
    bench.ask("a", "LOW")
    bench.hold(SDXL)
    bench.models["llama"] = llm(14, vram_mib=8192)
    none(bench.wait(5) + bench.ask("b", "LOW") + bench.tell("release", "a"), WriteDebt, FreeComfyUI)
    assert bench.drawing == "b"
    none(bench.tell("release", "b"), WriteDebt)
    assert one(bench.wait(31), WriteDebt)


def test_an_llm_that_is_slow_also_without_comfyui_was_chosen_so_and_is_left_alone():
    bench = slow_bench()
    later = bench.free(bench.look() + bench.tell("tick"))
    said = bench.reload(later, vram_mib=8192)
    assert kinds(said) == ["Alert", "ClearDebt"]
    bench.hold(SDXL)
    none(bench.look() + bench.wait(300, 5), WriteDebt, FreeComfyUI, Reload)


def test_an_llm_that_would_not_fit_without_comfyui_either_is_left_alone():
    bench = Bench(llm(30, vram_mib=8192))
    bench.hold(SDXL)
    none(bench.look() + bench.wait(5), WriteDebt, FreeComfyUI)


def test_an_llm_that_came_back_slow_because_comfyui_did_not_free_stays_owed():
    bench = Bench(llm(14))
    bench.unload(bench.ask())
    bench.hold(SDXL)
    number = one(bench.tell("release", "a"), FreeComfyUI).number
    said = bench.tell("free_failed", number, "it hangs") + bench.wait(1)
    slow = bench.reload(said, vram_mib=8192)
    assert one(slow, Alert).what == "partial_offload"
    none(slow, ClearDebt)
    none(bench.wait(30), Reload)
    later = bench.wait(30)
    assert kinds(bench.reload(bench.free(later)))[-1] == "ClearDebt"


# --- who may unload again ----------------------------------------------------------------------


def test_an_unload_that_was_refused_does_not_count_for_medium_and_low():
    bench = Bench(llm(14))
    old = START - timedelta(seconds=700)
    unload = one(bench.ask("m", "MEDIUM", "high", stored_at=old), UnloadModels)
    none(bench.tell("unload_failed", unload.number, "500"), UnloadModels)
    assert one(bench.wait(62), UnloadModels).job == "m"


def test_an_unload_that_was_accepted_and_never_happened_does_count():
    """It may still happen when a chat ends, and has cost the chat its model."""
    bench = Bench(llm(14))
    old = START - timedelta(seconds=700)
    unload = one(bench.ask("m", "MEDIUM", "high", stored_at=old), UnloadModels)
    bench.tell("unloaded", unload.number)
    none(bench.wait(120), UnloadModels)
