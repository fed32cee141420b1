"""A card whose memory a test sets, and the arbiter that decides on it.

It takes a reading whenever the arbiter asks for one, unless it is frozen. Nothing waits: time is a
number.
"""

from datetime import UTC, datetime, timedelta

from agent.core.arbiter import Arbiter
from agent.core.card import Card, ComfyUI, Loaded, Reading, Tenant
from agent.core.leases import (
    Ask,
    FreeComfyUI,
    Measure,
    Need,
    Reload,
    UnloadModels,
)
from agent.core.standing import Settings
from contracts.requests import Priority, Quality

START = datetime(2026, 1, 1, tzinfo=UTC)
RESERVE = 2048
SDXL = Need(model="sdxl", vram_mib=12288)
SD15 = Need(model="sd15", vram_mib=6144)
MAX_WAIT_S = {"CRITICAL": 0, "HIGH": 30, "MEDIUM": 120, "LOW": 600}
GIB = 1024


def llm(gib, name="llama", vram_mib=None, expires_s=None):
    size_mib = round(gib * GIB)
    return Loaded(
        name=name,
        size_mib=size_mib,
        vram_mib=size_mib if vram_mib is None else vram_mib,
        expires_at=None if expires_s is None else START + timedelta(seconds=expires_s),
    )


class Bench:
    """A card of `total_mib` with what the test puts on it, and the arbiter that decides on it."""

    def __init__(self, *models, total_mib=24576, others_mib=0, **settings):
        debt = settings.pop("debt", None)
        self.arbiter = Arbiter(Settings(**settings), debt)
        self.now = START
        self.total_mib, self.others_mib = total_mib, others_mib
        self.models = {model.name: model for model in models}
        self.comfyui: ComfyUI | None = ComfyUI()
        self.tenant_answers = True
        self.frozen = False
        self.no_card = ""
        self.said = []

    @property
    def free_mib(self):
        taken = sum(model.vram_mib for model in self.models.values())
        held = self.comfyui.held_mib if self.comfyui is not None else 0
        return max(0, self.total_mib - self.others_mib - taken - held)

    def measured(self):
        self.now += timedelta(milliseconds=1)
        loaded = tuple(self.models.values())
        return Reading(
            taken_at=self.now,
            card=None if self.no_card else Card(total_mib=self.total_mib, free_mib=self.free_mib),
            comfyui=self.comfyui,
            tenants=(Tenant(name="ollama", loaded=loaded, answers=self.tenant_answers),),
            missing=self.no_card,
        )

    def tell(self, event, *args, **kwargs):
        """Tell an event, answer each `Measure`, and return what was decided since."""
        new, told = [], list(getattr(self.arbiter, event)(*args, now=self.now, **kwargs))
        while told:
            decision = told.pop(0)
            if not isinstance(decision, Measure):
                new.append(decision)
            elif not self.frozen:
                told += self.arbiter.reading(self.measured(), self.now)
        self.said += new
        return new

    def ask(self, job="a", priority="HIGH", quality="standard", need=SDXL, **fields):
        fields.setdefault("smaller", SD15 if need is SDXL and quality == "standard" else None)
        before = [] if self.frozen else self.look()
        return before + self.tell(
            "request",
            Ask(
                job=job,
                priority=Priority(priority),
                quality=Quality(quality),
                need=need,
                stored_at=fields.pop("stored_at", self.now),
                max_wait_s=MAX_WAIT_S[priority],
                **fields,
            ),
        )

    @property
    def drawing(self):
        """The job that has the card."""
        assert self.arbiter.lease is not None
        return self.arbiter.lease.ask.job

    def look(self):
        return self.tell("reading", self.measured())

    def wait(self, seconds, step=1.0):
        new, until = [], self.now + timedelta(seconds=seconds)
        while self.now < until:
            self.now = min(until, self.now + timedelta(seconds=step))
            new += self.tell("tick")
        return new

    def hold(self, need, held_mib=None):
        self.comfyui = ComfyUI(held=(need.model,), held_mib=held_mib or need.vram_mib)

    def empty(self):
        self.comfyui = ComfyUI()

    def unload(self, said):
        """Do what a good Ollama does with the unload among these decisions."""
        found = one(said, UnloadModels)
        for model in found.models:
            del self.models[model.model]
        return self.tell("unloaded", found.number) + self.wait(1)

    def free(self, said):
        found = one(said, FreeComfyUI)
        self.empty()
        return self.tell("freed", found.number) + self.wait(1)

    def reload(self, said, **changes):
        found = one(said, Reload)
        for model in found.models:
            self.models[model.model] = llm(model.vram_mib / GIB, model.model, **changes)
        return self.tell("reloaded", found.number)


def kinds(said):
    return [type(decision).__name__ for decision in said]


def one(said, kind):
    found = [decision for decision in said if isinstance(decision, kind)]
    assert len(found) == 1, f"{kind.__name__} in {kinds(said)}"
    return found[0]


def none(said, *unwanted):
    assert not [decision for decision in said if isinstance(decision, unwanted)], kinds(said)
