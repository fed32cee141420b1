"""What other agents import: ask for a picture, follow the request, have the picture.

    async with connect("nats://127.0.0.1:4222", agent="L2.05.03") as client:
        done = await client.generate("a lighthouse at dusk", style="report-cover")
        print(done.output.url)

On a site with keys: `login=Login(seed=..., ca=Path(...))`, with what `mmg key add-agent` made.
A request outlives its client: whoever knows its id can `watch` it, from the start or from a place
`after=n`, today or in 30 days. The client subscribes before it publishes; what it misses it reads.
It must not know workers, engines or gateways.
"""

from agent.bus.connection import BusError
from agent.bus.login import Login
from agent.client.asking import (
    DEFAULT_URL,
    Client,
    Fields,
    GenerationFailed,
    Ticket,
    build_request,
    check_same,
    connect,
)
from agent.client.following import Events
from agent.client.order import Event
from contracts.errors import ContractError

__all__ = [
    "DEFAULT_URL",
    "BusError",
    "Client",
    "ContractError",
    "Event",
    "Events",
    "Fields",
    "GenerationFailed",
    "Login",
    "Ticket",
    "build_request",
    "check_same",
    "connect",
]
