"""Goal: progress of a prompt never falls, moves with the steps, and ends at one.

Method: frames as ComfyUI 0.3.64 sends them, by hand and from a recording, folded without a server.
"""

from itertools import pairwise
from typing import Any

import pytest

from agent.engines.comfyui.progress import Progress, Tempo
from agent.engines.comfyui.socket import Frame
from agent.engines.protocol import Step
from tests.comfy_rig import graph_of, order
from tests.doubles.comfyui.recordings import body_of, recording

SAMPLER = {"class_type": "KSampler", "inputs": {"steps": 4}}


def fold(progress: Progress, frames: list[tuple[str, dict[str, Any]]], step_s: float = 1.0):
    """Return the steps that frames, one each second, are reported as."""
    steps: list[Step] = []
    for number, (kind, payload) in enumerate(frames):
        if progress.on(Frame(kind, payload), number * step_s):
            steps.append(progress.step(number * step_s))
    return steps


def test_a_recorded_run_moves_evenly_from_nothing_to_one():
    frames = [
        (body["type"], body["data"])
        for line in recording("a_success")
        if line.get("dir") == "recv" and line["type"] == "text"
        for body in [body_of(line)]
    ]
    first = next(i for i, (kind, _) in enumerate(frames) if kind == "execution_start")
    last = next(i for i, (kind, _) in enumerate(frames) if kind == "execution_success")
    graph = graph_of(order(), steps=25)
    steps = fold(Progress(graph, Tempo()), frames[first : last + 1])
    shares = [step.share for step in steps]
    assert shares == sorted(shares)
    assert (shares[0], shares[-1]) == (0, 1)
    assert max(b - a for a, b in pairwise(shares)) < 0.25
    assert [step.step for step in steps if step.message.startswith("step")][-1] == 25


def test_two_samplers_count_their_steps_together():
    graph = {"1": dict(SAMPLER), "2": dict(SAMPLER)}
    frames: list[tuple[str, dict[str, Any]]] = []
    for node in ("1", "2"):
        frames.append(("executing", {"node": node}))
        steps_of = [{"node": node, "value": value, "max": 4} for value in range(1, 5)]
        frames += [("progress", payload) for payload in steps_of]
    steps = fold(Progress(graph, Tempo()), frames)
    assert [step.step for step in steps] == [0, 1, 2, 3, 4, 4, 5, 6, 7, 8]
    assert {step.steps for step in steps} == {8}
    assert steps[-2].message == "step 7/8"


def test_a_node_that_is_nobodys_and_odd_numbers_change_nothing():
    progress = Progress({"1": dict(SAMPLER)}, Tempo())
    frames: list[tuple[str, dict[str, Any]]] = [
        ("progress", {"node": "1", "value": 2, "max": 4}),
        ("progress", {"node": "99", "value": 4, "max": 4}),
        ("progress", {"node": "1", "value": 1, "max": 0}),
        ("progress", {"node": "1", "value": None, "max": None}),
        ("progress", {"node": "1", "value": 1, "max": 4}),
        ("execution_cached", {"nodes": None}),
        ("executed", {}),
    ]
    steps = fold(progress, frames)
    assert {step.step for step in steps} == {2}
    assert {step.share for step in steps} == {0.5}


def test_cached_nodes_are_done_at_once():
    graph = graph_of(order())
    (step,) = fold(Progress(graph, Tempo()), [("execution_cached", {"nodes": list(graph)})])
    assert step.share == 1


def test_the_time_left_is_that_of_the_steps_and_of_what_followed_the_last_time():
    graph = {"1": dict(SAMPLER), "8": {"class_type": "VAEDecode", "inputs": {}}}
    tempo = Tempo(unit_s=3.0)
    steps = fold(
        Progress(graph, tempo),
        [("progress", {"node": "1", "value": value, "max": 4}) for value in (1, 2, 3, 4)],
    )
    assert [step.eta_s for step in steps] == [None, 8, 7, 6]
    tempo.learn(seconds=12.0, weight=2.0)
    assert tempo.unit_s == pytest.approx(3.9)
