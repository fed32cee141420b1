"""Steps of a world in words, for the trace of a violation."""

from typing import Any

from contracts.events import kind_of
from tests.simulation.actor import Question
from tests.simulation.state import COMES, DIES, Said, State
from tests.simulation.world import World


def readable(world: World, what: tuple[Any, ...], state: State | None) -> str:
    """Return one line: who did what, and the chain after it."""
    note = ""
    match what:
        case ("does", (at, request), said):
            text = f"worker {at + 1}, request {request + 1}: {_commands(world, said)}"
        case ("does", (at,), said):
            text = f"canceller {at + 1}: {_commands(world, said)}"
        case ("deliver", at, request, note):
            text = f"worker {at + 1}, request {request + 1}: is delivered"
        case ("crash", at):
            text = f"worker {at + 1} dies"
        case ("delayed", copy):
            text = f"a delayed copy of {_link(world, world.effects.copies[copy][0])} arrives"
        case _:
            text = str(what[0])
    line = f"{text} ({note})" if note else text
    if state is None:
        return line
    chain = world.chains.shown(state.chain) or "empty"
    lane = ", ".join(str(n + 1) for n in range(2) if state.lane >> n & 1) or "none"
    return f"{line} [chain {chain}; in lane {lane}]"


def _commands(world: World, said: Said) -> str:
    words = []
    for position, note in said:
        if (position, note) == COMES:
            command = "comes"
        else:
            command = "dies" if (position, note) == DIES else _command(world, position)
        words.append(f"{command} ({note})" if note else command)
    return ", ".join(words)


def _command(world: World, position: int) -> str:
    asks = world.actors.asks[position]
    if isinstance(asks, Question):
        return f"append {_link(world, world.actors.link[position])}"
    return type(asks).__name__


def _link(world: World, number: int) -> str:
    link = world.chains.links[number]
    return f"{kind_of(link)}#{link.attempt}"
