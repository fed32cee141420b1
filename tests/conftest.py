"""What holds for every test: it leaves no task behind, and none of its tasks dies unseen."""

import asyncio
import gc
import os
import tempfile
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import structlog
from hypothesis import HealthCheck, settings

settings.register_profile(
    "quick", max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("thorough", max_examples=500, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))

PASSES_TO_END = 5
"""Passes of the loop that a task just cancelled gets to end; it needs one per await it is in."""


@pytest.fixture(scope="session", autouse=True)
def _host_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Give each test process a folder for locks: names and cards are locked once per host.

    Otherwise the `w1` of a test keeps that of a test in another process from starting.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(tmp_path_factory.mktemp("host")))
        patch.setattr(tempfile, "tempdir", None)
        yield


@pytest.fixture(autouse=True)
def _logs_as_they_were() -> Iterator[None]:
    """Undo what a test configured: a level left behind would make the next one's logs vanish."""
    yield
    structlog.reset_defaults()


@pytest.fixture(autouse=True)
async def _nothing_left_on_the_loop() -> AsyncIterator[None]:
    """Fail a test that leaves a task pending or whose loop had an error nobody awaited.

    Set up before the fixtures of the test and ended after them, so that these may clean up first.
    """
    unseen: list[str] = []

    def keep(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        unseen.append(f"{context['message']}: {context.get('exception')!r}")

    loop = asyncio.get_running_loop()
    loop.set_exception_handler(keep)
    yield
    for _ in range(PASSES_TO_END):
        await asyncio.sleep(0)
    gc.collect(1)  # a failed task that refers to itself reports only when it is collected
    loop.set_exception_handler(None)
    pending = asyncio.all_tasks() - {asyncio.current_task()}
    problems = [*unseen, *(f"still pending: {task!r}" for task in pending)]
    if problems:
        pytest.fail("\n".join(problems), pytrace=False)
