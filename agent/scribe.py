"""The scribe of one job: reads its chain, and appends what the story wants said.

What a job has stored is noted on its line. It must not decide which link comes next, and nothing
that a server can do makes it raise: an answer that is none is `Unknown`.
"""

import msgspec
import structlog

from agent.bus import chain, hooks, lanes
from agent.bus.connection import BusError
from agent.core.job import StoredRequest
from agent.core.steps import (
    Append,
    AskLane,
    Event,
    Links,
    NoChain,
    ReadHead,
    ReadHistory,
    Stored,
    Superseded,
    Unknown,
    Waits,
)
from agent.job_line import JobLine
from agent.tools import Tools
from agent.tracing import JobSpan
from contracts import codec
from contracts.events import Link, Started

log = structlog.get_logger()


class Scribe:
    """What one job says and asks on the bus about its request."""

    def __init__(self, tools: Tools, stored: StoredRequest, line: JobLine, span: JobSpan) -> None:
        """Nothing is asked yet; `line` and `span` hear of each link that is stored."""
        self._tools = tools
        self._stored = stored
        self._line = line
        self._span = span

    async def ask(self, command: Append | ReadHead | ReadHistory | AskLane) -> Event:
        """Do what the story asks of the bus and say what came of it."""
        bus, who = self._tools.bus, self._stored.who
        try:
            match command:
                case Append(link=link, expected=expected):
                    return await self._append(link, expected)
                case ReadHead():
                    head = await chain.read_head(bus, who)
                    return NoChain() if head is None else Superseded(head)
                case ReadHistory(upto=upto):
                    return await self._read_history(upto)
                case AskLane(seq=seq):
                    return Waits(await lanes.in_lane(bus, seq))
        except (BusError, msgspec.DecodeError) as error:
            log.warning("job.no_answer", step=type(command).__name__, reason=str(error))
            return Unknown(str(error))

    async def _append(self, link: Link, expected: int) -> Event:
        bus, stored = self._tools.bus, self._stored
        await hooks.keep_of(bus, stored, self._tools.clock.now())
        outcome = await chain.append(bus, stored.who, link, expected, of=stored.trace)
        if isinstance(outcome, Stored):
            self._line.note(link)
            self._span.link(link, outcome.seq)
        return outcome

    async def _read_history(self, upto: int) -> Event:
        stored = await chain.read_chain(self._tools.bus, self._stored.who)
        if not stored or stored[-1].seq < upto:
            return Unknown("the history is behind its leader")
        links = tuple(codec.decode_link(item.data) for item in stored if item.seq <= upto)
        await self._forfeit(links)
        return Links(links)

    async def _forfeit(self, links: tuple[Link, ...]) -> None:
        """Count as spent what lost workers held at a cloud for this request."""
        who = f"{self._stored.who.agent}.{self._stored.who.request_id}"
        for link in links:
            if isinstance(link, Started):
                engine = self._tools.engines.get(link.engine)
                if engine is not None and engine.slot == "cloud":
                    await self._tools.turnstile.forfeit(who, link.attempt, link.engine)
