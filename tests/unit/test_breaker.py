"""Goal: an engine that fails gets no jobs, and gets them back as soon as one of them succeeds.

Method: any order of jobs and minutes, then each rule by name.
"""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st
from msgspec import json

from agent.core import breaker
from agent.core.breaker import CLOSED, COUNTED, Breaker, Open
from contracts.errors import ErrorCode

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
BAD = ErrorCode.ENGINE_DOWN


def at(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def let_in(found: Breaker, job: str, when: datetime) -> Breaker:
    after = breaker.admit(found, job, when)
    assert isinstance(after, Breaker)
    return after


def opened(when: datetime = NOW) -> Breaker:
    found = CLOSED
    for number in range(3):
        found = breaker.failed(let_in(found, f"j{number}", when), f"j{number}", BAD, when)
    return found


ACTS = st.lists(
    st.tuples(
        st.sampled_from(["admit", "ok", "bad", "refused", "ended"]),
        st.sampled_from(["j1", "j2", "j3"]),
        st.floats(0, 400),
    ),
    max_size=60,
)


@given(acts=ACTS)
def test_in_any_order_it_opens_within_bounds_and_lets_one_try_at_a_time(acts):
    found, when, inside = CLOSED, NOW, set[str]()
    for what, job, later_s in acts:
        when += timedelta(seconds=later_s)
        if what == "admit":
            after = breaker.admit(found, job, when)
            if isinstance(after, Open):
                assert after.until > when
                assert after.until <= when + timedelta(seconds=breaker.TRIAL_MAX_S)
                assert breaker.look(found, when) is not None or found.trial is not None
                continue
            if found.until is not None:
                assert when >= found.until
                assert after.trial == job
            found = after
            inside.add(job)
        elif what == "ok":
            found = breaker.succeeded(found)
        elif what == "ended":
            found = breaker.ended(found, job)
        else:
            code = BAD if what == "bad" else ErrorCode.INVALID_REQUEST
            found = breaker.failed(found, job, code, when)
        assert (found.until is None) == (found.open_s == 0)
        assert found.open_s in (0, 30, 60, 120, 240, 480, 600)
        assert found.until is not None or found.faults < breaker.FAULTS_MAX
        assert json.decode(json.encode(found), type=Breaker) == found


def test_three_faults_in_a_row_open_it_for_30_seconds():
    found = opened()
    assert found.until == at(30)
    refused = breaker.admit(found, "j9", at(29.9))
    assert isinstance(refused, Open)
    assert refused.until == at(30)
    assert refused.reason == "3 faults in a row; tried again at 12:00:30 UTC"
    assert isinstance(breaker.admit(found, "j9", at(30)), Breaker)


def test_a_success_between_faults_starts_the_count_again():
    found = breaker.failed(breaker.failed(CLOSED, "j1", BAD, NOW), "j2", BAD, NOW)
    assert breaker.succeeded(found) == CLOSED
    assert breaker.failed(breaker.succeeded(found), "j3", BAD, NOW).until is None


def test_bad_requests_do_not_count_and_do_not_break_the_row():
    found = breaker.failed(breaker.failed(CLOSED, "j1", BAD, NOW), "j2", BAD, NOW)
    for code in set(ErrorCode) - COUNTED:
        assert breaker.failed(found, "j3", code, NOW) == found
    assert breaker.failed(found, "j3", BAD, NOW).until == at(30)


def test_what_counts_is_what_the_engine_did_and_nothing_else():
    names = "engine_down hang internal out_of_memory rate_limited unknown_outcome"
    assert " ".join(sorted(COUNTED)) == names


def test_after_its_time_one_job_tries_and_the_others_wait():
    trying = let_in(opened(), "j5", at(31))
    assert let_in(trying, "j5", at(32)).trial == "j5"
    refused = breaker.admit(trying, "j6", at(32))
    assert isinstance(refused, Open)
    assert refused.reason == "one job is trying whether it works again"
    assert breaker.succeeded(trying) == CLOSED


def test_each_failed_trial_doubles_the_pause_up_to_ten_minutes():
    found, when, pauses = opened(), NOW, []
    for _ in range(6):
        assert found.until is not None
        when = found.until
        found = breaker.failed(let_in(found, "j5", when), "j5", BAD, when)
        pauses.append(found.open_s)
    assert pauses == [60, 120, 240, 480, 600, 600]


def test_a_trial_without_a_verdict_makes_room_for_another():
    trying = let_in(opened(), "j5", at(31))
    for found in (
        breaker.ended(trying, "j5"),
        breaker.failed(trying, "j5", ErrorCode.CONTENT_FILTERED, at(32)),
    ):
        assert found.open_s == 30
        assert let_in(found, "j6", at(33)).trial == "j6"
    assert breaker.ended(trying, "j6") == trying


def test_a_trial_that_is_lost_with_its_worker_makes_room_after_a_while():
    trying = let_in(opened(), "j5", at(31))
    late = at(31 + breaker.TRIAL_MAX_S)
    assert isinstance(breaker.admit(trying, "j6", late - timedelta(seconds=1)), Open)
    assert let_in(trying, "j6", late).trial == "j6"


def test_a_fault_of_a_job_that_began_before_it_opened_changes_nothing():
    found = opened()
    assert breaker.failed(found, "j9", BAD, at(5)) == found
    trying = let_in(found, "j5", at(31))
    assert breaker.failed(trying, "j9", BAD, at(32)) == trying


def test_routing_may_look_without_taking_the_trial():
    found = opened()
    assert breaker.look(found, at(10)) is not None
    assert breaker.look(found, at(31)) is None
    assert breaker.look(let_in(found, "j5", at(31)), at(32)) is not None
    assert breaker.look(CLOSED, NOW) is None
