"""How far a prompt is: one number that moves evenly from the queue to the file. Pure.

Each node weighs what its kind usually takes; a sampler's weight is its steps. Nodes that were
cached count as done. Source: the frames of ComfyUI 0.3.64, whose order is not the graph's.
"""

from typing import Final

import msgspec

from agent.engines.comfyui.api import Graph
from agent.engines.comfyui.socket import Frame
from agent.engines.protocol import Step

STEP_WEIGHT: Final = 1.0
"""Everything else is measured in sampler steps of a 1024 px picture."""

WEIGHTS: Final[dict[str, float]] = {
    "CheckpointLoaderSimple": 6.0,
    "LoraLoader": 1.0,
    "LoraLoaderModelOnly": 1.0,
    "UpscaleModelLoader": 1.0,
    "CLIPTextEncode": 0.5,
    "VAEEncode": 1.0,
    "VAEDecode": 2.0,
    "VAEDecodeTiled": 4.0,
    "ImageUpscaleWithModel": 4.0,
    "SaveImage": 0.5,
    "PreviewImage": 0.5,
}
SMALL: Final = 0.1
SAMPLERS: Final = ("KSampler", "KSamplerAdvanced")


class Tempo(msgspec.Struct):
    """What was learned of this server: seconds of one unit of weight outside the sampler."""

    unit_s: float = 0.5

    def learn(self, seconds: float, weight: float) -> None:
        """Mix in how long the nodes after the sampler took."""
        if weight > 0:
            self.unit_s += 0.3 * (seconds / weight - self.unit_s)


class Progress:
    """Folds frames into a `Step`. Units: seconds on the clock the caller passes in."""

    def __init__(self, graph: Graph, tempo: Tempo) -> None:
        """Weigh the graph; nothing is done yet."""
        self._kinds = {node: str(spec["class_type"]) for node, spec in graph.items()}
        self._weights = {node: _weight(spec) for node, spec in graph.items()}
        self._total = sum(self._weights.values()) or 1.0
        self._done: dict[str, float] = {}
        self._tempo = tempo
        self._running: str | None = None
        self._over = False
        self._samplers = {
            node: (0, int(weight / STEP_WEIGHT))
            for node, weight in self._weights.items()
            if self._kinds[node] in SAMPLERS
        }
        self._first_step_s: float | None = None
        self._last_step_s = 0.0
        self._message = "waiting in ComfyUI"

    def on(self, frame: Frame, now_s: float) -> bool:
        """Take in a frame; tells whether it moved anything."""
        match frame.kind:
            case "execution_start":
                self._message = "ComfyUI has begun"
            case "execution_cached":
                for node in frame.payload.get("nodes") or []:
                    self._finish(str(node))
            case "executing":
                self._begin(frame.payload.get("node"))
            case "progress":
                self._advance(frame, now_s)
            case "executed":
                self._finish(str(frame.payload.get("node")))
            case "execution_success":
                return self.end()
            case _:
                return False
        return True

    def end(self) -> bool:
        """All is done, which may be known from elsewhere than frames; tells whether it is news."""
        news, self._over = not self._over, True
        for node in self._weights:
            self._finish(node)
        return news

    @property
    def _steps(self) -> tuple[int, int]:
        """Steps done and steps in all: several samplers count together, so it never falls."""
        done, most = zip(*self._samplers.values(), strict=True) if self._samplers else ((), ())
        return sum(done), sum(most)

    def step(self, now_s: float, preview: bytes | None = None) -> Step:
        """Return where it stands; `step` of `steps` are the samplers', `fraction` is of all."""
        done, steps = self._steps
        share = sum(self._done.values()) / self._total
        fraction = 1.0 if self._over else min(1.0, share)
        return Step(
            step=done,
            steps=max(steps, 1),
            message=self._message,
            eta_s=self._eta_s(now_s),
            fraction=fraction,
            preview=preview,
        )

    def _begin(self, node: object) -> None:
        """A node begins: the one before it is done."""
        if self._running is not None and self._running != node:
            self._finish(self._running)
        if node is None or str(node) not in self._weights:
            return
        self._running = str(node)
        kind = self._kinds[self._running]
        if kind == "CheckpointLoaderSimple":
            self._message = "loading the model"
        elif kind.startswith("VAEDecode"):
            self._message = "decoding"
        elif kind in ("SaveImage", "PreviewImage"):
            self._message = "saving"

    def _advance(self, frame: Frame, now_s: float) -> None:
        node = str(frame.payload.get("node"))
        value, most = frame.payload.get("value"), frame.payload.get("max")
        if node not in self._weights or not isinstance(value, int | float):
            return
        if not isinstance(most, int | float) or most <= 0:
            return
        share = min(1.0, float(value) / float(most))
        self._done[node] = max(self._done.get(node, 0.0), self._weights[node] * share)
        if self._kinds[node] in SAMPLERS:
            before, _ = self._samplers[node]
            self._samplers[node] = (max(before, int(value)), int(most))
            self._message = "step {}/{}".format(*self._steps)
            self._first_step_s = now_s if self._first_step_s is None else self._first_step_s
            self._last_step_s = now_s

    def _finish(self, node: str) -> None:
        if node in self._weights:
            self._done[node] = self._weights[node]
        if node in self._samplers:
            self._samplers[node] = (self._samplers[node][1],) * 2

    def _eta_s(self, now_s: float) -> float | None:
        """Return the seconds left, from the measured step and what followed the last time."""
        done, steps = self._steps
        if done < 2 or self._first_step_s is None:  # noqa: PLR2004 - one interval needs two steps
            return None
        step_s = (self._last_step_s - self._first_step_s) / (done - 1)
        left = sum(
            weight - self._done.get(node, 0.0)
            for node, weight in self._weights.items()
            if self._kinds[node] not in SAMPLERS
        )
        waited_s = now_s - self._last_step_s
        remaining_s = step_s * (steps - done) + self._tempo.unit_s * left
        return round(max(0.0, remaining_s - waited_s), 1)

    def after_sampling(self) -> float:
        """Return the weight of the nodes that follow the sampler, for `Tempo.learn`."""
        return sum(
            weight
            for node, weight in self._weights.items()
            if self._kinds[node].startswith(("VAEDecode", "Save", "Preview"))
        )

    @property
    def sampled_s(self) -> float | None:
        """When the last sampler step was heard; None if there was none."""
        return None if self._first_step_s is None else self._last_step_s


def _weight(spec: dict[str, object]) -> float:
    kind = str(spec["class_type"])
    if kind in SAMPLERS:
        inputs = spec.get("inputs")
        steps = inputs.get("steps", 20) if isinstance(inputs, dict) else 20
        return STEP_WEIGHT * float(steps if isinstance(steps, int | float) else 20)
    return WEIGHTS.get(kind, SMALL)
