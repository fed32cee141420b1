"""`make screenshots`: the dashboard empty, busy and in trouble, as docs/screenshots shows it.

Nothing on them is drawn by hand: each is a real site on the fake machine, photographed in Chromium.
"""

import asyncio
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from tests.browser.rig import Site, Window, dashboard, site
from tests.doubles.machine import Machine
from tests.rig import ROOT, until

FOLDER = ROOT / "docs" / "screenshots"
SIZE = {"width": 1360, "height": 1480}
FIRST = {"width": 1360, "height": 900}
GALLERY = (
    ("Night shift report", "report-cover"),
    ("Plan -> Build -> Review -> Ship", "technical-diagram"),
    ("GPU hours: 62 % images, 38 % language", "infographic"),
    ("Agent handbook, second edition", "report-cover"),
    ("Request -> Lane -> Worker -> Image", "technical-diagram"),
    ("Energy of the data hall in March", "report-cover"),
    ("Uptime 99.98 %, 14 incidents, 0 lost", "infographic"),
    ("Gateway -> Bus -> {Worker, Ledger}", "technical-diagram"),
    ("What the card did last week", "report-cover"),
    ("Onboarding: 12 agents in 3 days", "infographic"),
)
QUEUE = (
    ("HIGH", "L1.02", "Cover for the board: one quiet year of machines"),
    ("HIGH", "user", "A lighthouse that looks like a rack of servers, at dusk"),
    ("MEDIUM", "L2.05.03", "Architecture of the retrieval agents, clean and modern"),
    ("MEDIUM", "L2.07", "How a request travels from the bus to an image"),
    ("LOW", "L2.11", "Thumbnail for the weekly digest"),
    ("LOW", "L2.11", "Thumbnail for the monthly digest"),
)
BUSY = {"preview_method": "auto", "step_ms": 300.0, "load_ms": 1500.0}
ALERTS = {
    "engine_comfyui": "comfyui has been down for 6 min: connection refused",
    "budget_spent": "the budget of the day is spent: $5.00 of $5.00",
    "disk": "the disk of the assets folder has 1.2 GB left",
}


async def draw_gallery(one: Site) -> None:
    """Let a worker without a card draw what the history shows."""
    async with Machine() as machine, one.worker(machine, MMG_SKETCH="only", name="w0"):
        for prompt, style in GALLERY:
            options = {"style": style, "width": 768, "height": 768}
            await one.generate(prompt, requester="L2.05.03", options=options)

        await until(lambda: drawn(one, len(GALLERY)), "the gallery", 120)


async def drawn(one: Site, count: int) -> bool:
    """Tell whether so many images are done."""
    page = await one.ask("GET", "/history?status=completed&limit=1")
    return bool(page["total"] >= count)


async def photograph(window: Window, name: str) -> None:
    """Write one picture, once the thumbnails that can be seen have come."""
    loaded = "[...document.images].every((one) => one.complete || !one.checkVisibility())"
    await window.holds(loaded)
    await asyncio.to_thread(FOLDER.mkdir, parents=True, exist_ok=True)
    await window.page.screenshot(path=FOLDER / f"{name}.png")
    print(FOLDER / f"{name}.png")  # noqa: T201 - a script prints


async def empty(one: Site) -> None:
    async with Machine() as machine, one.worker(machine), dashboard(one, viewport=FIRST) as window:
        await window.sees("1 worker ready; nothing waits.", "#verdict")
        await window.sees("free", "#cards")
        await photograph(window, "empty")


async def busy(one: Site) -> None:
    settings: dict[str, Any] = {"llm": "llama3:8b", "desktop_mib": 1536, "comfyui": BUSY}
    async with (
        Machine(clouds=("stability",), **settings) as machine,
        one.worker(machine),
        dashboard(one, viewport=SIZE) as window,
    ):
        await window.sees("llama3:8b", "#cards .legend")
        for priority, requester, prompt in QUEUE:
            options = {"quality": "high", "previews": True}
            await one.generate(prompt, priority=priority, requester=requester, options=options)
        # The first ones are done, the next is under way: then the strip has something to tell.
        await until(lambda: drawn(one, len(GALLERY) + 2), "two images", 150)
        await window.holds("document.querySelector('#running progress')?.value > 30")
        await photograph(window, "busy")


async def trouble(one: Site) -> None:
    settings = {"viewport": FIRST, "color_scheme": "dark"}
    async with Machine(llm="llama3:8b", comfyui=BUSY) as machine, AsyncExitStack() as stack:
        await stack.enter_async_context(one.worker(machine))
        for name, message in ALERTS.items():
            await one.alert(name, message)
        for priority, requester, prompt in QUEUE[2:]:
            await one.generate(prompt, priority=priority, requester=requester)
        await one.generate("What went wrong, in one picture", priority="CRITICAL")
        window = await stack.enter_async_context(dashboard(one, **settings))
        await one.ask("POST", "/pause", {"reason": "the driver is being replaced"})
        await window.sees("All classes are paused", "#verdict")
        await window.sees("The disk of the assets folder", "#verdict")
        await photograph(window, "trouble")


async def main() -> None:
    """Take all three."""
    with tempfile.TemporaryDirectory(prefix="screenshots-") as folder:
        async with site(Path(folder) / "empty") as one:
            await empty(one)
        async with site(Path(folder) / "full") as one:
            await draw_gallery(one)
            await busy(one)
            await trouble(one)


if __name__ == "__main__":
    asyncio.run(main())
