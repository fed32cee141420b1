"""Goal: a worker that starts while a cluster chooses a leader waits for it, and does not end.

Method: the questions of its start, answered late or never.
"""

import pytest

from agent import app
from agent.bus.connection import ApiError, BusError, NoAnswer


def asked(*answers):
    """Return a question that is answered so, one after the other; and how often it was put."""
    left, put = list(answers), []

    async def ask():
        put.append(True)
        found = left.pop(0)
        if isinstance(found, Exception):
            raise found
        return found

    return ask, put


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    monkeypatch.setattr(app, "STREAMS_LOOK_S", 0.0)


async def test_a_question_is_put_again_until_somebody_answers():
    missing = ApiError(404, 10059, "stream not found")
    ask, put = asked(NoAnswer("no leader"), missing, NoAnswer("no leader"), "here")
    assert await app._answered(ask, wait=True) == "here"
    assert len(put) == 4


async def test_where_nobody_may_wait_it_is_put_once():
    ask, put = asked(NoAnswer("no leader"))
    with pytest.raises(NoAnswer):
        await app._answered(ask, wait=False)
    assert len(put) == 1
    ask, _ = asked(ApiError(404, 10059, "stream not found"))
    with pytest.raises(BusError, match="mmg provision"):
        await app._answered(ask, wait=False)


async def test_an_answer_that_waiting_does_not_change_is_raised():
    ask, put = asked(ApiError(500, 10023, "insufficient resources"))
    with pytest.raises(ApiError):
        await app._answered(ask, wait=True)
    assert len(put) == 1
