"""The L2 Multimodal Generator: requests on a NATS bus become images.

ARCHITECTURE.md says who may import whom; `agent.worker` tells the story of a request.
"""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("mmg")
except PackageNotFoundError:  # Run from a checkout that was never installed.
    __version__ = "0+unknown"
