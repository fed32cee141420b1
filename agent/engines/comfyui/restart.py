"""Restarts a ComfyUI that is down, by a command the operator gave: bounded, logged, no shell."""

import asyncio
import contextlib
from collections import deque
from collections.abc import Sequence
from typing import Final

import structlog

from agent.clock import Clock

DOWN_FIRST_S: Final = 30.0
"""How long a server must be down before it is restarted: it may be starting just now."""
TIMES_MAX: Final = 3
WINDOW_S: Final = 600.0
COMMAND_TIMEOUT_S: Final = 60.0

log = structlog.get_logger()


class Restart:
    """The restarts of one server: at most three in ten minutes."""

    def __init__(self, command: Sequence[str], clock: Clock) -> None:
        """`command` is an argument list; empty: never restart."""
        self._command = tuple(command)
        self._clock = clock
        self._done: deque[float] = deque()

    def is_due(self, down_s: float) -> bool:
        """Tell whether a server that has been down for `down_s` should be restarted now."""
        now_s = self._clock.monotonic_s()
        while self._done and now_s - self._done[0] > WINDOW_S:
            self._done.popleft()
        if not self._command or down_s < DOWN_FIRST_S or len(self._done) >= TIMES_MAX:
            return False
        return not self._done or now_s - self._done[-1] >= DOWN_FIRST_S

    async def run(self, server: str) -> None:
        """Run the command and wait for its end; what it does is the operator's business."""
        self._done.append(self._clock.monotonic_s())
        log.warning("comfyui.restarting", server=server, times=len(self._done), most=TIMES_MAX)
        try:
            process = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.DEVNULL,
            )
        except OSError as error:
            log.warning("comfyui.restart_failed", server=server, reason=str(error))
            return
        try:
            async with asyncio.timeout(COMMAND_TIMEOUT_S):
                code = await process.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
            log.warning("comfyui.restart_failed", server=server, reason="the command hangs")
            return
        if code != 0:
            log.warning("comfyui.restart_failed", server=server, reason=f"exit code {code}")
