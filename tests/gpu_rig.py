"""What tests of the card need: the stand-in for pynvml, for this process or for another one."""

import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType

from tests.doubles.card import SharedCard

STAND_IN = Path(__file__).parent / "doubles" / "nvml"


def stand_in() -> ModuleType:
    """Return the stand-in, not initialised: each call loads it anew."""
    spec = importlib.util.spec_from_file_location("pynvml_double", STAND_IN / "pynvml.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclasses look their module up
    try:
        spec.loader.exec_module(module)
    finally:
        del sys.modules[spec.name]
    return module


def with_cards(*cards: SharedCard) -> dict[str, str]:
    """Return the environment of a program whose NVML shows these cards."""
    path = os.pathsep.join(filter(None, (str(STAND_IN), os.environ.get("PYTHONPATH"))))
    paths = os.pathsep.join(str(card.path) for card in cards)
    return {**os.environ, "PYTHONPATH": path, "MMG_DOUBLE_CARD": paths}
