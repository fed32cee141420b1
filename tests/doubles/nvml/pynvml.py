"""A stand-in for the module `pynvml`: NVML over simulated cards, for a program that is unchanged.

Put this folder first on PYTHONPATH, and the card's file into MMG_DOUBLE_CARD (several: parted as
PATH is). Without it there is no NVML, as on a machine without a driver. Names, values and texts
are those of nvidia-ml-py 13; it knows only the calls that a meter needs.

What a fault of the card does (`tests.doubles.card`): `no_library`, `no_permission`, `driver_gone`
and `driver_upgraded` meet all calls; `lost` and `reset_required` those about a card; under `hang`
every call waits until it is over. After the driver was away, calls answer Unknown until NVML was
shut down and initialised again.
"""

# ruff: noqa: N802, N815, N816 - NVML's own spelling
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import ClassVar

from tests.doubles.card import SharedCard

NVML_TEMPERATURE_GPU = 0
nvmlEventTypeXidCriticalError = 0x0000000000000008
nvmlMemory_v2 = 0x02000028

MIB = 1024 * 1024
POLL_S = 0.005

_TEXTS = {
    1: ("Uninitialized", "Uninitialized"),
    2: ("InvalidArgument", "Invalid Argument"),
    3: ("NotSupported", "Not Supported"),
    4: ("NoPermission", "Insufficient Permissions"),
    6: ("NotFound", "Not Found"),
    9: ("DriverNotLoaded", "Driver Not Loaded"),
    10: ("Timeout", "Timeout"),
    12: ("LibraryNotFound", "NVML Shared Library Not Found"),
    13: ("FunctionNotFound", "Function Not Found"),
    15: ("GpuIsLost", "GPU is lost"),
    16: ("ResetRequired", "GPU requires restart"),
    18: ("LibRmVersionMismatch", "RM has detected an NVML/RM version mismatch."),
    999: ("Unknown", "Unknown Error"),
}


class NVMLError(Exception):
    """An error of NVML; made with a value it is of the class for that value, as the real one."""

    classes: ClassVar[dict[int, type["NVMLError"]]] = {}

    def __new__(cls, value: int) -> "NVMLError":  # noqa: PYI034 - of the class for the value
        made = super().__new__(cls.classes.get(value, cls) if cls is NVMLError else cls)
        made.value = value
        return made

    value: int

    def __str__(self) -> str:
        return _TEXTS[self.value][1]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, NVMLError) and self.value == other.value

    __hash__ = None  # type: ignore[assignment] # as the real one, which has only __eq__


for _value, (_name, _) in _TEXTS.items():
    NVMLError.classes[_value] = type(f"NVMLError_{_name}", (NVMLError,), {})
    globals()[f"NVMLError_{_name}"] = NVMLError.classes[_value]


class Library:
    """What one process knows of NVML."""

    def __init__(self) -> None:
        self.lock = Lock()
        self.uses = 0
        self.starts: list[int] = []
        """How often each card's driver had been loaded when NVML was initialised."""


_library = Library()


@dataclass(eq=False)
class Device:
    """A handle."""

    card: SharedCard


@dataclass
class Memory:
    """*Units*: bytes. `reserved` is 0: the simulated driver needs nothing for itself."""

    total: int
    free: int
    used: int
    reserved: int = 0


@dataclass
class Process:
    """A process with memory on the card."""

    pid: int
    usedGpuMemory: int | None


@dataclass
class Utilization:
    """*Units*: percent."""

    gpu: int
    memory: int


@dataclass(eq=False)
class EventSet:
    """Cards that are listened to, with how many errors of each were told."""

    told: dict[Device, int] = field(default_factory=dict)


@dataclass
class Event:
    """An event; `eventData` is the Xid."""

    device: Device
    eventType: int
    eventData: int


def nvmlInit() -> None:
    """Initialise; counted, as many shutdowns end it."""
    cards = _cards()
    if not cards or any(card.fault == "no_library" for card in cards):
        raise NVMLError(12)
    _meet_driver(cards)
    with _library.lock:
        _library.uses += 1
        if _library.uses == 1:
            _library.starts = [card.driver_starts for card in cards]


def nvmlInitWithFlags(_flags: int) -> None:
    """Initialise."""
    nvmlInit()


def nvmlShutdown() -> None:
    """Take one initialisation back."""
    with _library.lock:
        if not _library.uses:
            raise NVMLError(1)
        _library.uses -= 1


def nvmlSystemGetDriverVersion() -> str:
    """Return the driver's version."""
    return _ready()[0].driver


def nvmlDeviceGetCount() -> int:
    """Count the cards."""
    return len(_ready())


def nvmlDeviceGetHandleByIndex(index: int) -> Device:
    """Return a card by its place."""
    cards = _ready()
    if not 0 <= index < len(cards):
        raise NVMLError(2)
    return Device(_card(Device(cards[index])))


def nvmlDeviceGetHandleByUUID(uuid: str) -> Device:
    """Return a card by its name."""
    for card in _ready():
        if card.uuid == uuid:
            return Device(_card(Device(card)))
    raise NVMLError(6)


def nvmlDeviceGetIndex(handle: Device) -> int:
    """Return a card's place."""
    _card(handle)
    return [card.path for card in _cards()].index(handle.card.path)


def nvmlDeviceGetName(handle: Device) -> str:
    """Return what a card is sold as."""
    return _card(handle).name


def nvmlDeviceGetUUID(handle: Device) -> str:
    """Return which card it is."""
    return _card(handle).uuid


def nvmlDeviceGetMemoryInfo(handle: Device, version: int | None = None) -> Memory:
    """Return what all programs together hold."""
    if version not in (None, nvmlMemory_v2):
        raise NVMLError(2)
    card = _card(handle)
    used, total = card.used_mib * MIB, card.total_mib * MIB
    return Memory(total, total - used, used)


def nvmlDeviceGetComputeRunningProcesses(handle: Device) -> list[Process]:
    """List who holds memory; what is held without a process is in no list."""
    return [Process(pid, mib * MIB) for pid, mib in _card(handle).processes().items()]


def nvmlDeviceGetGraphicsRunningProcesses(handle: Device) -> list[Process]:
    """List nobody: no simulated program draws windows."""
    _card(handle)
    return []


def nvmlDeviceGetUtilizationRates(handle: Device) -> Utilization:
    """Return the memory in use, for both: nothing here computes."""
    card = _card(handle)
    percent = 100 * card.used_mib // card.total_mib
    return Utilization(percent, percent)


def nvmlDeviceGetTemperature(handle: Device, sensor: int) -> int:
    """Return degrees between 35 and 75, by the memory in use."""
    if sensor != NVML_TEMPERATURE_GPU:
        raise NVMLError(2)
    card = _card(handle)
    return 35 + 40 * card.used_mib // card.total_mib


def nvmlDeviceGetTemperatureV(handle: Device, _sensor: int) -> int:
    """Refuse: the simulated driver is older than this call."""
    _card(handle)
    raise NVMLError(13)


def nvmlDeviceGetPowerUsage(handle: Device) -> int:
    """Refuse, as some cards do."""
    _card(handle)
    raise NVMLError(3)


def nvmlDeviceGetSupportedEventTypes(handle: Device) -> int:
    """Return the mask of events it can tell."""
    _card(handle)
    return nvmlEventTypeXidCriticalError


def nvmlEventSetCreate() -> EventSet:
    """Return a set that listens to nothing yet."""
    _ready()
    return EventSet()


def nvmlDeviceRegisterEvents(handle: Device, types: int, events: EventSet) -> None:
    """Listen to a card from now on."""
    if types != nvmlEventTypeXidCriticalError:
        raise NVMLError(3)
    events.told[handle] = len(_card(handle).xids)


def nvmlEventSetWait_v2(events: EventSet, timeout_ms: int) -> Event:
    """Wait for the next event. *Raises* NVMLError_Timeout."""
    until = time.monotonic() + timeout_ms / 1000
    while True:
        for handle, told in events.told.items():
            xids = _card(handle).xids
            if len(xids) > told:
                events.told[handle] += 1
                return Event(handle, nvmlEventTypeXidCriticalError, xids[told])
        if time.monotonic() >= until:
            raise NVMLError(10)
        time.sleep(POLL_S)


nvmlEventSetWait = nvmlEventSetWait_v2


def nvmlEventSetFree(events: EventSet) -> None:
    """Listen no more."""
    events.told.clear()


def _cards() -> list[SharedCard]:
    paths = os.environ.get("MMG_DOUBLE_CARD", "")
    return [SharedCard(Path(path)) for path in paths.split(os.pathsep) if path]


def _meet_driver(cards: list[SharedCard]) -> None:
    """Meet what is wrong with the driver, which all cards share."""
    while any(card.fault == "hang" for card in cards):
        time.sleep(POLL_S)
    faults = {card.fault for card in cards}
    for fault, value in (("driver_gone", 9), ("driver_upgraded", 18), ("no_permission", 4)):
        if fault in faults:
            raise NVMLError(value)


def _ready() -> list[SharedCard]:
    """Return the cards if calls are answered."""
    if not _library.uses:
        raise NVMLError(1)
    cards = _cards()
    _meet_driver(cards)
    if _library.starts != [card.driver_starts for card in cards]:
        raise NVMLError(999)
    return cards


def _card(handle: Device) -> SharedCard:
    """Return the card of a handle if it answers."""
    _ready()
    for fault, value in (("lost", 15), ("reset_required", 16)):
        if handle.card.fault == fault:
            raise NVMLError(value)
    return handle.card
