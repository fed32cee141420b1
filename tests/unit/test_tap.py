"""Goal: whoever follows everything gets each link once and in order, and the newest progress.

Method: any order of what is heard, of connections that fill up and empty, and of what is sent;
what arrives is read back as WebSocket frames.
"""

import asyncio
import struct

import pytest
from aiohttp import WSMsgType
from hypothesis import given
from hypothesis import strategies as st

from agent.gateway import tap as module
from agent.gateway.relay import TOO_SLOW
from agent.gateway.tap import Kept, Tap, frames
from contracts import subjects

WHO = (subjects.identity("a", "r1"), subjects.identity("b", "r2"))
ACTS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["link", "progress", "preview"]), st.integers(0, 1)),
        st.tuples(st.sampled_from(["tick", "full", "free", "send"]), st.just(0)),
    ),
    max_size=60,
)


def read(data: bytes) -> list[tuple[int, bytes]]:
    """Return the frames in some bytes: opcode and payload."""
    found = []
    while data:
        assert data[0] & 0xF0 == 0x80, "whole, and not compressed"
        size, at = data[1], 2
        assert size < 128, "a server masks nothing"
        if size == 126:
            (size,), at = struct.unpack("!H", data[2:4]), 4
        elif size == 127:
            (size,), at = struct.unpack("!Q", data[2:10]), 10
        assert len(data) >= at + size
        found.append((data[0] & 0x0F, data[at : at + size]))
        data = data[at + size :]
    return found


class Client:
    """A client with its connection, which may be full."""

    def __init__(self, *, previews: bool) -> None:
        self.tap = Tap(previews=previews)
        self.tap.straight = self.write
        self.full = False
        self.got: list[bytes] = []

    def write(self, data: bytes) -> bool:
        if self.full:
            return False
        assert data, "nothing is not written"
        self.got += [payload for _, payload in read(data)]
        return True

    def send(self) -> None:
        """Send one frame that was kept, if there is one."""
        if not self.tap._kept:
            return
        taking = self.tap.take()
        try:
            taking.send(None)
        except StopIteration as done:
            self.got.append(done.value[1])
        finally:
            taking.close()


@given(acts=ACTS, previews=st.booleans())
def test_links_arrive_once_and_in_order_and_the_newest_progress_does(acts, previews):
    client, heard, links = Client(previews=previews), Kept(), []
    newest: dict[tuple[str, int], bytes] = {}
    for number, (what, which) in enumerate([*acts, ("tick", 0), ("free", 0)]):
        data = f"{what} {which} {number}".encode()
        if what == "link":
            heard.add(data, WHO[which])
            links.append(data)
            newest.pop(("progress", which), None)
        elif what in ("progress", "preview"):
            heard.renew(what, WHO[which], data)
            newest[what, which] = data
        elif what == "tick":
            client.tap.offer(heard, frames(heard, previews=previews))
            heard = Kept()
        elif what == "send":
            client.send()
        else:
            client.full = what == "full"
    for _ in range(len(acts)):
        client.send()
    assert [one for one in client.got if one.startswith(b"link")] == links
    assert len(set(client.got)) == len(client.got)
    for (what, which), data in newest.items():
        if what == "progress" or previews:
            kind = f"{what} {which} ".encode()
            assert [one for one in client.got if one.startswith(kind)][-1] == data
    if not previews:
        assert not [one for one in client.got if one.startswith(b"preview")]


def test_progress_never_follows_the_link_that_was_heard_after_it():
    client, heard = Client(previews=False), Kept()
    heard.renew("progress", WHO[0], b"90 %")
    heard.add(b"completed", WHO[0])
    client.tap.offer(heard, frames(heard, previews=False))
    assert client.got == [b"completed"]


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65_535, 65_536, 100_000])
def test_frames_of_every_length_are_what_the_standard_says(size):
    heard = Kept()
    heard.add(b"x" * size)
    heard.renew("preview", WHO[0], b"y" * size)
    heard.renew("progress", WHO[0], b"z" * size)
    text, binary = int(WSMsgType.TEXT), int(WSMsgType.BINARY)
    mine = [(text, b"x" * size), (binary, b"y" * size), (text, b"z" * size)]
    assert read(frames(heard, previews=True)) == mine
    assert read(frames(heard, previews=False)) == [mine[0], mine[2]]


def test_nothing_is_written_before_the_first_frame_was():
    client, heard = Client(previews=False), Kept()
    client.tap.straight = None
    heard.add(b"early")
    client.tap.offer(heard, frames(heard, previews=False))
    client.tap.straight = client.write
    client.tap.offer(heard, frames(heard, previews=False))
    assert client.got == [], "what was kept goes first"
    client.send()
    client.send()
    assert client.got == [b"early", b"early"]


@pytest.mark.parametrize(("name", "most"), [("FRAMES_MAX", 3), ("BYTES_MAX", 30)])
def test_a_client_too_far_behind_is_ended_and_keeps_nothing(monkeypatch, name, most):
    monkeypatch.setattr(module, name, most)
    client, ended = Client(previews=False), []
    client.full, client.tap.on_end = True, lambda: ended.append(True)
    for _ in range(5):
        heard = Kept()
        heard.add(b"x" * 10)
        client.tap.offer(heard, frames(heard, previews=False))
    assert (client.tap.end_code, ended) == (TOO_SLOW, [True])
    client.full = False
    client.send()
    assert client.got == []


def test_a_flood_of_progress_is_cut(monkeypatch):
    monkeypatch.setattr(module, "FRAMES_MAX", 2)
    heard = Kept()
    for number in range(5):
        heard.renew("progress", subjects.identity("a", f"r{number}"), b"%d" % number)
    assert [heard.take()[1] for _ in range(2)] == [b"3", b"4"]
    assert not heard


async def test_taking_waits_until_something_is_kept():
    tap, heard = Tap(previews=False), Kept()
    heard.add(b"link")
    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        taking = group.create_task(tap.take())
        await asyncio.sleep(0)
        assert not taking.done()
        tap.offer(heard, frames(heard, previews=False))
    assert taking.result() == ("text", b"link")
