"""What stands in the tables, as structs: rows, alerts, and how far the stream is folded.

The only place that writes SQL for changes. Must not know the stream.
"""

from collections.abc import Collection, Iterable
from typing import Final

import msgspec

from agent.core import ledger_row
from agent.core.ledger_row import Row
from agent.ledger.database import Database, LedgerError, Value
from contracts.events import Alert
from contracts.subjects import Identity

TABLE: Final = "multimodal_generations"
COLUMNS: Final = Row.__struct_fields__
ASKED_MAX: Final = 400
"""Rows asked for at once: two values each, and older SQLite takes 999 in a statement."""

_KEY: Final = ("requester_key", "id")
_LIST: Final = ", ".join(COLUMNS)
_FLAGS: Final = tuple(field.name for field in msgspec.structs.fields(Row) if field.type is bool)
# No value of anybody else gets into these texts: the columns are the fields of `Row`.
_PUT: Final = (
    f"INSERT INTO {TABLE} ({_LIST}) VALUES ({', '.join('?' * len(COLUMNS))})"  # noqa: S608
    f" ON CONFLICT ({', '.join(_KEY)}) DO UPDATE SET "
    + ", ".join(f"{name} = excluded.{name}" for name in COLUMNS if name not in _KEY)
)
_PUT_ALERT: Final = "INSERT OR IGNORE INTO alerts (name, at, state, message, by) VALUES (?,?,?,?,?)"


class Position(msgspec.Struct, frozen=True, kw_only=True):
    """How far the stream that was made at `created` is folded; `seq` 0: not at all.

    `stored_at` is the server's time of message `seq`. Up to `replay_to` the messages are folded
    once more, over what is there.
    """

    created: str = ""
    seq: int = 0
    stored_at: str = ""
    replay_to: int = 0

    @property
    def replays(self) -> bool:
        """Whether rows are being folded again."""
        return self.seq < self.replay_to


class MovedPositionError(LedgerError):
    """Somebody else has moved the position: what was folded from the old one is void."""


async def read_position(database: Database) -> Position:
    """Return how far the stream is folded. Raises: LedgerError."""
    found = await database.rows("SELECT created, seq, stored_at, replay_to FROM ledger_position")
    if len(found) != 1:
        raise LedgerError("the ledger does not say how far it goes")
    return msgspec.convert(dict(zip(Position.__struct_fields__, found[0], strict=True)), Position)


async def move_position(database: Database, before: Position, after: Position) -> None:
    """Write the new position, if the old one still stands. Raises: MovedPositionError."""
    changed = await database.change(
        "UPDATE ledger_position SET created = ?, seq = ?, stored_at = ?, replay_to = ?"
        " WHERE created = ? AND seq = ? AND replay_to = ?",
        (*msgspec.structs.astuple(after), before.created, before.seq, before.replay_to),
    )
    if changed != 1:
        raise MovedPositionError("the ledger is folded anew")


async def ask_replay(database: Database) -> None:
    """Let whoever writes fold everything again, over the rows. Raises: LedgerError."""
    await database.change(
        "UPDATE ledger_position SET seq = 0, replay_to = max(seq, replay_to) WHERE seq > 0"
    )


async def count_rows(database: Database) -> int:
    """Return how many requests there are. Raises: LedgerError."""
    return int(str((await database.rows(f"SELECT count(*) FROM {TABLE}"))[0][0]))  # noqa: S608


async def read_rows(database: Database, whose: Collection[Identity]) -> dict[Identity, Row]:
    """Return the rows that are there. Raises: LedgerError."""
    found: dict[Identity, Row] = {}
    asked = list(whose)
    for begin in range(0, len(asked), ASKED_MAX):
        some = asked[begin : begin + ASKED_MAX]
        values = [part for who in some for part in (who.agent, who.request_id)]
        marks = ", ".join(["(?, ?)"] * len(some))
        # CROSS makes SQLite begin with what is asked for; with IN it would read the whole table.
        asked_rows = f"(VALUES {marks}) AS asked CROSS JOIN {TABLE} AS kept"
        same = "kept.requester_key = asked.column1 AND kept.id = asked.column2"
        sql = f"SELECT {_LIST} FROM {asked_rows} ON {same}"  # noqa: S608 - fixed names
        for values_found in await database.rows(sql, values):
            row = row_of(values_found)
            found[Identity(row.requester_key, row.id)] = row
    return found


async def put_rows(database: Database, rows: Iterable[Row]) -> None:
    """Write rows, over those of the same name. Raises: LedgerError."""
    await database.change_many(_PUT, [msgspec.structs.astuple(row) for row in rows])


async def put_alerts(database: Database, alerts: Iterable[Alert]) -> None:
    """Write down what was told; what is there already stays in its place. Raises: LedgerError."""
    await database.change_many(
        _PUT_ALERT,
        [(one.name, ledger_row.instant(one.at), one.state, one.message, one.by) for one in alerts],
    )


def row_of(values: tuple[Value, ...]) -> Row:
    """Read a row whose columns are `COLUMNS`. Raises: LedgerError."""
    named: dict[str, object] = dict(zip(COLUMNS, values, strict=True))
    named |= {flag: bool(named[flag]) for flag in _FLAGS}
    try:
        return msgspec.convert(named, Row)
    except msgspec.ValidationError as error:
        raise LedgerError(f"a row of the ledger cannot be read: {error}") from error
