"""A whole fake machine: one simulated card, ComfyUI and Ollama on it, and clouds behind them.

All parts are the doubles of this folder's neighbours, with all their knobs; nothing is new here
but that they share the card. `python -m tests.doubles.machine --help` runs one by hand.
"""

from tests.doubles.machine.settings import LLMS, Settings
from tests.doubles.machine.site import Machine

__all__ = ["LLMS", "Machine", "Settings"]
