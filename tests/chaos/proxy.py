"""A TCP proxy that breaks what goes through it: cuts, delays, goes deaf in one direction.

It knows bytes, not NATS. One of them stands before each worker.
"""

import asyncio
import random
from typing import Literal

Direction = Literal["to_server", "to_client"]
CHUNK = 16_384
CLOSE_S = 5.0


class _Wire:
    """One connection through the proxy: both of its ends."""

    def __init__(self, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self.ends = (client, server)

    def abort(self) -> None:
        """Reset both ends; bytes on their way are lost."""
        for end in self.ends:
            end.transport.abort()


class Proxy:
    """Forwards to one port of this machine. Order: `start`, then faults, `close` at the end."""

    def __init__(self, target: int, rng: random.Random) -> None:
        """`target` is where the server listens, also after a restart."""
        self.target = target
        self.port = 0
        self._rng = rng
        self._server: asyncio.Server | None = None
        self._wires: set[_Wire] = set()
        self._open: dict[Direction, asyncio.Event] = {
            "to_server": asyncio.Event(),
            "to_client": asyncio.Event(),
        }
        self._delay_s = 0.0
        self._cut_in_message = False
        self._serving: set[asyncio.Task[None]] = set()
        self.heal()

    async def start(self) -> None:
        """Listen on a free port."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """Cut everything and listen no more."""
        assert self._server is not None, "started"
        self._server.close()
        self.heal()
        for task in self._serving:
            task.cancel()
        if self._serving:
            await asyncio.wait(self._serving, timeout=CLOSE_S)
        await self._server.wait_closed()

    def cut(self) -> None:
        """Reset every connection."""
        for wire in tuple(self._wires):
            wire.abort()

    def cut_in_message(self) -> None:
        """Forward a part of the next bytes to the server, then reset."""
        self._cut_in_message = True

    def delay(self, at_most_s: float) -> None:
        """Hold all bytes back for up to that long."""
        self._delay_s = at_most_s

    def deafen(self, direction: Direction) -> None:
        """Stop forwarding in one direction; the connection stays open."""
        self._open[direction].clear()

    def heal(self) -> None:
        """Forward everything again at once; what was held back in a deaf direction goes on."""
        self._delay_s = 0.0
        self._cut_in_message = False
        for event in self._open.values():
            event.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None, "a server runs this in a task"
        self._serving.add(task)
        try:
            await self._forward(reader, writer)
        finally:
            self._serving.discard(task)
            writer.transport.abort()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            return
        wire = _Wire(writer, back)
        self._wires.add(wire)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pump(reader, back, "to_server", wire))
                group.create_task(self._pump(there, writer, "to_client", wire))
        finally:
            self._wires.discard(wire)
            wire.abort()

    async def _pump(
        self,
        source: asyncio.StreamReader,
        sink: asyncio.StreamWriter,
        direction: Direction,
        wire: _Wire,
    ) -> None:
        """Forward until one end is closed, then reset the other."""
        try:
            while chunk := await source.read(CHUNK):
                await self._open[direction].wait()
                if self._delay_s > 0:
                    await asyncio.sleep(self._rng.uniform(0, self._delay_s))
                if self._cut_in_message and direction == "to_server" and len(chunk) > 1:
                    self._cut_in_message = False
                    sink.write(chunk[: self._rng.randrange(1, len(chunk))])
                    await sink.drain()
                    break
                sink.write(chunk)
                await sink.drain()
        except OSError:
            return
        finally:
            wire.abort()
