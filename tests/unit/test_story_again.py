"""Goal: a request that was handed over before is looked up before it waits for a slot.

Method: events in, commands out. Otherwise the card would be made free, and an LLM unloaded and
loaded, for a request that has ended, or that asks with another count of tries than it has.
"""

from agent.core.steps import Links, NoChain, ReadHead, ReadHistory, Settle, TakeSlot
from tests.simulation.tale import (
    DONE,
    NOON,
    UNKNOWN,
    Tale,
    cancelled,
    head,
    pen,
    started,
)


def test_one_that_has_ended_is_acked_away_without_a_slot():
    tale = Tale(again=True)
    assert isinstance(tale.says, ReadHead)
    links = [started()]
    assert tale.tell(head(*links, cancelled(links))) == Settle("ack", "already ended")
    assert tale.tell(DONE) is None
    assert tale.story.ended == "settled"


def test_one_that_was_preempted_asks_with_its_count():
    tale = Tale(again=True)
    links = [started()]
    links.append(pen(links).preempted("now", "it is CRITICAL"))
    assert isinstance(tale.tell(head(*links)), ReadHistory)
    tale.tell(Links(tuple(links)))
    assert isinstance(tale.says, TakeSlot)
    assert tale.says.preempted == 1
    said = tale.tell(DONE)
    assert (tale.link.attempt, said.expected) == (2, 20)


def test_one_without_a_chain_begins_as_one_that_is_new():
    tale = Tale(again=True)
    assert isinstance(tale.tell(NoChain()), TakeSlot)
    said = tale.tell(DONE)
    assert (tale.link.attempt, said.expected) == (1, 0)


def test_without_an_answer_it_begins_and_the_append_decides():
    tale = Tale(again=True, now=NOON)
    assert isinstance(tale.tell(UNKNOWN), TakeSlot)
