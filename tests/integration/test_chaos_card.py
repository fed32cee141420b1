"""Goal: the directed cases of the card and the clouds find nothing, in a small sample of each.

Method: `tests.chaos.card_cases` at a fraction of its size; `make chaos CASE=debts`, and so on, runs
each in full.
"""

from contextlib import aclosing
from pathlib import Path

import pytest

from tests.chaos.card_cases import CARD_CASES
from tests.chaos.lab import Asked
from tests.chaos.trial import Result


async def found(case: str, folder: Path, times: int, only: str = "") -> Result:
    """Run a case and return its result."""
    asked = Asked(folder=folder, seed=1, times=times, ack_wait_s=2.0, only=only)
    async with aclosing(CARD_CASES[case](asked)) as verdicts:
        return await anext(aiter(result async for result, _ in verdicts))


@pytest.mark.timeout(150)
@pytest.mark.parametrize(
    ("case", "times", "only"),
    [
        ("debts", 1, "after act unloadmodels"),
        ("local-only", 16, ""),
        ("money", 10, ""),
        ("to-the-cloud", 8, ""),
    ],
)
async def test_a_small_sample_finds_nothing(
    tmp_path: Path, case: str, times: int, only: str
) -> None:
    result = await found(case, tmp_path, times, only)
    assert result.violations == []
    assert result.accepted == times
