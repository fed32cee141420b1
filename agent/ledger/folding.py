"""What a batch of stored messages does to the tables: read and judged here, written elsewhere.

A message that nobody can read is named in the log and passed over: it must not stop the ledger.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import msgspec
import structlog

from agent.bus.history import StoredMessage
from agent.core import ledger_row
from agent.core.ledger_row import Row, Stub
from contracts import codec
from contracts.events import Alert, AssetFact
from contracts.subjects import Identity

CHAIN: Final = "chain"
FACT: Final = "asset"
ALERT: Final = "alert"

_PAIR_PARTS: Final = 5

log = structlog.get_logger()


class Folded(msgspec.Struct, frozen=True, kw_only=True):
    """What has to be written: rows as they are after the batch, and alerts in their order."""

    rows: tuple[Row, ...]
    alerts: tuple[Alert, ...]


def whose(messages: Iterable[StoredMessage]) -> set[Identity]:
    """Return the requests that a batch is about."""
    pairs = (_pair(message.subject) for message in messages)
    return {pair for pair in pairs if pair is not None}


def fold(rows: Mapping[Identity, Row], messages: Sequence[StoredMessage]) -> Folded:
    """Return what a batch makes of the rows that are there."""
    changed: dict[Identity, Row] = {}
    alerts: list[Alert] = []
    for message in messages:
        who = _pair(message.subject)
        try:
            if _part(message.subject) == ALERT:
                alerts.append(msgspec.json.decode(message.data, type=Alert))
                continue
            if who is None:
                continue
            row = _row(changed.get(who) or rows.get(who), who, message)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            log.warning("ledger.unreadable", subject=message.subject, reason=str(error))
            continue
        if row is not None and ledger_row.storable(row):
            changed[who] = row
        elif row is not None:
            log.warning("ledger.unreadable", subject=message.subject, reason="a number too large")
    return Folded(rows=tuple(changed.values()), alerts=tuple(alerts))


def _row(row: Row | None, who: Identity, message: StoredMessage) -> Row | None:
    """Return the row after a link or a fact; None where there is none. Raises: DecodeError."""
    if _part(message.subject) == FACT:
        fact = msgspec.json.decode(message.data, type=AssetFact)
        return None if row is None else ledger_row.fold_fact(row, fact)
    try:
        return ledger_row.fold(row, who, codec.decode_link(message.data))
    except msgspec.DecodeError as error:
        reason = str(error)
    # Of a newer kind, or a kind of ours with something in it that is not.
    head = codec.decode_head(message.data)
    stub = msgspec.json.decode(message.data, type=Stub)
    log.info("ledger.unknown_kind", subject=message.subject, kind=head.kind, reason=reason)
    return ledger_row.fold_unknown(row, who, head, stub)


def _part(subject: str) -> str:
    parts = subject.split(".")
    return parts[1] if len(parts) > 1 else ""


def _pair(subject: str) -> Identity | None:
    """Read whose link or fact it is.

    Not `subjects.parse_pair`: a request whose name breaks the token rule has its `failed` link
    under that very name.
    """
    parts = subject.split(".")
    if len(parts) != _PAIR_PARTS or parts[1] not in (CHAIN, FACT):
        return None
    return Identity(parts[2], parts[3])
