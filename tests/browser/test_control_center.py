"""Goal: the Control Center shows the dashboard through its own backend, and can be switched off.

Method: the router in a real FastAPI app on uvicorn, a page that frames what the React page frames,
and Chromium; the gateway behind is real.
"""

import asyncio
import importlib.util
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import ModuleType

import aiohttp
import pytest
import uvicorn
from fastapi import FastAPI
from fastapi.responses import HTMLResponse

from tests.browser.rig import API, free_port, site, window
from tests.rig import ROOT, until

FOLDER = ROOT / "ops" / "control_center"
LINES_MAX = 100
HOST = '<!doctype html><link rel="icon" href="data:,"><main><h1>Control Center</h1>{}</main>'


def router_module(monkeypatch: pytest.MonkeyPatch, gateway: str) -> ModuleType:
    """Import the file as the Control Center does, with its setting."""
    monkeypatch.setenv("MMG_GATEWAY_URL", gateway)
    spec = importlib.util.spec_from_file_location("multimodal", FOLDER / "multimodal.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@asynccontextmanager
async def control_center(module: ModuleType | None) -> AsyncIterator[str]:
    """Run a backend with the relay, or without it, and a page that frames the dashboard."""
    app = FastAPI()
    frame = re.search(r'const PAGE = "([^"]+)"', (FOLDER / "MultimodalDashboard.jsx").read_text())
    assert frame is not None

    @app.get("/multimodal")
    async def page() -> HTMLResponse:
        return HTMLResponse(HOST.format(f'<iframe src="{frame[1]}" width=1200 height=800>'))

    if module is not None:
        app.include_router(module.router)
    port = free_port()
    config = uvicorn.Config(app, port=port, log_level="warning", ws="websockets-sansio")
    server = uvicorn.Server(config)
    async with asyncio.TaskGroup() as group:
        group.create_task(server.serve(), name="control center")
        await until(lambda: server.started, "the Control Center")
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            server.should_exit = True


async def test_the_framed_dashboard_works_through_the_relay(tmp_path, monkeypatch):
    async with site(tmp_path) as one:
        module = router_module(monkeypatch, one.url)
        async with (
            control_center(module) as url,
            window(f"{url}/multimodal") as seen,
        ):
            frame = seen.page.frame_locator("iframe")
            await frame.get_by_text("No worker answers").first.wait_for()
            await frame.get_by_text("Live", exact=True).wait_for()
            await frame.get_by_label("Prompt").fill("through the relay")
            await frame.get_by_role("button", name="Make it").click()
            await frame.locator("#waiting").get_by_text("through the relay").wait_for()
            assert all(asked.startswith((url, "blob:", "ws:")) for asked in seen.asked)


async def test_the_relay_passes_answers_on_and_keeps_other_sites_out(tmp_path, monkeypatch):
    async with site(tmp_path) as one:
        module = router_module(monkeypatch, one.url)
        async with control_center(module) as url, aiohttp.ClientSession() as http:
            async with http.get(f"{url}{API}/requests/none") as answer:
                assert answer.status == 404
                assert answer.content_type == "application/problem+json"
            foreign = {"Origin": "https://evil.example"}
            body = {"type": "image", "prompt": "no"}
            async with http.post(f"{url}{API}/generate", json=body, headers=foreign) as answer:
                assert answer.status == 403
            for path, headers, status in (("", foreign, 403), ("/none", {}, 404)):
                with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                    await http.ws_connect(f"{url}/ws/multimodal{path}", headers=headers)
                assert refused.value.status == status
            own = {"Origin": url}
            async with http.post(f"{url}{API}/generate", json=body, headers=own) as answer:
                assert answer.status == 202
            async with http.ws_connect(f"{url}/ws/multimodal", headers=own) as socket:
                assert (await socket.receive_json(timeout=10))["kind"] == "hello"
            await one.stop_gateway()
            async with http.get(f"{url}{API}/queue") as answer:
                assert answer.status == 502


async def test_without_the_router_nothing_of_it_is_left():
    async with control_center(None) as url, aiohttp.ClientSession() as http:
        async with http.get(f"{url}{API}/dashboard/") as answer:
            assert answer.status == 404
        async with http.get(f"{url}/multimodal") as answer:
            assert answer.status == 200


def test_the_router_stays_as_small_as_was_promised():
    lines = (FOLDER / "multimodal.py").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= LINES_MAX
