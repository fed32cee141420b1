"""What kind of ComfyUI the double is: its card, its files, its speed, its version.

Holds values only; what goes wrong is in traps.
"""

from dataclasses import dataclass
from pathlib import Path

from tests.doubles.card import SharedCard

SDXL = "sd_xl_base_1.0.safetensors"
SD15 = "v1-5-pruned-emaonly.safetensors"

MODEL_MIB = (("xl", 6600), ("flux", 12000), ("v1-5", 2600), ("sd15", 2600), ("", 2000))
"""MiB that a checkpoint holds once loaded, by the first word found in its name."""
PEAK_MIB = (("xl", 12288), ("flux", 20480), ("v1-5", 6144), ("sd15", 6144), ("", 4096))
"""MiB that a run of it takes while it samples, with the model: what the workflows' manifests say.
The context comes on top."""


@dataclass(kw_only=True)
class Settings:
    """A server's settings; those of time may change while it runs."""

    gpu: str | None = None
    """The name of a card of its own, that nobody else sees. None: a server on the CPU."""
    vram_mib: int = 24576
    card: Path | None = None
    """A card that it shares with other doubles; name and size are that card's."""
    owner: str = "comfyui"
    """What its claims on a shared card are called."""
    checkpoints: tuple[str, ...] = (SDXL, SD15)
    loras: tuple[str, ...] = ("detail.safetensors",)
    upscale_models: tuple[str, ...] = ("RealESRGAN_x4.pth",)
    step_ms: float = 0.0
    load_ms: float = 0.0
    encode_ms: float = 0.0
    decode_ms: float = 0.0
    sleep_scale: float = 1.0
    """What the seconds of a RigSleep node are multiplied by."""
    preview_method: str = "none"
    """`none` is ComfyUI's default: no binary frames; `auto` sends one for each step."""
    preview_size: int = 512
    cache: str = "classic"
    """`classic` keeps what the last prompt used, `lru` keeps all, `none` keeps nothing."""
    version: str = "0.3.64"
    metadata: bool = True
    """False as with --disable-metadata: no text in a PNG."""

    def __post_init__(self) -> None:
        if self.card is not None:
            shared = SharedCard(self.card)
            self.gpu, self.vram_mib = shared.name, shared.total_mib

    def before(self, *version: int) -> bool:
        """Say whether this server is older than a version."""
        return tuple(int(part) for part in self.version.split(".")) < version

    def files(self, folder: str) -> list[str]:
        """List the models of a folder, as /models/{folder} does."""
        names: tuple[str, ...] = getattr(self, folder, ())
        return sorted(names)


def model_mib(name: str) -> int:
    """Return what a checkpoint holds on the card. *Units*: MiB."""
    return next(mib for word, mib in MODEL_MIB if word in name.lower())


def working_mib(name: str) -> int:
    """Return what sampling with a checkpoint takes beside the model. *Units*: MiB."""
    return next(mib for word, mib in PEAK_MIB if word in name.lower()) - model_mib(name)
