"""Goal: a person gets an image from the dashboard: asks, watches, has it, cancels, sends again.

Method: the page in a real Chromium, on a real gateway and a real worker on the fake machine.
"""

from tests.browser.rig import dashboard, site
from tests.doubles.machine import Machine

SLOW = {"preview_method": "auto", "step_ms": 60.0}
PROMPT = "<b>Cover</b> of the night shift & <script>document.title = 'taken'</script>"


async def test_a_person_asks_watches_has_the_image_and_reads_how_it_was_decided(tmp_path):
    async with (
        site(tmp_path) as one,
        Machine(llm="llama3:8b", comfyui=SLOW) as machine,
        one.worker(machine),
        dashboard(one) as window,
    ):
        page = window.page
        await window.sees("1 worker ready; nothing waits.", "#verdict")
        await page.get_by_label("Prompt").fill(PROMPT)
        await page.get_by_role("button", name="Make it").click()
        await page.locator("#running progress").first.wait_for()
        await window.holds("document.querySelector('#running progress').value > 10")
        await page.locator("#mine img[src^='blob:'], #mine a img").first.wait_for()
        await page.locator("#mine a img").wait_for(timeout=30_000)
        shown = "document.querySelector('#mine a img').naturalWidth > 100"
        await window.holds(shown)
        assert "1 picture by sdxl-1.0" in await window.text("#mine")
        await page.locator("#history [data-status=completed] .tile").first.click()
        await window.sees("completed", "#dialog .chain")
        detail = await window.text("#dialog")
        assert PROMPT in detail
        assert "Decision" in detail
        assert "started" in detail
        await page.get_by_label("5", exact=True).check()
        await window.sees("Done: rated", "#dialog")
        await page.get_by_role("button", name="Pin", exact=True).click()
        await window.sees("Done: pinned", "#dialog")
        await page.keyboard.press("Escape")
        await window.sees("llama3:8b", "#cards .legend")
        assert await page.title() != "taken"


async def test_a_person_cancels_what_runs_and_sends_it_again(tmp_path):
    slow = {"step_ms": 400.0}
    async with (
        site(tmp_path) as one,
        Machine(comfyui=slow) as machine,
        one.worker(machine),
        dashboard(one) as window,
    ):
        page = window.page
        await one.generate("to be stopped", priority="HIGH", requester="L2.05.03")
        await window.sees("to be stopped", "#running")
        await page.locator("#running").get_by_role("button", name="Cancel").click()
        await window.sees("“to be stopped” of L2.05.03", "#dialog")
        await page.get_by_role("button", name="Cancel it").click()
        await window.sees("Nothing is being drawn.")
        await window.sees("cancelled", "#history")
        machine.comfyui.settings.step_ms = 0.0
        await page.locator("#history .tile").first.click()
        await page.get_by_role("button", name="Send again").click()
        await window.sees("Sent again as mmg-", "#dialog")
        await page.keyboard.press("Escape")
        await window.sees("sdxl-1.0", "#history")
