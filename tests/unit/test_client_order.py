"""Goal: whatever order links are heard and read in, a watcher sees each once and in place.

Method: one chain, cut into every mixture of live links and reads of its beginning.
"""

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from agent.client.order import Order
from contracts import codec, examples
from contracts.events import Progress

CHAIN = [codec.encode(link) for link in examples.CHAIN]
LENGTH = len(CHAIN)
HEARD = st.integers(0, LENGTH - 1)
READ = st.integers(0, LENGTH).map(range)
STEP = replace(examples.PROGRESS, n=1, progress_percent=10)


@given(st.lists(HEARD | READ, max_size=30), st.integers(0, LENGTH))
def test_links_come_once_and_in_order_and_a_last_read_completes_them(news, after):
    order = Order(after)
    seen = []
    for one in [*news, range(LENGTH)]:
        if isinstance(one, int):
            seen += order.heard(CHAIN[one])
        else:
            seen += order.read([CHAIN[place] for place in one])
    assert [link.n for link in seen] == list(range(after + 1, LENGTH + 1))
    assert order.ended
    assert not order.gap


@given(st.permutations([*range(LENGTH), "a", "b", "c"]))
def test_progress_stands_between_its_start_and_the_next_link_and_never_falls(news):
    steps = {
        name: replace(STEP, id=name, progress_percent=percent)
        for name, percent in (("a", 10), ("b", 20), ("c", 30))
    }
    order = Order()
    seen = []
    for one in news:
        seen += order.heard(CHAIN[one]) if isinstance(one, int) else order.progressed(steps[one])
    shown = [event for event in seen if isinstance(event, Progress)]
    percents = [event.progress_percent for event in shown]
    assert percents == sorted(percents)
    places = [event.n for event in seen]
    assert places == sorted(places)
    if shown:
        first = seen.index(shown[0])
        assert seen[first - 1].n == 1


def test_a_later_link_shows_a_gap_until_the_missing_one_is_read():
    order = Order()
    order.heard(CHAIN[0])
    assert order.heard(CHAIN[2]) == []
    assert order.gap
    assert [link.n for link in order.read(CHAIN[:2])] == [2, 3]
    assert not order.gap


def test_a_beginning_that_is_no_longer_kept_is_not_waited_for():
    order = Order()
    assert [link.n for link in order.read(CHAIN[3:])] == list(range(4, LENGTH + 1))


def test_bytes_that_are_no_link_are_ignored():
    order = Order()
    assert order.heard(b"\xff") == []
    assert order.read([b"{}", CHAIN[0]]) == [codec.decode_link(CHAIN[0])]


def test_an_end_of_an_unknown_kind_ends_it_too():
    order = Order()
    assert order.heard(b'{"id":"x","n":1,"kind":"vanished","status":"failed"}') == []
    assert order.ended
