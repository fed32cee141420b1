"""The pictures of one job on disk: the one it starts from, those it made, and what they leave.

What lost is removed, what won is polished. It must not draw or speak on the bus.
"""

import asyncio
from typing import Final

import msgspec
import structlog

from agent.core.faults import Fault, PictureMissingFault
from agent.core.job import StoredRequest
from agent.core.steps import Discard, Event, Faulted, Kept, Polish
from agent.drawing import Drawing
from agent.prompting import Prompting
from agent.tools import Tools

IMAGE_PATH: Final = "$.options.image"
START_S: Final = 0.008
"""How long a picture waits to be stored while the next job starts: two threads of one interpreter
would slow that start down, and the card costs more than the disk."""

log = structlog.get_logger()


class Pictures:
    """What one job reads and writes among the assets."""

    def __init__(self, tools: Tools, stored: StoredRequest) -> None:
        """Nothing is read or written yet."""
        self._tools = tools
        self._stored = stored

    async def first(self) -> bytes | None:
        """Read the picture to start from; only one of the requester's own. Raises: Fault."""
        request = self._stored.request
        ref = request.options.image if request is not None else None
        if ref is None:
            return None
        agent, request_id = self._stored.who.agent, None
        if ref.asset is not None:
            owner, _, request_id = ref.asset.partition(".")
            if owner != agent:
                raise PictureMissingFault("only an own picture can be started from", IMAGE_PATH)
        data = await self._tools.assets.read_own(agent, request_id=request_id, sha256=ref.sha256)
        if data is None:
            raise PictureMissingFault("no such picture is kept here", IMAGE_PATH)
        return data

    async def keep(
        self, drawing: Drawing, prompting: Prompting, percent: int, *, awaited: bool = False
    ) -> Event:
        """Store the pictures just drawn, with the record beside them.

        `awaited`: another job starts on the card at this moment, and goes first.
        """
        if awaited:
            await asyncio.sleep(START_S)
        stored, request = self._stored, self._stored.request
        assert request is not None, "an unreadable request is never drawn"
        generation, drawing.generation = drawing.generation, None
        assert generation is not None, "pictures are stored once, after they are drawn"
        record: dict[str, object] = {
            "request_id": stored.who.request_id,
            "requester": stored.who.requester,
            "prompt": request.prompt,
            "enhanced_prompt": prompting.extended,
            "options": msgspec.to_builtins(request.options),
            "seed": generation.seed,
            "model": generation.model_used,
            "cost_usd": generation.cost_usd,
            "attempt": drawing.job.attempt,
            "workflow": drawing.job.workflow,
            "requested_at": stored.stored_at.isoformat(),
            "stored_at": self._tools.clock.now().isoformat(),
        }
        try:
            return Kept(
                await self._tools.assets.store(
                    stored.who,
                    drawing.job.attempt,
                    stored.stored_at,
                    generation.pictures,
                    record,
                )
            )
        except Fault as fault:
            return Faulted(fault, percent)

    async def tidy(self, command: Discard | Polish) -> None:
        """Remove files that lost, or earlier ones of the winner; what stays is for the prune."""
        assets, stored = self._tools.assets, self._stored
        try:
            match command:
                case Discard(outputs=outputs):
                    await assets.discard(outputs)
                case Polish(outputs=outputs, attempt=attempt):
                    if attempt > 1:
                        await assets.remove_other_attempts(stored.who, stored.stored_at, outputs)
                    await assets.thumbnails(outputs)
        except Fault as fault:
            log.warning("job.not_tidied", reason=fault.message, at=fault.detail)
