"""The machine as a context: starts its parts on one card and says how a worker finds them."""

import os
import shutil
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.doubles.card import SharedCard
from tests.doubles.clouds import CloudDouble, OpenAIDouble, StabilityDouble
from tests.doubles.clouds.server import KEY
from tests.doubles.comfyui import ComfyDouble
from tests.doubles.machine.settings import LLMS, Settings
from tests.doubles.ollama import OllamaDouble

ROOT = Path(__file__).resolve().parents[3]
STAND_IN = Path(__file__).resolve().parents[1] / "nvml"
"""The folder with the stand-in for pynvml: first on PYTHONPATH it is what a worker imports."""


class Machine:
    """A machine: `card`, `comfyui`, `ollama`, `stability`, `openai`, and how to use it.

    Keyword arguments are those of Settings; each part has its own traps and settings.
    """

    def __init__(self, **settings: Any) -> None:
        self.settings = Settings(**settings)
        self._stack = AsyncExitStack()
        self.card: SharedCard
        self.comfyui: ComfyDouble
        self.ollama: OllamaDouble
        self.stability: StabilityDouble
        self.openai: OpenAIDouble

    @property
    def clouds(self) -> tuple[CloudDouble, ...]:
        """Both clouds, whether or not they have a key here."""
        return self.stability, self.openai

    @property
    def charged_usd(self) -> float:
        """What both clouds have charged so far."""
        return sum(cloud.charged_usd for cloud in self.clouds)

    @property
    def asked_clouds(self) -> int:
        """How many pictures both clouds were asked for; free calls are not counted."""
        return sum(len(cloud.paid) for cloud in self.clouds)

    def environment(self) -> dict[str, str]:
        """Return the settings with which `mmg` runs on this machine."""
        path = os.pathsep.join(map(str, (STAND_IN, ROOT)))
        found = {
            "PYTHONPATH": path,
            "MMG_DOUBLE_CARD": str(self.card.path),
            "MMG_COMFYUI_URL": self.comfyui.url,
            "MMG_OLLAMA_URL": self.ollama.url,
            "MMG_STABILITY_URL": self.stability.url,
            "MMG_OPENAI_URL": self.openai.url,
        }
        for name in self.settings.clouds:
            found[f"{name.upper()}_API_KEY"] = KEY
        return found

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            await self._start(stack)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._stack.__aexit__(kind, error, trace)

    async def _start(self, stack: AsyncExitStack) -> None:
        wanted = self.settings
        root = Path(tempfile.mkdtemp(prefix="machine-double-"))
        stack.callback(shutil.rmtree, root, ignore_errors=True)
        # Each machine is another card: workers of two of them do not keep each other out.
        uuid = f"GPU-{root.name.removeprefix('machine-double-')}"
        self.card = SharedCard.create(root / "card.json", total_mib=wanted.total_mib, uuid=uuid)
        if wanted.desktop_mib:
            self.card.hold("desktop", wanted.desktop_mib)
        comfyui = {"card": self.card.path, **wanted.comfyui}
        self.comfyui = await stack.enter_async_context(ComfyDouble(**comfyui))
        ollama = {"models": dict(LLMS), "unload_s": 0.05, "free_s": 0.05, **wanted.ollama}
        self.ollama = await stack.enter_async_context(OllamaDouble(card=self.card, **ollama))
        self.stability = await stack.enter_async_context(StabilityDouble(**wanted.stability))
        self.openai = await stack.enter_async_context(OpenAIDouble(**wanted.openai))
        if wanted.llm is not None:
            await self.ollama.warm(wanted.llm, wanted.keep_alive_s)
