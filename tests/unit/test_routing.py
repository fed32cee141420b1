"""Goal: which engines may draw a request, in which order and why, rule by rule.

Method: engines as plain data, requests, candidates out. The workflows are those of the repository.
"""

from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from agent.core.faults import ModelMissingFault, NoEngineFault, WorkflowInvalidFault
from agent.core.routing import EngineFacts, Policy, route
from agent.workflows import load_workflows
from contracts.requests import ImageRef, Options, Quality, Request

WORKFLOWS = load_workflows([Path(__file__).parents[2] / "workflows"])
COMFYUI = EngineFacts(
    name="comfyui",
    slot="gpu",
    models=("sdxl-1.0", "sd-1.5"),
    workflows=WORKFLOWS,
    problems={"sdxl-draft": ("its LoRA is not installed",)},
)
STABILITY = EngineFacts(
    name="stability",
    slot="cloud",
    models=("core", "ultra"),
    by_quality={Quality.PREMIUM: "ultra"},
)
OPENAI = EngineFacts(name="openai", slot="cloud", models=("image",), ignores_seed=True)
SKETCH = EngineFacts(name="sketch", slot="cpu", models=("sketch",), fallback=True)
ALL = (COMFYUI, STABILITY, OPENAI, SKETCH)


def down(facts, why="connection refused"):
    return replace(facts, up=False, down=why)


def closed(facts, why="3 faults in a row"):
    return replace(facts, closed=why)


def asked(*, local_only=False, **options):
    return Request(
        type="image", prompt="a lighthouse", options=Options(**options), local_only=local_only
    )


def routed(request, engines=ALL, **policy):
    return route(request, engines, Policy(**policy))


def names(found):
    return [one.engine for one in found]


def test_the_card_comes_first_then_the_clouds_in_their_order_then_fallbacks():
    found = routed(asked())
    assert names(found) == ["comfyui", "stability", "openai", "sketch"]
    assert all(one.reason for one in found)


def test_the_order_of_the_clouds_is_the_configured_one():
    engines = (COMFYUI, OPENAI, STABILITY, SKETCH)
    assert names(routed(asked(), engines)) == ["comfyui", "openai", "stability", "sketch"]


def test_premium_goes_to_the_cloud_first_and_says_so():
    found = routed(asked(quality=Quality.PREMIUM))
    assert names(found) == ["stability", "openai", "comfyui", "sketch"]
    assert "premium" in found[0].reason
    assert found[0].model == "ultra"


@pytest.mark.parametrize(
    ("style", "quality", "first"),
    [
        ("cloud", Quality.STANDARD, "stability"),
        ("local", Quality.PREMIUM, "comfyui"),
        ("any", Quality.STANDARD, "comfyui"),
    ],
)
def test_a_style_may_prefer_the_card_or_the_cloud(style, quality, first):
    assert names(routed(asked(quality=quality), style=style))[0] == first


def test_clouds_that_are_switched_on_freely_come_first_unless_the_style_is_local():
    assert names(routed(asked(), cloud="on"))[0] == "stability"
    assert names(routed(asked(), cloud="on", style="local"))[0] == "comfyui"


@pytest.mark.parametrize("quality", list(Quality))
@pytest.mark.parametrize("cloud", ["off", "fallback", "on"])
@pytest.mark.parametrize("style", ["any", "local", "cloud"])
def test_local_only_never_reaches_a_cloud(quality, cloud, style):
    request = asked(quality=quality, local_only=True)
    for engines in (ALL, (down(COMFYUI), STABILITY, OPENAI, SKETCH)):
        found = routed(request, engines, cloud=cloud, style=style)
        assert not [one for one in found if one.is_cloud]


def test_local_only_without_a_local_engine_is_a_fault_and_does_not_leak():
    with pytest.raises(NoEngineFault, match="local_only"):
        routed(asked(local_only=True), (STABILITY, OPENAI))


@pytest.mark.parametrize("quality", list(Quality))
def test_clouds_that_are_switched_off_get_nothing(quality):
    assert names(routed(asked(quality=quality), cloud="off")) == ["comfyui", "sketch"]


def test_a_seed_that_must_hold_never_goes_to_an_engine_that_ignores_seeds():
    assert "openai" not in names(routed(asked(seed=7)))
    assert "stability" in names(routed(asked(seed=7)))
    with pytest.raises(NoEngineFault, match="ignores seeds"):
        routed(asked(seed=7), (OPENAI,))


def test_an_engine_in_trouble_is_left_out_while_another_can():
    found = routed(asked(), (down(COMFYUI), closed(STABILITY), OPENAI, SKETCH))
    assert names(found) == ["openai", "sketch"]
    assert "comfyui" in found[0].reason
    assert "connection refused" in found[0].reason


def test_where_all_are_in_trouble_they_stay_with_what_it_is():
    found = routed(asked(), (down(COMFYUI), closed(STABILITY)))
    assert names(found) == ["comfyui", "stability"]
    assert "connection refused" in found[0].trouble
    assert "3 faults" in found[1].trouble


def test_a_fallback_says_for_whom_it_stands_in():
    found = routed(asked(), (down(COMFYUI), SKETCH))
    assert names(found) == ["sketch"]
    assert "stands in: comfyui is down" in found[0].reason


def test_a_standard_request_has_a_smaller_model_and_a_named_one_has_none():
    (found,) = routed(asked(), (COMFYUI,))
    assert (found.model, found.vram_mib) == ("sdxl-1.0", 12288)
    assert found.smaller is not None
    assert (found.smaller.model, found.smaller.vram_mib) == ("sd-1.5", 6144)
    (named,) = routed(asked(model="sdxl-1.0"), (COMFYUI,))
    assert named.smaller is None
    (chosen,) = routed(asked(workflow="sdxl-text2img"), (COMFYUI,))
    assert chosen.smaller is None


def test_a_named_model_is_not_drawn_through_a_lighter_workflow():
    large = WORKFLOWS["sdxl-text2img"]
    manifest = replace(large.manifest, name="sdxl-light", vram_mib=8192)
    light = replace(large, manifest=manifest)
    facts = replace(COMFYUI, workflows={"sdxl-text2img": large, "sdxl-light": light}, problems={})
    for request in (asked(model="sdxl-1.0"), asked(workflow="sdxl-text2img")):
        (found,) = routed(request, (facts,))
        assert found.smaller is None


def test_a_draft_asks_for_the_small_model_in_the_first_place():
    (found,) = routed(asked(quality=Quality.DRAFT), (COMFYUI,))
    assert (found.model, found.vram_mib) == ("sd-1.5", 6144)


def test_a_workflow_is_drawn_by_comfyui_alone_and_an_unknown_one_is_a_fault():
    assert names(routed(asked(workflow="sdxl-text2img"))) == ["comfyui"]
    with pytest.raises(WorkflowInvalidFault, match="nosuch"):
        routed(asked(workflow="nosuch"), (STABILITY, SKETCH))


def test_an_input_picture_goes_to_no_engine_that_takes_none():
    picture = ImageRef(asset="a.r1")
    with pytest.raises(NoEngineFault, match="image"):
        routed(asked(image=picture), (STABILITY, SKETCH))


def test_a_model_that_nobody_has_is_a_fault_that_names_those_installed():
    with pytest.raises(ModelMissingFault, match=r"installed: .*core"):
        routed(asked(model="nosuch"), (STABILITY, SKETCH))


def test_without_engines_the_fault_names_the_doctor():
    with pytest.raises(NoEngineFault, match="doctor"):
        routed(asked(), ())


def test_a_breaker_that_is_open_keeps_its_time_beside_its_reason():
    until = datetime(2026, 1, 1, tzinfo=UTC)
    facts = EngineFacts(
        name="stability", slot="cloud", models=("core",), closed="open", closed_until=until
    )
    assert not facts.is_ready
    assert facts.trouble == "gets no jobs (open)"


@given(
    quality=st.sampled_from(list(Quality)),
    seed=st.none() | st.integers(0, 9),
    local_only=st.booleans(),
    cloud=st.sampled_from(["off", "fallback", "on"]),
    style=st.sampled_from(["any", "local", "cloud"]),
    troubled=st.sets(st.integers(0, 3)),
)
def test_no_mixture_of_wishes_leaks_or_leaves_an_able_engine_out(
    quality, seed, local_only, cloud, style, troubled
):
    engines = tuple(down(one) if n in troubled else one for n, one in enumerate(ALL))
    request = asked(quality=quality, seed=seed, local_only=local_only)
    found = routed(request, engines, cloud=cloud, style=style)
    assert found, "the sketch engine can always"
    clouds = [one for one in found if one.is_cloud]
    assert not clouds or (not local_only and cloud != "off")
    assert seed is None or "openai" not in names(found)
    ready = [one for one in engines if one.is_ready]
    if any(one.name in names(found) for one in ready):
        assert {one.name for one in engines if not one.is_ready}.isdisjoint(names(found))
