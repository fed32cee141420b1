"""What kind of machine it is: its card, its models, its clouds, its speed. Holds values only."""

from dataclasses import dataclass, field
from typing import Any

LLMS = {
    "mistral:7b": 5400,
    "llama3:8b": 6700,
    "llama2:13b": 10240,
    "llama3:70b": 20480,
    "nomic-embed-text": 600,
}
"""The models that Ollama has. *Units*: MiB on the card with a context of 4096."""
CLOUDS = ("stability", "openai")


@dataclass(kw_only=True)
class Settings:
    """*Units*: MiB. The last four are settings of the single doubles, by their names there."""

    total_mib: int = 24576
    desktop_mib: int = 0
    """What something without a process holds, as a desktop does."""
    llm: str | None = None
    """The model that is loaded at the start; None: none is."""
    keep_alive_s: float | None = None
    """For how long it stays loaded from then on; None: as Ollama does by itself."""
    clouds: tuple[str, ...] = ()
    """Which of `stability` and `openai` have a key here; the doubles of both run."""
    comfyui: dict[str, Any] = field(default_factory=dict)
    ollama: dict[str, Any] = field(default_factory=dict)
    stability: dict[str, Any] = field(default_factory=dict)
    openai: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if unknown := set(self.clouds) - set(CLOUDS):
            raise ValueError(f"no cloud {sorted(unknown)}; known: {', '.join(CLOUDS)}")
