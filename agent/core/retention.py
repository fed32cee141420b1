"""Which files of the assets have had their time. Pure.

It judges one request at a time, by what the ledger and the pins say of it. Must not look at a disk.
"""

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from typing import Final, NamedTuple

import msgspec

from contracts.events import Status
from contracts.subjects import Identity

UNNAMED_KEPT: Final = timedelta(hours=24)
"""How long a file stays that no chain names: its writer may still be about to name it."""
_OPEN: Final = (Status.QUEUED.value, Status.PROCESSING.value)


class FileOnDisk(NamedTuple):
    """A file in the folder of a month. Units: bytes, Unix seconds."""

    month: str
    name: str
    size_bytes: int
    written_s: float


class Piece(msgspec.Struct, frozen=True, kw_only=True):
    """A file of a request: a picture, or what lies beside one; `stem` tells beside which."""

    file: FileOnDisk
    stem: str
    written_at: datetime
    temporary: bool = False


class Known(msgspec.Struct, frozen=True, kw_only=True):
    """What the ledger says of a request; `stems` are the pictures that its chain names."""

    status: str
    ended_at: datetime | None
    stems: frozenset[str]
    pruned: bool


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """What is judged by. `known_since`: the ledger knows all requests from then on; None: none."""

    now: datetime
    kept: timedelta
    known_since: datetime | None


class Removal(msgspec.Struct, frozen=True, kw_only=True):
    """What of a request goes. `ends`: with this its pictures are gone, and the ledger is told."""

    who: Identity
    files: tuple[FileOnDisk, ...]
    ends: bool


def judge(
    who: Identity, pieces: Sequence[Piece], known: Known | None, rules: Rules, *, pinned: bool
) -> Removal | None:
    """Say what of a request goes now; None: nothing.

    1. A request that is queued or running keeps everything.
    2. What its chain names stays while it is pinned, and for as long as pictures are kept since it
    ended; then it goes, with all that lies beside it.
    3. What no chain names goes a day after it was written: losers of a race, what a crash left.
    4. A request that the ledger does not know, from a time of which it does not know all, may have
    been one of those that are kept: as long as those, or while it is pinned.
    """
    if known is None:
        if pinned:
            return None  # 4
        gone = [piece for piece in pieces if _is_stray(piece, rules)]
        return _removal(who, gone, ends=False)
    if known.status in _OPEN:
        return None  # 1
    over = known.ended_at is not None and known.ended_at + rules.kept <= rules.now
    ends = over and not pinned and bool(known.stems)
    gone = [
        piece
        for piece in pieces
        if (ends if _is_named(piece, known.stems) else _is_old(piece, rules, UNNAMED_KEPT))
    ]  # 2, 3
    return _removal(who, gone, ends=ends and not known.pruned)


def _removal(who: Identity, gone: Collection[Piece], *, ends: bool) -> Removal | None:
    if not gone and not ends:
        return None
    return Removal(who=who, files=tuple(piece.file for piece in gone), ends=ends)


def _is_named(piece: Piece, stems: Collection[str]) -> bool:
    return piece.stem in stems and not piece.temporary


def _is_stray(piece: Piece, rules: Rules) -> bool:
    """Tell whether a file of an unknown request goes: rules 3 and 4."""
    covered = rules.known_since is not None and piece.written_at >= rules.known_since
    return _is_old(piece, rules, UNNAMED_KEPT if covered or piece.temporary else rules.kept)


def _is_old(piece: Piece, rules: Rules, age: timedelta) -> bool:
    return piece.written_at + age <= rules.now
