"""The engine `comfyui`: a ComfyUI server over HTTP and one WebSocket.

HTTP gives the verdict, the socket only speed and progress. Source of every fact about the peer:
ComfyUI 0.3.64, observed.
"""

from agent.engines.comfyui.engine import ComfyEngine, ComfySettings

__all__ = ["ComfyEngine", "ComfySettings"]
