"""What was heard and what was read, put into one order.

Pure but for its log: no server, no clock, nothing waits here.
"""

from collections.abc import Sequence
from typing import Final

import msgspec
import structlog

from contracts import codec
from contracts.events import TERMINAL_KINDS, Link, LinkHead, Progress, Status

AHEAD_MAX: Final = 256
"""Links kept that came before their turn; more are read from the chain when it is."""

_ENDED: Final = frozenset({Status.COMPLETED, Status.FAILED, Status.CANCELLED})

Event = Link | Progress
"""What a watcher gets: links in the order of their `n`, and step progress between them."""

log = structlog.get_logger()


class Order:
    """Puts what was heard and what was read into one order."""

    def __init__(self, after: int = 0) -> None:
        """Start behind place `after` of the chain."""
        self.ended = False
        self._n = after
        self._working = False
        self._shown: Progress | None = None
        self._early: Progress | None = None
        self._ahead: dict[int, bytes] = {}

    @property
    def gap(self) -> bool:
        """Whether a later link is known than the next one."""
        return bool(self._ahead) and not self.ended

    def heard(self, data: bytes) -> list[Event]:
        """Take a live link: at once if it is the next, later if one is missing before it."""
        head = _head_of(data)
        if head is None or head.n <= self._n or self.ended:
            return []
        if head.n > self._n + 1:
            if len(self._ahead) < AHEAD_MAX:
                self._ahead[head.n] = data
            return []
        return self._take(head, data) + self._take_ahead()

    def read(self, links: Sequence[bytes]) -> list[Event]:
        """Take the chain as the stream has it: missing places in it are missing for ever."""
        events: list[Event] = []
        for data in links:
            head = _head_of(data)
            if head is None or self.ended:
                continue
            if head.n > self._n:
                events += self._take(head, data)
            else:
                self._working = head.n == self._n and head.kind == "started"
                self.ended = _ends(head)
        return events + self._take_ahead()

    def progressed(self, progress: Progress) -> list[Event]:
        """Take progress: shown between the `started` it belongs to and the next link."""
        if self.ended or progress.n < self._n:
            return []
        if progress.n > self._n:
            self._early = progress
            return []
        shown = self._shown
        stale = shown is not None and progress.progress_percent < shown.progress_percent
        if not self._working or stale or (shown is not None and progress.id == shown.id):
            return []
        self._shown = progress
        return [progress]

    def _take(self, head: LinkHead, data: bytes) -> list[Event]:
        self._n = head.n
        self._working = head.kind == "started"
        self._shown = None
        self.ended = _ends(head)
        events: list[Event] = []
        try:
            events.append(codec.decode_link(data))
        except msgspec.DecodeError as error:
            log.info("client.link_skipped", kind=head.kind, n=head.n, reason=str(error))
        early, self._early = self._early, None
        return events if early is None else events + self.progressed(early)

    def _take_ahead(self) -> list[Event]:
        events: list[Event] = []
        while not self.ended and (data := self._ahead.pop(self._n + 1, None)) is not None:
            head = _head_of(data)
            assert head is not None, "only readable links are kept"
            events += self._take(head, data)
        self._ahead = {n: data for n, data in self._ahead.items() if n > self._n}
        return events


def _head_of(data: bytes) -> LinkHead | None:
    try:
        return codec.decode_head(data)
    except msgspec.DecodeError as error:
        log.warning("client.unreadable", reason=str(error))
        return None


def _ends(head: LinkHead) -> bool:
    """Tell whether a link closes its chain, also one of a kind that is not known here."""
    return head.kind in TERMINAL_KINDS or head.status in _ENDED
