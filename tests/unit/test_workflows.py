"""Goal: workflows are read whole or refused with file and field; a request gets the right one.

Method: the shipped folder, copies of it with one thing wrong each, and drawn requests.
"""

import json
import shutil
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core import catalog
from agent.core.catalog import StyleSheet
from agent.core.faults import Fault, ModelMissingFault, NoEngineFault, WorkflowInvalidFault
from agent.core.workflow import SIZES, candidates, choose, models, settings, size, unfit
from agent.styles import load_styles
from agent.workflows import WorkflowError, load_workflows
from contracts.requests import AspectRatio, ImageRef, Options, Quality, Style

FOLDER = Path(__file__).parents[2] / "workflows"
SHIPPED = load_workflows([FOLDER])
STYLES = load_styles(FOLDER)
PLAIN = StyleSheet(brand=StyleSheet.Marks(palette=("#000000", "#ffffff")))
NO_LORA = {"sdxl-draft": ["the file sdxl_lightning_4step_lora.safetensors is missing"]}
PICTURE = ImageRef(asset="L2-05-03.cover-1")
NAME = "sdxl-text2img"
ALL_BROKEN = {name: ["its file is missing"] for name in SHIPPED}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for kind in ("json", "toml"):
        shutil.copy(FOLDER / f"{NAME}.{kind}", tmp_path)
    return tmp_path


def edit_manifest(folder: Path, old: str, new: str) -> None:
    path = folder / f"{NAME}.toml"
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


def refused(folder: Path, *more: Path) -> list[str]:
    with pytest.raises(WorkflowError) as raised:
        load_workflows([folder, *more])
    return str(raised.value).splitlines()


# --- reading ------------------------------------------------------------------------------------


def test_the_shipped_workflows_are_read():
    assert set(SHIPPED) == {
        *("sdxl-text2img", "sd15-text2img", "sdxl-img2img", "sdxl-upscale", "sdxl-draft")
    }
    assert [w.name for w in SHIPPED.values() if w.manifest.takes_image] == [
        *("sdxl-img2img", "sdxl-upscale")
    ]
    needs = {name: w.manifest.needs for name, w in SHIPPED.items() if w.manifest.needs}
    assert needs == {"sdxl-draft": {"loras": ("sdxl_lightning_4step_lora.safetensors",)}}


def test_a_folder_of_the_user_is_read_beside_the_shipped_one(folder):
    edit_manifest(folder, 'name = "sdxl-text2img"', 'name = "mine"')
    for kind in ("json", "toml"):
        (folder / f"{NAME}.{kind}").rename(folder / f"mine.{kind}")
    (folder / "README.md").write_text("notes")
    (folder / ".hidden.json").write_text("{")
    assert set(load_workflows([FOLDER, folder])) == {*SHIPPED, "mine"}


def test_two_of_one_name_are_refused(folder):
    (found,) = refused(FOLDER, folder)
    assert found == f"{folder / NAME}.toml: name: '{NAME}' is already that of {FOLDER / NAME}.toml"


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        ('name = "sdxl-text2img"', 'name = "other"', "name is 'other'"),
        ('name = "sdxl-text2img"', 'names = "x"', "names"),
        ('model = "sdxl-1.0"', "", "model"),
        ('model = "sdxl-1.0"', 'model = "a b"', "model: "),
        ('output = "9"', 'output = "99"', "output: there is no node '99'"),
        ('output = "9"', 'output = "8"', "output: node 8 is a VAEDecode"),
        ('prompt = "6.text"', 'prompt = "66.text"', "holes.prompt: there is no node '66'"),
        ('prompt = "6.text"', 'prompt = "6.txt"', "holes.prompt: node 6 has no input 'txt'"),
        ('prompt = "6.text"', 'prompt = "6"', "holes.prompt: '6' is no place"),
        ('prompt = "6.text"', 'prompt = "6.clip"', "holes.prompt: 6.clip comes from another"),
        ('prompt = "6.text"', 'prompt = "3.seed"', "holes.prompt: 3.seed is 42, no text"),
        ('prompt = "6.text"', "prompt = []", "holes.prompt: a workflow needs a place"),
        ('prompt = "6.text"', 'promt = "6.text"', "holes"),
        ('negative = "7.text"', 'negative = "6.text"', "holes.negative: 6.text is also the hole"),
        ('seed = "3.seed"', 'seed = "3.scheduler"', "holes.seed: 3.scheduler is 'karras', no"),
        ('width = "5.width"\n', "", "holes.width: width and height come together"),
        ('prefix = "9.filename_prefix"\n', "", "holes.prefix: has to be 9.filename_prefix"),
        ('checkpoint = "sd_xl_base_1.0.safetensors"\n', "", "checkpoint: the file for the hole"),
        ('"sd_xl_base_1.0.safetensors"', '"../x.safetensors"', "checkpoint: '../x.safetensors' is"),
        ('"sd_xl_base_1.0.safetensors"', '"C:/x.safetensors"', "checkpoint: 'C:/x.safetensors'"),
        ("vram_mib = 12288", "vram_mib = 0", "vram_mib: "),
        ("draft = 15", "draft = 0", "steps.draft: "),
        ("cfg = 7.0", "cfg = 31.0", "defaults.cfg: "),
        ('sizes = "sdxl"', 'sizes = "flux"', "sizes: "),
        ('qualities = ["draft",', 'qualities = ["best",', "qualities[0]: "),
        ('sizes = "sdxl"', "takes_image = true", "takes_image: is true, but there is no place"),
        ('sizes = "sdxl"', 'classes = ["Foo"]', "classes: Foo is allowed, but the graph does"),
        ('sizes = "sdxl"', 'needs.loras = ["../x"]', "needs.loras: '../x' is no file"),
        ('name = "sdxl', "name = sdxl", "is not TOML"),
    ],
)
def test_a_bad_manifest_is_named(folder, old, new, what):
    edit_manifest(folder, old, new)
    found = refused(folder)
    assert all(line.startswith(str(folder / f"{NAME}.toml")) for line in found)
    assert any(what in line for line in found), found


def edited(change) -> str:
    graph = json.loads((FOLDER / f"{NAME}.json").read_text(encoding="utf-8"))
    change(graph)
    return json.dumps(graph)


def set_class(node: str, name: str):
    return lambda graph: graph[node].update(class_type=name)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("{", "is not JSON"),
        ("[]", "is not in ComfyUI's API format"),
        ("{}", "the graph has no nodes"),
        ('{"nodes": [], "links": []}', "is in the editor's own format"),
        ('{"3": {"inputs": {}}}', "class_type"),
        (edited(lambda g: g["3"]["inputs"].update(model=["44", 0])), "model comes from node 44"),
        (
            edited(lambda g: g["6"]["inputs"].update(clip=["8", 0], text=["3", 0])),
            "feed each other in a circle",
        ),
        (edited(set_class("7", "RunShell")), "classes: the graph uses RunShell, which has to be"),
        (edited(set_class("7", "PreviewImage")), "node 7 is a second output"),
        (edited(lambda g: g["3"]["inputs"].update(negative=["6", 0])), "node 7 does not lead to"),
        (json.dumps({str(n): {"class_type": "A", "inputs": {}} for n in range(501)}), "501 nodes"),
    ],
    ids=lambda value: value[:24],
)
def test_a_bad_graph_is_named(folder, text, what):
    (folder / f"{NAME}.json").write_text(text, encoding="utf-8")
    found = refused(folder)
    assert any(what in line for line in found), found
    assert all(str(folder / NAME) in line for line in found)


def test_a_class_beyond_stock_comfyui_may_be_allowed_by_name(folder):
    (folder / f"{NAME}.json").write_text(edited(set_class("8", "MyDecode")), encoding="utf-8")
    edit_manifest(folder, 'sizes = "sdxl"', 'classes = ["MyDecode"]')
    assert load_workflows([folder])[NAME].manifest.classes == ("MyDecode",)


def test_everything_that_is_wrong_is_reported_at_once(folder, tmp_path_factory):
    edit_manifest(folder, 'prompt = "6.text"', 'prompt = "66.text"')
    edit_manifest(folder, 'output = "9"', 'output = "99"')
    absent = tmp_path_factory.mktemp("other") / "absent"
    found = refused(folder, absent)
    assert found[-1] == f"{absent} cannot be read: No such file or directory"
    assert any("holes.prompt" in line for line in found)
    assert any("output" in line for line in found)


def test_files_without_their_other_half_are_named(folder):
    (folder / f"{NAME}.toml").rename(folder / "alone.toml")
    assert refused(folder) == [
        f"{folder / NAME}.json has no manifest {NAME}.toml beside it",
    ]
    (folder / f"{NAME}.json").unlink()
    edit = folder / "alone.toml"
    edit.write_text(edit.read_text().replace(NAME, "alone"))
    assert refused(folder) == [f"{folder / 'alone.json'} cannot be read: No such file or directory"]


# --- choosing -----------------------------------------------------------------------------------


def test_each_request_gets_the_workflow_that_suits_it():
    asked = {
        "sdxl-text2img": [
            Options(),
            Options(quality=Quality.HIGH),
            Options(quality=Quality.PREMIUM),
        ],
        "sd15-text2img": [Options(model="sd-1.5"), Options(quality=Quality.DRAFT)],
        "sdxl-img2img": [Options(image=PICTURE), Options(image=PICTURE, count=2)],
        "sdxl-upscale": [Options(image=PICTURE, workflow="sdxl-upscale")],
    }
    for name, requests in asked.items():
        for options in requests:
            assert choose(options, SHIPPED, NO_LORA).workflow.name == name, options


def test_a_draft_takes_the_few_step_workflow_only_with_its_lora_installed():
    draft = Options(quality=Quality.DRAFT)
    chosen = choose(draft, SHIPPED, {})
    assert (chosen.workflow.name, chosen.reason) == ("sdxl-draft", "sdxl-draft is made for draft")
    assert choose(draft, SHIPPED, NO_LORA).workflow.name == "sd15-text2img"
    assert choose(Options(), SHIPPED, {}).workflow.name == "sdxl-text2img"


@pytest.mark.parametrize("own", [{"steps": 30}, {"cfg": 5.0}, {"negative_prompt": "text"}])
def test_what_a_workflow_would_ignore_is_not_asked_of_it(own):
    draft = Options(quality=Quality.DRAFT, model="sdxl-1.0", **own)
    assert choose(draft, SHIPPED, {}).workflow.name == "sdxl-text2img"


def test_the_candidates_are_in_the_order_of_a_downgrade():
    names = [choice.workflow.name for choice in candidates(Options(), SHIPPED, {})]
    assert names == ["sdxl-text2img", "sd15-text2img"]


@pytest.mark.parametrize(
    ("options", "problems", "fault", "detail", "what"),
    [
        (Options(workflow="x"), {}, WorkflowInvalidFault, "$.options.workflow", "called 'x'"),
        (
            Options(workflow="sdxl-draft"),
            NO_LORA,
            WorkflowInvalidFault,
            "$.options.workflow",
            "4step_lora.safetensors is missing",
        ),
        (
            Options(workflow="sdxl-upscale"),
            {},
            WorkflowInvalidFault,
            "$.options.image",
            "needs a picture to start from",
        ),
        (
            Options(workflow=NAME, image=PICTURE),
            {},
            WorkflowInvalidFault,
            "$.options.image",
            "takes no picture",
        ),
        (
            Options(workflow=NAME, model="sd-1.5"),
            {},
            WorkflowInvalidFault,
            "$.options.model",
            "draws with sdxl-1.0, not sd-1.5",
        ),
        (
            Options(workflow="sdxl-draft", steps=9),
            {},
            WorkflowInvalidFault,
            "$.options.steps",
            "has its own number of steps",
        ),
        (Options(model="flux"), {}, ModelMissingFault, "$.options.model", "sdxl-1.0, sd-1.5"),
        (
            Options(image=PICTURE, width=512, height=512),
            {},
            NoEngineFault,
            "$.options.image",
            "no workflow here takes",
        ),
        (
            Options(),
            ALL_BROKEN,
            ModelMissingFault,
            None,
            "sd15-text2img: its file is missing",
        ),
    ],
)
def test_why_no_workflow_is_left_is_said(options, problems, fault, detail, what):
    with pytest.raises(fault) as raised:
        choose(options, SHIPPED, problems)
    assert raised.value.detail == detail
    assert what in raised.value.message


def test_models_are_those_that_can_run_the_strongest_first():
    assert models(SHIPPED, {}) == ("sdxl-1.0", "sd-1.5")
    assert models(SHIPPED, {"sd15-text2img": ["gone"]}) == ("sdxl-1.0",)
    assert models(SHIPPED, ALL_BROKEN) == ()


REQUESTS = st.builds(
    Options,
    quality=st.sampled_from(Quality),
    model=st.sampled_from([None, "sdxl-1.0", "sd-1.5", "flux"]),
    workflow=st.sampled_from([None, None, *SHIPPED, "x"]),
    image=st.sampled_from([None, PICTURE]),
    count=st.integers(1, 10),
    steps=st.sampled_from([None, 30]),
    cfg=st.sampled_from([None, 5.0]),
    negative_prompt=st.sampled_from([None, "", "text"]),
)
PROBLEMS = st.dictionaries(st.sampled_from(sorted(SHIPPED)), st.just(["it is broken"]))


@given(options=REQUESTS, problems=PROBLEMS)
def test_a_choice_runs_here_and_does_all_that_was_asked(options, problems):
    try:
        chosen = candidates(options, SHIPPED, problems)
    except Fault:
        return  # each of them is looked at above
    assert chosen
    assert len({choice.workflow.name for choice in chosen}) == len(chosen)
    for choice in chosen:
        manifest = choice.workflow.manifest
        assert not problems.get(manifest.name)
        assert unfit(options, manifest) is None
        assert options.workflow in (None, manifest.name)
        assert choice.reason.startswith(manifest.name)


# --- what a job is drawn with -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("quality", "steps"), [("draft", 15), ("standard", 25), ("high", 40), ("premium", 40)]
)
def test_quality_gives_the_steps(quality, steps):
    got = settings(Options(quality=Quality(quality)), PLAIN, SHIPPED[NAME].manifest)
    assert (got.steps, got.cfg) == (steps, 7.0)


def test_a_style_sets_steps_of_standard_only_and_the_request_wins():
    style, manifest = STYLES["report-cover"], SHIPPED[NAME].manifest
    assert settings(Options(), style, manifest).steps == 36
    assert settings(Options(quality=Quality.DRAFT), style, manifest).steps == 15
    assert settings(Options(quality=Quality.HIGH), style, manifest).cfg == 6.5
    own = settings(Options(steps=3, cfg=0.0), style, manifest)
    assert (own.steps, own.cfg) == (3, 0.0)


def test_each_model_has_its_sizes():
    assert {ratio.value: wide for ratio, wide in SIZES["sdxl"].items()} == {
        "1:1": (1024, 1024),
        "16:9": (1344, 768),
        "4:3": (1152, 896),
        "9:16": (768, 1344),
    }
    for table in SIZES.values():
        assert set(table) == set(AspectRatio)
        for ratio, (width, height) in table.items():
            wide, high = map(int, ratio.split(":"))
            assert width % 64 == height % 64 == 0
            assert abs(width / height - wide / high) < 0.08
    for width, height in SIZES["sd15"].values():
        assert 512 * 512 <= width * height <= 512 * 768


def test_the_size_is_asked_for_or_by_aspect_ratio_or_by_style():
    assert size(Options(), PLAIN, "sd15") == (512, 512)
    assert size(Options(), STYLES["infographic"], "sd15") == (448, 768)
    wide = Options(aspect_ratio=AspectRatio.WIDE)
    assert size(wide, STYLES["infographic"], "sdxl") == (1344, 768)
    assert size(Options(width=640, height=832), PLAIN, "sd15") == (640, 832)


def test_a_style_stands_around_the_words_and_the_requests_negative_wins():
    style = msgspec.structs.replace(
        PLAIN, prompt_prefix="a cover about ", prompt_suffix=", calm", negative="text"
    )
    assert catalog.words(" foxes\n", style, Options()) == ("a cover about foxes, calm", "text")
    assert catalog.words("foxes", style, Options(negative_prompt="dogs"))[1] == "dogs"
    assert catalog.words("foxes", style, Options(negative_prompt=""))[1] == ""
    for name in Style:
        prompt, negative = catalog.words("x" * 4000, STYLES[name], Options())
        assert len(prompt) < 5000
        assert negative
