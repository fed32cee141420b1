"""A thread for calls that block and may never come back. It must not know what they do.

Not `asyncio.to_thread`: its threads are waited for when the program ends, so that one stuck in a
driver would keep the program from ending. This one is a daemon, and can be left behind.
"""

from collections.abc import Callable
from concurrent.futures import Future
from queue import Full, Queue
from threading import Event, Thread
from typing import Final, TypeVar

WAITING_MAX: Final = 16
"""Calls that wait for their turn; one more is refused."""

T = TypeVar("T")


class CallThread:
    """Makes calls one after the other in a thread of its own; `at_end` is the last one."""

    def __init__(self, name: str, at_end: Callable[[], None]) -> None:
        self._calls: Queue[Callable[[], None] | None] = Queue(WAITING_MAX)
        self._over = Event()
        self._at_end = at_end
        self._thread = Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """Whether a call of it, or it itself, is still there."""
        return self._thread.is_alive()

    def submit(self, call: Callable[[], T]) -> Future[T]:
        """Make a call when those before it are done. Raises: queue.Full if too many wait."""
        future: Future[T] = Future()
        self._calls.put_nowait(lambda: _make(call, future))
        return future

    def end(self) -> None:
        """Make no more calls. One that runs comes to its end; this does not wait for it."""
        self._over.set()
        try:
            self._calls.put_nowait(None)
        except Full:
            return  # It looks at `_over` before the next call, so that nothing has to wake it.

    def _run(self) -> None:
        while True:
            call = self._calls.get()
            if call is None or self._over.is_set():
                break
            call()
        self._at_end()


def _make(call: Callable[[], T], future: Future[T]) -> None:
    """Make a call, unless nobody waits for it any more."""
    if not future.set_running_or_notify_cancel():
        return
    try:
        result = call()
    except Exception as error:  # noqa: BLE001 - it is raised where the result is awaited
        future.set_exception(error)
    else:
        future.set_result(result)
