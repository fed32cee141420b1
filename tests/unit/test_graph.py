"""Goal: a job's graph holds exactly its values, and what keeps a workflow from running is named.

Method: the shipped workflows, filled with drawn values; the node descriptions of a real ComfyUI
0.3.64 (tests/doubles/object_info.json, trimmed to the classes used), spoilt in one place each.
"""

import copy
import json
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.faults import WorkflowInvalidFault
from agent.core.workflow import HOLES, Workflow
from agent.core.workflow_check import upstream
from agent.engines.comfyui.graph import Values, against, fill, folders_of, prefix, spelled
from agent.workflows import load_workflows

ROOT = Path(__file__).parents[2]
SHIPPED = load_workflows([ROOT / "workflows"])
INFO = json.loads((ROOT / "tests/doubles/object_info.json").read_text(encoding="utf-8"))
FOLDERS = {
    "checkpoints": ["sd_xl_base_1.0.safetensors", "v1-5-pruned-emaonly.safetensors"],
    "loras": ["sdxl_lightning_4step_lora.safetensors"],
}
NAMES = sorted(SHIPPED)


def values(name: str = "sdxl-text2img", **changes) -> Values:
    given = Values(
        prompt="a red fox",
        negative="blurry",
        seed=7,
        steps=12,
        cfg=6.5,
        width=1344,
        height=768,
        batch=3,
        prefix="mmg/2026-11/L2-05-03.cover-1.a1",
        image="mmg/in.png" if SHIPPED[name].manifest.takes_image else None,
    )
    return msgspec.structs.replace(given, **changes)


def at(graph, workflow: Workflow, hole: str) -> list[object]:
    return [graph[node]["inputs"][name] for node, name in workflow.manifest.holes.places(hole)]


DRAWN = st.builds(
    values,
    prompt=st.text(st.characters(exclude_characters="\0"), max_size=200),
    negative=st.text(st.characters(exclude_characters="\0"), max_size=200),
    seed=st.integers(0, 2**32 - 1),
    steps=st.integers(1, 100),
    cfg=st.floats(0, 30),
    width=st.integers(4, 32).map(lambda n: 64 * n),
    height=st.integers(4, 32).map(lambda n: 64 * n),
    batch=st.integers(1, 10),
)


@given(name=st.sampled_from(NAMES), drawn=DRAWN)
def test_each_hole_gets_its_value_and_nothing_else_changes(name, drawn):
    workflow = SHIPPED[name]
    image = "mmg/in.png" if workflow.manifest.takes_image else None
    drawn = msgspec.structs.replace(drawn, image=image)
    before = copy.deepcopy(workflow.graph)
    graph = fill(workflow, drawn)
    assert workflow.graph == before
    expected = copy.deepcopy(before)
    for hole in HOLES:
        value = getattr(drawn, hole)
        value = workflow.manifest.checkpoint if hole == "checkpoint" else value
        for node, key in workflow.manifest.holes.places(hole):
            expected[node]["inputs"][key] = value
    assert graph == expected


@pytest.mark.parametrize("name", NAMES)
def test_two_fills_do_not_bleed(name):
    workflow = SHIPPED[name]
    one = fill(workflow, values(name, prompt="one", seed=1))
    two = fill(workflow, values(name, prompt="two", seed=2))
    assert at(one, workflow, "prompt") == ["one"]
    assert at(one, workflow, "seed") == [1]
    for node in two.values():
        node["inputs"].clear()
    assert at(one, workflow, "prompt") == ["one"]
    assert fill(workflow, values(name))["9"]["inputs"]["images"] == ["8", 0]


def test_a_hole_may_have_several_places():
    workflow = SHIPPED["sdxl-text2img"]
    places = ("6.text", "7.text")
    holes = msgspec.structs.replace(workflow.manifest.holes, prompt=places, negative=())
    both = Workflow(
        manifest=msgspec.structs.replace(workflow.manifest, holes=holes), graph=workflow.graph
    )
    assert at(fill(both, values()), both, "prompt") == ["a red fox", "a red fox"]


def test_a_filled_graph_is_what_comfyui_takes():
    graph = fill(SHIPPED["sdxl-text2img"], values())
    assert json.loads(msgspec.json.encode(graph)) == json.loads(json.dumps(graph)) == graph
    assert all(set(node) == {"class_type", "inputs"} for node in graph.values())


def test_the_output_can_go_to_the_temp_folder():
    workflow = SHIPPED["sdxl-text2img"]
    graph = fill(workflow, values(), preview=True)
    assert graph["9"]["class_type"] == "PreviewImage"
    assert graph["9"]["inputs"] == {"images": ["8", 0], "mmg": values().prefix}
    assert workflow.graph["9"]["class_type"] == "SaveImage"


def test_a_checkpoint_is_written_as_the_server_spells_it():
    graph = fill(SHIPPED["sdxl-text2img"], values(checkpoint="sdxl\\sd_xl_base_1.0.safetensors"))
    assert graph["4"]["inputs"]["ckpt_name"] == "sdxl\\sd_xl_base_1.0.safetensors"


@pytest.mark.parametrize(
    ("listed", "found"),
    [
        (["a.safetensors"], "a.safetensors"),
        (["x/a.safetensors", "a.safetensors"], "a.safetensors"),
        (["x\\a.safetensors"], "x\\a.safetensors"),
        (["x/a.safetensors", "y/a.safetensors"], None),
        (["ba.safetensors"], None),
        ([], None),
    ],
)
def test_a_file_is_found_in_the_form_of_the_server(listed, found):
    assert spelled("a.safetensors", listed) == found


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": -1},
        {"seed": 2**32},
        {"seed": True},
        {"seed": "7"},
        {"steps": 0},
        {"steps": 101},
        {"steps": 2.5},
        {"cfg": -0.1},
        {"cfg": 30.5},
        {"cfg": float("nan")},
        {"cfg": float("inf")},
        {"width": 192},
        {"width": 1000},
        {"height": 2112},
        {"batch": 0},
        {"batch": 11},
        {"prompt": "x" * 8001},
        {"negative": "a\0b"},
        {"prefix": "mmg/../../etc/x"},
        {"prefix": "mmg/2026-11/a.b"},
        {"prefix": "mmg/2026-11/a.b.a1\n"},
        {"prefix": "mmg/2026-11/%date%.b.a1"},
        {"checkpoint": "../x.safetensors"},
        {"checkpoint": "C:x.safetensors"},
        {"checkpoint": ""},
        {"image": "in.png"},
    ],
    ids=str,
)
def test_a_value_that_does_not_fit_is_refused_by_name(changes):
    with pytest.raises(WorkflowInvalidFault) as raised:
        fill(SHIPPED["sdxl-text2img"], values(**changes))
    (hole,) = changes
    assert hole in raised.value.message
    assert raised.value.detail == f"$.{hole}"


@pytest.mark.parametrize("image", [None, "/etc/passwd", "..\\in.png", "a//b.png", "a/./b.png"])
def test_an_input_picture_must_be_there_and_stay_in_its_folder(image):
    with pytest.raises(WorkflowInvalidFault, match="image"):
        fill(SHIPPED["sdxl-img2img"], values("sdxl-img2img", image=image))


def test_several_pictures_need_a_hole_for_the_batch():
    workflow = SHIPPED["sdxl-text2img"]
    holes = msgspec.structs.replace(workflow.manifest.holes, batch=())
    single = Workflow(
        manifest=msgspec.structs.replace(workflow.manifest, holes=holes), graph=workflow.graph
    )
    with pytest.raises(WorkflowInvalidFault, match="one picture at a time"):
        fill(single, values(batch=2))
    assert fill(single, values(batch=1))["5"]["inputs"]["batch_size"] == 1


TOKEN = st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True)
ATTEMPT = st.tuples(TOKEN, TOKEN, st.integers(1, 1000))


@given(one=ATTEMPT, two=ATTEMPT)
def test_a_prefix_is_unique_and_fits(one, two):
    first, second = (prefix(a, r, attempt, "2026-11") for a, r, attempt in (one, two))
    assert (first == second) == (one == two)
    assert fill(SHIPPED["sdxl-text2img"], values(prefix=first))["9"]["inputs"] == {
        "filename_prefix": first,
        "images": ["8", 0],
    }


# --- against a server ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_every_shipped_workflow_runs_on_a_stock_comfyui(name):
    assert folders_of(SHIPPED[name]) <= set(FOLDERS)
    assert against(SHIPPED[name], INFO, FOLDERS) == ()
    graph = fill(SHIPPED[name], values(name))
    assert upstream(graph, "9") == set(graph)
    assert {node["class_type"] for node in graph.values()} <= set(INFO)
    modules = {INFO[node["class_type"]]["python_module"] for node in graph.values()}
    assert not [module for module in modules if module.startswith("custom_nodes")]


def spoilt(name: str, node: str, **inputs) -> Workflow:
    workflow = SHIPPED[name]
    graph = copy.deepcopy(workflow.graph)
    graph[node]["inputs"].update(inputs)
    for key in [key for key, value in inputs.items() if value is None]:
        del graph[node]["inputs"][key]
    return Workflow(manifest=workflow.manifest, graph=graph)


@pytest.mark.parametrize(
    ("workflow", "what"),
    [
        (spoilt("sdxl-text2img", "3", sampler_name="dpm++"), "node 3: sampler_name 'dpm++' is not"),
        (spoilt("sdxl-text2img", "3", denoise=1.5), "node 3: denoise 1.5 is above 1.0"),
        (spoilt("sdxl-text2img", "3", denoise=-1), "node 3: denoise -1 is below 0.0"),
        (spoilt("sdxl-text2img", "3", denoise="all"), "node 3: denoise 'all' is no number"),
        (spoilt("sdxl-text2img", "3", scheduler=None), "node 3: its input scheduler is missing"),
        (spoilt("sdxl-text2img", "3", model=["4", 1]), "model wants MODEL, and node 4 gives CLIP"),
        (spoilt("sdxl-text2img", "3", model=["4", 3]), "output 3 of node 4, which has 3"),
        (spoilt("sdxl-img2img", "12", upscale_method="magic"), "'magic' is not known there"),
    ],
)
def test_what_a_server_would_refuse_is_said_in_words(workflow, what):
    (found,) = against(workflow, INFO, FOLDERS)
    assert what in found


def test_missing_nodes_and_files_are_named():
    workflow = SHIPPED["sdxl-draft"]
    lacking = {name: node for name, node in INFO.items() if name != "LoraLoader"}
    assert against(workflow, lacking, {"checkpoints": ["other.safetensors"]}) == (
        "the file sd_xl_base_1.0.safetensors is missing in its models/checkpoints",
        "the file sdxl_lightning_4step_lora.safetensors is missing in its models/loras",
        "it needs the node LoraLoader, which is not installed there",
    )


def test_only_the_checkpoint_is_spelled_anew_so_a_lora_in_a_subfolder_is_named():
    info = copy.deepcopy(INFO)
    for node, key in (("CheckpointLoaderSimple", "ckpt_name"), ("LoraLoader", "lora_name")):
        spec = info[node]["input"]["required"][key]
        spec[0] = [f"xl/{file}" for file in spec[0]]
    folders = {folder: [f"xl/{file}" for file in files] for folder, files in FOLDERS.items()}
    assert against(SHIPPED["sdxl-text2img"], info, folders) == ()
    (found,) = against(SHIPPED["sdxl-draft"], info, folders)
    assert found == "node 10: lora_name 'sdxl_lightning_4step_lora.safetensors' is not known there"


def test_an_answer_of_another_shape_breaks_nothing():
    shapes: list[object] = [{"input": {"required": {"model": []}}}, {"input": []}, [], None]
    for shape in shapes:
        strange = dict.fromkeys(INFO, shape)
        assert against(SHIPPED["sdxl-draft"], strange, FOLDERS) == ()
