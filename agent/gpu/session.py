"""NVML from its initialisation to its end, and one card of it. Every call blocks, and may hang.

All calls come from one thread. It must not log: it returns what it found, or why not.
Source: nvidia-ml-py 13; memory is told in bytes, for all programs together.
"""

from collections.abc import Callable
from contextlib import suppress
from types import ModuleType
from typing import Any, Final, TypeVar

import msgspec

from agent.core.card import Card
from agent.gpu.missing import FUNCTION_NOT_FOUND, NO_PERMISSION, NOT_SUPPORTED, Missing, missing
from agent.gpu.xid import XidWatch

MIB: Final = 1024 * 1024
AUTO: Final = "auto"
_NOT_TOLD: Final = frozenset({NOT_SUPPORTED, NO_PERMISSION, FUNCTION_NOT_FOUND})
"""With these one figure is missing, not the card."""

T = TypeVar("T")


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What does not change about a card."""

    name: str
    uuid: str
    index: int
    driver: str
    total_mib: int


class Process(msgspec.Struct, frozen=True, kw_only=True):
    """A process on the card. `vram_mib` None: the driver does not tell, as on Windows.

    In a container the pid need not be one that is known here.
    """

    pid: int
    vram_mib: int | None


class Gauges(msgspec.Struct, frozen=True, kw_only=True):
    """What a card tells beside its memory. None: this card does not tell it."""

    temperature_c: int | None
    utilisation_percent: int | None
    power_w: float | None
    processes: tuple[Process, ...]


class Session:
    """One card by index, UUID or `auto`; initialised when asked, and again after an error."""

    def __init__(self, library: ModuleType, card: str, on_xid: Callable[[int], None]) -> None:
        self.facts: Facts | None = None
        self._library = library
        self._choice = card
        self._on_xid = on_xid
        self._handle: Any = None
        self._watch: XidWatch | None = None
        self._is_open = False

    def measure(self) -> Card | Missing:
        """Read the card's memory."""
        return self._ask(self._measure)

    def gauges(self) -> Gauges | Missing:
        """Read the rest."""
        return self._ask(self._gauges)

    def close(self) -> None:
        """End it; what asks next begins anew.

        NVML stays as it is while the watch is stuck in it: to shut it down then would pull the
        ground from under that thread.
        """
        self._handle = None
        if self._watch is not None and not self._watch.stop():
            return
        self._watch = None
        if self._is_open:
            self._is_open = False
            with suppress(self._library.NVMLError):
                self._library.nvmlShutdown()

    def _ask(self, question: Callable[[Any], T]) -> T | Missing:
        """Ask the card. After an error NVML is initialised again: a driver may have come back."""
        try:
            return question(self._ready())
        except self._library.NVMLError as error:
            self.close()
            return missing(error.value, str(error), was_there=self.facts is not None)

    def _ready(self) -> Any:
        """Return the card's handle, opening what has to be opened."""
        library = self._library
        if not self._is_open:
            library.nvmlInit()
            self._is_open = True
        if self._handle is None:
            handle = self._find()
            # One card for good: after a loss `auto` must not mean another one.
            self.facts = self._facts(handle)
            self._choice = self.facts.uuid
            self._handle = handle
            self._listen(handle)
        return self._handle

    def _listen(self, handle: Any) -> None:
        """Listen for Xids, where this card and system let us; readings go on without."""
        if self._watch is None:
            with suppress(self._library.NVMLError):
                self._watch = XidWatch(self._library, handle, self._on_xid)

    def _find(self) -> Any:
        """Find the card that was chosen; an index is NVML's, which is not always CUDA's."""
        if self._choice == AUTO:
            return self._library.nvmlDeviceGetHandleByIndex(0)
        if self._choice.isdecimal():
            return self._library.nvmlDeviceGetHandleByIndex(int(self._choice))
        return self._library.nvmlDeviceGetHandleByUUID(self._choice)

    def _facts(self, handle: Any) -> Facts:
        library = self._library
        return Facts(
            name=library.nvmlDeviceGetName(handle),
            uuid=library.nvmlDeviceGetUUID(handle),
            index=library.nvmlDeviceGetIndex(handle),
            driver=library.nvmlSystemGetDriverVersion(),
            total_mib=library.nvmlDeviceGetMemoryInfo(handle).total // MIB,
        )

    def _measure(self, handle: Any) -> Card:
        memory = self._library.nvmlDeviceGetMemoryInfo(handle)
        return Card(total_mib=memory.total // MIB, free_mib=memory.free // MIB)

    def _gauges(self, handle: Any) -> Gauges:
        library = self._library
        utilisation = self._told(lambda: library.nvmlDeviceGetUtilizationRates(handle))
        power_mw = self._told(lambda: library.nvmlDeviceGetPowerUsage(handle))
        return Gauges(
            temperature_c=self._temperature_c(handle),
            utilisation_percent=None if utilisation is None else int(utilisation.gpu),
            power_w=None if power_mw is None else power_mw / 1000,
            processes=self._processes(handle),
        )

    def _temperature_c(self, handle: Any) -> int | None:
        """Ask as new drivers want it, then as old ones know it; CUDA 14 will drop the old call."""
        library = self._library
        sensor = library.NVML_TEMPERATURE_GPU
        for call in (library.nvmlDeviceGetTemperatureV, library.nvmlDeviceGetTemperature):
            found = self._told(lambda call=call: call(handle, sensor))  # type: ignore[misc]
            if found is not None:
                return int(found)
        return None

    def _processes(self, handle: Any) -> tuple[Process, ...]:
        """List who computes or draws; one that does both stands in both lists of NVML."""
        library = self._library
        found: dict[int, int | None] = {}
        for call in (
            library.nvmlDeviceGetComputeRunningProcesses,
            library.nvmlDeviceGetGraphicsRunningProcesses,
        ):
            for one in self._told(lambda call=call: call(handle)) or ():  # type: ignore[misc]
                size = None if one.usedGpuMemory is None else one.usedGpuMemory // MIB
                found[one.pid] = size if found.get(one.pid) is None else found[one.pid]
        return tuple(Process(pid=pid, vram_mib=mib) for pid, mib in sorted(found.items()))

    def _told(self, call: Callable[[], T]) -> T | None:
        """Return what the card tells, or None where it does not tell this."""
        try:
            return call()
        except self._library.NVMLError as error:
            if error.value in _NOT_TOLD:
                return None
            raise
