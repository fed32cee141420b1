"""One example of each answer of a worker to its operators.

Nothing is drawn at random: times and numbers are fixed. Must not be used for anything but
documents and tests.
"""

from datetime import UTC, datetime, timedelta
from typing import Final

from contracts.requests import Priority
from contracts.status import (
    BreakerState,
    CardState,
    ComfyState,
    DebtState,
    Decided,
    EngineModels,
    EngineState,
    HeldModel,
    HoldState,
    LeaseState,
    Loaded,
    ModelWish,
    MoneyState,
    OwedModel,
    RaisedAlert,
    RunningJob,
    SlotState,
    TenantModels,
    TenantState,
    UnknownState,
    WaitingJob,
    WorkerModels,
    WorkerReport,
    WorkflowState,
)

_AT: Final = datetime(2026, 3, 2, 9, 15, 0, 120_000, UTC)
_SERVER: Final = "http://127.0.0.1:8188"
_CLOSED: Final = BreakerState(state="closed", faults=0, until=None)


def _before(seconds: float) -> datetime:
    return _AT - timedelta(seconds=seconds)


_EMBED: Final = HeldModel(
    name="nomic-embed-text:latest", size_mib=600, vram_mib=600, expires_at=None
)

_CARD: Final = CardState(
    server=_SERVER,
    state="ready",
    missing="",
    name="NVIDIA GeForce RTX 4090",
    uuid="GPU-6f1d2c9a-0b7e-4c58-9a41-000000000001",
    driver="580.65.06",
    total_mib=24_576,
    free_mib=9_150,
    used_mib=15_426,
    other_mib=2_538,
    reserve_mib=2_048,
    temperature_c=64,
    utilisation_percent=97,
    power_w=341.5,
    xid=None,
    measured_at=_before(0.4),
    comfyui=ComfyState(
        answers=True, device="card", models=("sdxl-1.0",), held_mib=12_288, foreign=0
    ),
    tenants=(TenantState(name="ollama", answers=True, models=(_EMBED,)),),
    lease=LeaseState(
        job="L2-05-03.cover-1#4711",
        requester="L2-05-03",
        priority=Priority.HIGH,
        model="sdxl-1.0",
        vram_mib=12_288,
        granted_at=_before(6.5),
        rest_s=5.5,
        downgraded=False,
        preempted_by="",
    ),
    debt=DebtState(
        unloaded_at=_before(7.1),
        due_at=_before(7.1) + timedelta(seconds=120),
        models=(OwedModel(tenant="ollama", name="llama2:13b", vram_mib=10_240, keep_alive_s=240),),
    ),
    act=None,
)

REPORT: Final = WorkerReport(
    worker="gpu-1",
    state="ready",
    reason="",
    running=("L2-05-03.cover-1",),
    engines=("comfyui", "stability"),
    permission_errors=0,
    waiting=("L1-01-01.harbour-21",),
    at=_AT,
    version="1.0.0",
    started_at=_before(86_400),
    cards=(_CARD,),
    jobs=(
        RunningJob(
            job="L2-05-03.cover-1#4711",
            request_id="cover-1",
            requester="L2.05.03",
            priority=Priority.HIGH,
            stored_at=_before(9.0),
            attempt=1,
            engine="comfyui",
            model="sdxl-1.0",
            slot="gpu",
            reason="comfyui: sdxl-text2img serves standard; rule 2: 14.2 GB are free",
            started_at=_before(6.5),
            progress_percent=41,
        ),
    ),
    waits=(
        WaitingJob(
            job="L1-01-01.harbour-21#4712",
            request_id="harbour-21",
            requester="L1.01.01",
            priority=Priority.LOW,
            stored_at=_before(4.0),
            slot="gpu",
            place=1,
            rule=4,
            sentence="It waits: L2-05-03.cover-1#4711 draws on the card; until"
            " L2-05-03.cover-1#4711 has its image. Order, rule 4: nobody of a higher class than LOW"
            " waits. What would change it: a higher priority.",
            start_s=5.5,
            early_s=2.0,
            late_s=9.0,
            max_wait_s=600.0,
            left_s=596.0,
        ),
    ),
    slots=(
        SlotState(kind="gpu", size=1, taken=1, waiting=1),
        SlotState(kind="cloud", size=2, taken=0, waiting=0),
    ),
    engine_states=(
        EngineState(
            name="comfyui",
            slot="gpu",
            up=True,
            ready=True,
            reason="",
            models=("sdxl-1.0", "sd-1.5"),
            price_usd=0.0,
            breaker=_CLOSED,
        ),
        EngineState(
            name="stability",
            slot="cloud",
            up=True,
            ready=False,
            reason="gets no jobs (3 faults in a row; tried again at 09:15:24 UTC)",
            models=("stable-image-core",),
            price_usd=0.03,
            breaker=BreakerState(state="open", faults=3, until=_AT + timedelta(seconds=24)),
        ),
    ),
    money=MoneyState(
        day="2026-03-02",
        spent_usd=1.23,
        held_usd=0.03,
        day_limit_usd=10.0,
        request_limit_usd=2.5,
        requester_limit_usd=None,
        by_requester=(("L2-05-03", 1.2), ("user", 0.03)),
        holds=(HoldState(request="L2-05-03.cover-9", engine="openai", worker="gpu-2", usd=0.03),),
        unknown=(
            UnknownState(request="user.logo-2", engine="stability", day="2026-03-01", usd=0.03),
        ),
    ),
    alerts=(
        RaisedAlert(
            name="tenant_grew",
            message="other programs took 5.3 GB more while L2-05-03.cover-1#4711 draws",
            since=_before(2.0),
        ),
    ),
    decisions=(
        Decided(
            seq=813,
            at=_before(6.5),
            what="grant",
            job="L2-05-03.cover-1#4711",
            rule=2,
            reason="rule 2: 14.2 GB are free",
        ),
        Decided(
            seq=812,
            at=_before(9.0),
            what="route",
            job="L2-05-03.cover-1#4711",
            rule=None,
            reason="comfyui: sdxl-text2img serves standard",
        ),
    ),
)

MODELS: Final = WorkerModels(
    worker="gpu-1",
    engines=(
        EngineModels(
            name="comfyui",
            slot="gpu",
            ready=True,
            reason="",
            models=("sdxl-1.0",),
            loaded=("sdxl-1.0",),
            workflows=(
                WorkflowState(
                    name="flux-text2img",
                    model="flux-dev",
                    vram_mib=20_480,
                    problems=("flux1-dev.safetensors is not in diffusion_models",),
                ),
                WorkflowState(name="sdxl-text2img", model="sdxl-1.0", vram_mib=12_288, problems=()),
            ),
        ),
    ),
    tenants=(
        TenantModels(
            name="ollama",
            answers=True,
            loaded=(_EMBED,),
            installed=("llama2:13b", "nomic-embed-text:latest"),
        ),
    ),
)

WISH: Final = ModelWish(
    model="llama2:13b",
    engine="ollama",
    unload_others=True,
    keep_alive_s=3600,
    by="anna@desk",
    reason="the afternoon's chats",
)

LOADED: Final = Loaded(
    worker="gpu-1",
    verb="load",
    models=(("ollama", "llama2:13b"),),
    message="llama2:13b is loaded",
    took_s=8.4,
    free_before_mib=21_000,
    free_after_mib=10_760,
)
