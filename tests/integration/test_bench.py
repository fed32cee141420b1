"""Goal: `make bench` ends with a table whatever a bench does, keeps the figures with versions and
load, and exits with 1 if anything was not measured.

Method: the real command on its shortest bench; programs of one line in the place of a bench.
"""

import asyncio
import json
import sys

import pytest

from ops.bench.gathering import Bench, gather
from tests.rig import ROOT, environment


def program(text: str, limit_s: float = 30.0) -> Bench:
    return Bench(name="short", limit_s=limit_s, command=(sys.executable, "-c", text))


async def test_the_command_keeps_figures_with_versions_and_load(tmp_path):
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "ops.bench", "--only", "decision", "--folder", str(tmp_path)),
        cwd=ROOT,
        env=environment(),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(50):
        words, _ = await child.communicate()
    assert child.returncode == 0, words.decode()
    (kept,) = tmp_path.glob("*.json")
    found = json.loads(kept.read_text())
    (bench,) = found["benches"]
    assert bench["bench"] == "decision"
    assert len(bench["load_before"]) == len(bench["load_after"]) == 3
    assert all(row["figure"] > 0 and row["verdict"] in ("met", "missed") for row in bench["rows"])
    assert found["nats-server"].startswith("2.")
    assert found["cores"]
    page = kept.with_suffix(".md").read_text()
    assert all(row["what"] in page for row in bench["rows"])
    assert "| decision |" in page


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("raise SystemExit('no server here')", "it ended with 1: no server here"),
        ("import sys; sys.exit(3)", "it ended with 3: it said nothing"),
        ("pass", "it wrote nothing: No such file or directory"),
    ],
)
async def test_a_bench_that_fails_is_a_row_with_its_reason(text, reason, tmp_path):
    outcome = await gather(program(text), tmp_path / "x.json", 60)
    (row,) = outcome.rows
    assert (row.what, row.verdict, row.note) == ("short", "not measured", reason)


async def test_a_bench_gets_no_more_than_its_limit_and_what_is_left(tmp_path):
    endless = program("import time; time.sleep(600)", limit_s=0.5)
    (row,) = (await gather(endless, tmp_path / "x.json", 60)).rows
    assert row.note == "not done after 0 s"
    (row,) = (await gather(endless, tmp_path / "x.json", -1)).rows
    assert row.note == "no time was left"


async def test_a_bench_that_writes_no_rows_is_a_row_that_says_so(tmp_path):
    path = tmp_path / "x.json"
    text = f"import pathlib; pathlib.Path({str(path)!r}).write_text('{{}}')"
    (row,) = (await gather(program(text), path, 60)).rows
    assert (row.verdict, row.note[:20]) == ("not measured", "it wrote no rows: Ex")
