"""Goal: keys and budgets are set safely, and the doubles are no softer than the published schemas.

Method: `load` on plain mappings; calls to the doubles that the schemas forbid.
"""

import base64
import struct
from typing import Any

import aiohttp
import pytest

from agent.config import ConfigError, describe, load
from tests.cloud_rig import size_of
from tests.doubles.clouds import OpenAIDouble, StabilityDouble
from tests.doubles.clouds.server import KEY

# --- the settings --------------------------------------------------------------------------------


def test_without_any_setting_the_clouds_are_a_fallback_without_keys(tmp_path):
    cloud = load({}, tmp_path).cloud
    assert (cloud.mode, cloud.order) == ("fallback", ("stability", "openai"))
    assert (cloud.stability_key, cloud.openai_key) == (None, None)
    assert cloud.openai_model == "gpt-image-2.5-flare"
    assert cloud.timeout_s >= 300


@pytest.mark.parametrize(
    ("environ", "mode"),
    [
        ({"ENABLE_CLOUD_FALLBACK": "true"}, "fallback"),
        ({"ENABLE_CLOUD_FALLBACK": "false"}, "off"),
        ({"MMG_CLOUD": "on"}, "on"),
        ({"MMG_CLOUD": "on", "ENABLE_CLOUD_FALLBACK": "yes"}, "on"),
        ({"MMG_CLOUD": "off", "ENABLE_CLOUD_FALLBACK": "no"}, "off"),
    ],
)
def test_the_mode_has_two_names(environ, mode, tmp_path):
    assert load(environ, tmp_path).cloud.mode == mode


@pytest.mark.parametrize("mode", ["off", "on", "fallback"])
def test_two_names_that_contradict_each_other_are_a_fault(mode, tmp_path):
    environ = {"MMG_CLOUD": mode, "ENABLE_CLOUD_FALLBACK": "yes" if mode == "off" else "no"}
    with pytest.raises(ConfigError, match="contradicts MMG_CLOUD"):
        load(environ, tmp_path)


def test_a_key_is_shown_nowhere_and_may_lie_in_a_file(tmp_path):
    (tmp_path / "key").write_text("sk-from-a-file\n")
    environ = {"STABILITY_API_KEY": "sk-directly-given", "OPENAI_API_KEY_FILE": "key"}
    loaded = load(environ, tmp_path)
    assert loaded.cloud.stability_key == "sk-directly-given"
    assert loaded.cloud.openai_key == "sk-from-a-file"
    shown = repr(loaded) + repr(describe(loaded)) + str(loaded.cloud)
    assert "sk-" not in shown
    with pytest.raises(ConfigError) as raised:
        load({"STABILITY_API_KEY": "sk with blanks"}, tmp_path)
    assert "blanks' " not in str(raised.value)
    assert "sk with" not in str(raised.value)


def test_a_key_is_sent_unencrypted_to_this_machine_only(tmp_path):
    local = "http://127.0.0.1:8101"
    assert load({"MMG_OPENAI_URL": local}, tmp_path).cloud.openai_url == local
    with pytest.raises(ConfigError, match="unencrypted"):
        load({"MMG_OPENAI_URL": "http://proxy.example"}, tmp_path)


# --- the doubles are no softer than the schemas ---------------------------------------------------


async def test_the_doubles_refuse_what_the_schemas_refuse():
    headers = {"Authorization": f"Bearer {KEY}"}
    async with StabilityDouble() as one, OpenAIDouble() as two, aiohttp.ClientSession() as http:
        core = f"{one.url}/v2beta/stable-image/generate/core"
        images = f"{two.url}/v1/images/generations"

        async def status(url: str, **how: Any) -> int:
            async with http.post(url, headers=headers, **how) as answer:
                body = await answer.json()
                assert answer.status == 200 or {"errors", "error"} & body.keys()
                assert answer.headers["x-request-id"]
                return answer.status

        def form(**fields: str) -> dict[str, Any]:
            made = aiohttp.FormData(default_to_multipart=True)
            for name, value in fields.items():
                made.add_field(name, value)
            return {"data": made}

        assert await status(core, data={"prompt": "x"}) == 400
        assert await status(core, **form(prompt="x", width="1024")) == 400
        assert await status(core, **form(prompt="x", aspect_ratio="4:3")) == 400
        assert await status(core, **form(prompt="")) == 400
        assert await status(core, **form(prompt="x [moderated]")) == 403
        good = {"model": "gpt-image-2.5-flare", "prompt": "x", "size": "1024x1024"}
        assert await status(images, json=good | {"response_format": "url"}) == 400
        assert await status(images, json=good | {"quality": "hd"}) == 400
        assert await status(images, json=good | {"size": "1000x1000"}) == 400
        assert await status(images, json=good | {"model": "dall-e-3"}) == 404
        assert (one.ledger, two.ledger) == ([], [])
        async with http.post(core, headers=headers, **form(prompt="[filtered]")) as answer:
            data = await answer.read()
            assert answer.headers["finish-reason"] == "CONTENT_FILTERED"
            assert struct.unpack(">II", data[16:24]) == size_of(data)
        async with http.post(images, headers=headers, json=good) as answer:
            body = await answer.json()
            assert size_of(base64.b64decode(body["data"][0]["b64_json"])) == (1024, 1024)
        assert (len(one.ledger), len(two.ledger)) == (1, 1)
