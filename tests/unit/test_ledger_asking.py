"""Goal: what is asked of the history is understood as meant, or refused by name.

Method: parameters in, a query or the words of the refusal out; places there and back.
"""

from datetime import UTC, datetime

import pytest

from agent.ledger.asking import LIMIT, Place, Query, condition, cursor, read_query
from contracts.errors import ContractError, ErrorCode


def test_nothing_asked_is_the_first_page_of_fifty():
    query = read_query({})
    assert query == Query()
    assert (query.limit, query.page, query.after) == (LIMIT, 1, None)
    assert condition(query) == ("1", [])


def test_all_filters_hold_together():
    asked = {
        "status": "Failed",
        "priority": "high",
        "requester": "L2.05.03",
        "type": "image",
        "model": "stable-image-core",
        "engine": "stability",
        "quality": "draft",
        "style": "infographic",
        "since": "2026-03-01",
        "until": "2026-03-31",
    }
    text, values = condition(read_query(asked))
    assert text.count(" AND ") == len(asked)
    assert values == [
        "failed",
        "HIGH",
        "image",
        "draft",
        "infographic",
        "L2.05.03",
        "stability",
        "stable-image-core",
        "2026-03-01T00:00:00.000000Z",
        "2026-04-01T00:00:00.000000Z",
    ]


@pytest.mark.parametrize("spelling", ["sdxl", "sdxl-1.0"])
def test_both_spellings_of_a_model_find_both(spelling):
    assert condition(read_query({"model": spelling}))[1] == ["sdxl", "sdxl-1.0"]


def test_an_instant_is_taken_in_its_zone_and_a_day_in_utc():
    query = read_query({"since": "2026-03-02T09:00:00+05:00", "until": "2026-03-02"})
    assert query.since == datetime(2026, 3, 2, 4, tzinfo=UTC)
    assert query.until == datetime(2026, 3, 3, tzinfo=UTC)


def test_a_page_is_an_offset_of_whole_pages():
    query = read_query({"page": "3", "limit": "20"})
    assert (query.offset, query.page) == (40, 3)
    assert read_query({"offset": "40", "limit": "20"}) == query


def test_a_place_comes_back_from_its_cursor():
    place = Place("2026-03-02T09:15:00.120000Z", "L2-05-03", "r~1ü")
    query = read_query({"cursor": cursor(place)})
    assert (query.after, query.page) == (place, None)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"colour": "red"}, "?colour= is not known"),
        ({"status": "done"}, "?status= must be one of queued, processing"),
        ({"priority": "urgent"}, "?priority= must be one of CRITICAL"),
        ({"limit": "0"}, "?limit= must be a whole number from 1 to 10000"),
        ({"limit": "10001"}, "?limit="),
        ({"limit": "²"}, "?limit="),
        ({"limit": "-1"}, "?limit="),
        ({"page": "0"}, "?page="),
        ({"page": "9" * 400}, "?page="),
        ({"page": "2", "cursor": "x"}, "?cursor= excludes page"),
        ({"offset": "2", "page": "1"}, "?offset= excludes page"),
        ({"cursor": "x"}, "?cursor= must be a next_cursor"),
        ({"cursor": "ü"}, "?cursor="),
        ({"cursor": ""}, "?cursor="),
        ({"cursor": "WyJhIl0"}, "?cursor="),
        ({"since": "yesterday"}, "?since= must be a day"),
        ({"since": "2026-02-30"}, "?since="),
        ({"since": "2026-03-02T09:15:00"}, "?since="),
        ({"until": "9999-12-31"}, "?until="),
        ({"since": "0001-01-01T00:00:00+12:00"}, "?since="),
        ({"requester": ""}, "?requester= must have 1 to 64"),
        ({"model": "m" * 65}, "?model="),
        ({"engine": "a\x00b"}, "?engine="),
    ],
)
def test_what_cannot_be_meant_is_refused_by_name(asked, words):
    with pytest.raises(ContractError) as refused:
        read_query(asked)
    assert refused.value.body.code is ErrorCode.INVALID_REQUEST
    assert words in refused.value.body.message
