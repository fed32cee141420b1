"""What is held on the double's card: checkpoints by name, as /system_stats shows it."""

from typing import Any

from tests.doubles.comfyui.settings import Settings, model_mib

MIB = 1024 * 1024
CONTEXT_MIB = 450
"""What a CUDA context holds even with no model loaded."""
RAM_BYTES = 34359738368


class Card:
    """The models that are loaded, oldest first."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.held: dict[str, int] = {}

    def load(self, name: str) -> bool:
        """Hold a checkpoint, sending older ones away if it does not fit; True if it was not."""
        new = name not in self.held
        self.held[name] = self.held.pop(name, model_mib(name))
        while (
            len(self.held) > 1 and sum(self.held.values()) + CONTEXT_MIB > self._settings.vram_mib
        ):
            del self.held[next(iter(self.held))]
        return new

    def unload(self) -> None:
        """Hold nothing any more."""
        self.held.clear()

    def device(self) -> dict[str, Any]:
        """Describe the card as /system_stats does. *Units*: bytes."""
        used = sum(self.held.values()) * MIB
        if self._settings.gpu is None:
            free = max(0, RAM_BYTES - used)
            size = {"vram_total": RAM_BYTES, "vram_free": free}
            torch = {"torch_vram_total": RAM_BYTES, "torch_vram_free": free}
            return {"name": "cpu", "type": "cpu", "index": None, **size, **torch}
        total = self._settings.vram_mib * MIB
        return {
            "name": f"cuda:0 {self._settings.gpu} : cudaMallocAsync",
            "type": "cuda",
            "index": 0,
            "vram_total": total,
            "vram_free": max(0, total - used - CONTEXT_MIB * MIB),
            "torch_vram_total": used,
            "torch_vram_free": 0,
        }
