"""What kind of Ollama the double is: its models, its speed, its version.

Holds values only; what goes wrong is in traps.
"""

from dataclasses import dataclass, field

EMBEDDING = "embed"
THINKING = ("r1", "qwen3", "gpt-oss")


@dataclass(frozen=True)
class Model:
    """A model that was pulled. *Units*: `mib` is what all of it holds once loaded."""

    name: str
    mib: int

    @property
    def embeds(self) -> bool:
        """Whether it makes embeddings and no texts; by its name."""
        return EMBEDDING in self.name

    @property
    def thinks(self) -> bool:
        """Whether it can think before it answers; by its name."""
        return any(word in self.name for word in THINKING)


@dataclass(kw_only=True)
class Settings:
    """A server's settings; those of time may change while it runs. *Units*: seconds, MiB."""

    models: dict[str, int] = field(
        default_factory=lambda: {"llama3:8b": 6700, "llama3:70b": 20480, "nomic-embed-text": 600}
    )
    version: str = "0.33.0"
    keep_alive_s: float = 300.0
    """OLLAMA_KEEP_ALIVE."""
    load_s: float = 0.0
    unload_s: float = 0.3
    """From the wish until a model is off the list."""
    free_s: float = 0.1
    """From there until its memory is free."""
    token_s: float = 0.0
    """Time of a word."""
    num_ctx: int = 4096
    """The context a model gets where nobody asks for another."""
    models_max: int = 3
    """OLLAMA_MAX_LOADED_MODELS."""
    queue_max: int = 512
    """OLLAMA_MAX_QUEUE."""

    def find(self, name: str) -> Model | None:
        """Return a model by its name, with or without the tag `latest`."""
        known = {full(one): Model(full(one), mib) for one, mib in self.models.items()}
        return known.get(full(name))


def full(name: str) -> str:
    """Return a name with its tag."""
    return name if ":" in name else f"{name}:latest"


def parse_models(text: str) -> dict[str, int]:
    """Read name=MiB,name=MiB. *Raises* ValueError."""
    models = {}
    for pair in filter(None, text.split(",")):
        name, equals, mib = pair.partition("=")
        if not equals or not mib.isdigit():
            raise ValueError(f"{pair!r} is not name=MiB")
        models[name] = int(mib)
    return models
