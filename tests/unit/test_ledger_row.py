"""Goal: a row says what the chain says, and folding again from any point changes nothing.

Method: the examples of the contract folded by hand; whole streams of random lives, cut, repeated
and resumed at random points by hypothesis, with dictionaries for the tables.
"""

import random
from datetime import UTC, datetime, timedelta, timezone
from itertools import pairwise

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from agent.bus.history import StoredMessage
from agent.core import ledger_row
from agent.core.job import StoredRequest
from agent.core.ledger_row import Row, Stub
from agent.ledger import folding
from contracts import codec, examples, subjects
from contracts.events import AssetFact, LinkHead
from contracts.requests import Priority
from contracts.subjects import Identity
from tests import ledger_rig

WHO = subjects.identity(examples.AGENT, "mmg-20260302-091500-5f0c2a7e")
ASSETS = "/api/multimodal/assets/images/2026-03/L2-05-03.mmg-20260302-091500-5f0c2a7e.a4"
Rows = dict[Identity, Row]


def chain(count: int = len(examples.CHAIN)) -> Row:
    """Fold the first links of the contract's example."""
    row = None
    for link in examples.CHAIN[:count]:
        row = ledger_row.fold(row, WHO, link)
    assert row is not None
    return row


def fact(kind: str, rating: int | None = None) -> AssetFact:
    at = datetime(2026, 3, 5, tzinfo=UTC)
    return AssetFact(
        id="f1",
        request_id=WHO.request_id,
        requester=WHO.requester,
        kind=kind,
        by="user",
        at=at,
        rating=rating,
    )


def test_a_completed_chain_fills_the_columns_of_the_spec():
    row = chain()
    assert (row.id, row.requester_key, row.requester_agent) == (
        "mmg-20260302-091500-5f0c2a7e",
        "L2-05-03",
        "L2.05.03",
    )
    assert (row.request_type, row.status, row.priority) == ("image", "completed", "MEDIUM")
    assert (row.quality_tier, row.style) == ("high", "report-cover")
    assert row.prompt == examples.REQUEST.prompt
    assert (row.model_used, row.engine, row.worker) == ("sdxl-1.0", "comfyui", "gpu-2")
    assert (row.generation_time_sec, row.queue_time_sec, row.vram_used_gb) == (27.3, 74.2, 8.4)
    assert (row.cost_usd, row.seed, row.downgraded) == (0.0, 20_260_302, False)
    assert (row.file_size_bytes, row.output_count) == (1_482_113, 2)
    assert (row.created_at, row.requested_at) == ("2026-03-02T09:15:00.120000Z",) * 2
    assert row.started_at == "2026-03-02T09:16:14.320000Z"
    assert row.completed_at == row.ended_at == "2026-03-02T09:16:42.020000Z"
    assert (row.attempts, row.retry_count, row.n, row.kind) == (4, 3, 8, "completed")
    assert (row.error_code, row.error_message, row.request_seq) == (None, None, 4711)


def test_addresses_are_below_the_gateway_and_all_pictures_are_kept():
    row = chain()
    assert row.output_url == f"{ASSETS}.png"
    assert row.thumbnail_url == f"{ASSETS}.thumb.webp"
    outputs = msgspec.json.decode(row.outputs)
    assert [one["url"] for one in outputs] == [f"{ASSETS}.png", f"{ASSETS}.2.png"]
    assert outputs[0]["sha256"] == row.sha256


@pytest.mark.parametrize(
    ("count", "status", "error", "worker"),
    [
        (1, "processing", None, "gpu-1"),
        (2, "queued", None, None),
        (3, "processing", None, "gpu-1"),
        (4, "processing", "engine_down", "gpu-1"),
        (5, "processing", None, "gpu-1"),
        (6, "queued", None, None),
        (7, "processing", None, "gpu-2"),
    ],
)
def test_each_link_on_the_way_shows_where_the_request_stands(count, status, error, worker):
    row = chain(count)
    assert (row.status, row.error_code, row.worker, row.n) == (status, error, worker, count)
    assert (row.started_at is None) == (status == "queued")
    assert row.ended_at is None


@pytest.mark.parametrize(
    ("name", "status", "code", "prompt"),
    [
        ("failed", "failed", "engine_down", examples.REQUEST_MINIMAL.prompt),
        ("failed-unreadable", "failed", "invalid_request", None),
        ("expired", "failed", "expired", examples.REQUEST_MINIMAL.prompt),
        ("cancelled", "cancelled", None, examples.REQUEST_MINIMAL.prompt),
    ],
)
def test_a_bad_end_without_a_row_before_it_makes_one(name, status, code, prompt):
    link = examples.LINKS[name]
    row = ledger_row.fold(None, subjects.identity(link.requester, link.request_id), link)
    assert (row.status, row.error_code, row.prompt) == (status, code, prompt)
    assert row.ended_at == ledger_row.instant(link.at)
    assert row.completed_at is None
    assert row.dead == (name == "failed")


def test_facts_after_the_end_change_their_column_and_no_other():
    row = chain()
    pinned = ledger_row.fold_fact(row, fact("pinned"))
    assert pinned == replace(row, pinned=True)
    assert ledger_row.fold_fact(pinned, fact("unpinned")) == row
    assert ledger_row.fold_fact(row, fact("rated", 4)) == replace(row, rating=4)
    assert ledger_row.fold_fact(row, fact("dismissed")) == replace(row, dismissed=True)
    pruned = replace(row, pruned_at="2026-03-05T00:00:00.000000Z")
    assert ledger_row.fold_fact(row, fact("pruned")) == pruned
    assert ledger_row.fold_fact(row, fact("of_a_newer_kind")) == row


def test_a_first_link_begins_the_row_anew():
    used = ledger_row.fold_fact(chain(), fact("pinned"))
    assert ledger_row.fold(used, WHO, examples.STARTED) == chain(1)


def test_a_link_of_a_newer_kind_moves_the_state_and_keeps_the_rest():
    head = LinkHead(id="x", n=9, kind="polished", status="processing", attempt=5)
    stub = Stub(at=datetime(2026, 3, 2, 10, tzinfo=UTC), message="polished")
    row = ledger_row.fold_unknown(chain(), WHO, head, stub)
    assert (row.status, row.kind, row.n, row.attempts) == ("processing", "polished", 9, 5)
    assert row.output_url == chain().output_url


def test_a_request_with_fields_of_a_newer_version_still_fills_its_columns():
    data = msgspec.json.decode(codec.encode(examples.STARTED))
    data["request"]["mood"] = {"colour": "blue"}
    subject = subjects.chain(WHO, "started")
    found = folding.fold({}, [stored(1, subject, msgspec.json.encode(data))]).rows
    assert [(row.prompt, row.quality_tier, row.priority, row.status) for row in found] == [
        (examples.REQUEST.prompt, "high", "MEDIUM", "processing")
    ]


def test_a_message_that_nobody_can_read_is_passed_over():
    huge = msgspec.json.decode(codec.encode(examples.COMPLETED)) | {"seed": 2**70}
    messages = [
        stored(1, subjects.chain(WHO, "started"), b"\xff{"),
        stored(2, subjects.chain(WHO, "completed"), msgspec.json.encode(huge)),
        stored(3, subjects.alert("disk"), b"[]"),
        stored(4, subjects.asset_fact(WHO, "pinned"), b"{}"),
        stored(5, "mmg.chain.too.short", b"{}"),
        stored(6, subjects.chain(WHO, "started"), codec.encode(examples.STARTED)),
    ]
    folded = folding.fold({}, messages)
    assert folded.rows == (chain(1),)
    assert folded.alerts == ()


def test_the_end_of_a_request_whose_name_breaks_the_token_rule_is_kept_under_it():
    link = examples.LINKS["failed-unreadable"]
    messages = [stored(1, "mmg.chain.a$b.x=y.failed", codec.encode(link))]
    (row,) = folding.fold({}, messages).rows
    assert (row.requester_key, row.id) == ("a$b", "x=y")


def test_a_queued_request_has_the_priority_of_its_lane():
    at = datetime(2026, 3, 2, 9, tzinfo=UTC)
    lane = StoredRequest(
        who=WHO, priority=Priority.HIGH, seq=7, stored_at=at, request=examples.REQUEST_MINIMAL
    )
    row = ledger_row.queued(lane)
    assert (row.status, row.priority, row.prompt) == (
        "queued",
        "HIGH",
        examples.REQUEST_MINIMAL.prompt,
    )
    assert ledger_row.queued(replace(lane, request=None)).prompt is None


def test_instants_sort_as_text_whatever_their_zone_and_fraction():
    zone = timezone(timedelta(hours=5))
    instants = [
        datetime(999, 1, 1, tzinfo=UTC),
        datetime(2026, 3, 2, 1, tzinfo=zone),
        datetime(2026, 3, 2, tzinfo=UTC),
        datetime(2026, 3, 2, 0, 0, 0, 1, tzinfo=UTC),
    ]
    texts = [ledger_row.instant(at) for at in instants]
    assert texts == sorted(texts)
    assert {len(text) for text in texts} == {27}


# --- whole streams ------------------------------------------------------------------------------


def stored(seq: int, subject: str, data: bytes) -> StoredMessage:
    return StoredMessage(seq=seq, subject=subject, data=data, stored_at=ledger_rig.NOW)


def lives(seed: int) -> list[StoredMessage]:
    messages = ledger_rig.stream(12, seed)
    return [stored(seq, *message) for seq, message in enumerate(messages, start=1)]


def fold(rows: Rows, messages: list[StoredMessage], draw: random.Random) -> Rows:
    """Fold messages in batches of random sizes, as the projection does."""
    rows = dict(rows)
    while messages:
        size = draw.randint(1, 7)
        batch, messages = messages[:size], messages[size:]
        known = {who: rows[who] for who in folding.whose(batch) if who in rows}
        folded = folding.fold(known, batch).rows
        rows |= {Identity(row.requester_key, row.id): row for row in folded}
    return rows


@given(seed=st.integers(0, 2**32), cut=st.floats(0, 1))
def test_folding_any_beginning_twice_gives_the_same_rows(seed, cut):
    draw, messages = random.Random(seed), lives(seed)
    whole = fold({}, messages, draw)
    begun = fold({}, messages[: int(cut * len(messages))], draw)
    assert fold(begun, messages, draw) == whole
    assert len(whole) == 12


@given(seed=st.integers(0, 2**32), cuts=st.lists(st.floats(0, 1), max_size=4))
def test_resuming_at_any_point_gives_the_same_rows(seed, cuts):
    draw, messages = random.Random(seed), lives(seed)
    places = [0, *sorted(int(cut * len(messages)) for cut in cuts), len(messages)]
    rows: Rows = {}
    for begin, end in pairwise(places):
        rows = fold(rows, messages[begin:end], draw)
    assert rows == fold({}, messages, draw)


@given(seed=st.integers(0, 2**32), cut=st.floats(0, 1))
def test_a_replay_of_what_the_stream_still_has_changes_no_row(seed, cut):
    draw, messages = random.Random(seed), lives(seed)
    whole = fold({}, messages, draw)
    assert fold(whole, messages[int(cut * len(messages)) :], draw) == whole
