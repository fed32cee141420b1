"""Goal: the auditor can fail, in every way it knows; a small chaos run holds on every commit.

Method: bad streams and disks are made by hand and judged; then two seeded trials with real
processes; then two builds with a broken rule, which must be caught.
"""

import hashlib
import json
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from nats.aio.client import Client

from tests.chaos import cases, crash_points
from tests.chaos.auditor import (
    PNG_END,
    PNG_SIGNATURE,
    Audit,
    CancelAnswer,
    Evidence,
    audit,
    shown,
)
from tests.chaos.lab import Asked
from tests.chaos.plan import CRASH_POINTS, make
from tests.chaos.trial import Trial
from tests.rig import Agent

WHO = "L2-01.r1"
PNG = PNG_SIGNATURE + b"pixels" + PNG_END
Links = list[dict[str, Any]]


class Forger:
    """Writes a chain as a worker would, then as no worker may."""

    def __init__(self, nc: Client, folder: Path) -> None:
        self.nc = nc
        self.assets = folder / "generated-assets"
        self.path = self.assets / "images" / "2026-11" / f"{WHO}.png"
        self.evidence = Evidence(accepted=[WHO])
        self.fenced = True

    def chain(self) -> Links:
        """Return two good links."""
        shared = {"request_id": "r1", "requester": "L2.01", "request_seq": 1, "attempt": 1}
        output = {
            "file_path": str(self.path),
            "file_size_bytes": len(PNG),
            "sha256": hashlib.sha256(PNG).hexdigest(),
        }
        started = {"kind": "started", "id": "a", "n": 1, "progress_percent": 0, "worker": "w1"}
        started |= {"request": {"prompt": "x"}, "requested_at": "2026-11-20T00:00:00Z"}
        completed = {"kind": "completed", "id": "b", "n": 2, "progress_percent": 100}
        return [started | shared, completed | shared | {"outputs": [output]}]

    def draw(self) -> None:
        """Put the picture and its record on the disk."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_bytes(PNG)
        self.path.with_suffix(".json").write_text("{}")

    async def write(self, links: Links) -> None:
        """Store links without asking whether they may follow each other."""
        before = 0
        for link in links:
            headers = {"Mmg-Forged": "1"}
            if self.fenced:
                headers["Nats-Expected-Last-Subject-Sequence"] = str(before)
                headers["Nats-Expected-Last-Subject-Sequence-Subject"] = f"mmg.chain.{WHO}.*"
            subject = f"mmg.chain.{WHO}.{link.get('subject_kind', link['kind'])}"
            answer = await self.nc.request(subject, json.dumps(link).encode(), headers=headers)
            before = json.loads(answer.data)["seq"]

    async def verdict(self) -> Audit:
        return await audit(self.nc, self.assets, self.evidence)


def change(place: int, **fields: Any) -> Callable[[Forger, Links], Links]:
    """Spoil fields of one link."""

    def spoil(_forger: Forger, links: Links) -> Links:
        links[place] |= fields
        return links

    return spoil


def third(**fields: Any) -> Callable[[Forger, Links], Links]:
    """Add a link behind the end."""

    def spoil(_forger: Forger, links: Links) -> Links:
        return [*links, links[1] | {"n": 3, "id": "c"} | fields]

    return spoil


def disk(act: Callable[[Forger], object]) -> Callable[[Forger, Links], Links]:
    """Spoil the disk."""

    def spoil(forger: Forger, links: Links) -> Links:
        act(forger)
        return links

    return spoil


def evidence(**fields: Any) -> Callable[[Forger, Links], Links]:
    """Change what the outside says."""

    def spoil(forger: Forger, links: Links) -> Links:
        forger.evidence = replace(forger.evidence, **fields)
        return links

    return spoil


def unfenced(forger: Forger, links: Links) -> Links:
    forger.fenced = False
    return links


SPOILED: list[tuple[str, Callable[[Forger, Links], Links]]] = [
    ("lost", lambda _f, links: links[:1]),
    ("lost", lambda _f, links: []),
    ("answered_twice", third()),
    ("answered_twice", third(kind="cancelled", outputs=[])),
    ("after_the_end", third(kind="started", worker="w2", attempt=2)),
    ("succession", lambda _f, links: [links[1] | {"n": 1, "request": {}, "requested_at": "x"}]),
    ("no_origin", lambda _f, links: [links[0] | {"request": None, "kind": "failed"}]),
    ("no_origin", lambda _f, links: [{k: v for k, v in links[0].items() if k != "requested_at"}]),
    ("numbering", change(1, n=3)),
    ("numbering", change(1, subject_kind="failed")),
    ("identity", change(1, requester="L2.02")),
    ("identity", change(1, request_seq=2)),
    ("id_twice", change(1, id="a")),
    ("attempt", change(1, attempt=2)),
    ("progress", change(0, progress_percent=101)),
    ("back_pointer", unfenced),
    ("no_file", disk(lambda forger: forger.path.unlink())),
    ("no_record", disk(lambda forger: forger.path.with_suffix(".json").unlink())),
    ("broken_file", disk(lambda forger: forger.path.write_bytes(PNG[:-1]))),
    ("broken_file", disk(lambda forger: forger.path.write_bytes(PNG.replace(b"pix", b"fix")))),
    ("orphan", disk(lambda forger: forger.path.with_name(f"{WHO}.a2.png").write_bytes(PNG))),
    ("orphan", disk(lambda forger: forger.path.with_name("L2-01.r2.json").write_text("{}"))),
    ("temporary", disk(lambda f: f.path.with_name(f".{WHO}.png.w1.tmp").write_bytes(b""))),
    ("cancel_untrue", evidence(cancels=[CancelAnswer(WHO, "cancelled", "z")])),
    ("cancel_untrue", evidence(cancels=[CancelAnswer(WHO, "not_found")])),
    ("heard_twice", evidence(heard=[(WHO, "b"), (WHO, "b")])),
    ("heard_unstored", evidence(heard=[(WHO, "z")])),
]


@pytest.mark.parametrize(("rule", "spoil"), SPOILED, ids=lambda value: str(value)[:24])
async def test_auditor_names_what_is_wrong(
    rule: str, spoil: Callable[[Forger, Links], Links], tmp_path: Path, agent: Agent
) -> None:
    forger = Forger(agent.nc, tmp_path)
    forger.draw()
    await forger.write(spoil(forger, forger.chain()))
    found = await forger.verdict()
    assert rule in {violation.rule for violation in found.violations}, shown(found)
    first = json.loads(shown(found).splitlines()[0])
    assert set(first) == {"who", "violations", "chain"}


async def test_auditor_finds_nothing_in_good_work_and_sees_a_lane_that_is_not_empty(
    tmp_path: Path, agent: Agent
) -> None:
    forger = Forger(agent.nc, tmp_path)
    forger.draw()
    await forger.write(forger.chain())
    forger.evidence.heard = [(WHO, "b")]
    forger.evidence.cancels = [CancelAnswer(WHO, "already_completed")]
    assert not (await forger.verdict()).violations
    await agent.image("r2")
    found = {violation.rule for violation in (await forger.verdict()).violations}
    assert found == {"lane_not_empty"}


async def test_files_of_a_killed_worker_are_counted_and_left_for_the_prune(
    tmp_path: Path, agent: Agent
) -> None:
    forger = Forger(agent.nc, tmp_path)
    forger.draw()
    await forger.write(forger.chain())
    forger.path.with_name(f"{WHO}.a2.png").write_bytes(PNG)
    forger.evidence.killed = ["w1"]
    found = await forger.verdict()
    assert (found.violations, found.left) == ([], 1)


def test_every_step_between_which_a_worker_may_die_has_a_stage() -> None:
    steps = {point.partition(" ")[2] for point in CRASH_POINTS}
    assert steps == set(crash_points.STAGES)


# nats-py drops the writer of a connection that ends while it logs in again, without closing it.
@pytest.mark.filterwarnings("ignore:unclosed <StreamWriter:ResourceWarning")
@pytest.mark.timeout(150)
@pytest.mark.parametrize("number", [0, 1])
async def test_a_seeded_trial_loses_nothing_and_answers_nothing_twice(
    number: int, tmp_path: Path
) -> None:
    plan = make(2026, number, requests=10, ack_wait_s=3.0, cluster=1)
    trial = Trial(plan, tmp_path / "trial")
    result = await trial.run()
    assert not result.violations, f"{trial.said}\n{result.violations}"
    assert result.accepted == 10
    assert sum(result.faults.values()) > 0, "nothing broke"


@pytest.mark.timeout(150)
async def test_a_build_without_the_fence_is_caught(tmp_path: Path) -> None:
    harm = {"numbering", "answered_twice", "after_the_end", "succession", "attempt"}
    rules: set[str] = set()
    for seed in range(1, 4):
        rules |= await _rules_broken_by("no-fence", "frozen", tmp_path / str(seed), seed=seed)
        assert "back_pointer" in rules
        if rules & harm:
            break
    assert rules & harm


@pytest.mark.timeout(150)
async def test_a_gateway_killed_in_a_chaos_run_keeps_the_rows_of_a_fresh_fold(
    tmp_path: Path,
) -> None:
    asked = Asked(folder=tmp_path, seed=1, times=4, ack_wait_s=2.0)
    async with aclosing(cases.CASES["ledger"](asked)) as verdicts:
        (result,) = [result async for result, _ in verdicts]
    assert result.violations == []
    assert result.notes["rows"]["multimodal_generations"] == result.accepted > 0


@pytest.mark.timeout(150)
async def test_a_build_that_acks_before_it_appends_is_caught(tmp_path: Path) -> None:
    only = "before append completed"
    assert "lost" in await _rules_broken_by("ack-first", "crash-points", tmp_path, only=only)


async def _rules_broken_by(
    mutant: str, case: str, folder: Path, *, seed: int = 1, only: str = ""
) -> set[str]:
    asked = Asked(
        folder=folder,
        seed=seed,
        times=1,
        ack_wait_s=2.0,
        module=("tests.chaos.mutant", mutant, "worker"),
        only=only,
        patience_s=10.0,
    )
    async with aclosing(cases.CASES[case](asked)) as verdicts:
        return {broken["rule"] async for result, _ in verdicts for broken in result.violations}
