"""Goal: whoever is called at night sees on the first screen what is wrong and what to type.

Method: trouble is staged on a real site, the page is read as a person does.
"""

import random

from contracts import subjects
from contracts.events import Cancelled, Failed
from contracts.requests import Priority
from contracts.subjects import Identity
from tests.browser.rig import PHONE, WIDE, Site, Window, dashboard, site
from tests.ledger_rig import Chain, publish

RAISED = {
    "card_lost": "the card does not answer: driver gone",
    "engine_comfyui": "comfyui has been down for 6 min: connection refused",
    "budget_day": "the budget of the day is spent: $5.00 of $5.00",
    "disk": "the disk of the assets folder has 1.2 GB left",
}
STAGED = {
    "no_worker": ("No worker answers", "mmg worker"),
    "card_lost": ("The card does not answer: driver gone.", "mmg gpu"),
    "engine_comfyui": ("comfyui has been down for 6 min", "mmg doctor"),
    "budget_day": ("The budget of the day is spent", "mmg doctor"),
    "disk": ("The disk of the assets folder has 1.2 GB left.", "mmg prune"),
    "intake_closed": ("New requests are refused: the intake was closed by", "mmg intake on"),
    "dead_letters": ("1 request given up, and nobody has looked yet.", "mmg dead list"),
    "late": ("1 CRITICAL request past the bound of the class", "mmg queue"),
}


async def given_up(one: Site) -> None:
    """Leave a dead letter, as a worker does that has spent its tries."""
    for seed in range(99):
        chain = Chain(Identity("L2-01", "gone"), random.Random(seed))
        link = chain.ended_badly()
        if isinstance(link, Failed):
            await publish(one.bus, [chain.message(link)])
            return


async def test_eight_incidents_are_each_named_on_the_first_screen_with_their_command(tmp_path):
    async with site(tmp_path) as one:
        await one.generate("too late", priority="CRITICAL")
        await given_up(one)
        for name, message in RAISED.items():
            await one.alert(name, message)
        await one.ask("POST", "/intake", {"open": False, "reason": "we move"})
        async with dashboard(one) as window:
            await staged_is_seen(one, window)


async def staged_is_seen(one: Site, window: Window) -> None:
    """Check the first screen, and that it forgets what is over."""
    for name, (sentence, command) in STAGED.items():
        await window.sees(sentence, "#verdict")
        item = window.page.locator("#verdict li, #verdict .headline").filter(has_text=sentence)
        assert command in await item.inner_text(), name
        link = item.get_by_role("link", name="Runbook")
        assert (await link.get_attribute("href")) == f"runbook#{name}"
        box = await item.bounding_box()
        assert box is not None
        assert box["y"] + box["height"] <= WIDE["height"], name
    assert await window.text("#verdict .level") == "Stopped"
    await window.sees("since", "#verdict .headline .since")
    for name in RAISED:
        await one.alert(name, "over", "cleared")
    await window.holds("!document.querySelector('#verdict').textContent.includes('driver gone')")


async def test_a_gateway_that_restarts_is_missed_aloud_and_found_again(tmp_path):
    async with site(tmp_path, apart=True) as one, dashboard(one) as window:
        window.expected = ("ERR_CONNECTION_REFUSED", "WebSocket connection", "ERR_EMPTY_RESPONSE")
        window.expected += ("ERR_CONNECTION_RESET", "ERR_SOCKET_NOT_CONNECTED")
        await window.sees("Live", ".top")
        await one.stop_gateway()
        await window.sees("No connection to the gateway since", "#lost")
        await one.start_gateway(apart=True)
        await window.sees("Live", ".top")
        assert await window.page.locator("#lost").is_hidden()
        await one.generate("after the restart", priority="LOW")
        await window.sees("after the restart", "#waiting")


async def test_a_bus_that_is_away_is_what_the_page_says(tmp_path):
    async with site(tmp_path) as one, dashboard(one) as window:
        window.expected = ("503",)
        await window.sees("No worker answers", "#verdict")
        await one.server.stop()
        await window.sees("The message bus does not answer", "#verdict")


async def test_a_person_pauses_clears_what_waits_after_seeing_how_much_and_resumes(tmp_path):
    async with site(tmp_path) as one, dashboard(one) as window:
        page = window.page
        await page.get_by_role("button", name="Pause", exact=True).click()
        await page.get_by_label("Why, for the others").fill("new driver")
        await page.get_by_role("button", name="Pause", exact=True).last.click()
        await window.sees("All classes are paused by", "#verdict")
        await window.sees("new driver", "#verdict")
        for place in range(3):
            await one.generate(f"low {place}", priority="LOW", requester="L2.01")
        await one.generate("kept", priority="HIGH")
        await window.sees("kept", "#waiting")
        await page.get_by_role("button", name="Clear some").click()
        await page.locator("#dialog select").select_option("LOW")
        await page.get_by_role("button", name="Count them").click()
        await window.sees("This cancels 3 waiting requests (L2.01 3).", "#dialog")
        await page.get_by_role("button", name="Cancel 3").click()
        await window.holds("document.querySelectorAll('#waiting > li').length === 1")
        await page.get_by_role("button", name="Resume", exact=True).click()
        await page.get_by_role("button", name="Resume", exact=True).last.click()
        await window.sees("Requests are handed out to workers.", "#switches")
        await window.holds("!document.querySelector('#verdict').textContent.includes('paused')")


async def test_ten_thousand_rows_and_a_long_queue_keep_the_page_quick(tmp_path):
    async with site(tmp_path) as one:
        await seed(one, 10_000, 500)
        async with dashboard(one, viewport=PHONE) as window:
            page = window.page
            await window.sees("10,000 requests", "#history-count")
            await window.sees("and 450 more requests behind these", "#waiting-none")
            for more in (96, 144):
                await page.get_by_role("button", name="Show more").click()
                await window.holds(f"document.querySelectorAll('.tile').length === {more}")
            shown = "[...document.querySelectorAll('#history > li')].map((one) => one.dataset.key)"
            keys = await page.evaluate(shown)
            assert len(set(keys)) == len(keys) == 144
            await page.get_by_label("State").select_option("cancelled")
            await window.holds("document.querySelectorAll('.tile').length === 48")
            slow = "new Promise((ok) => { const at = performance.now();"
            slow += " requestAnimationFrame(() => setTimeout(() => ok(performance.now() - at))) })"
            assert await page.evaluate(slow) < 200


async def seed(one: Site, ended: int, waiting: int) -> None:
    """Store so many chains that ended, and so many requests that wait."""
    body = b'{"type":"image","prompt":"one of many"}'
    for n in range(waiting):
        await one.bus.publish(subjects.request(Priority.LOW, Identity("L2-02", f"w{n}")), body)
    draw = random.Random(1)
    chains = [Chain(Identity("L2-01", f"r{n}"), draw, seq=n) for n in range(ended)]
    links = [(chain, Cancelled(by="user", **chain._fields())) for chain in chains]
    await publish(one.bus, [chain.message(link) for chain, link in links])
