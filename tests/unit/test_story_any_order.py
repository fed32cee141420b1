"""Goal: no order of events makes a story break a rule of its chain, or ack an open one.

Method: hypothesis chooses what comes of each command. All workers at once are searched in
`test_protocol_search`; this goes deeper into one of them.
"""

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from agent.core.faults import InternalFault, ModelMissingFault, NoEngineFault
from agent.core.steps import (
    Append,
    AskLane,
    Draw,
    Drawn,
    Faulted,
    Interrupted,
    Keep,
    Kept,
    Links,
    ReadHead,
    ReadHistory,
    Settle,
    Stored,
    TakeSlot,
    Waits,
    WaitUntil,
)
from contracts.events import Link, is_terminal
from tests.simulation.chains import check
from tests.simulation.tale import (
    DONE,
    MADE,
    ME,
    ONE,
    OUTPUT,
    TWO,
    UNKNOWN,
    Tale,
    cancelled,
    head,
    pen,
    started,
)

INTERRUPTED = [Interrupted("stop", "stops", 50), Interrupted("overtaken", "other", 50)]
FAULTS = [InternalFault("broke"), ModelMissingFault("missing"), NoEngineFault("cannot")]
FAULTED = [Faulted(fault, 50) for fault in FAULTS]


def append_answers(links, said):
    """What a server may say to an append: stored, refused by others, or nothing."""
    others = [started(links)] if said.link.n == len(links) + 1 else []
    if others:
        others.append(pen([*links, *others]).released("it stops"))
    return [lambda: links.append(said.link) or Stored(10 * len(links))] * 3 + [
        lambda: links.extend(others) or head(*links),
        lambda: links.append(cancelled(links)) or head(*links),
        lambda: UNKNOWN,
    ]


def answers(links, said):
    match said:
        case Append():
            return append_answers(links, said)
        case ReadHead():
            return [lambda: head(*links), lambda: UNKNOWN]
        case ReadHistory():
            return [lambda: Links(tuple(links)), lambda: UNKNOWN]
        case AskLane():
            return [lambda: Waits(True), lambda: Waits(False), lambda: UNKNOWN]
        case Draw():
            return [lambda e=e: e for e in (Drawn(MADE, 95), *FAULTED, *INTERRUPTED)]
        case Keep():
            return [lambda: Kept((OUTPUT,)), lambda: FAULTED[0]]
        case TakeSlot() | WaitUntil():
            return [lambda e=e: e for e in (DONE, DONE, DONE, *INTERRUPTED)]
    return [lambda: DONE]


@given(st.lists(st.integers(0, 59), max_size=60), st.sampled_from([ONE, TWO]))
def test_no_order_of_events_breaks_a_rule_of_links_or_acks_an_open_chain(choices, engines):
    """The rules of links are those the search checks: n, attempts, progress, tries, ends."""
    tale = Tale(engines=engines)
    links: list[Link] = []
    while tale.says is not None:
        if isinstance(tale.says, Settle):
            assert is_terminal(links[-1])
        options = answers(links, tale.says)
        before = len(links)
        event = options[(choices.pop() if choices else 0) % len(options)]()
        for place in range(before, len(links)):
            check(links[:place], links[place])
        tale.tell(event)
    assert tale.story.place.n <= len(links)


@given(st.lists(st.integers(0, 59), max_size=60))
def test_the_name_of_a_worker_decides_nothing(choices):
    """The search takes workers for one another; only what people read may tell them apart."""
    heard = []
    for name in ("me", "another"):
        tale, left = Tale(author=replace(ME, worker=name)), list(choices)
        links: list[Link] = []
        said = []
        while tale.says is not None:
            said.append(type(tale.says))
            options = answers(links, tale.says)
            tale.tell(options[(left.pop() if left else 0) % len(options)]())
        heard.append(said)
    assert heard[0] == heard[1]
