"""Goal: the double of ComfyUI says what ComfyUI said. Method: recordings are played against it.

Each case sends what the recording sent, once the double has said what had been said before, and
compares every answer and every socket: order, keys, types and words.
"""

from typing import Any

import pytest

from tests.doubles.comfyui import ComfyDouble
from tests.doubles.comfyui.graph import next_ready, to_run
from tests.doubles.comfyui.plain import client, node
from tests.doubles.comfyui.replay import Act, Replay

CHECKPOINTS = (
    "corrupt.safetensors",
    "sd_xl_base_1.0.safetensors",
    "tiny_slow.safetensors",
    "v1-5-pruned-emaonly.safetensors",
)
MISMATCH = (
    "Given groups=1, weight of size [64, 16, 3, 3], expected input[1, 4, 64, 64] to have 16"
    " channels, but got 4 channels instead\n"
)


def move_away(double: ComfyDouble) -> None:
    path = double.folders.of("output") / "ziggie_00001_.png"
    path.rename(path.with_suffix(".away"))


def add_checkpoint(double: ComfyDouble) -> None:
    double.settings.checkpoints = (*CHECKPOINTS, "late.safetensors")


def remove_checkpoint(double: ComfyDouble) -> None:
    double.settings.checkpoints = CHECKPOINTS


def mismatch(double: ComfyDouble) -> None:
    double.trap("fail", node="VAEDecode", type="RuntimeError", message=MISMATCH)


def thaw(double: ComfyDouble) -> None:
    double.clear("freeze")


ACTS: dict[str, Act] = {
    "output file moved away": move_away,
    "a checkpoint file added": add_checkpoint,
    "and removed again": remove_checkpoint,
    "case: 4-channel latent": mismatch,
    "kill -9 sent": ComfyDouble.die,
    "restarted, ready": ComfyDouble.restart,
    "exit code": ComfyDouble.restart,
    "SIGCONT": thaw,
}

AS_RECORDED: dict[str, Any] = {"checkpoints": CHECKPOINTS, "preview_method": "auto", "gpu": None}

RECORDINGS: dict[str, dict[str, Any]] = {
    "a_success": {},
    "b_cached": {},
    "c_validation": {},
    "d_execution_error": {},
    "e_interrupt": {"step_ms": 20, "decode_ms": 30, "sleep_scale": 0.05},
    "f_queue_delete": {"step_ms": 5},
    "g_queue_order": {"sleep_scale": 0.05},
    "h_info": {},
    "i_free": {"sleep_scale": 0.05},
    "j_ws_clients": {"step_ms": 1},
    "k_kill9_and_restart": {"step_ms": 3},
    "l_save_image_websocket": {},
    "m_img2img_batch": {},
    "n_features_api_prefix": {},
    "r_preview_none": {"preview_method": "none"},
    "r_preview_taesd_size256": {"preview_size": 256},
    "s_cache_none": {"cache": "none", "preview_method": "none"},
    "u_model_switch_classic": {"preview_method": "none"},
    "u_model_switch_lru50": {"cache": "lru", "preview_method": "none"},
    "w_savews_with_metadata": {},
}
UNTIL = {
    "j_ws_clients": "case: a silent client: ws opened raw and never read while a prompt with"
    " previews runs",
    "l_save_image_websocket": "default aiohttp client (max_msg_size 4 MiB) and a large PNG"
    " (white noise 2048x2048 via ImageScale of noise)",
}


@pytest.mark.parametrize("name", RECORDINGS)
async def test_the_double_says_what_was_recorded(name):
    settings = {**AS_RECORDED, **RECORDINGS[name]}
    async with ComfyDouble(**settings) as double:
        replay = Replay(name, double, ACTS)
        await replay.play(UNTIL.get(name))
    assert not replay.differences, "\n".join(replay.differences)
    assert replay.compared["http"] > 0


async def test_a_refused_prompt_uses_up_a_number():
    """Recording c ends with numbers 25 to 27 refused; recording d begins with 28."""
    async with client() as me:
        bodies: list[dict[str, Any]] = [{}, {"prompt": [1]}, {"prompt": {}}]
        for refused in bodies:
            assert await me.say("/prompt", **refused) in (400, 500)
        await me.post()
        assert me.double.log.prompts[0]["number"] == 3


def test_an_output_that_is_ready_runs_before_other_nodes():
    """Recording d ran node 2 before node 3, with the outputs 4 and 2 in this order."""
    two = {
        "1": node("EmptyImage"),
        "2": node("SaveImage", images=["1", 0]),
        "3": node("RigRaise", images=["1", 0]),
        "4": node("SaveImage", images=["3", 0]),
    }
    waiting = to_run(two, ["4", "2"], set())
    assert waiting == ["4", "3", "1", "2"]
    assert next_ready(two, ["4", "3", "2"], {"1"}) == "2"
