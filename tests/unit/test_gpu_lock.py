"""Goal: one worker a card and machine, and no card is held by a worker that is gone.

Method: the lock itself, against a real second process that takes the same card and is killed.
"""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agent.gpu.lock import CardLock
from tests.rig import until

ROOT = Path(__file__).resolve().parents[2]
CARD = "GPU-5e1ec7ed-0000-4000-8000-00000000c0de"
SCRIPT = """
import sys
from pathlib import Path
from agent.gpu.lock import CardLock
lock = CardLock(sys.argv[1], "elsewhere", Path(sys.argv[2]))
print(lock.try_acquire(), flush=True)
sys.stdin.read()
"""


@contextmanager
def another_worker(folder: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run a process that tries to take the card, and tell what it got."""
    command = [sys.executable, "-c", SCRIPT, CARD, str(folder)]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            yield process, process.stdout.readline().strip()
        finally:
            process.kill()


@pytest.fixture
def lock(tmp_path: Path) -> Iterator[CardLock]:
    made = CardLock(CARD, "here", tmp_path)
    yield made
    made.release()


def test_the_card_is_taken_once_and_given_back(lock):
    assert lock.try_acquire()
    assert lock.try_acquire()  # it is ours already
    assert lock.is_held
    lock.release()
    assert not lock.is_held
    lock.release()
    assert lock.try_acquire()


def test_another_process_stands_by_while_we_have_the_card(lock, tmp_path):
    assert lock.try_acquire()
    with another_worker(tmp_path) as (_, got):
        assert got == "False"
    lock.release()
    with another_worker(tmp_path) as (_, got):
        assert got == "True"


async def test_a_killed_worker_gives_the_card_free_at_once(lock, tmp_path):
    with another_worker(tmp_path) as (process, got):
        assert got == "True"
        assert not lock.try_acquire()
        assert lock.holder() == f"worker elsewhere, pid {process.pid}"
        process.kill()
        await until(lock.try_acquire, "the card of a killed worker")
    assert lock.holder().startswith("worker here, pid ")


def test_cards_are_locked_each_for_itself(lock, tmp_path):
    other = CardLock("GPU-another/card", "there", tmp_path)
    assert lock.try_acquire()
    assert other.try_acquire()
    other.release()


def test_a_lock_that_cannot_be_opened_is_not_taken_and_says_why(lock, tmp_path):
    obstacle = tmp_path / f"mmg-card-{CARD}.lock"
    obstacle.mkdir()
    assert not lock.try_acquire()
    assert "cannot be opened" in lock.holder()
    obstacle.rmdir()
    assert lock.try_acquire()
    assert lock.holder().startswith("worker here, pid ")


def test_a_link_laid_for_us_is_replaced_and_not_followed(lock, tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("untouched")
    (tmp_path / f"mmg-card-{CARD}.holder").symlink_to(victim)
    assert lock.try_acquire()
    assert victim.read_text() == "untouched"
    assert lock.holder().startswith("worker here, pid ")
