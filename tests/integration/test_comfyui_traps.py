"""Goal: each trap of the double of ComfyUI catches, and lets go. Method: a plain client meets it.

What no recording shows is here too: the card, other nodes, the control routes, running alone.
"""

import asyncio
import contextlib
import json
import signal
import socket
import sys

import aiohttp
import pytest

from tests.doubles.comfyui.failures import OUT_OF_MEMORY
from tests.doubles.comfyui.plain import client, graph, kinds, node
from tests.doubles.comfyui.settings import SD15, SDXL
from tests.rig import ROOT, until

SHORT = aiohttp.ClientTimeout(total=0.1)
MIB = 1024 * 1024
WORKFLOW = {"extra_pnginfo": {"workflow": {"a": 1}}}


async def test_a_late_history_is_empty_at_first():
    async with client(traps={"history_late": {"reads": 2}}) as me:
        prompt_id = await me.post()
        await until(lambda: me.double.log.ended, "its end")
        assert [await me.history(prompt_id) is None for _ in range(3)] == [True, True, False]


async def test_a_client_that_comes_back_may_be_deaf():
    async with client(traps={"deaf_socket_after_reconnect": {}}) as me:
        async with me.ear():
            pass
        async with me.ear() as ear:
            await me.ended(await me.post())
            assert kinds(ear) == ["status"]
        async with me.ear() as ear:
            await me.post(graph(seed=2))
            await until(lambda: "execution_success" in kinds(ear), "events once more")


async def test_silent_sockets_speak_again_when_cleared():
    async with client(traps={"silent_socket": {}}) as me, me.ear() as ear:
        await me.ended(await me.post())
        assert kinds(ear) == ["status"]
        me.double.clear("silent_socket")
        await until(lambda: "execution_success" in kinds(ear), "what was held back")


async def test_one_client_that_never_reads_stops_all_sockets_until_it_goes():
    """Recording o, with a real socket that is not read."""
    async with client(preview_method="auto", preview_size=1024) as me, me.ear("other") as ear:
        stuck = socket.create_connection((me.double.host, me.double.port))
        head = "GET /ws?clientId=stuck HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n"
        key = "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
        stuck.sendall(f"{head}Connection: Upgrade\r\n{key}\r\n".encode())
        await until(lambda: "stuck" in me.double.log.sockets_opened, "the stuck socket")
        await me.ended(await me.post(graph(steps=60), client_id="stuck"))
        heard = len(ear.heard)
        mine = await me.post(graph(seed=2), client_id="other")
        await me.ended(mine)
        assert len(ear.heard) == heard
        async with me.ear("new") as new:
            assert kinds(new) == ["status"]
            stuck.close()
            await until(lambda: "execution_success" in kinds(ear), "what was held back")


async def test_sockets_are_dropped_without_a_close_frame():
    async with client() as me, me.ear() as ear:
        me.double.trap("drop_sockets")
        await ear.ended.wait()
        assert ear.socket.close_code == 1006
        await me.ended(await me.post())


async def test_a_cached_output_may_send_no_executed():
    async with client(traps={"no_executed_on_cached": {}}) as me, me.ear() as ear:
        await me.ended(await me.post())
        again = await me.ended(await me.post())
        await until(lambda: kinds(ear).count("execution_success") == 2, "both")
        assert kinds(ear).count("executed") == 1
        assert again["outputs"]["9"]["images"][0]["filename"] == "x_00001_.png"


@pytest.mark.parametrize("when", ["post", "start"])
async def test_a_lost_prompt_is_in_no_list(when):
    async with client(traps={"lose_prompt": {"when": when}}) as me:
        prompt_id = await me.post()
        await until(lambda: (prompt_id, "lost") in me.double.log.ended, "its loss")
        assert await me.history(prompt_id) is None
        assert await me.get("/queue") == {"queue_running": [], "queue_pending": []}


FAILED_POSTS = [
    ("queued_but_500", {"500"}),
    ("queued_but_reset", {"ClientOSError", "ServerDisconnectedError"}),
    ("slow_post", {"TimeoutError"}),
]


@pytest.mark.parametrize(("name", "outcomes"), FAILED_POSTS)
async def test_a_prompt_runs_though_its_post_failed(name, outcomes):
    async with client(traps={name: {"times": 1}}) as me:
        body = {"prompt": graph(), "prompt_id": "mine"}
        try:
            async with (
                asyncio.timeout(0.3 if name == "slow_post" else 10),
                me.http.post("/prompt", json=body) as answer,
            ):
                outcome = str(answer.status)
        except (aiohttp.ClientError, TimeoutError) as error:
            outcome = type(error).__name__
        assert outcome in outcomes
        assert (await me.verdict("mine"))[0] == "execution_success"


async def test_an_interrupt_may_be_lost_and_the_next_one_hits():
    async with client(step_ms=5, traps={"interrupt_lost": {}}) as me:
        prompt_id = await me.post(graph(steps=2000))
        await until(lambda: "KSampler" in {e[2] for e in me.double.log.executed}, "sampling")
        assert await me.say("/interrupt", prompt_id=prompt_id) == 200
        assert await me.history(prompt_id) is None
        assert await me.say("/interrupt", prompt_id="another") == 200
        assert await me.say("/interrupt", prompt_id=prompt_id) == 200
        assert (await me.verdict(prompt_id))[0] == "execution_interrupted"


async def test_an_old_version_interrupts_whoever_runs():
    async with client(step_ms=5, traps={"old_version": {}}) as me:
        prompt_id = await me.post(graph(steps=2000))
        await until(lambda: "KSampler" in {e[2] for e in me.double.log.executed}, "sampling")
        await me.say("/interrupt", prompt_id="another")
        assert (await me.verdict(prompt_id))[0] == "execution_interrupted"
        assert (await me.get("/system_stats"))["system"]["comfyui_version"] == "0.3.40"


async def test_a_frozen_server_answers_nothing_until_it_thaws():
    """Recording v: only a heartbeat of the client's own notices."""
    async with client() as me, me.http.ws_connect("/ws", heartbeat=0.1) as heart:
        await heart.receive()
        me.double.trap("freeze")
        with pytest.raises(TimeoutError):
            await me.http.get("/queue", timeout=SHORT)
        assert (await heart.receive()).type is aiohttp.WSMsgType.ERROR
        assert heart.close_code == 1006
        me.double.clear("freeze")
        assert await me.get("/queue") == {"queue_running": [], "queue_pending": []}


async def test_a_pause_holds_up_the_end_of_a_prompt():
    async with client(traps={"gc_pause": {"ms": 60}}) as me:
        start = asyncio.get_running_loop().time()
        await me.ended(await me.post())
        assert asyncio.get_running_loop().time() - start > 0.06


@pytest.mark.parametrize("spelling", OUT_OF_MEMORY)
async def test_out_of_memory_unloads_all_and_the_second_try_works(spelling):
    async with client(traps={"oom": {"spelling": spelling}}) as me:
        kind, body = await me.verdict(await me.post())
        assert kind == "execution_error"
        assert (body["exception_type"], body["exception_message"]) == OUT_OF_MEMORY[spelling]
        assert me.double.life.card.held == {}
        assert (await me.verdict(await me.post()))[0] == "execution_success"


async def test_a_corrupt_checkpoint_and_any_other_failure():
    traps = {"corrupt_checkpoint": {"checkpoint": SDXL}, "fail": {"node": "VAEDecode"}}
    async with client(traps=traps) as me:
        _, body = await me.verdict(await me.post(graph(checkpoint=SDXL)))
        assert body["exception_type"].endswith("SafetensorError")
        _, body = await me.verdict(await me.post())
        assert (body["node_id"], body["exception_message"]) == ("8", "rig: told to fail")


async def test_a_view_may_fail_in_four_ways():
    async with client() as me:
        item = (await me.ended(await me.post()))["outputs"]["9"]["images"][0]
        me.double.trap("missing_file_on_view")
        assert (await me.http.get("/view", params=item)).status == 404
        me.double.trap("cut_view_midway")
        with pytest.raises(aiohttp.ClientPayloadError):
            await (await me.http.get("/view", params=item)).read()
        me.double.trap("garbage_on_view")
        assert await (await me.http.get("/view", params=item)).read() == b"no picture"
        me.double.trap("slow_view", seconds=1, times=1)
        with pytest.raises(TimeoutError):
            await me.http.get("/view", params=item, timeout=SHORT)
        assert (await me.http.get("/view", params=item)).content_type == "image/png"


async def test_refusing_lasts_until_cleared():
    async with client(traps={"refuse_connections": {"seconds": None}}) as me:
        await until(lambda: me.double._site is None, "nobody listening")
        with pytest.raises(aiohttp.ClientConnectorError):
            await me.get("/queue")
        me.double.clear("refuse_connections")
        await until(lambda: me.double._site is not None, "somebody listening")
        assert (await me.get("/queue"))["queue_running"] == []


async def test_a_restart_by_the_control_route_forgets_all_but_the_files():
    async with client() as me, me.ear() as ear:
        prompt_id = await me.post()
        await me.ended(prompt_id)
        shown = await me.ended(
            await me.post(graph() | {"9": node("PreviewImage", images=["8", 0])})
        )
        temp = shown["outputs"]["9"]["images"][0]
        assert (await me.http.get("/view", params=temp)).status == 200
        with contextlib.suppress(aiohttp.ClientError):  # its answer may be cut off too
            await me.say("/double/trap", name="restart_empty")
        await until(lambda: me.double.log.restarts == 2, "the restart")
        assert ear.socket.close_code == 1006
        assert await me.history(prompt_id) is None
        assert (await me.http.get("/view", params={"filename": "x_00001_.png"})).status == 200
        assert (await me.http.get("/view", params=temp)).status == 404


async def test_without_client_ids_all_hear_progress_and_nobody_the_end():
    async with (
        client(preview_method="auto", traps={"broadcast_without_client_id": {}}) as me,
        me.ear("other") as ear,
    ):
        await me.ended(await me.post())
        heard = {"status", "progress", "progress_state", "frame"}
        await until(lambda: set(kinds(ear)) == heard, "progress and frames, and no more")


async def test_a_hang_ends_only_when_cleared():
    async with client(traps={"hang_at_step": {"step": 2}}) as me:
        prompt_id = await me.post()
        await until(lambda: me.double.life.hang.shut, "the hang")
        await me.say("/interrupt", prompt_id=prompt_id)
        assert (await me.get("/queue"))["queue_running"][0][1] == prompt_id
        me.double.clear("hang_at_step")
        assert (await me.verdict(prompt_id))[0] == "execution_interrupted"


async def test_somebody_else_uses_the_server_too():
    async with client(step_ms=1) as me:
        me.double.trap("foreign_prompt", count=2)
        mine = await me.post()
        await me.ended(mine)
        assert [p["prompt_id"] for p in me.double.log.prompts].index(mine) == 2
        assert me.double.log.ended[-1] == (mine, "success")


async def test_a_graph_of_every_kind_of_node_gives_a_picture_of_the_right_size():
    nodes = {
        "20": node("LoraLoader", model=["4", 0], clip=["4", 1], lora_name="detail.safetensors"),
        "21": node("ModelSamplingDiscrete", model=["20", 0], sampling="eps", zsnr=False),
        "22": node("LatentUpscaleBy", samples=["3", 0], upscale_method="bislerp", scale_by=2.0),
        "23": node("VAEDecodeTiled", samples=["22", 0], vae=["4", 2], tile_size=512, overlap=64),
        "24": node("UpscaleModelLoader", model_name="RealESRGAN_x4.pth"),
        "25": node("ImageUpscaleWithModel", upscale_model=["24", 0], image=["23", 0]),
        "26": node("ImageScale", image=["25", 0], upscale_method="lanczos", width=300, height=0),
        "27": node("ImageScaleBy", image=["26", 0], upscale_method="lanczos", scale_by=0.5),
        "9": node("SaveImage", images=["27", 0], filename_prefix="deep/er"),
    }
    nodes["20"]["inputs"] |= {"strength_model": 1.0, "strength_clip": 1.0}
    nodes["26"]["inputs"]["crop"] = "disabled"
    nodes["23"]["inputs"] |= {"temporal_size": 64, "temporal_overlap": 8}
    body = graph() | nodes
    body["3"]["inputs"]["model"] = ["21", 0]
    async with client() as me:
        assert (await me.picture(await me.post(body))).size == (150, 150)
        assert me.double.log.files == ["output/deep/er_00001_.png"]


async def test_pictures_differ_by_seed_and_tell_their_prompt():
    async with client() as me:
        first = await me.picture(await me.post(graph(seed=1), extra_data=WORKFLOW))
        other = await me.picture(await me.post(graph(seed=2)))
        assert first.tobytes() != other.tobytes()
        assert json.loads(first.info["prompt"]) == graph(seed=1)
        assert json.loads(first.info["workflow"]) == {"a": 1}
    async with client(metadata=False) as me:
        assert (await me.picture(await me.post())).info == {}


async def test_the_card_holds_what_was_loaded_until_it_is_freed():
    async def held_mib() -> int:
        device = (await me.get("/system_stats"))["devices"][0]
        return int(device["vram_total"] - device["vram_free"]) // MIB

    async with client(gpu="RTX 3090", vram_mib=8192) as me:
        empty = await held_mib()
        await me.ended(await me.post(graph(checkpoint=SDXL)))
        assert await held_mib() == empty + 6600
        await me.ended(await me.post(graph(checkpoint=SD15)))
        assert await held_mib() == empty + 2600
        await me.say("/free", unload_models=True)
        await until(lambda: not me.double.life.card.held, "a free card")
        assert "RTX 3090" in (await me.get("/system_stats"))["devices"][0]["name"]


async def test_the_control_route_tells_and_refuses():
    async with client() as me:
        assert await me.say("/double/trap", name="no such trap") == 400
        assert await me.say("/double/trap", name="oom", color="red") == 400
        assert await me.say("/double/trap", name="oom", times=3) == 200
        assert await me.say("/double/trap", name="step_ms", value=7) == 200
        assert (await me.get("/double/traps"))["set"]["oom"]["left"] == 3
        assert await me.say("/double/trap", name="oom", off=True) == 200
        prompt_id = await me.post()
        await me.ended(prompt_id)
        assert (await me.get("/double/log"))["ended"] == [[prompt_id, "success"]]
        assert me.double.settings.step_ms == 7


async def test_nothing_is_left_behind():
    async with client(step_ms=50) as me:
        await me.post()
        folder, url = me.double.folders.root, me.double.url
    assert not folder.exists()
    async with aiohttp.ClientSession() as http:
        with pytest.raises(aiohttp.ClientConnectorError):
            await http.get(url)


async def test_it_runs_alone_and_dies_as_killed():
    options = ("--port", "0", "--steps-ms", "0", "--trap", "oom:times=2,spelling=cuda")
    program = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.doubles.comfyui", *options),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
    )
    assert program.stdout is not None
    try:
        url = (await program.stdout.readline()).split()[2].decode()
        async with aiohttp.ClientSession(url) as http:
            traps = await (await http.get("/double/traps")).json()
            assert traps["set"]["oom"]["left"] == 2
            with pytest.raises(aiohttp.ClientError):
                await http.post("/double/trap", json={"name": "die"})
        assert await program.wait() == -signal.SIGKILL
    finally:
        if program.returncode is None:
            program.kill()
        await program.wait()
