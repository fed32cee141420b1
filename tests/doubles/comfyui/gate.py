"""A gate that is open unless shut, for as long as told: freezing, hanging, stuck sockets."""

import asyncio


class Gate:
    """Open at first; whoever passes waits while it is shut."""

    def __init__(self) -> None:
        self._open = asyncio.Event()
        self._open.set()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def shut(self) -> bool:
        """Say whether passing would wait."""
        return not self._open.is_set()

    def close(self, seconds: float | None = None) -> None:
        """Shut it, for so long or until opened."""
        self._stop_timer()
        self._open.clear()
        if seconds is not None:
            self._timer = asyncio.get_running_loop().call_later(seconds, self.open)

    def open(self) -> None:
        """Open it."""
        self._stop_timer()
        self._open.set()

    async def passed(self) -> None:
        """Wait until it is open."""
        await self._open.wait()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
