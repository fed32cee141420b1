"""What the double holds on its card: checkpoints by name, as /system_stats shows it.

The card is its own, or one that it shares with doubles in other processes: only there a run takes
working memory too, and can fail for want of it. (The real one would first offload to the CPU.)
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.doubles.card import SharedCard
from tests.doubles.comfyui.settings import Settings, model_mib, working_mib

MIB = 1024 * 1024
CONTEXT_MIB = 450
"""What a CUDA context holds even with no model loaded."""
RAM_BYTES = 34359738368


class CardFullError(Exception):
    """What a node needs does not fit, even with all other models of this server gone."""


class Card:
    """The models that are loaded, oldest first.

    On a shared card it holds the context from its making to `end`. *Raises* CardFullError where
    not even that fits.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._shared = SharedCard(settings.card) if settings.card is not None else None
        self._working_mib = 0
        self.held: dict[str, int] = {}
        if not self._fits():
            raise CardFullError

    def load(self, name: str) -> bool:
        """Hold a checkpoint, sending older ones away if it does not fit; True if it was not."""
        new = name not in self.held
        self.held[name] = self.held.pop(name, model_mib(name))
        self._make_room()
        return new

    @contextmanager
    def working(self, name: str) -> Iterator[None]:
        """Hold what sampling with a checkpoint needs beside it, while it lasts."""
        self._working_mib = working_mib(name) if self._shared is not None else 0
        try:
            self._make_room()
            yield
        finally:
            self._working_mib = 0
            self._fits()

    def unload(self) -> None:
        """Hold nothing any more but the context."""
        self.held.clear()
        self._working_mib = 0
        self._fits()

    def end(self) -> None:
        """Hold nothing at all."""
        if self._shared is not None:
            self._shared.claim(self._settings.owner, 0)

    def device(self) -> dict[str, Any]:
        """Describe the card as /system_stats does: free is what nobody holds. *Units*: bytes."""
        used = (sum(self.held.values()) + self._working_mib) * MIB
        if self._settings.gpu is None:
            free = max(0, RAM_BYTES - used)
            size = {"vram_total": RAM_BYTES, "vram_free": free}
            torch = {"torch_vram_total": RAM_BYTES, "torch_vram_free": free}
            return {"name": "cpu", "type": "cpu", "index": None, **size, **torch}
        total = self._settings.vram_mib * MIB
        free = max(0, total - used - CONTEXT_MIB * MIB)
        if self._shared is not None:
            free = self._shared.free_mib * MIB
        return {
            "name": f"cuda:0 {self._settings.gpu} : cudaMallocAsync",
            "type": "cuda",
            "index": 0,
            "vram_total": total,
            "vram_free": free,
            "torch_vram_total": used,
            "torch_vram_free": 0,
        }

    def _make_room(self) -> None:
        """Send older models away until all fits that is needed now."""
        while not self._fits():
            if len(self.held) <= 1:
                if self._shared is not None:
                    raise CardFullError
                return
            del self.held[next(iter(self.held))]

    def _fits(self) -> bool:
        """Tell whether what is held now fits; on a shared card, claim it."""
        needed = CONTEXT_MIB + sum(self.held.values()) + self._working_mib
        if self._shared is not None:
            return self._shared.claim(self._settings.owner, needed)
        return needed <= self._settings.vram_mib
