"""Deletes the pictures that have had their time, and says so in the stream.

Once a day in the gateway that writes the ledger; by hand with `mmg prune`. It decides nothing:
`agent.core.retention` does. It must not delete by a ledger that is behind its stream.
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path, PurePosixPath
from typing import Final

import msgspec
import structlog

from agent.assets import AssetStore, RemoteError, names, room
from agent.bus import control, facts
from agent.bus.connection import Bus, BusError
from agent.clock import Clock, SystemClock
from agent.core.faults import Fault
from agent.core.ledger_row import Row
from agent.core.retention import FileOnDisk, Known, Piece, Removal, Rules, judge
from agent.ledger import FILE, keeping
from agent.ledger.database import LedgerError
from contracts.events import Alert
from contracts.subjects import Identity

EVERY: Final = timedelta(days=1)
LOOK_S: Final = 60.0
NAME: Final = "retention"
NOTE: Final = "retention.json"
"""When this host was pruned last: the folder of the ledger has it."""
ALERT: Final = "gateway_disk"

log = structlog.get_logger()


class Pruned(msgspec.Struct, frozen=True, kw_only=True):
    """What went, or would go. `requests` have lost their pictures; other files had no chain."""

    dry_run: bool
    requests: int
    files: int
    bytes: int
    pinned: int
    removals: tuple[Removal, ...] = ()


class _Note(msgspec.Struct, frozen=True, kw_only=True):
    at: datetime
    requests: int = 0
    files: int = 0
    bytes: int = 0


class _Output(msgspec.Struct):
    """What of an output names its file."""

    url: str = ""


class Retention:
    """Keeps one folder of assets to its limit, by one ledger."""

    def __init__(
        self,
        bus: Bus,
        assets: AssetStore,
        data_dir: Path,
        days: int,
        clock: Clock | None = None,
        look_s: float = LOOK_S,
    ) -> None:
        """Touch nothing yet. Units: `days` that pictures are kept; `look_s` between two looks."""
        self._bus = bus
        self._assets = assets
        self._ledger = data_dir / FILE
        self._note = data_dir / NOTE
        self._kept = timedelta(days=days)
        self._clock = clock or SystemClock()
        self._look_s = look_s
        self._alarmed = False

    async def run(self, caught_up: Callable[[], bool]) -> None:
        """Prune once a day for ever, and watch the disk.

        `caught_up` tells whether this process writes the ledger, and has all the stream has.
        """
        while True:
            await self.watch_disk()
            if caught_up() and await asyncio.to_thread(self._is_due):
                try:
                    await self.prune()
                except (BusError, LedgerError, RemoteError, Fault, OSError) as error:
                    log.error("retention.failed", reason=str(error))  # noqa: TRY400
            await asyncio.sleep(self._look_s)

    async def prune(self, *, dry_run: bool = False) -> Pruned:
        """Delete what has had its time; with `dry_run` only say what that would be.

        Files go first, the fact follows: what the ledger calls pruned is gone. A crash in between
        is mended by the next time. Order: the ledger has caught up with the stream.
        Raises: LedgerError, BusError, Fault.
        """
        now = self._clock.now()
        files = await self._assets.inventory()
        # A hundred thousand files take seconds to judge: not on the loop.
        pieces = await asyncio.to_thread(_pieces, files, now)
        found = await keeping.read(self._ledger, pieces.keys(), now - self._kept)
        pins = await facts.pinned(self._bus)
        rules = Rules(
            now=now,
            kept=self._kept,
            known_since=None if found.since is None else datetime.fromisoformat(found.since),
        )
        site = _Site(pieces=pieces, rows=found.rows, pins=pins, rules=rules)
        removals = await asyncio.to_thread(site.judge_all)
        if not dry_run:
            removals = [one for each in removals if (one := await self._remove(each, site))]
        pruned = Pruned(
            dry_run=dry_run,
            requests=sum(removal.ends for removal in removals),
            files=sum(len(removal.files) for removal in removals),
            bytes=sum(file.size_bytes for removal in removals for file in removal.files),
            pinned=len(pins),
            removals=tuple(removals),
        )
        if not dry_run:
            await asyncio.to_thread(self._write_note, pruned)
            log.info(
                "retention.pruned",
                requests=pruned.requests,
                files=pruned.files,
                bytes=pruned.bytes,
            )
        return pruned

    async def _remove(self, removal: Removal, site: "_Site") -> Removal | None:
        """Remove files of one request, and tell it where its pictures are gone with them.

        Who has pinned it since is asked of the stream's leader, and last; it then is judged anew.
        Returns what went. Raises: BusError, RemoteError, Fault.
        """
        who = removal.who
        if not site.is_pinned(who) and await facts.is_pinned(self._bus, who):
            found = site.judge(who, pinned=True)
            if found is None:
                return None
            removal = found
        await self._assets.remove([(file.month, file.name) for file in removal.files])
        if removal.ends:
            reason = f"kept for {self._kept.days} days"
            await facts.tell(
                self._bus, who, facts.PRUNED, by=NAME, clock=self._clock, reason=reason
            )
        return removal

    async def watch_disk(self) -> None:
        """Tell a person, once, that the disk of the assets is nearly full; and that it is over."""
        try:
            free, total = await asyncio.to_thread(self._assets.free_bytes)
        except OSError as error:
            log.warning("retention.disk_unknown", reason=str(error))
            return
        low = room(free, total) != "ok"
        if low == self._alarmed:
            return
        self._alarmed = low
        message = f"the disk of the assets folder has {free / 1e9:.1f} GB left"
        alert = Alert(
            name=ALERT,
            state="raised" if low else "cleared",
            message=message if low else "over",
            by=NAME,
            at=self._clock.now(),
        )
        await control.raise_alert(self._bus, alert)

    def _is_due(self) -> bool:
        """Tell whether a day has passed since this host was pruned."""
        try:
            last = msgspec.json.decode(self._note.read_bytes(), type=_Note).at
        except (OSError, msgspec.DecodeError):
            return True
        now = self._clock.now()
        return last > now or now - last >= EVERY

    def _write_note(self, pruned: Pruned) -> None:
        note = _Note(
            at=self._clock.now(), requests=pruned.requests, files=pruned.files, bytes=pruned.bytes
        )
        beside = self._note.with_name(f".{NOTE}.tmp")
        beside.write_bytes(msgspec.json.encode(note))
        beside.replace(self._note)


class _Site(msgspec.Struct, frozen=True, kw_only=True):
    """All that is judged at one time."""

    pieces: Mapping[Identity, Sequence[Piece]]
    rows: Mapping[Identity, Row]
    pins: Collection[Identity]
    rules: Rules

    def judge_all(self) -> list[Removal]:
        """Say what goes, of all requests that have files, or had some."""
        everybody = sorted({*self.pieces, *self.rows})
        judged = (self.judge(who, pinned=self.is_pinned(who)) for who in everybody)
        return [removal for removal in judged if removal is not None]

    def is_pinned(self, who: Identity) -> bool:
        """Tell whether it is pinned, by the bucket or by the ledger."""
        row = self.rows.get(who)
        return who in self.pins or (row is not None and row.pinned)

    def judge(self, who: Identity, *, pinned: bool) -> Removal | None:
        """Say what of one request goes; None: nothing."""
        known = _known(self.rows.get(who))
        return judge(who, self.pieces.get(who, ()), known, self.rules, pinned=pinned)


def _pieces(files: Collection[FileOnDisk], now: datetime) -> dict[Identity, list[Piece]]:
    """Return the files of each request; what has another name is not ours, and stays."""
    found: dict[Identity, list[Piece]] = defaultdict(list)
    for file in files:
        name = names.read(file.name)
        if name is not None:
            piece = Piece(
                file=file,
                stem=name.stem,
                written_at=datetime.fromtimestamp(file.written_s, now.tzinfo),
                temporary=name.writer is not None,
            )
            found[name.who].append(piece)
    return found


def _known(row: Row | None) -> Known | None:
    if row is None:
        return None
    outputs = msgspec.json.decode(row.outputs, type=list[_Output])
    read = (names.read(PurePosixPath(output.url).name) for output in outputs)
    return Known(
        status=row.status,
        ended_at=None if row.ended_at is None else datetime.fromisoformat(row.ended_at),
        stems=frozenset(name.stem for name in read if name is not None),
        pruned=row.pruned_at is not None,
    )
