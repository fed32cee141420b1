"""The true machine of a simulated day: a card, ComfyUI, Ollama with its chats, and a desktop.

It holds what is so; the arbiter learns of it by readings. Nothing here decides.
"""

from datetime import timedelta
from typing import Final

from agent.core.card import Card, ComfyUI, Loaded, Reading, Tenant
from tests.simulation.traffic import moment

TOTAL_MIB: Final = 24_576
DESKTOP_MIB: Final = 1_536
NEED_MIB: Final = {"sdxl-1.0": 12_288, "sd-1.5": 6_144}
LLM_MIB: Final = {"8b": 6_861, "13b": 14_336, "20g": 20_480}
SPARE_MIB: Final = 512
"""What Ollama leaves free when it loads as much as fits."""


class Machine:
    """Who holds what. Units: seconds from the beginning of the simulation, MiB."""

    def __init__(self, llm: str, keep_alive_s: float | None) -> None:
        self.llm = llm
        self.size_mib = LLM_MIB[llm]
        self.vram_mib = self.size_mib
        self.keep_alive_s = keep_alive_s
        self.expires_s: float | None = None
        self.chat_until_s = 0.0
        self.held: set[str] = set()
        self.has_card = True
        self.changed = 0
        """Counts what nobody was told of: a chat that loads, a model that expires."""
        self.touch(0.0)

    @property
    def held_mib(self) -> int:
        return sum(NEED_MIB[name] for name in self.held)

    @property
    def free_mib(self) -> int:
        return TOTAL_MIB - DESKTOP_MIB - self.vram_mib - self.held_mib

    @property
    def is_back(self) -> bool:
        """Whether the LLM is wholly on the card."""
        return self.vram_mib == self.size_mib

    def touch(self, now_s: float) -> None:
        if self.keep_alive_s is not None:
            self.expires_s = now_s + self.keep_alive_s

    def load(self, now_s: float) -> None:
        """Load as much as fits; a model that is loaded stays as it is."""
        if self.vram_mib == 0:
            room = self.free_mib
            fits = room >= self.size_mib
            self.vram_mib = self.size_mib if fits else max(1, room - SPARE_MIB)
        self.touch(now_s)

    def unload(self) -> None:
        self.vram_mib = 0

    def expire(self, now_s: float) -> bool:
        """Unload what has not been used for its keep-alive; tell whether that happened."""
        is_over = self.expires_s is not None and now_s >= self.expires_s
        if not self.vram_mib or not is_over or now_s < self.chat_until_s:
            return False
        self.vram_mib = 0
        self.changed += 1
        return True

    def chat(self, now_s: float, length_s: float) -> None:
        """Somebody talks to the LLM: Ollama loads it if it is not there."""
        self.expire(now_s)
        self.chat_until_s = max(self.chat_until_s, now_s + length_s)
        if self.vram_mib == 0:
            self.changed += 1
        self.load(now_s)

    def reading(self, now_s: float) -> Reading:
        models: tuple[Loaded, ...] = ()
        if self.vram_mib:
            expires = None if self.expires_s is None else moment(self.expires_s)
            size, vram = self.size_mib, self.vram_mib
            loaded = Loaded(name=self.llm, size_mib=size, vram_mib=vram, expires_at=expires)
            models = (loaded,)
        held = tuple(sorted(self.held))
        return Reading(
            taken_at=moment(now_s) + timedelta(microseconds=1),
            card=Card(total_mib=TOTAL_MIB, free_mib=self.free_mib) if self.has_card else None,
            comfyui=ComfyUI(held=held, held_mib=self.held_mib),
            tenants=(Tenant(name="ollama", loaded=models),),
            missing="" if self.has_card else "the card is lost",
        )
