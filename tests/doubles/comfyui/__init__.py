"""A ComfyUI without models: speaks what was recorded from 0.3.64, and errs when told to.

`ComfyDouble` runs inside a test; `python -m tests.doubles.comfyui` runs alone.
None of ComfyUI's code is in here: behaviour comes from recordings of its HTTP and WebSocket.
"""

from tests.doubles.comfyui.server import ComfyDouble
from tests.doubles.comfyui.settings import Settings

__all__ = ["ComfyDouble", "Settings"]
