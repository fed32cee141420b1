"""`mmg replay`: recorded decisions, played again through the pure core of this build.

It reads the files of a worker on this machine; it asks nobody and changes nothing.
"""

import argparse
import sys

import msgspec

from agent.commands import exits, session
from agent.commands.wording import plain
from agent.core import replaying
from agent.core.replaying import Arbitrated, Record, Replayed
from agent.decisions import FOLDER, find


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one decision, for machines."""

    seq: int
    worker: str
    same: bool
    then: msgspec.Raw
    now: msgspec.Raw


def run(arguments: argparse.Namespace) -> int:
    """Play each again; exit code 0 only if all are the same."""
    data_dir = session.read_config().storage.data_dir
    code = exits.OK
    for seq in arguments.seq:
        found = find(data_dir, seq, arguments.worker)
        if not found:
            folder = data_dir / FOLDER
            print(f"mmg: no decision {seq} is recorded in {folder}", file=sys.stderr)
            code = exits.FAILED
        for worker, line in found:
            if not _replay(seq, worker, line, as_json=arguments.json):
                code = exits.FAILED
    return code


def _replay(seq: int, worker: str, line: bytes, *, as_json: bool) -> bool:
    """Play one record and show what came of it; tell whether it is the same."""
    try:
        record = replaying.decode(line)
    except msgspec.DecodeError as error:
        print(
            f"mmg: decision {seq} of {worker} was recorded by a build with other fields: {error}",
            file=sys.stderr,
        )
        return False
    replayed = replaying.replay(record)
    if as_json:
        outcome = Outcome(
            seq=seq,
            worker=worker,
            same=replayed.is_same,
            then=msgspec.Raw(replayed.then),
            now=msgspec.Raw(replayed.now),
        )
        print(msgspec.json.encode(outcome).decode())
    else:
        _print(record, worker, replayed)
    return replayed.is_same


def _print(record: Record, worker: str, replayed: Replayed) -> None:
    if isinstance(record, Arbitrated):
        about = f"{record.event.name} {record.event.job} at the card of {record.card}"
    else:
        about = f"choice among engines for {record.choice.stored.who}"
    verdict = "same" if replayed.is_same else "DIFFERENT"
    print(f"#{record.seq} of {worker}, {record.at:%Y-%m-%d %H:%M:%S}Z, build {record.build}")
    print(f"  {plain(about)}: {verdict}")
    print(f"  then  {plain(replayed.then.decode())}")
    if not replayed.is_same:
        print(f"  now   {plain(replayed.now.decode())}")
