"""Goal: what holds for the stand-in for pynvml holds for the real module too.

Method: names, values and errors are compared with those of the real one; an unchanged program in
a process of its own sees the simulated card.
"""

import subprocess
import sys
from pathlib import Path

import pynvml
import pytest

from tests.doubles.card import SharedCard
from tests.gpu_rig import stand_in, with_cards

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = """
import asyncio
from agent.clock import SystemClock
from agent.gpu.nvml import Limits, Nvml
print(asyncio.run(Nvml(SystemClock(), limits=Limits(call_s=2)).read()))
"""


@pytest.mark.parametrize("fault", [None, "hang"])
def test_a_process_needs_only_its_path_to_see_the_simulated_card(tmp_path, fault):
    card = SharedCard.create(tmp_path / "card.json")
    card.hold("desktop", 1536)
    card.fault = fault
    seen = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env=with_cards(card),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    ).stdout
    expected = "free_mib=23040" if fault is None else "HANG"  # and it ended, with a thread stuck
    assert expected in seen.splitlines()[-1]


def test_the_stand_in_speaks_as_the_real_module():
    library = stand_in()
    names = [name for name in vars(library) if name.startswith(("nvml", "NVML"))]
    assert len(names) > 30
    assert not [name for name in names if not hasattr(pynvml, name)]
    for name in names:
        if isinstance(getattr(library, name), int):
            assert getattr(library, name) == getattr(pynvml, name), name
    for value, made in library.NVMLError.classes.items():
        real = pynvml.NVMLError(value)
        assert type(real).__name__ == made.__name__
        assert str(real) == str(library.NVMLError(value))
