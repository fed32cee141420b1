"""Goal: what a card owes its LLMs is kept by one worker, also when the server's answer is lost.

Method: a real nats-server; the answer to one write is dropped after the write was stored.
"""

from datetime import UTC, datetime
from typing import Any

import pytest

from agent.bus import state
from agent.bus.connection import NoAnswer, connect
from agent.bus.debts import Debts
from agent.core.card import Debt, DebtError, Owed
from agent.embedded import EmbeddedServer

CARD = "GPU-1"
NOON = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)


def debt(*models: str) -> Debt:
    owed = (Owed(tenant="ollama", model=one, vram_mib=6700, keep_alive_s=300) for one in models)
    return Debt(owed=tuple(owed), unloaded_at=NOON)


@pytest.fixture
def lost_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Store the first write and lose the answer to it."""
    write = state.write
    lost: list[bool] = []

    async def deaf(*args: Any) -> int:
        revision = await write(*args)
        if not lost:
            lost.append(True)
            raise NoAnswer("the answer is lost")
        return revision

    monkeypatch.setattr(state, "write", deaf)


@pytest.mark.usefixtures("lost_answer")
@pytest.mark.parametrize("again", [debt("llama3:8b"), debt("llama3:8b", "mistral:7b")])
async def test_a_write_whose_answer_was_lost_does_not_bar_the_next_one(
    server: EmbeddedServer, again: Debt
) -> None:
    async with await connect([server.url], "w1") as bus:
        debts = Debts(bus)
        assert await debts.read(CARD) is None
        with pytest.raises(DebtError):
            await debts.write(CARD, debt("llama3:8b"))
        await debts.write(CARD, again)
        assert await Debts(bus).read(CARD) == again
        await debts.clear(CARD)
        assert await Debts(bus).read(CARD) is None


async def test_what_another_worker_wrote_is_not_written_over(server: EmbeddedServer) -> None:
    async with await connect([server.url], "w1") as bus:
        one, two = Debts(bus), Debts(bus)
        await one.read(CARD)
        await two.read(CARD)
        await two.write(CARD, debt("mistral:7b"))
        with pytest.raises(DebtError, match="another worker"):
            await one.write(CARD, debt("llama3:8b"))
        assert await Debts(bus).read(CARD) == debt("mistral:7b")
