"""Goal: whoever cancels a request, in whatever state, hears what its chain says.

Method: the same cases by command line, client and HTTP, on a real server; real workers where
something runs. What happened is read from the stream.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from agent.bus.cancel import ASKS_MAX, ask_cancel, serve_cancels
from agent.bus.connection import BusError, NoAnswer, connect
from agent.bus.overview import ask_workers
from agent.client import ContractError
from agent.client import connect as connect_client
from agent.clock import SystemClock
from agent.embedded import EmbeddedServer
from contracts import codec, subjects
from contracts.events import Cancelled
from tests.integration.operator_rig import Writer, gateway_on, shell_on
from tests.rig import Agent, pictures, temporary, until, worker

AGENT = "L2.01"
LONG: dict[str, Any] = {"width": 2048, "height": 2048, "count": 10, "quality": "high"}
"""Options of a request that draws for seconds."""

HTTP = {"not_found": 404, "already_completed": 409, "ambiguous_id": 409}

Answer = tuple[str, Any]
"""A status or a code, and the link where there is one."""


class Caller:
    """Cancels in one of the ways. `answerer` says who is there to be asked."""

    def __init__(self, way: str, url: str, folder: Path, shell) -> None:
        self.way = way
        self._url = url
        self._folder = folder
        self._shell = shell

    async def cancel(self, request_id: str, requester: str | None = AGENT) -> Answer:
        match self.way:
            case "command line":
                return await self._by_shell(request_id, requester)
            case "client":
                return await self._by_client(request_id)
            case _:
                return await self._by_http(request_id, requester)

    async def _by_shell(self, request_id: str, requester: str | None) -> Answer:
        named = () if requester is None else ("--requester", requester)
        heard = await self._shell("cancel", request_id, "--json", *named)
        if heard.code == 0:
            link = json.loads(heard.out)
            return link["status"], link
        assert heard.out == ""
        assert heard.code == (2 if "ambiguous_id" in heard.err else 1)
        return heard.err.split(":")[1].strip(), None

    async def _by_client(self, request_id: str) -> Answer:
        async with connect_client(self._url, agent=AGENT) as client:
            try:
                link = await client.cancel(request_id)
            except ContractError as error:
                return error.body.code, None
            return link.status, json.loads(codec.encode(link))

    async def _by_http(self, request_id: str, requester: str | None) -> Answer:
        async with gateway_on(self._url, self._folder) as url, aiohttp.ClientSession() as http:
            named = {} if requester is None else {"requester": requester}
            path = f"{url}/api/multimodal/requests/{request_id}"
            async with http.delete(path, params=named) as response:
                answer = json.loads(await response.read())
                assert response.status == HTTP.get(answer.get("code"), 200)
                return answer.get("code", answer["status"]), answer


@pytest.fixture(params=["command line", "client", "http"])
async def caller(request, server, tmp_path, monkeypatch, capsys) -> AsyncIterator[Caller]:
    """Cancel in each way; the client, which may not append, finds somebody to ask."""
    shell = shell_on(server.url, tmp_path / "home", monkeypatch, capsys)
    async with AsyncExitStack() as stack:
        if request.param == "client":
            bus = await stack.enter_async_context(await connect([server.url], "somebody"))
            await serve_cancels(bus, "somebody", SystemClock())
            await bus.flush()
        yield Caller(request.param, server.url, tmp_path / "served", shell)


def by(way: str, link: dict[str, Any]) -> bool:
    """Tell whether the link names who asked, not who answered."""
    if way == "command line":
        return "@" in str(link["by"])
    expected: str = {"client": AGENT, "http": "gateway"}[way]
    return bool(link["by"] == expected)


async def test_queued_request_is_cancelled_once_and_never_drawn(
    tmp_path: Path, server: EmbeddedServer, agent: Agent, caller: Caller
) -> None:
    await agent.image("r1")
    status, link = await caller.cancel("r1")
    assert (status, link["kind"], link["n"]) == ("cancelled", "cancelled", 1)
    assert link["request"]["prompt"] == "Cover r1"
    assert by(caller.way, link)
    assert await agent.chain("r1") == [link]
    assert await caller.cancel("r1") == ("cancelled", link), "twice is no error"
    async with worker(tmp_path / "w", server.url, "--once") as process:
        assert await process.exit_code() == 0, process.words
    assert await agent.waiting() == 0, "the worker acks it away"
    assert await agent.chain("r1") == [link]
    assert not pictures(tmp_path / "w")


async def test_running_request_is_interrupted_within_two_seconds_and_leaves_nothing(
    tmp_path: Path, server: EmbeddedServer, agent: Agent, caller: Caller
) -> None:
    async with (
        worker(tmp_path / "w", server.url, MMG_WORKER_NAME="cancels-1") as process,
        await connect([server.url], "operator") as bus,
    ):
        await process.says("worker.ready")
        await agent.image("r1", **LONG)
        await until(lambda: any(s.startswith("mmg.progress") for s, _ in agent.heard), "progress")
        status, link = await caller.cancel("r1")
        assert (status, link["n"]) == ("cancelled", 2)
        assert by(caller.way, link)

        async def idle() -> bool:
            return all(not one.running for one in await ask_workers(bus, "cancels-1"))

        await until(idle, "the end of the job", 2.0)
        await agent.lanes_empty(2.0)
        chain = await agent.chain("r1")
        assert [one["kind"] for one in chain] == ["started", "cancelled"]
        assert chain[-1] == link
        assert not pictures(tmp_path / "w")
        assert not temporary(tmp_path / "w")
        await agent.image("r2")
        assert (await agent.ended("r2"))[-1]["kind"] == "completed", "its slot is free"


@pytest.mark.parametrize("dead", [True, False])
async def test_ended_request_stays_as_it_ended(
    server: EmbeddedServer, agent: Agent, caller: Caller, dead: bool
) -> None:
    async with await connect([server.url], "writer") as bus:
        await Writer(bus, subjects.identity(AGENT, "r1")).given_up(dead=dead)
    before = await agent.chain("r1")
    assert (await caller.cancel("r1"))[0] == "already_completed"
    assert await agent.chain("r1") == before


async def test_completed_request_keeps_its_picture(
    tmp_path: Path, server: EmbeddedServer, agent: Agent, caller: Caller
) -> None:
    await agent.image("r1")
    async with worker(tmp_path / "w", server.url, "--once") as process:
        assert await process.exit_code() == 0, process.words
    assert (await caller.cancel("r1"))[0] == "already_completed"
    assert (await agent.chain("r1"))[-1]["kind"] == "completed"
    assert len(pictures(tmp_path / "w")) == 1


async def test_unknown_request_is_not_found_and_gets_no_chain(agent: Agent, caller: Caller) -> None:
    assert (await caller.cancel("r1"))[0] == "not_found"
    assert await agent.chain("r1") == []


@pytest.mark.parametrize("caller", ["command line", "http"], indirect=True)
async def test_request_is_found_by_its_id_where_only_one_agent_has_it(
    agent: Agent, caller: Caller
) -> None:
    await agent.image("r1", agent="L3-01")
    await agent.image("r2", agent="L3-01")
    await agent.image("r2")
    assert (await caller.cancel("r1", None))[0] == "cancelled"
    assert (await caller.cancel("r2", None))[0] == "ambiguous_id"
    assert await agent.chain("r2") == await agent.chain("r2", "L3-01") == []


async def test_client_says_that_nobody_is_there_to_cancel(
    server: EmbeddedServer, agent: Agent
) -> None:
    await agent.image("r1")
    async with connect_client(server.url, agent=AGENT) as client:
        with pytest.raises(BusError, match="nobody answers"):
            await client.cancel("r1")
    assert await agent.chain("r1") == []


async def test_who_hears_nothing_asks_again_and_not_for_ever(
    server: EmbeddedServer, agent: Agent
) -> None:
    who = subjects.identity(AGENT, "r1")
    asked: list[bytes] = []

    async def keep_silent(msg) -> None:
        asked.append(msg.data)

    await agent.nc.subscribe(subjects.CANCEL_ALL, cb=keep_silent)
    await agent.nc.flush()
    await agent.image("r1")
    async with await connect([server.url], "asker") as bus:
        with pytest.raises(NoAnswer):
            await ask_cancel(bus, who, "me", timeout_s=0.05)
        assert asked == [b'{"by":"me"}'] * ASKS_MAX
        await serve_cancels(bus, "somebody", SystemClock())
        link = await ask_cancel(bus, who, "x" * 1000, timeout_s=1.0)
    assert isinstance(link, Cancelled)
    assert await agent.chain("r1") == [json.loads(codec.encode(link))]
    assert link.by == "somebody", "a name nobody could show is not taken"


async def test_command_line_cancels_by_itself_where_the_answerer_is_stuck(
    server: EmbeddedServer, agent: Agent, tmp_path, monkeypatch, capsys
) -> None:
    async def keep_silent(_msg) -> None:
        """Hang, as a worker that is stopped in a debugger does."""

    await agent.nc.subscribe(subjects.CANCEL_ALL, cb=keep_silent, queue=subjects.QUEUE_CANCEL)
    await agent.image("r1")
    shell = shell_on(server.url, tmp_path / "home", monkeypatch, capsys)
    heard = await shell("cancel", "r1")
    assert heard.code == 0
    assert heard.out.startswith(f"cancelled: r1 of {AGENT}, by ")
    assert [link["kind"] for link in await agent.chain("r1")] == ["cancelled"]


async def test_http_says_503_while_the_bus_is_away(server: EmbeddedServer, tmp_path: Path) -> None:
    async with gateway_on(server.url, tmp_path / "served") as url, aiohttp.ClientSession() as http:
        await server.stop()
        async with (
            asyncio.timeout(10),
            http.delete(f"{url}/api/multimodal/requests/r1?requester={AGENT}") as response,
        ):
            answer = json.loads(await response.read())
    assert (response.status, answer["code"], answer["retryable"]) == (503, "internal", True)
