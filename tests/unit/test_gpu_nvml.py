"""Goal: the meter always answers, with the card's memory or with why not, and never stops the loop.

Method: the real meter over the stand-in for pynvml and a simulated card. Each fault is set and
taken away again; a clock made for tests decides when a fresh thread may be tried.
"""

import asyncio
import os
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType

import pynvml
import pytest
from msgspec.structs import replace
from structlog.testing import capture_logs

from agent.clock import SystemClock
from agent.core.card import Card
from agent.gpu import missing, xid
from agent.gpu.missing import Missing, MissingKind
from agent.gpu.nvml import Limits, Nvml
from agent.gpu.session import Process
from tests.doubles.card import Fault, SharedCard
from tests.gpu_rig import stand_in
from tests.rig import until

NOON = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
PATIENT = Limits(call_s=5.0, hangs_max=3, retry_s=60.0, abandoned_max=2)
IMPATIENT = replace(PATIENT, call_s=0.3)
OTHER = "GPU-0ther000-0000-4000-8000-00000000c0de"


class HandClock:
    """A clock that stands still until it is set."""

    def __init__(self) -> None:
        self.passed_s = 1000.0

    def now(self) -> datetime:
        return NOON

    def monotonic_s(self) -> float:
        return self.passed_s


@pytest.fixture
def card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SharedCard]:
    made = SharedCard.create(tmp_path / "card.json")
    monkeypatch.setenv("MMG_DOUBLE_CARD", str(made.path))
    yield made
    made.fault = None  # lets a thread go that a test left hanging


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def library() -> ModuleType:
    return stand_in()


@pytest.fixture
def limits() -> Limits:
    """Wait as a real meter does; a test in which something hangs overrides it."""
    return PATIENT


@pytest.fixture
def meter(
    card: SharedCard, clock: HandClock, library: ModuleType, limits: Limits
) -> Iterator[Nvml]:
    made = Nvml(clock, library=library, limits=limits)
    yield made
    made.close()


def threads() -> set[threading.Thread]:
    """Return the threads that make calls for meters, of tests before this one too."""
    return {thread for thread in threading.enumerate() if thread.name == "nvml"}


async def kind(meter: Nvml) -> MissingKind:
    found = await meter.read()
    assert isinstance(found, Missing), found
    assert found.reason
    return found.kind


async def hang(meter: Nvml, card: SharedCard, times: int) -> None:
    card.fault = "hang"
    for _ in range(times):
        assert await kind(meter) is MissingKind.HANG


async def test_a_reading_shows_what_all_programs_hold_at_that_moment(meter, card):
    assert await meter.read() == Card(total_mib=24576, free_mib=24576)
    card.hold("desktop", 1536)
    assert card.claim("ollama", 6700)
    assert await meter.read() == Card(total_mib=24576, free_mib=24576 - 1536 - 6700)


async def test_the_facts_are_known_after_the_first_reading(meter, card):
    before = meter.facts
    await meter.read()
    assert before is None
    assert meter.facts is not None
    assert (meter.facts.name, meter.facts.uuid) == (card.name, card.uuid)
    assert (meter.facts.driver, meter.facts.index) == (card.driver, 0)
    assert meter.facts.total_mib == 24576


async def test_gauges_leave_out_what_a_card_does_not_tell(meter, card):
    card.claim("me", 12288)
    card.hold("desktop", 100)
    gauges = await meter.gauges()
    assert not isinstance(gauges, Missing)
    assert gauges.temperature_c == 55
    assert gauges.utilisation_percent == 50
    assert gauges.power_w is None
    assert gauges.processes == (Process(pid=os.getpid(), vram_mib=12288),)


FAULTS: list[tuple[Fault, MissingKind]] = [
    ("lost", MissingKind.LOST),
    ("driver_gone", MissingKind.NO_DRIVER),
    ("driver_upgraded", MissingKind.DRIVER_UPGRADED),
    ("reset_required", MissingKind.RESET_REQUIRED),
    ("no_permission", MissingKind.NO_PERMISSION),
]


@pytest.mark.parametrize(("fault", "expected"), FAULTS)
async def test_a_fault_is_told_by_its_kind_and_is_over_when_it_is_over(
    meter, card, fault, expected
):
    for _ in range(2):
        assert isinstance(await meter.read(), Card)
        card.fault = fault
        for _ in range(3):
            assert await kind(meter) is expected
        card.fault = None
    assert isinstance(await meter.read(), Card)


@pytest.mark.parametrize(("fault", "expected"), [*FAULTS, ("no_library", MissingKind.NO_LIBRARY)])
async def test_a_meter_that_starts_under_a_fault_finds_the_card_later(meter, card, fault, expected):
    card.fault = fault
    assert await kind(meter) is expected
    card.fault = None
    assert isinstance(await meter.read(), Card)


async def test_a_driver_that_came_back_is_initialised_again(meter, card, library):
    await meter.read()
    card.fault = "driver_gone"
    card.fault = None
    handle = library.Device(card)
    with pytest.raises(library.NVMLError) as refused:
        library.nvmlDeviceGetMemoryInfo(handle)
    assert refused.value.value == 999  # the initialisation from before is of no use
    assert await kind(meter) is MissingKind.UNKNOWN
    assert isinstance(await meter.read(), Card)


async def test_no_driver_at_all_is_a_normal_state(monkeypatch, clock, library):
    monkeypatch.delenv("MMG_DOUBLE_CARD", raising=False)
    meter = Nvml(clock, library=library)
    with capture_logs() as logs:
        for _ in range(3):
            assert await kind(meter) is MissingKind.NO_LIBRARY
    meter.close()
    assert [(line["event"], line["log_level"]) for line in logs] == [("gpu.missing", "info")]


async def test_the_log_tells_changes_and_not_readings(meter, card):
    with capture_logs() as logs:
        for fault in (None, None, "lost", "lost", "reset_required", None, None):
            card.fault = fault
            await meter.read()
    told = [(line["event"], line.get("kind"), line["log_level"]) for line in logs]
    assert told == [
        ("gpu.card", None, "info"),
        ("gpu.missing", MissingKind.LOST, "warning"),
        ("gpu.missing", MissingKind.RESET_REQUIRED, "warning"),
        ("gpu.card", None, "info"),
    ]


@pytest.fixture
def second(card: SharedCard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SharedCard:
    made = SharedCard.create(tmp_path / "second.json", total_mib=8192, uuid=OTHER)
    monkeypatch.setenv("MMG_DOUBLE_CARD", os.pathsep.join(map(str, (card.path, made.path))))
    return made


@pytest.mark.parametrize(("choice", "total_mib"), [("auto", 24576), ("1", 8192), (OTHER, 8192)])
async def test_a_card_is_chosen_by_index_uuid_or_auto(second, clock, library, choice, total_mib):
    meter = Nvml(clock, choice, library=library)
    found = await meter.read()
    meter.close()
    assert found == Card(total_mib=total_mib, free_mib=total_mib)


@pytest.mark.parametrize("choice", ["2", "GPU-none", "first"])
async def test_a_card_that_is_not_there_is_no_card(second, clock, library, choice):
    meter = Nvml(clock, choice, library=library)
    assert await kind(meter) is MissingKind.NO_CARD
    meter.close()


async def test_auto_keeps_to_its_card_when_that_one_is_lost(second, meter, card, monkeypatch):
    await meter.read()
    monkeypatch.setenv("MMG_DOUBLE_CARD", str(second.path))  # the driver counts it no more
    found = [await kind(meter) for _ in range(3)]
    assert found[1:] == [MissingKind.LOST] * 2
    assert meter.facts is not None
    assert meter.facts.uuid == card.uuid


@pytest.mark.parametrize("limits", [IMPATIENT])
async def test_a_driver_that_hangs_stops_neither_the_loop_nor_the_next_reading(meter, card):
    passes, done = 0, asyncio.Event()

    async def tick() -> None:
        nonlocal passes
        while not done.is_set():
            passes += 1
            await asyncio.sleep(0)

    await meter.read()
    async with asyncio.TaskGroup() as group:
        group.create_task(tick(), name="tick")
        await hang(meter, card, 1)
        done.set()
    assert passes > 100
    card.fault = None
    assert isinstance(await meter.read(), Card)


@pytest.mark.parametrize("limits", [IMPATIENT])
async def test_after_three_hangs_the_card_is_unknown_until_a_fresh_thread_answers(
    meter, card, clock
):
    before = threads()
    await meter.read()
    await hang(meter, card, 3)
    assert len(threads() - before) == 1
    loop = asyncio.get_running_loop()
    start = loop.time()
    for _ in range(100):
        assert await kind(meter) is MissingKind.HANG
    assert loop.time() - start < IMPATIENT.call_s  # nobody waits for what does not come
    card.fault = None
    await until(lambda: not threads() - before, "the end of the thread left behind")
    assert await kind(meter) is MissingKind.HANG
    clock.passed_s += IMPATIENT.retry_s
    assert isinstance(await meter.read(), Card)


@pytest.mark.parametrize("limits", [IMPATIENT])
async def test_threads_that_hang_are_not_joined_by_ever_more(meter, card, clock):
    before = threads()
    await hang(meter, card, 3)
    for _ in range(5):
        clock.passed_s += IMPATIENT.retry_s
        await hang(meter, card, 1)
    assert len(threads() - before) == IMPATIENT.abandoned_max
    card.fault = None
    await until(lambda: not threads() - before, "the end of the threads left behind")
    assert isinstance(await meter.read(), Card)


@pytest.mark.parametrize("limits", [IMPATIENT])
async def test_a_fresh_thread_looks_for_the_same_card(second, meter, card, clock, monkeypatch):
    before = threads()
    await meter.read()
    await hang(meter, card, 3)
    card.fault = None
    await until(lambda: not threads() - before, "the end of the thread left behind")
    monkeypatch.setenv("MMG_DOUBLE_CARD", str(second.path))
    clock.passed_s += IMPATIENT.retry_s
    assert await kind(meter) is MissingKind.LOST


@pytest.mark.parametrize("limits", [IMPATIENT])
async def test_two_hangs_and_an_answer_begin_the_count_anew(meter, card):
    for _ in range(2):
        await hang(meter, card, 2)
        card.fault = None
        assert isinstance(await meter.read(), Card)


@pytest.mark.parametrize("limits", [IMPATIENT])
async def test_a_cancelled_reading_passes_the_cancellation_on(meter, card):
    await meter.read()
    card.fault = "hang"
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.02):
            await meter.read()
    card.fault = None
    assert isinstance(await meter.read(), Card)


async def test_a_critical_error_of_the_card_is_kept_and_logged(meter, card):
    with capture_logs() as logs:
        await meter.read()
        card.raise_xid(79)
        heard = await until(lambda: meter.last_xid, "the Xid")
    assert (heard.number, heard.at) == (79, NOON)
    assert [line["xid"] for line in logs if line["event"] == "gpu.xid"] == [79]
    assert "bus" in heard.meaning


async def test_xids_are_heard_again_after_the_driver_was_away(meter, card):
    await meter.read()
    card.fault = "driver_gone"
    assert await kind(meter) is MissingKind.NO_DRIVER
    card.fault = None
    await meter.read()
    card.raise_xid(31)
    await until(lambda: meter.last_xid, "the Xid")


async def test_a_card_that_cannot_tell_xids_is_measured_all_the_same(
    meter, library, monkeypatch: pytest.MonkeyPatch
):
    def refuse(*_: object) -> None:
        raise library.NVMLError(3)

    monkeypatch.setattr(library, "nvmlDeviceRegisterEvents", refuse)
    assert isinstance(await meter.read(), Card)


async def test_nvml_is_not_shut_down_while_a_thread_is_stuck_in_it(
    meter, card, library, monkeypatch: pytest.MonkeyPatch
):
    """To shut a library down that another thread is in would crash the real one."""
    free = threading.Event()
    heard = library.nvmlEventSetWait_v2

    def stuck(*arguments: object) -> object:
        free.wait(20)
        return heard(*arguments)

    monkeypatch.setattr(xid, "STOP_S", 0.05)
    monkeypatch.setattr(library, "nvmlEventSetWait_v2", stuck)
    assert isinstance(await meter.read(), Card)
    for fault in ("lost", "reset_required"):
        card.fault = fault
        await meter.read()
        assert library._library.uses == 1
    card.fault = None
    assert isinstance(await meter.read(), Card)
    listening = [thread for thread in threading.enumerate() if thread.name == "xid"]
    free.set()
    await until(lambda: not any(map(threading.Thread.is_alive, listening)), "its end")
    meter.close()
    await until(lambda: not library._library.uses, "the shutdown of NVML")


async def test_close_ends_the_threads_and_nvml(meter, library):
    await meter.read()
    meter.close()
    await until(lambda: not library._library.uses, "the shutdown of NVML")
    with pytest.raises(library.NVMLError):
        library.nvmlDeviceGetCount()


async def test_the_real_library_answers_on_any_machine():
    meter = Nvml(SystemClock())
    found = await meter.read()
    meter.close()
    assert isinstance(found, Card | Missing)
    if isinstance(found, Missing):
        assert found.kind is not MissingKind.HANG


def test_the_meanings_of_errors_stand_under_the_numbers_of_the_real_module():
    named = {
        pynvml.NVML_ERROR_LIBRARY_NOT_FOUND: MissingKind.NO_LIBRARY,
        pynvml.NVML_ERROR_DRIVER_NOT_LOADED: MissingKind.NO_DRIVER,
        pynvml.NVML_ERROR_NOT_FOUND: MissingKind.NO_CARD,
        pynvml.NVML_ERROR_INVALID_ARGUMENT: MissingKind.NO_CARD,
        pynvml.NVML_ERROR_NO_PERMISSION: MissingKind.NO_PERMISSION,
        pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH: MissingKind.DRIVER_UPGRADED,
        pynvml.NVML_ERROR_GPU_IS_LOST: MissingKind.LOST,
        pynvml.NVML_ERROR_GPU_NOT_FOUND: MissingKind.LOST,
        pynvml.NVML_ERROR_RESET_REQUIRED: MissingKind.RESET_REQUIRED,
        pynvml.NVML_ERROR_NOT_SUPPORTED: MissingKind.UNSUPPORTED,
        pynvml.NVML_ERROR_FUNCTION_NOT_FOUND: MissingKind.UNSUPPORTED,
        pynvml.NVML_ERROR_UNKNOWN: MissingKind.UNKNOWN,
    }
    found = {value: missing.missing(value, "text", was_there=False).kind for value in named}
    assert found == named
