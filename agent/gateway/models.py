"""The models for people: what could draw, what is loaded, and loading or unloading one by hand.

It asks the workers and puts their answers together. Must not decide whether a model fits: the
worker that has the card does.
"""

from typing import Annotated, Final, Literal

import msgspec
from aiohttp import web
from msgspec import Meta

from agent.bus import overview
from agent.bus.connection import Bus, NoResponders
from agent.gateway.access import caller_of
from agent.gateway.asked import JSON, asked_once, body_of
from agent.gateway.describing import Described, described
from agent.gateway.lookup import require
from agent.gateway.machines import MIB_PER_GB, UNTOLD, GpuStatus, Machines, gpu_status
from agent.gateway.problems import Problem, problem
from agent.gateway.settings import API
from agent.ledger.asking import MODELS
from contracts.errors import ContractError, ErrorCode
from contracts.status import EngineModels, Loaded, ModelWish, WorkerModels

REASON_MAX: Final = 200
CPU_ENGINES: Final = ("sketch",)

Speed = Literal["fast", "medium", "slow"]
Grade = Literal["low", "medium", "high"]
Word = Annotated[str, Meta(min_length=1, max_length=200)]


class _Known(msgspec.Struct, frozen=True):
    vram_gb: float
    speed: Speed
    quality: Grade


_KNOWN: Final = {
    "sdxl-1.0": _Known(12.0, "slow", "high"),
    "sd-1.5": _Known(6.0, "fast", "medium"),
    "sketch": _Known(0.0, "fast", "low"),
}
"""What the spec says of its two models, and what is true of ours."""
_CLOUD: Final = _Known(0.0, "medium", "high")


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """One model of one engine. `available`: it could draw now, else `reason` says why not.

    Units: GB of 1024 MiB on the card; null: it is not known.
    """

    name: str
    engine: str
    vram_gb: float | None
    cpu_only: bool
    speed: Speed | None
    quality: Grade | None
    available: bool
    reason: str
    workers: tuple[str, ...]


class ModelsByType(msgspec.Struct, frozen=True, kw_only=True):
    """By what they make; voice is not enabled."""

    image: tuple[Model, ...]
    voice: tuple[Model, ...] = ()


class ModelsAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """All models of all workers. `told`: a worker has answered, else `reason` says why not."""

    available_models: ModelsByType
    loaded_models: tuple[str, ...]
    gpu_status: GpuStatus
    workers: tuple[str, ...]
    told: bool
    reason: str


class LoadWish(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which model, and where, if several workers could. Units: seconds."""

    model: Word
    unload_others: bool = False
    worker: Annotated[str, Meta(pattern="^[A-Za-z0-9_-]{1,64}$")] | None = None
    keep_alive_s: Annotated[int, Meta(ge=1, le=86400)] | None = None
    reason: Annotated[str, Meta(max_length=REASON_MAX)] = "not given"


class UnloadWish(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which model, and where."""

    model: Word
    worker: Annotated[str, Meta(pattern="^[A-Za-z0-9_-]{1,64}$")] | None = None
    reason: Annotated[str, Meta(max_length=REASON_MAX)] = "not given"


_REFUSED: Final = (
    ErrorCode.AMBIGUOUS_ID,
    ErrorCode.NOT_FOUND,
    ErrorCode.MODEL_MISSING,
    ErrorCode.NO_ENGINE,
)


_STATUS: Final = {
    ErrorCode.MODEL_MISSING: 404,
    ErrorCode.OUT_OF_MEMORY: 409,
    ErrorCode.NO_ENGINE: 503,
    ErrorCode.ENGINE_DOWN: 503,
    ErrorCode.HANG: 504,
}
"""Elsewhere these codes end a request; here they answer a question."""


class Models:
    """The routes about models."""

    def __init__(self, bus: Bus, machines: Machines) -> None:
        """Ask nobody yet."""
        self._bus = bus
        self._machines = machines

    def routes(self) -> list[web.RouteDef]:
        """Return what to serve."""
        return [
            web.get(f"{API}/models", self.models, allow_head=False),
            web.post(f"{API}/models/load", self.load),
            web.post(f"{API}/models/unload", self.unload),
        ]

    @described(
        Described(
            summary="What could draw, and what is loaded", answers={200: ModelsAnswer}, tag="models"
        )
    )
    async def models(self, request: web.Request) -> web.Response:
        """Answer with what the workers say. Raises: Problem, BusError."""
        asked_once(request, ())
        require(self._bus)
        told = await self._machines.models()
        reports = await self._machines.look()
        loaded = {name for one in told for engine in one.engines for name in engine.loaded}
        loaded |= {held.name for one in told for t in one.tenants for held in t.loaded}
        answer = ModelsAnswer(
            available_models=ModelsByType(image=_models(told)),
            loaded_models=tuple(sorted(loaded)),
            gpu_status=gpu_status(reports),
            workers=tuple(one.worker for one in told),
            told=bool(told),
            reason="" if told else UNTOLD,
        )
        return web.Response(body=msgspec.json.encode(answer), content_type=JSON)

    @described(
        Described(
            summary="Load a model now, if the card has room for it",
            access="operator",
            body=LoadWish,
            answers={200: Loaded},
            errors=_REFUSED,
            statuses=(404, 408, 409, 413, 415, 503, 504),
            tag="models",
        )
    )
    async def load(self, request: web.Request) -> web.Response:
        """Let a worker load a model, and wait for it. Raises: ContractError, Problem, BusError."""
        asked_once(request, ())
        asked = await body_of(request, LoadWish)
        wish = ModelWish(
            model=_spelled(asked.model),
            unload_others=asked.unload_others,
            keep_alive_s=asked.keep_alive_s,
            by=caller_of(request).name,
            reason=asked.reason,
        )
        return await self._tell("load", asked.worker, wish)

    @described(
        Described(
            summary="Take a model off the card",
            access="operator",
            body=UnloadWish,
            answers={200: Loaded},
            errors=_REFUSED,
            statuses=(404, 408, 409, 413, 415, 503, 504),
            tag="models",
        )
    )
    async def unload(self, request: web.Request) -> web.Response:
        """Let a worker unload a model. Raises: ContractError, Problem, BusError."""
        asked_once(request, ())
        asked = await body_of(request, UnloadWish)
        wish = ModelWish(
            model=_spelled(asked.model), by=caller_of(request).name, reason=asked.reason
        )
        return await self._tell("unload", asked.worker, wish)

    async def _tell(
        self, verb: Literal["load", "unload"], named: str | None, wish: ModelWish
    ) -> web.Response:
        require(self._bus)
        worker = named or await self._the_worker(wish.model or "")
        try:
            done = await overview.tell_worker(self._bus, verb, worker, wish)
        except NoResponders as error:
            raise problem(
                ErrorCode.NOT_FOUND, f"no worker {worker} answers; GET {API}/models has the names"
            ) from error
        except ContractError as error:
            raise Problem(error.body, _STATUS.get(error.body.code)) from error
        return web.Response(body=msgspec.json.encode(done), content_type=JSON)

    async def _the_worker(self, model: str) -> str:
        """Return the worker that is meant: the only one that has it, else the only one there is.

        Raises: Problem, ContractError.
        """
        told = await self._machines.models()
        if not told:
            raise _nobody()
        having = [one.worker for one in told if model in _names(one)]
        found = having or [one.worker for one in told]
        if len(found) > 1:
            raise ContractError(
                ErrorCode.AMBIGUOUS_ID,
                f"several workers could: {', '.join(found[:10])}; name one as worker",
                "$.worker",
            )
        return found[0]


def _models(told: tuple[WorkerModels, ...]) -> tuple[Model, ...]:
    """Return each model of each engine once, with the workers that have it."""
    found: dict[tuple[str, str], Model] = {}
    for one in told:
        for engine in one.engines:
            for name in dict.fromkeys((*engine.models, *(w.model for w in engine.workflows))):
                model = _model(name, engine, one.worker)
                before = found.get((engine.name, name))
                found[engine.name, name] = model if before is None else _both(before, model)
    for name in ("sdxl-1.0", "sd-1.5"):
        if not any(known == name for _, known in found):
            reason = "no worker has it" if told else UNTOLD
            absent = EngineModels(
                name="comfyui",
                slot="gpu",
                ready=False,
                reason=reason,
                models=(),
                loaded=(),
                workflows=(),
            )
            found["comfyui", name] = msgspec.structs.replace(_model(name, absent, ""), workers=())
    return tuple(found[key] for key in sorted(found))


def _model(name: str, engine: EngineModels, worker: str) -> Model:
    known = _KNOWN.get(name) or (_CLOUD if engine.slot == "cloud" else None)
    flows = [flow for flow in engine.workflows if flow.model == name]
    problems = [text for flow in flows for text in flow.problems]
    usable = not flows or any(not flow.problems for flow in flows)
    vram_gb = None if known is None else known.vram_gb
    if flows:
        vram_gb = round(min(flow.vram_mib for flow in flows) / MIB_PER_GB, 1)
    reason = engine.reason if not engine.ready else ("" if usable else "; ".join(problems))
    return Model(
        name=name,
        engine=engine.name,
        vram_gb=vram_gb,
        cpu_only=engine.name in CPU_ENGINES,
        speed=None if known is None else known.speed,
        quality=None if known is None else known.quality,
        available=engine.ready and usable,
        reason=reason,
        workers=(worker,),
    )


def _both(left: Model, right: Model) -> Model:
    better = left if left.available or not right.available else right
    return msgspec.structs.replace(better, workers=(*left.workers, *right.workers))


def _names(told: WorkerModels) -> set[str]:
    names = {name for engine in told.engines for name in (*engine.models, *engine.loaded)}
    for tenant in told.tenants:
        names |= {*tenant.installed, *(held.name for held in tenant.loaded)}
    return names


def _spelled(name: str) -> str:
    """Return a model's name as workers say it: the spec has two names for each."""
    return next((long for short, long in MODELS if name == short), name)


def _nobody() -> Problem:
    return problem(ErrorCode.NO_ENGINE, UNTOLD, status=503)
