"""Goal: facts 1 to 14 of docs/comfyui.md, on prompts and their ends, do not break our engine.

Method: the real engine on the double, with the trap of each fact switched on. Nothing sleeps; the
engine's waiting times are made short.
"""

import asyncio
from typing import Any

import pytest
from msgspec import structs

from agent.clock import SystemClock
from agent.core.faults import CancelledFault, Fault, InternalFault, OutOfMemoryFault, Remedy
from agent.core.faults import WorkflowInvalidFault as Invalid
from agent.engines.comfyui import api, run
from agent.engines.comfyui.api import Record
from agent.engines.comfyui.run import PromptLostFault, Run
from tests.comfy_rig import PROMPT, Rig, graph_of, hurry, on_step, order, pid, plain, rig
from tests.doubles.comfyui.failures import OUT_OF_MEMORY
from tests.doubles.comfyui.settings import SD15
from tests.rig import until

SLOW: dict[str, Any] = {"step_ms": 20}


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    hurry(monkeypatch)


async def fault_of(made: Rig, **changes: Any) -> Fault:
    """Return the fault that a job ends with."""
    with pytest.raises(Fault) as raised:
        await made.draw(order(**changes))
    return raised.value


async def follow(made: Rig, prompt_id: str, graph: Any) -> Record:
    """Post a graph of the test's own and follow it to its record, as the engine would."""
    server = made.server
    following = Run(server.api, server.socket, SystemClock(), 5)
    with server.socket.inbox(prompt_id) as inbox:
        await following.post(prompt_id, graph, {})
        return await following.verdict(prompt_id, inbox, graph, made.steps.append, server.tempo)


def ends(made: Rig) -> dict[str, str]:
    """Return how each prompt of the double ended."""
    return dict(made.double.log.ended)


async def test_fact_01_history_may_be_empty_right_after_success():
    async with rig(traps={"history_late": {"reads": 3}}) as made:
        assert len((await made.draw()).pictures) == 1
        assert made.asked("GET /history/") >= 4
        assert made.asked("GET /queue") == 0, "late is not lost: nobody searched the queue for it"


async def test_fact_02_an_empty_history_means_pending_running_or_lost_and_the_queue_tells():
    async with rig(**SLOW) as made:
        made.double.foreign_prompt(steps=15)
        assert len((await made.draw(order(steps=15))).pictures) == 1
        assert made.asked("GET /queue") > 2, "it asked while it waited and heard nothing"


@pytest.mark.parametrize("when", ["post", "start"])
async def test_fact_02_a_prompt_in_neither_history_nor_queue_is_lost(when: str):
    async with rig(traps={"lose_prompt": {"when": when}}) as made:
        fault = await fault_of(made)
        assert isinstance(fault, PromptLostFault)
        assert (fault.body().code, fault.remedy) == ("engine_down", Remedy.RETRY)
        assert len((await made.draw(order(attempt=2))).pictures) == 1


async def test_fact_03_failure_and_interrupt_are_told_apart_by_the_last_message():
    async with rig(traps={"fail": {"message": "broken in /opt/ComfyUI/nodes.py"}}, **SLOW) as made:
        fault = await fault_of(made)
        assert isinstance(fault, InternalFault)
        assert "node 3 (KSampler)" in fault.message
        assert "/opt/" not in fault.message

        def interrupt() -> None:
            made.double.life.interrupt(None)

        with pytest.raises(CancelledFault, match="somebody interrupted"):
            await made.draw(order(attempt=2, steps=50), on_step(2, interrupt))


async def test_fact_03_outputs_of_a_failed_prompt_are_not_a_success():
    async with (
        rig(traps={"fail": {"node": "SaveImage", "times": 1}}) as made,
        plain(made.double.url) as other,
    ):
        job = order()
        two = graph_of(job) | {
            "10": {
                "class_type": "SaveImage",
                "inputs": {"images": ["8", 0], "filename_prefix": "second"},
            }
        }
        with pytest.raises(InternalFault):
            await follow(made, pid(job), two)
        record = (await other.get(f"/history/{pid(job)}"))[pid(job)]
        assert record["outputs"], "one of the two outputs was there"


async def test_fact_04_the_same_picture_again_is_saved_anew_and_not_an_old_file(tmp_path):
    async with rig({"output_dir": tmp_path / "output"}, output_dir=tmp_path) as made:
        first = await made.draw()
        await made.engine.forget(order())
        assert not list(tmp_path.rglob("*.png"))
        again = await made.draw(order(attempt=2))
        assert again.pictures == first.pictures
        kinds = [kind for prompt, _, kind in made.double.log.executed if prompt != pid(order())]
        assert kinds == ["SaveImage"], "only the saving ran again"


async def test_fact_04_a_file_of_the_temp_folder_that_is_gone_is_made_again():
    async with rig() as made:
        first = await made.draw()
        for path in made.double.folders.of("temp").rglob("*.png"):
            path.unlink()
        assert (await made.draw(order(attempt=2))).pictures == first.pictures


async def test_fact_04_a_cached_output_needs_no_executed():
    async with rig(traps={"no_executed_on_cached": {}}) as made:
        await made.draw()
        graph = made.double.log.prompts[0]["graph"]
        record = await follow(made, "again", graph)
        assert [file.type for file in record.files("9")] == ["temp"]
        assert not [prompt for prompt, *_ in made.double.log.executed if prompt == "again"]


async def test_fact_05_events_of_others_reach_everybody_and_are_not_ours():
    async with rig(preview_method="auto", **SLOW) as made:
        made.double.foreign_prompt(steps=10, client_id=None)
        await made.draw()
        assert {step.steps for step in made.steps} == {4}
        assert [step.step for step in made.steps] == sorted(step.step for step in made.steps)


async def test_fact_05_an_end_that_nobody_is_told_of_is_found_over_http():
    async with rig(traps={"broadcast_without_client_id": {}}) as made:
        assert len((await made.draw()).pictures) == 1


async def test_fact_06_a_stuck_reader_elsewhere_stops_the_socket_but_not_the_verdict():
    async with rig(traps={"silent_socket": {}}) as made:
        assert len((await made.draw()).pictures) == 1
        assert [step.share for step in made.steps] == [1.0], "nothing was heard but the end"


async def test_fact_06_previews_cost_no_question_over_http():
    async with rig(preview_method="auto", **SLOW) as made:
        await made.draw(order(steps=20))
        assert made.asked("GET /history/") == 1
        assert made.asked("GET /queue") == 0
        assert sum(step.preview is not None for step in made.steps) == 20


async def test_fact_06_our_own_reader_reads_on_while_nobody_takes_its_frames():
    async with rig(preview_method="auto") as made:
        with made.server.socket.inbox("theirs") as inbox:
            for number in range(6000):
                made.double.life.sockets.say("progress", {"prompt_id": "theirs", "value": number})
            assert len((await made.draw()).pictures) == 1
            assert len(inbox.take()) == 4096, "bounded: the newest are kept"


async def test_fact_07_a_socket_that_came_back_deaf_is_opened_again():
    async with rig(traps={"deaf_socket_after_reconnect": {}}, **SLOW) as made:
        made.double.drop_sockets()
        await until(lambda: len(made.double.log.sockets_opened) == 2, "the deaf socket")
        await made.draw(order(steps=50))
        assert len(made.double.log.sockets_opened) == 3
        assert any(0 < step.step < 50 for step in made.steps), "it hears again"
        assert len(set(made.double.log.sockets_opened)) == 1, "the id of the POST cannot change"


async def test_fact_07_a_socket_that_has_spoken_is_not_taken_for_deaf_in_a_long_step():
    async with rig(load_ms=500, decode_ms=500) as made:
        await made.draw()
        assert len(made.double.log.sockets_opened) == 1


async def test_fact_08_the_socket_is_open_before_the_post_so_nothing_is_missed():
    async with rig(connected=False, **SLOW) as made:
        await made.draw()
        assert {step.step for step in made.steps} == {0, 1, 2, 3, 4}


async def test_fact_08_a_socket_lost_in_mid_run_costs_no_picture():
    async with rig(**SLOW) as made:
        await made.draw(order(steps=30), on_step(5, made.double.drop_sockets))
        assert ends(made) == {pid(order()): "success"}


@pytest.mark.parametrize("lost", [0, 3])
async def test_fact_09_an_interrupt_may_be_lost_and_is_repeated_until_it_hit(lost: int):
    async with rig(traps={"interrupt_lost": {"times": lost}} if lost else {}, **SLOW) as made:
        job = order(steps=100)
        async with asyncio.TaskGroup() as group:

            def cancel() -> None:
                group.create_task(made.engine.cancel(job), name="cancel")

            with pytest.raises(CancelledFault):
                await made.draw(job, on_step(2, cancel))
        assert ends(made) == {pid(job): "interrupted"}
        assert set(made.double.log.interrupts) == {pid(job)}, "never without an id"
        assert len(made.double.log.interrupts) >= lost + 1


async def test_fact_09_a_server_that_would_interrupt_anybody_is_not_used():
    async with rig(version="0.3.56", connected=False) as made:
        health = await made.engine.health()
        assert health.state == "down"
        assert "0.3.56 is too old, at least 0.3.57" in health.detail


async def test_fact_10_cancel_while_pending_removes_ours_and_leaves_others_alone():
    async with rig(**SLOW) as made:
        running, waiting = (made.double.foreign_prompt(steps=20) for _ in range(2))
        async with asyncio.TaskGroup() as group:
            job = order()
            drawing = group.create_task(_cancelled(made, job), name="ours")
            await until(lambda: made.asked("GET /queue"), "ours in the queue")
            await made.engine.cancel(job)
            await drawing
            assert not made.ours
            await until(lambda: len(made.double.log.ended) == 2, "theirs")
        assert ends(made) == {running: "success", waiting: "success"}
        assert not made.double.log.cleared


async def _cancelled(made: Rig, job: Any) -> None:
    with pytest.raises(CancelledFault):
        await made.draw(job)


async def test_fact_11_a_graph_that_is_half_invalid_is_refused_though_the_answer_is_200():
    async with rig(**SLOW) as made:
        half = graph_of(order(), steps=50) | {
            "10": {"class_type": "SaveImage", "inputs": {"filename_prefix": "x"}}
        }
        with pytest.raises(Invalid, match=r"node 10 \(SaveImage.*images"):
            await follow(made, pid(order()), half)
        queue = made.double.life.prompts
        assert (queue.running, queue.pending) == (None, [])


async def test_fact_11_a_refusal_names_node_and_reason_and_no_path_of_the_server():
    async with rig() as made:
        made.double.settings.checkpoints = ()
        fault = await fault_of(made)
        assert fault.body().code == "model_missing"
        where = "node 4 (CheckpointLoaderSimple.ckpt_name)"
        assert fault.message == f"ComfyUI has no file {SD15!r} for {where}"


@pytest.mark.parametrize("trap", ["queued_but_500", "queued_but_reset", "slow_post"])
async def test_fact_12_a_post_without_a_clear_answer_is_looked_for_and_not_repeated(
    trap: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(api, "CALL_TIMEOUT_S", 0.2)
    async with rig(traps={trap: {}}) as made:
        assert len((await made.draw()).pictures) == 1
        assert [prompt["prompt_id"] for prompt in made.double.log.prompts] == [pid(order())]


async def test_fact_12_a_post_into_a_frozen_server_is_not_repeated_before_it_answers(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(api, "CALL_TIMEOUT_S", 0.2)
    async with rig() as made:
        made.double.trap("freeze", seconds=2.5)
        assert len((await made.draw()).pictures) == 1
        assert len(made.double.log.prompts) == 1, "posted once"


async def test_fact_12_a_server_that_takes_no_prompt_is_down(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(run, "AWAY_MAX_S", 0.2)
    async with rig() as made:
        await made.double.die()
        fault = await fault_of(made)
        assert fault.body().code == "engine_down"
        assert "refused" in fault.message


async def test_fact_13_ours_go_to_the_end_of_the_queue_and_say_whose_they_are():
    async with rig(**SLOW) as made:
        theirs = [made.double.foreign_prompt(steps=3) for _ in range(3)]
        (picture,) = (await made.draw()).pictures
        assert made.double.log.started == [*theirs, pid(order())]
        ours = made.double.log.prompts[-1]
        mark = ours["extra_data"]["mmg"]
        assert (mark["agent"], mark["request_id"], mark["attempt"]) == ("L2-05-03", "r1", 1)
        assert PROMPT.encode() not in picture.data, "the prompt does not travel in the picture"


@pytest.mark.parametrize("spelling", OUT_OF_MEMORY)
async def test_fact_14_out_of_memory_in_any_spelling_is_one_fault_and_a_later_try_works(
    spelling: str,
):
    async with rig(traps={"oom": {"spelling": spelling}}) as made:
        fault = await fault_of(made)
        assert isinstance(fault, OutOfMemoryFault)
        assert (fault.remedy, len(fault.message) < 100) == (Remedy.RETRY, True)
        assert len((await made.draw(order(attempt=2))).pictures) == 1


async def test_fact_14_what_is_drawn_again_after_out_of_memory_has_a_prompt_of_its_own():
    async with rig(traps={"oom": {"node": "VAEDecode"}}) as made:
        assert isinstance(await fault_of(made), OutOfMemoryFault)
        assert not made.double.log.freed, "that is for who keeps the card"
        again = structs.replace(order(), again=1)
        assert len((await made.draw(again)).pictures) == 1
        assert [how for _, how in made.double.log.ended] == ["error", "success"]
        assert len(made.ours) == 2
        await made.engine.forget(again)
        assert not made.ours


async def test_fact_14_a_corrupt_model_is_named_and_not_tried_again_here():
    async with rig(traps={"corrupt_checkpoint": {}}) as made:
        fault = await fault_of(made)
        assert (fault.body().code, fault.remedy) == ("model_missing", Remedy.OTHER_ENGINE)
        assert "node 4 (CheckpointLoaderSimple)" in fault.message
