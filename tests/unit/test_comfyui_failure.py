"""Goal: each way ComfyUI fails becomes the right code, in words that a person can act on.

Method: the bodies that a real ComfyUI 0.3.64 sent, as recorded, and those reported from others.
"""

import gzip
import json
from typing import Any

import pytest

from agent.core.faults import Fault, HangFault, InternalFault, ModelMissingFault, OutOfMemoryFault
from agent.core.faults import WorkflowInvalidFault as Invalid
from agent.engines.comfyui import failure
from agent.engines.comfyui.api import AnswerError, Record, Refused, _shaped
from tests.doubles.comfyui.failures import OUT_OF_MEMORY, TIPS
from tests.doubles.comfyui.recordings import RECORDINGS, recording

with gzip.open(RECORDINGS / "samples.json.gz", "rt", encoding="utf-8") as lines:
    SAMPLES: dict[str, dict[str, Any]] = json.load(lines)

NODES = "prompt_outputs_failed_validation"
DRIVE = "C:"


def refused(body: dict[str, Any]) -> Refused:
    return Refused(body["error"], body["node_errors"])


def recorded_refusals() -> list[tuple[str, dict[str, Any]]]:
    """Every validation that was recorded, by its most exact type."""
    found = []
    for name in ("c_validation", "d_execution_error", "m_img2img_batch"):
        for line in recording(name):
            body = line.get("body")
            if line.get("status") == 400 and isinstance(body, dict) and "error" in body:
                errors = [e for n in body["node_errors"].values() for e in n["errors"]]
                found.append(((errors or [body["error"]])[0]["type"], body))
    return found


REFUSALS = recorded_refusals()
SENTENCES = {
    "value_not_in_list": [
        "ComfyUI has no file 'not_here.safetensors' for node 4 (CheckpointLoaderSimple.ckpt_name)",
        "ComfyUI refuses node 3 (KSampler.sampler_name): Value not in list: sampler_name: ",
        "ComfyUI refuses node 3 (KSampler.scheduler): Value not in list: scheduler: 'nope' not in ",
    ],
    "required_input_missing": [
        "ComfyUI refuses node 3 (KSampler.seed): Required input is missing: seed",
        "ComfyUI refuses node 8 (VAEDecode.vae): Required input is missing: vae",
    ],
    "return_type_mismatch": [
        "ComfyUI refuses node 8 (VAEDecode.vae): Return type mismatch between linked nodes: vae, "
    ],
    "value_smaller_than_min": [
        "ComfyUI refuses node 3 (KSampler.steps): Value 0 smaller than min of 1: steps",
        "ComfyUI refuses node 3 (KSampler.seed): Value -1 smaller than min of 0: seed",
    ],
    "value_bigger_than_max": [
        "ComfyUI refuses node 5 (EmptyLatentImage.width): Value 20000 bigger than max of 16384",
        "ComfyUI refuses node 3 (KSampler.seed): Value 18446744073709551616 bigger than max of ",
    ],
    "invalid_input_type": [
        "ComfyUI refuses node 3 (KSampler.steps): Failed to convert an input value to a INT value:"
    ],
    "custom_validation_failed": [
        "ComfyUI refuses node 10 (LoadImage.image): Custom validation failed for node: image"
    ],
    "exception_during_inner_validation": [
        "ComfyUI refuses node 8 (VAEDecode.images): Exception when validating inner node: '44'"
    ],
    "prompt_no_outputs": ["ComfyUI refuses the workflow: Prompt has no outputs"],
    "invalid_prompt": [
        "ComfyUI refuses the workflow: Cannot execute because node NoSuchNode does not exist",
        "ComfyUI refuses the workflow: Cannot execute because a node is missing the class_type",
    ],
    "no_prompt": ["ComfyUI refuses the workflow: No prompt provided"],
    NODES: ["ComfyUI refuses the workflow: Prompt outputs failed validation"],
}


@pytest.mark.parametrize("kind", SENTENCES)
def test_every_recorded_refusal_is_permanent_and_says_node_and_reason(kind: str):
    bodies = [body for found, body in REFUSALS if found == kind]
    messages = []
    for body in bodies:
        fault = failure.refusal(refused(body))
        assert fault.detail == kind
        assert isinstance(fault, Invalid | ModelMissingFault)
        assert isinstance(fault, ModelMissingFault) == ("has no file" in fault.message)
        messages.append(fault.message)
    for sentence in SENTENCES[kind]:
        assert any(message.startswith(sentence) for message in messages), messages


def test_every_recorded_kind_of_refusal_is_in_the_table():
    assert {kind for kind, _ in REFUSALS} == set(SENTENCES)


def test_no_refusal_lets_a_path_a_traceback_or_more_than_a_line_out():
    for _, body in REFUSALS:
        fault = failure.refusal(refused(body))
        assert not any(word in fault.message for word in ("/opt/", "Traceback", "File ", "\n"))
        assert len(fault.message) < 300


def test_a_refusal_of_an_unknown_form_is_still_a_sentence():
    for body in (Refused({}, {}), Refused({"type": "missing_node_type"}, {"3": {}})):
        fault = failure.refusal(body)
        assert isinstance(fault, Invalid)
        assert fault.message == "ComfyUI refuses the workflow: no reason given"


# --- at run time ----------------------------------------------------------------------------------


def record(name: str) -> Record:
    (entry,) = SAMPLES[name].values()
    return _shaped(entry, Record)


def ended(name: str) -> Fault:
    return failure.run_time(record(name).last[1])


def raised(kind: str, message: str, node: str = "KSampler") -> Fault:
    return failure.run_time(
        {"exception_type": kind, "exception_message": message, "node_id": "3", "node_type": node}
    )


def test_the_recorded_bodies_are_read():
    assert record("history_success").succeeded
    assert record("history_cached").succeeded
    assert len(record("history_batch4").files("9")) == 4
    assert record("history_savewebsocket_no_outputs").files("9") == ()
    assert record("history_interrupted").last[0] == "execution_interrupted"
    partial = record("history_error_with_partial_outputs")
    assert (partial.succeeded, len(partial.outputs)) == (False, 1)


def test_the_recorded_out_of_memory():
    fault = ended("history_error_oom")
    assert isinstance(fault, OutOfMemoryFault)
    assert fault.message == "the card ran out of memory in node 3 (RigRaise)"
    assert fault.body().retryable


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        *OUT_OF_MEMORY.values(),
        ("RuntimeError", "CUDA error: out of memory\nCUDA kernel errors might be asynchronously"),
        ("RuntimeError", "MPS backend out of memory (MPS allocated: 17.9 GB)"),
        ("RuntimeError", "[enforce fail] DefaultCPUAllocator: not enough memory: you tried to"),
        ("Exception", "odd" + TIPS),
    ],
)
def test_out_of_memory_in_every_spelling(kind: str, message: str):
    fault = raised(kind, message)
    assert fault.body().code == "out_of_memory"
    assert len(fault.message) < 100, "no tips, no numbers"


def test_the_recorded_corrupt_checkpoint():
    fault = ended("history_error_corrupt_checkpoint")
    assert isinstance(fault, ModelMissingFault)
    assert fault.message == (
        "a model file cannot be read in node 4 (CheckpointLoaderSimple):"
        " Error while deserializing header: header too large"
    )


@pytest.mark.parametrize(
    ("kind", "node", "expected"),
    [
        ("FileNotFoundError", "CheckpointLoaderSimple", "model_missing"),
        ("_pickle.UnpicklingError", "VAELoader", "model_missing"),
        ("FileNotFoundError", "SaveImage", "internal"),
        ("PIL.UnidentifiedImageError", "LoadImage", "internal"),
        ("RuntimeError", "VAEDecode", "internal"),
    ],
)
def test_what_is_a_model_and_what_is_not(kind: str, node: str, expected: str):
    assert raised(kind, "no such file", node).body().code == expected


def test_another_error_is_internal_and_keeps_kind_and_words_but_no_tensor():
    fault = ended("history_error_with_partial_outputs")
    assert isinstance(fault, InternalFault)
    assert fault.message == (
        "ComfyUI failed in node 3 (RigRaise): ValueError: rig: deliberate failure"
    )


@pytest.mark.parametrize(
    ("text", "cut"),
    [
        ("no /opt/ComfyUI/models/vae/x.pt here", "no x.pt here"),
        ("no " + DRIVE + r"\ComfyUI\models\vae\x.pt here", "no x.pt here"),
        ("no '/srv/My Models/vae/x.pt' here", "no 'x.pt' here"),
        ('File "' + DRIVE + r'\A B\x.py", line 3', 'File "x.py", line 3'),
        ("1/2 of a\n  line", "1/2 of a line"),
        ("x" * 500, "x" * 200),
    ],
)
def test_paths_of_the_server_are_cut_to_the_file(text: str, cut: str):
    assert failure.without_paths(text) == cut


def test_a_hang_says_for_how_long():
    fault = failure.hang("running in its queue", 120.4)
    assert isinstance(fault, HangFault)
    assert fault.message == "ComfyUI made no step for 120 s (running in its queue)"


@pytest.mark.parametrize("value", [None, [], {"status": {}}, {"status": {"status_str": 1}}])
def test_an_answer_of_another_program_is_an_answer_error(value: Any):
    with pytest.raises(AnswerError, match="not what ComfyUI answers"):
        _shaped(value, Record)
