"""The gateway: gives people over HTTP what agents have on the bus.

It has no state of its own: the chains and lanes are the truth, and any number of gateways may
serve them. It decides nothing about a request and knows no worker.
"""

from agent.gateway.server import Gateway
from agent.gateway.settings import GatewaySettings

__all__ = ["Gateway", "GatewaySettings"]
