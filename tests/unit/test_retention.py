"""Goal: nothing that somebody may still want is deleted, and nothing else stays for ever.

Method: each rule by an example at its very edge; properties over any mixture of files and states.
"""

from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.retention import FileOnDisk, Known, Piece, Rules, judge
from contracts.subjects import Identity

WHO = Identity("L2-01", "r1")
NOW = datetime(2026, 3, 2, 9, 15, tzinfo=UTC)
DAY, SECOND = timedelta(days=1), timedelta(seconds=1)
RULES = Rules(now=NOW, kept=30 * DAY, known_since=NOW - 90 * DAY)
DONE = Known(
    status="completed",
    ended_at=NOW - 30 * DAY,
    stems=frozenset({"L2-01.r1"}),
    pruned=False,
)


def piece(age: timedelta, stem: str = "L2-01.r1", *, temporary: bool = False) -> Piece:
    written_at = NOW - age
    file = FileOnDisk("2026-02", f"{stem}.png", 10, written_at.timestamp())
    return Piece(file=file, stem=stem, written_at=written_at, temporary=temporary)


def gone(known: Known | None, *pieces: Piece, pinned: bool = False, rules: Rules = RULES) -> bool:
    removal = judge(WHO, pieces, known, rules, pinned=pinned)
    return removal is not None and bool(removal.files)


def test_a_picture_goes_when_its_days_since_the_end_are_over_and_the_ledger_is_told():
    removal = judge(WHO, [piece(40 * DAY)], DONE, RULES, pinned=False)
    assert removal is not None
    assert removal.ends
    younger = msgspec.structs.replace(DONE, ended_at=NOW - 30 * DAY + SECOND)
    assert judge(WHO, [piece(40 * DAY)], younger, RULES, pinned=False) is None


def test_a_pinned_picture_stays_but_not_what_lost_against_it():
    assert not gone(DONE, piece(40 * DAY), pinned=True)
    assert gone(DONE, piece(40 * DAY, "L2-01.r1.a2"), pinned=True)


@pytest.mark.parametrize("status", ["queued", "processing"])
def test_files_of_a_request_that_is_not_over_stay_however_old(status):
    open_one = msgspec.structs.replace(DONE, status=status, ended_at=None, stems=frozenset())
    assert not gone(open_one, piece(400 * DAY), piece(400 * DAY, temporary=True))


@pytest.mark.parametrize("status", ["completed", "failed", "cancelled"])
def test_what_no_chain_names_goes_a_day_after_it_was_written(status):
    young = msgspec.structs.replace(DONE, status=status, ended_at=NOW - DAY)
    loser = "L2-01.r1.a2"
    assert gone(young, piece(DAY, loser))
    assert not gone(young, piece(DAY - SECOND, loser))
    assert gone(young, piece(DAY, temporary=True))
    assert not gone(young, piece(400 * DAY))


def test_a_request_the_ledger_never_knew_leaves_after_a_day_unless_it_is_from_before_the_ledger():
    assert gone(None, piece(DAY))
    assert not gone(None, piece(DAY - SECOND))
    assert not gone(None, piece(DAY), pinned=True)
    late = msgspec.structs.replace(RULES, known_since=NOW - 2 * DAY)
    assert gone(None, piece(2 * DAY), rules=late)
    assert not gone(None, piece(2 * DAY + SECOND), rules=late)
    assert gone(None, piece(30 * DAY), rules=late)
    empty = msgspec.structs.replace(RULES, known_since=None)
    assert not gone(None, piece(29 * DAY), rules=empty)
    assert gone(None, piece(DAY, temporary=True), rules=empty)


def test_files_that_are_gone_already_are_still_told_once():
    removal = judge(WHO, [], DONE, RULES, pinned=False)
    assert removal is not None
    assert (removal.files, removal.ends) == ((), True)
    told = msgspec.structs.replace(DONE, pruned=True)
    assert judge(WHO, [], told, RULES, pinned=False) is None
    nothing = msgspec.structs.replace(DONE, stems=frozenset())
    assert judge(WHO, [], nothing, RULES, pinned=False) is None


AGES = st.integers(0, 100 * 86400).map(lambda seconds: timedelta(seconds=seconds))
STEMS = st.sampled_from(["L2-01.r1", "L2-01.r1.2", "L2-01.r1.a2", "L2-01.r1.a2.2"])
PIECES = st.lists(st.builds(piece, AGES, STEMS, temporary=st.booleans()), max_size=8)
KNOWN = st.builds(
    Known,
    status=st.sampled_from(["queued", "processing", "completed", "failed", "cancelled"]),
    ended_at=AGES.map(lambda age: NOW - age),
    stems=st.frozensets(STEMS),
    pruned=st.booleans(),
)


@given(PIECES, st.none() | KNOWN, st.booleans())
def test_whatever_lies_there_nothing_young_open_pinned_or_kept_goes(pieces, known, pinned):
    removal = judge(WHO, pieces, known, RULES, pinned=pinned)
    files = () if removal is None else removal.files
    for one in pieces:
        if one.file not in files:
            continue
        assert known is None or known.status not in ("queued", "processing")
        named = known is not None and one.stem in known.stems and not one.temporary
        if named:
            assert not pinned
            assert known is not None
            assert known.ended_at is not None
            assert NOW - known.ended_at >= RULES.kept
        else:
            assert NOW - one.written_at >= DAY
            assert known is not None or not pinned


@given(PIECES, KNOWN)
def test_a_hundred_days_later_only_what_is_pinned_or_open_is_left(pieces, known):
    later = msgspec.structs.replace(RULES, now=NOW + 131 * DAY)
    removal = judge(WHO, pieces, known, later, pinned=False)
    files = () if removal is None else removal.files
    if known.status not in ("queued", "processing"):
        assert set(files) == {one.file for one in pieces}
