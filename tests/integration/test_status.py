"""Goal: an operator sees what the card does and why each request waits, and has models loaded and
unloaded without breaking what draws.

Method: a real worker process on the fake machine, asked over a real nats-server.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agent.bus import history, overview
from agent.bus.connection import Bus, connect
from agent.embedded import EmbeddedServer
from contracts import subjects
from contracts.errors import ContractError, ErrorCode
from contracts.events import Alert
from contracts.status import CardState, Loaded, ModelWish, WorkerModels, WorkerReport
from tests.doubles.machine import LLMS, Machine
from tests.machine_rig import Requests, held, llms, worker_on
from tests.rig import Agent, until

LLAMA, BIG, MISTRAL = "llama3:8b", "llama2:13b", "mistral:7b"


@pytest.fixture
def requests(agent: Agent) -> Requests:
    return Requests(agent)


class Operator:
    """Asks the worker of a test, by its name, so that the answer is all there is to wait for."""

    def __init__(self, bus: Bus, worker: str) -> None:
        self.bus, self.worker = bus, worker

    async def report(self) -> WorkerReport:
        (one,) = await overview.ask_reports(self.bus, self.worker, wait_s=5.0)
        return one

    async def card(self) -> CardState:
        (one,) = (await self.report()).cards
        return one

    async def models(self) -> WorkerModels:
        (one,) = await overview.ask_models(self.bus, self.worker, wait_s=5.0)
        return one

    async def load(self, **wish: Any) -> Loaded:
        return await overview.tell_worker(self.bus, "load", self.worker, ModelWish(**wish))

    async def unload(self, **wish: Any) -> Loaded:
        return await overview.tell_worker(self.bus, "unload", self.worker, ModelWish(**wish))

    async def alerts(self) -> list[tuple[str, str]]:
        """Return what was raised and cleared, in order."""
        kept = await history.read(self.bus, subjects.STREAM_EVENTS, subjects.alert("*"), 100)
        found = [msgspec.json.decode(one.data, type=Alert) for one in kept]
        return [(one.name, one.state) for one in found]


@pytest.fixture
async def operator(server: EmbeddedServer, tmp_path: Path) -> AsyncIterator[Operator]:
    async with await connect([server.url], "operator") as bus:
        yield Operator(bus, f"w1-{tmp_path.name}"[-60:])


async def test_the_status_shows_card_lease_and_one_sentence_for_each_who_waits(
    tmp_path: Path, server: EmbeddedServer, requests: Requests, operator: Operator
) -> None:
    async with (
        Machine(llm=LLAMA, clouds=("stability",), comfyui={"step_ms": 100}) as machine,
        worker_on(machine, server.url, tmp_path),
    ):
        await requests.ask("r1", lane="high", steps=20)
        await until(lambda: machine.comfyui.life.prompts.running, "the run")
        await requests.ask("r2", lane="low", local_only=True)
        await requests.ask("r3", lane="medium", local_only=True)

        async def both_wait() -> bool:
            return len((await operator.report()).waits) == 2

        await until(both_wait, "two who wait")
        seen = await operator.report()
        (one,) = seen.cards
        assert (one.state, one.missing, one.total_mib) == ("ready", "", 24576)
        assert one.uuid == machine.card.uuid
        assert one.used_mib == 24576 - (one.free_mib or 0)
        assert one.temperature_c is not None
        (tenant,) = one.tenants
        assert [(model.name, model.vram_mib) for model in tenant.models] == [(LLAMA, LLMS[LLAMA])]
        assert one.lease is not None
        assert (one.lease.job.split("#")[0], one.lease.model) == ("L2-01.r1", "sdxl-1.0")
        assert [wait.request_id for wait in seen.waits] == ["r3", "r2"]
        for place, wait in enumerate(seen.waits, start=1):
            assert (wait.place, wait.slot) == (place, "gpu")
            assert "L2-01.r1" in wait.sentence
            assert "draws on the card" in wait.sentence
            assert "What would change it" in wait.sentence
            assert wait.start_s is not None
            assert wait.early_s is not None
            assert wait.late_s is not None
            assert wait.early_s <= wait.start_s <= wait.late_s
        (job,) = seen.jobs
        assert (job.request_id, job.engine, job.model) == ("r1", "comfyui", "sdxl-1.0")
        assert seen.running == ("L2-01.r1",)
        slots = {slot.kind: (slot.size, slot.taken, slot.waiting) for slot in seen.slots}
        assert slots["gpu"] == (1, 1, 2)
        engines = {engine.name: engine for engine in seen.engine_states}
        assert engines["comfyui"].ready
        assert engines["stability"].price_usd > 0
        assert seen.money.day_limit_usd == 10
        names = [one.what for one in seen.decisions]
        assert "grant" in names
        assert "route" in names
        assert all(one.seq > 0 for one in seen.decisions)
        for who in ("r1", "r2", "r3"):
            await requests.end(who)


async def test_the_models_tell_what_can_run_and_why_the_rest_cannot(
    tmp_path: Path, server: EmbeddedServer, operator: Operator
) -> None:
    async with Machine(llm=LLAMA) as machine, worker_on(machine, server.url, tmp_path):
        found = await operator.models()
        comfyui = next(one for one in found.engines if one.name == "comfyui")
        able = {flow.name for flow in comfyui.workflows if not flow.problems}
        assert "sdxl-text2img" in able
        assert "sdxl-1.0" in comfyui.models
        (ollama,) = found.tenants
        assert [one.name for one in ollama.loaded] == [LLAMA]
        assert BIG in ollama.installed
        await machine.ollama.die()
        found = await operator.models()
        assert not found.tenants[0].answers


async def test_an_operator_loads_and_unloads_an_llm_and_nothing_is_owed_for_it(
    tmp_path: Path, server: EmbeddedServer, operator: Operator
) -> None:
    async with Machine() as machine, worker_on(machine, server.url, tmp_path):
        told = await operator.load(model=MISTRAL, keep_alive_s=600)
        assert told.models == (("ollama", MISTRAL),)
        assert llms(machine) == [MISTRAL]
        assert told.free_before_mib is not None
        assert told.free_after_mib is not None
        assert told.free_before_mib - told.free_after_mib == LLMS[MISTRAL]
        told = await operator.unload(model=MISTRAL)
        assert told.models == (("ollama", MISTRAL),)
        assert llms(machine) == []
        seen = await operator.card()
        assert seen.debt is None
        assert not any(alert.name == "tenant_grew" for alert in (await operator.report()).alerts)
        with pytest.raises(ContractError) as caught:
            await operator.unload(model=MISTRAL)
        assert caught.value.body.code is ErrorCode.MODEL_MISSING


async def test_beside_a_comfyui_on_the_cpu_an_llm_is_loaded_and_unloaded_too(
    tmp_path: Path, server: EmbeddedServer, operator: Operator
) -> None:
    async with (
        Machine(comfyui={"card": None}) as machine,
        worker_on(machine, server.url, tmp_path),
    ):
        assert (await operator.card()).state == "cpu"
        told = await operator.load(model=MISTRAL)
        assert (told.free_before_mib, llms(machine)) == (None, [MISTRAL])
        told = await operator.unload()
        assert (told.models, llms(machine)) == ((("ollama", MISTRAL),), [])


async def test_a_load_that_does_not_fit_is_refused_and_says_what_would_help(
    tmp_path: Path, server: EmbeddedServer, operator: Operator
) -> None:
    async with (
        Machine(llm=BIG, desktop_mib=9000) as machine,
        worker_on(machine, server.url, tmp_path),
    ):
        with pytest.raises(ContractError, match="unload_others makes room") as caught:
            await operator.load(model=LLAMA)
        assert caught.value.body.code is ErrorCode.OUT_OF_MEMORY
        assert llms(machine) == [BIG]
        await operator.load(model=LLAMA, unload_others=True)
        assert llms(machine) == [LLAMA]
        assert (await operator.card()).debt is None
        with pytest.raises(ContractError) as caught:
            await operator.load(model="nobody:7b")
        assert caught.value.body.code is ErrorCode.MODEL_MISSING
        with pytest.raises(ContractError) as caught:
            await operator.load(model=LLAMA, engine="vllm")
        assert caught.value.body.code is ErrorCode.NO_ENGINE
        with pytest.raises(ContractError) as caught:
            await operator.load()
        assert caught.value.body.code is ErrorCode.INVALID_REQUEST


async def test_comfyui_holds_a_model_after_a_load_and_none_after_an_unload(
    tmp_path: Path, server: EmbeddedServer, requests: Requests, operator: Operator
) -> None:
    async with Machine() as machine, worker_on(machine, server.url, tmp_path):
        told = await operator.load(model="sdxl-1.0")
        assert told.models == (("comfyui", "sdxl-1.0"),)
        assert held(machine) == ["sdxl-1.0"]
        assert (await operator.card()).comfyui.models == ("sdxl-1.0",)
        end = await requests.image("r1")
        assert "rule 1" in end["reason"], "the model is there already"
        told = await operator.unload(engine="comfyui")
        assert told.models == (("comfyui", "sdxl-1.0"),)
        assert held(machine) == []
        assert (await operator.card()).lease is None


async def test_an_unload_waits_for_who_draws_and_breaks_no_lease(
    tmp_path: Path, server: EmbeddedServer, requests: Requests, operator: Operator
) -> None:
    async with (
        Machine(llm=LLAMA, comfyui={"step_ms": 50}) as machine,
        worker_on(machine, server.url, tmp_path),
    ):
        await requests.ask("r1", steps=40)
        await until(lambda: machine.comfyui.life.prompts.running, "the run")
        told = await operator.unload()
        assert set(told.models) >= {("ollama", LLAMA)}
        end = await requests.end("r1")
        assert (end["kind"], end["retry_count"]) == ("completed", 0)
        assert llms(machine) == []
        assert held(machine) == []
        assert (await operator.card()).debt is None


async def test_what_an_operator_unloads_while_it_is_owed_does_not_come_back(
    tmp_path: Path, server: EmbeddedServer, requests: Requests, operator: Operator
) -> None:
    async with (
        Machine(llm=BIG, comfyui={"step_ms": 40}) as machine,
        worker_on(machine, server.url, tmp_path) as worker,
    ):
        await requests.ask("r1", lane="high", steps=30)
        await worker.logs("card.unloadmodels")
        await until(lambda: machine.comfyui.life.prompts.running, "the run")
        seen = await operator.card()
        assert seen.debt is not None
        assert [one.name for one in seen.debt.models] == [BIG]
        await operator.unload(model=BIG)
        assert (await operator.card()).debt is None
        await requests.end("r1")
        await worker.logs("card.cleardebt")
        assert llms(machine) == []


async def test_a_critical_request_interrupts_an_operators_load(
    tmp_path: Path, server: EmbeddedServer, requests: Requests, operator: Operator
) -> None:
    async with Machine() as machine, worker_on(machine, server.url, tmp_path):
        machine.ollama.trap("slow_load", seconds=20.0)
        async with asyncio.TaskGroup() as group:
            loading = group.create_task(refused(operator.load(model=LLAMA)))

            async def has_lease() -> bool:
                lease = (await operator.card()).lease
                return lease is not None and lease.job == "operator.load"

            await until(has_lease, "the operator's lease")
            end = await requests.image("r1", lane="critical")
        assert end["model_used"] == "sdxl-1.0"
        code, reason = loading.result()
        assert code is ErrorCode.HANG
        assert "L2-01.r1" in reason
        assert llms(machine) == []


async def test_who_cannot_have_the_card_hears_who_has_it_and_a_chat_keeps_its_model(
    tmp_path: Path, server: EmbeddedServer, requests: Requests, operator: Operator
) -> None:
    async with (
        Machine(llm=LLAMA, comfyui={"step_ms": 100}) as machine,
        worker_on(machine, server.url, tmp_path, hurry=30),
    ):
        await requests.ask("r1", steps=35)
        await until(lambda: machine.comfyui.life.prompts.running, "the run")
        code, reason = await refused(operator.unload(engine="comfyui"))
        assert code is ErrorCode.NO_ENGINE
        assert "L2-01.r1" in reason
        machine.ollama.trap("chat", model=LLAMA, seconds=None)
        code, reason = await refused(operator.unload(model=LLAMA))
        assert code is ErrorCode.HANG
        assert "it goes when that ends" in reason
        machine.ollama.clear("chat")
        await until(lambda: llms(machine) == [], "the end of the model")
        assert (await requests.end("r1"))["kind"] == "completed"


async def test_an_unload_that_the_card_does_not_show_is_told_as_such(
    tmp_path: Path, server: EmbeddedServer, operator: Operator
) -> None:
    async with Machine(llm=LLAMA) as machine, worker_on(machine, server.url, tmp_path, hurry=30):
        machine.ollama.trap("keeps_memory")
        code, reason = await refused(operator.unload(model=LLAMA))
        assert code is ErrorCode.HANG
        assert "does not show its memory" in reason


async def refused(asked: Awaitable[Any]) -> tuple[ErrorCode, str]:
    """Return why something was refused."""
    with pytest.raises(ContractError) as caught:
        await asked
    return caught.value.body.code, caught.value.body.message


async def test_a_lost_card_raises_an_alert_that_its_return_clears(
    tmp_path: Path, server: EmbeddedServer, operator: Operator
) -> None:
    async with Machine() as machine, worker_on(machine, server.url, tmp_path, hurry=5):

        async def has_card() -> bool:
            return (await operator.card()).state == "ready"

        await until(has_card, "the card")
        machine.card.fault = "lost"

        async def is_told() -> bool:
            seen = await operator.report()
            return [one.name for one in seen.alerts] == ["card_lost"]

        await until(is_told, "the alert", 15)
        seen = await operator.card()
        assert seen.state == "missing"
        assert "lost" in seen.missing
        machine.card.fault = None

        async def is_over() -> bool:
            return not (await operator.report()).alerts

        await until(is_over, "its end", 15)
        assert await operator.alerts() == [("card_lost", "raised"), ("card_lost", "cleared")]


async def test_who_waits_for_a_cloud_is_told_so_and_money_that_is_held_is_shown(
    tmp_path: Path, server: EmbeddedServer, requests: Requests, operator: Operator
) -> None:
    square = {"aspect_ratio": "1:1", "quality": "premium"}
    async with (
        Machine(clouds=("stability",), stability={"draw_s": 1.5}) as machine,
        worker_on(machine, server.url, tmp_path, MMG_SLOTS="cloud:1"),
    ):
        await requests.ask("r1", lane="high", **square)
        await until(lambda: machine.asked_clouds, "the call")
        await requests.ask("r2", lane="low", **square)

        async def waits() -> bool:
            return bool((await operator.report()).waits)

        await until(waits, "who waits")
        seen = await operator.report()
        (wait,) = seen.waits
        assert (wait.request_id, wait.slot, wait.place) == ("r2", "cloud", 1)
        assert "the one place of this worker is taken" in wait.sentence
        assert "MMG_SLOTS" in wait.sentence
        assert wait.start_s is not None
        (job,) = seen.jobs
        assert (job.request_id, job.engine, job.slot) == ("r1", "stability", "cloud")
        assert [hold.request for hold in seen.money.holds] == ["L2-01.r1"]
        assert seen.money.held_usd == pytest.approx(seen.money.holds[0].usd)
        cloud = next(slot for slot in seen.slots if slot.kind == "cloud")
        assert (cloud.size, cloud.taken, cloud.waiting) == (1, 1, 1)
        await requests.end("r2")
        seen = await operator.report()
        assert seen.money.holds == ()
        assert seen.money.by_requester == (("L2-01", seen.money.spent_usd),)
