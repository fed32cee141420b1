"""Goal: the story of a request says the right thing next, whatever came of the last thing.

Method: events in, commands out, one short tale a test. What many workers do to one chain is
searched in `test_protocol_search`.
"""

from datetime import timedelta

import pytest
from msgspec.structs import replace

from agent.core.faults import (
    DiskFullFault,
    EngineDownFault,
    InternalFault,
    ModelMissingFault,
    NoEngineFault,
)
from agent.core.job import backoff_s
from agent.core.steps import (
    Append,
    AskLane,
    Discard,
    Draw,
    Drawn,
    Faulted,
    FreeSlot,
    HandBack,
    Interrupted,
    Keep,
    Kept,
    Links,
    Placed,
    Polish,
    ReadHead,
    ReadHistory,
    Settle,
    Stored,
    TakeSlot,
    Waits,
    WaitUntil,
)
from contracts.errors import ErrorCode
from contracts.events import Completed, Expired, Released, Retrying, Started
from contracts.requests import Options, Request
from tests.simulation.tale import (
    DONE,
    MADE,
    NOON,
    ONE,
    OUTPUT,
    STORED,
    TWO,
    UNKNOWN,
    Tale,
    cancelled,
    head,
    lost_workers,
    pen,
    retrying,
    started,
)


def takes_over(*links, engines=ONE, stored=STORED):
    """Return a tale that was refused by these links and has read them."""
    tale = Tale(engines=engines, stored=stored)
    tale.tell(DONE)
    assert isinstance(tale.tell(head(*links)), ReadHistory)
    tale.tell(Links(links))
    return tale


def draws(tale, seq=10):
    """Bring a fresh tale to its drawing."""
    assert isinstance(tale.says, TakeSlot)
    assert isinstance(tale.tell(DONE), Append)
    assert isinstance(tale.tell(Stored(seq)), Draw)
    return tale


# --- the good way --------------------------------------------------------------------------------


def test_a_request_is_started_drawn_kept_completed_acked_and_polished():
    tale = Tale()
    assert tale.says.candidate.slot == "cpu"
    tale.tell(DONE)
    first = tale.link
    assert (first.n, first.attempt, first.request_seq, tale.says.expected) == (1, 1, 7, 0)
    assert first.request == STORED.request
    assert tale.tell(Stored(10)) == Draw(first, ())
    assert tale.tell(Drawn(MADE, 95)) == FreeSlot()
    assert tale.tell(DONE) == Keep(1)
    tale.tell(Kept((OUTPUT,)))
    assert isinstance(tale.link, Completed)
    assert (tale.link.n, tale.link.attempt, tale.says.expected) == (2, 1, 10)
    assert tale.tell(Stored(20)) == Settle("ack", "completed")
    assert tale.tell(DONE) == Polish((OUTPUT,), 1)
    assert tale.tell(DONE) is None
    assert tale.story.ended == "completed"


def test_the_started_link_names_the_server_of_the_slot():
    tale = Tale()
    tale.tell(Placed(tale.says.candidate, "card-1"))
    assert tale.link.server == "card-1"


# --- a start that is refused ---------------------------------------------------------------------


def test_refused_by_an_end_it_acks_and_is_done():
    tale = Tale()
    tale.tell(DONE)
    links = (started(), cancelled([started()]))
    assert tale.tell(head(*links)) == Settle("ack", "already ended")
    assert tale.tell(DONE) is None


def test_refused_by_another_stored_request_that_waits_it_is_a_duplicate():
    tale = Tale()
    tale.tell(DONE)
    assert tale.tell(head(started(stored=replace(STORED, seq=3)))) == AskLane(3)
    assert tale.tell(Waits(True)) == Settle("ack", "duplicate of stored request 3")
    assert tale.tell(DONE) is None


def test_refused_by_another_stored_request_that_is_gone_it_takes_over():
    tale = Tale()
    tale.tell(DONE)
    tale.tell(head(started(stored=replace(STORED, seq=3))))
    assert tale.tell(Waits(False)) == ReadHistory(10)


def test_refused_by_its_own_request_it_takes_over_with_the_next_attempt():
    first = started()
    tale = takes_over(first)
    assert tale.says.candidate.slot == "cpu"
    tale.tell(DONE)
    assert (tale.link.n, tale.link.attempt, tale.says.expected) == (2, 2, 10)
    assert tale.tell(Stored(20)).earlier == (first,)


def test_refused_twice_it_lets_the_delivery_lapse():
    tale = takes_over(started())
    tale.tell(DONE)
    assert tale.tell(head(*lost_workers(2))) is None
    assert tale.story.ended == "superseded"


def test_refused_twice_by_an_end_it_acks():
    tale = takes_over(started())
    tale.tell(DONE)
    assert tale.tell(head(started(), cancelled([started()]))) == Settle("ack", "already ended")


@pytest.mark.parametrize("events", [(DONE,), (DONE, "head"), (DONE, "other")])
def test_no_answer_at_the_start_settles_nothing(events):
    heads = {"head": head(started()), "other": head(started(stored=replace(STORED, seq=3)))}
    tale = Tale()
    tale.tell(*(heads.get(event, event) for event in events))
    assert tale.tell(UNKNOWN) is None
    assert tale.story.ended == "lapsed"


# --- takeover ------------------------------------------------------------------------------------


def test_a_takeover_counts_the_lost_worker_and_the_faults_before_it():
    first = started(engine="second")
    pause = retrying([first], engine="sketch")
    tale = takes_over(first, pause, started([first, pause]), engines=TWO)
    codes = [fault.error.code for fault in tale.story.history.faults]
    assert codes == [ErrorCode.INTERNAL, ErrorCode.WORKER_LOST]
    assert [fault.engine for fault in tale.story.history.faults] == ["second", "sketch"]


def test_a_takeover_in_a_pause_waits_it_out_without_slot_and_without_heartbeats():
    pause = retrying([started()])
    tale = takes_over(started(), pause)
    assert tale.says == FreeSlot()
    assert tale.tell(DONE) == WaitUntil(pause.due_at, own=False)
    assert isinstance(tale.tell(DONE), TakeSlot)


def test_a_takeover_after_the_pause_starts_at_the_engine_that_was_announced():
    pause = retrying([started()], delay_s=0, engine="second")
    assert takes_over(started(), pause, engines=TWO).says.candidate.slot == "gpu"


def test_three_lost_workers_end_it_as_a_dead_letter():
    tale = takes_over(*lost_workers(3), engines=TWO)
    assert tale.link.dead
    assert tale.link.error.code is ErrorCode.WORKER_LOST
    assert len(tale.link.faults) == 3
    assert tale.tell(Stored(40)) == Settle("ack", "failed")


def test_a_released_request_costs_no_try():
    links = [started()]
    links.append(pen(links).released("it stops"))
    tale = takes_over(*links)
    assert tale.story.history.faults == ()
    assert isinstance(tale.says, TakeSlot)


# --- faults --------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["engine", "disk"])
def test_a_fault_is_retried_after_a_pause_with_the_slot_given_back(where):
    tale = draws(Tale())
    if where == "engine":
        assert tale.tell(Faulted(InternalFault("it broke"), 40)) == FreeSlot()
        tale.tell(DONE)
    else:
        tale.tell(Drawn(MADE, 95), DONE, Faulted(DiskFullFault("full"), 95))
    pause = tale.link
    assert isinstance(pause, Retrying)
    assert pause.progress_percent == (40 if where == "engine" else 95)
    assert 4.0 <= pause.delay_s <= 6.0
    assert tale.tell(Stored(20)) == WaitUntil(pause.due_at, own=True)
    assert tale.tell(DONE).candidate.slot == "cpu"
    tale.tell(DONE)
    assert (tale.link.n, tale.link.attempt, tale.says.expected) == (3, 2, 20)
    assert isinstance(tale.tell(Stored(30)), Draw)


def test_pauses_double_and_spread_by_a_fifth():
    assert [backoff_s(tries, 0.5) for tries in (1, 2, 3)] == [5.0, 10.0, 20.0]
    assert backoff_s(1, 0.0) == 4.0
    assert backoff_s(1, 1.0) == pytest.approx(6.0)


def test_the_third_fault_of_the_only_engine_is_a_dead_letter():
    tale = draws(Tale())
    for seq in (20, 40):
        tale.tell(Faulted(InternalFault("it broke")), DONE, Stored(seq), DONE, DONE, Stored(seq))
    tale.tell(Faulted(InternalFault("it broke")), DONE)
    assert tale.link.dead
    assert [fault.attempt for fault in tale.link.faults] == [1, 2, 3]


@pytest.mark.parametrize("fault", [EngineDownFault("down"), ModelMissingFault("not installed")])
def test_another_engine_is_tried_at_once(fault):
    tale = draws(Tale(engines=TWO))
    tale.tell(Faulted(fault), DONE)
    assert (tale.link.delay_s, tale.link.next_engine) == (0, "second")
    assert tale.tell(Stored(20)).candidate.slot == "gpu"


def test_what_cannot_be_helped_fails_at_once_and_is_no_dead_letter():
    tale = draws(Tale(engines=TWO))
    tale.tell(Faulted(NoEngineFault("cannot be done")), DONE)
    assert not tale.link.dead
    assert tale.link.error.code is ErrorCode.NO_ENGINE
    assert tale.tell(Stored(20)) == Settle("ack", "failed")


def test_a_request_no_engine_can_do_fails_without_a_start():
    options = Options(model="unheard-of")
    request = Request(type="image", prompt="p", options=options)
    tale = Tale(replace(STORED, request=request))
    assert (tale.link.n, tale.link.attempt, tale.link.dead) == (1, 0, False)
    assert tale.link.error.code is ErrorCode.MODEL_MISSING


# --- the clock, the stop, the others -------------------------------------------------------------


def test_a_request_whose_deadline_has_passed_expires_instead_of_starting():
    late = replace(STORED, request=Request(type="image", prompt="p", deadline_s=60))
    tale = Tale(late, now=NOON + timedelta(seconds=61))
    assert isinstance(tale.link, Expired)
    assert tale.tell(Stored(10)) == Settle("ack", "expired")
    assert isinstance(Tale(late, now=NOON + timedelta(seconds=60)).says, TakeSlot)


def test_a_started_request_does_not_expire():
    late = replace(STORED, request=Request(type="image", prompt="p", deadline_s=60))
    tale = Tale(late)
    tale.now = NOON + timedelta(seconds=61)
    tale.tell(DONE, head(started()), Links((started(),)))
    assert isinstance(tale.says, TakeSlot)


def test_a_stop_releases_the_request_and_hands_it_back():
    tale = draws(Tale())
    tale.tell(Interrupted("stop", "me stops", 40), DONE)
    assert isinstance(tale.link, Released)
    assert (tale.link.progress_percent, tale.says.expected) == (40, 10)
    assert tale.tell(Stored(20)) == HandBack()
    assert tale.tell(DONE) is None
    assert tale.story.ended == "released"


def test_a_stop_in_a_pause_releases_too():
    tale = draws(Tale())
    tale.tell(Faulted(InternalFault("it broke")), DONE, Stored(20), Interrupted("stop", "stops"))
    assert isinstance(tale.link, Released)


def test_a_stop_that_was_overtaken_says_nothing():
    tale = draws(Tale())
    tale.tell(Interrupted("stop", "me stops"), DONE)
    assert tale.tell(head(*lost_workers(2))) is None


@pytest.mark.parametrize("closed", [True, False])
def test_an_overtaken_job_looks_at_the_head_and_acks_only_what_has_ended(closed):
    tale = draws(Tale())
    assert tale.tell(Interrupted("overtaken", "somebody else"), DONE) == ReadHead()
    links = (started(), cancelled([started()])) if closed else lost_workers(2)
    assert tale.tell(head(*links)) == (Settle("ack", "already ended") if closed else None)


@pytest.mark.parametrize("closed", [True, False])
def test_a_superseded_completion_discards_its_files_and_says_nothing(closed):
    tale = draws(Tale())
    tale.tell(Drawn(MADE, 95), DONE, Kept((OUTPUT,)))
    links = (started(), cancelled([started()])) if closed else lost_workers(2)
    assert tale.tell(head(*links)) == Discard((OUTPUT,))
    assert tale.tell(DONE) == (Settle("ack", "already ended") if closed else None)
    assert tale.story.ended == "superseded"


def test_a_completion_without_an_answer_discards_nothing_and_settles_nothing():
    tale = draws(Tale())
    tale.tell(Drawn(MADE, 95), DONE, Kept((OUTPUT,)))
    assert tale.tell(UNKNOWN) is None
    assert tale.story.ended == "lapsed"


# --- unreadable ----------------------------------------------------------------------------------


def test_an_unreadable_request_is_answered_and_taken_out():
    tale = Tale(replace(STORED, request=None), refuse=True)
    assert (tale.link.raw_bytes, tale.link.request, tale.says.expected) == (b"?", None, 0)
    assert tale.tell(Stored(10)) == Settle("term", "invalid_request: unreadable")
    assert tale.tell(DONE) is None


def test_an_unreadable_request_that_another_worker_carries_is_left_to_it():
    tale = Tale(replace(STORED, request=None), refuse=True)
    assert tale.tell(head(started())) is None


@pytest.mark.parametrize(
    "links", [(started(), cancelled([started()])), (started(stored=replace(STORED, seq=3)),)]
)
def test_an_unreadable_request_goes_where_the_chain_ended_or_is_anothers(links):
    tale = Tale(replace(STORED, request=None), refuse=True)
    assert isinstance(tale.tell(head(*links)), Settle)


def test_an_unreadable_request_without_an_answer_stays():
    assert Tale(replace(STORED, request=None), refuse=True).tell(UNKNOWN) is None


def test_started_links_carry_their_writers_name():
    tale = Tale()
    tale.tell(DONE)
    assert isinstance(tale.link, Started)
    assert tale.link.worker == "me"
