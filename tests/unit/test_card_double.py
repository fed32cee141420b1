"""Goal: the simulated card never holds more than it has, and a dead process holds nothing.

Method: real processes claim memory of one file at the same time, and are killed.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.doubles.card import SharedCard
from tests.rig import until

ROOT = Path(__file__).resolve().parents[2]
CLAIM = """
import sys
from pathlib import Path
from tests.doubles.card import SharedCard
print(SharedCard(Path(sys.argv[1])).claim(sys.argv[2], int(sys.argv[3])), flush=True)
sys.stdin.read()
"""
STORM = """
import random, sys
from pathlib import Path
from tests.doubles.card import SharedCard
card, rolls, most = SharedCard(Path(sys.argv[1])), random.Random(int(sys.argv[2])), 0
for _ in range(60):
    card.claim("storm", rolls.randrange(0, 900))
    most = max(most, card.used_mib)
card.claim("storm", 0)
print(most)
"""


@pytest.fixture
def card(tmp_path: Path) -> SharedCard:
    return SharedCard.create(tmp_path / "card.json", total_mib=1000)


def run(script: str, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


@contextmanager
def claimed(card: SharedCard, owner: str, mib: int) -> Iterator[subprocess.Popen[str]]:
    with run(CLAIM, card.path, owner, mib) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "True\n"
            yield process
        finally:
            process.kill()


def test_a_claim_is_set_raised_and_given_back(card):
    assert card.claim("me", 600)
    assert card.claim("me", 900)
    assert card.claim("you", 100)
    assert (card.used_mib, card.free_mib, card.total_mib) == (1000, 0, 1000)
    assert card.claim("me", 0)
    assert card.claims() == {"you": 100}


def test_what_does_not_fit_changes_nothing(card):
    card.hold("desktop", 300)
    assert card.claim("me", 500)
    assert not card.claim("me", 701)
    assert not card.claim("you", 201)
    with pytest.raises(ValueError, match="200 MiB are free"):
        card.hold("desktop", 501)
    assert card.claims() == {"desktop": 300, "me": 500}


async def test_a_killed_process_holds_nothing_even_before_anybody_waited_for_it(card):
    card.hold("desktop", 100)
    with claimed(card, "ollama", 700) as process:
        assert card.claims() == {"desktop": 100, "ollama": 700}
        assert card.processes() == {process.pid: 700}
        process.kill()  # it stays a zombie until the block ends
        await until(lambda: card.claims() == {"desktop": 100}, "the end of its claim")
        os.kill(process.pid, 0)  # raises if there is no such process
        assert card.claim("comfyui", 900)


def test_two_processes_with_one_name_hold_both(card):
    with claimed(card, "ollama", 400):
        assert card.claim("ollama", 400)
        assert card.claims() == {"ollama": 800}
        assert not card.claim("ollama", 601)


def test_processes_that_claim_at_once_never_hold_more_than_there_is(card):
    storms = [run(STORM, card.path, seed) for seed in range(3)]
    most = [int(process.communicate(timeout=50)[0]) for process in storms]
    assert all(process.returncode == 0 for process in storms)
    assert 900 < max(most) <= 1000
    assert card.used_mib == 0


def test_the_command_line_makes_fills_and_breaks_a_card(tmp_path):
    def act(*words: str) -> str:
        command = [sys.executable, "-m", "tests.doubles.card", words[0], str(path), *words[1:]]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        return done.stdout

    path = tmp_path / "made.json"
    act("create", "--total-mib", "8192", "--name", "RTX 3070")
    act("hold", "desktop", "1536")
    act("fault", "lost")
    assert '"desktop": 1536' in act("show")
    card = SharedCard(path)
    assert (card.name, card.free_mib, card.fault) == ("RTX 3070", 6656, "lost")
    act("fault", "none")
    act("xid", "79")
    assert (card.fault, card.xids) == (None, [79])
