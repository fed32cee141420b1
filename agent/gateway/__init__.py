"""The gateway: gives people over HTTP what agents have on the bus.

It has no state of its own: the chains and lanes are the truth, and any number of gateways may
serve them. It decides nothing about a request and knows no worker.
"""

from agent.gateway.alert_posts import AlertPosts
from agent.gateway.server import Gateway
from agent.gateway.settings import GatewaySettings, HookSettings
from agent.gateway.webhooks import Webhooks

__all__ = ["KEYS", "AlertPosts", "Gateway", "GatewaySettings", "HookSettings", "Webhooks"]

KEYS = "keys.json"
"""The name of the file of keys in the folder for data."""
