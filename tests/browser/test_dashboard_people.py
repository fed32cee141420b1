"""Goal: the dashboard serves everybody: keyboard, screen reader, phone, darkness, hidden tab, keys.

Method: a real Chromium with each of these set; what a screen reader would be told is asked of it.
"""

from agent.clock import SystemClock
from agent.gateway import keys
from agent.gateway.keys import Role
from contracts.requests import Priority
from tests.browser.rig import PHONE, dashboard, site
from tests.rig import ROOT

HIDE = """() => {
  Object.defineProperty(document, "hidden", { value: %s, configurable: true });
  document.dispatchEvent(new Event("visibilitychange"));
}"""
NAMELESS = """() => [...document.querySelectorAll("button, a, input, select, textarea, svg")]
  .filter((one) => one.checkVisibility())
  .filter((one) => !(one.labels?.length || one.ariaLabel || one.textContent.trim()))
  .map((one) => one.outerHTML)"""
FAINT = """() => {
  const light = (color) => {
    const [r, g, b] = color.match(/[\\d.]+/g).map((one) => {
      const part = Number(one) / 255;
      return part <= 0.03928 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (one) => {
    for (let at = one; at; at = at.parentElement) {
      const found = getComputedStyle(at).backgroundColor;
      if (!/, 0\\)$/.test(found)) return found;
    }
    return "rgb(255, 255, 255)";
  };
  const faint = [];
  for (const one of document.querySelectorAll("body *")) {
    const own = [...one.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    if (!own || !one.checkVisibility() || one.closest(".unseen, svg, :disabled")) continue;
    const [a, b] = [light(getComputedStyle(one).color), light(behind(one))].sort((x, y) => y - x);
    if ((a + 0.05) / (b + 0.05) < 4.5) faint.push(one.outerHTML.slice(0, 120));
  }
  return faint;
}"""
LONG = "word " * 30 + "unbroken" * 40


async def test_keyboard_and_screen_reader_reach_everything(tmp_path):
    async with site(tmp_path) as one, dashboard(one) as window:
        page = window.page
        await window.sees("No worker answers", "#verdict")
        for landmark in ("main", "complementary", "banner", "navigation"):
            assert await page.get_by_role(landmark).count() == 1, landmark
        assert await page.locator("h1").count() == 1
        assert await page.evaluate(NAMELESS) == []
        await page.evaluate("document.body.append(document.createElement('button'))")
        assert len(await page.evaluate(NAMELESS)) == 1
        assert "No worker answers" in await page.locator("#say[aria-live=polite]").inner_text()
        await page.keyboard.press("Tab")
        assert await page.evaluate("document.activeElement.className") == "skip"
        await page.keyboard.press("Enter")
        await window.holds("document.activeElement.id === 'running-title'")
        await page.get_by_role("button", name="Close intake").focus()
        await page.keyboard.press("Enter")
        await window.sees("New requests will be refused with intake_closed.", "#dialog")
        await window.holds("document.activeElement.name === 'reason'")
        await page.keyboard.press("Escape")
        await window.holds("document.activeElement.textContent === 'Close intake'")


async def test_a_phone_in_the_light_and_in_the_dark_shows_everything_legibly(tmp_path):
    async with site(tmp_path) as one:
        await one.generate(LONG, priority="LOW", requester="L2.05.03")
        grounds = []
        for scheme in ("light", "dark"):
            async with dashboard(one, viewport=PHONE, color_scheme=scheme) as window:
                await window.sees("unbroken", "#waiting")
                assert await window.page.evaluate("document.body.scrollWidth") <= PHONE["width"]
                assert await window.page.evaluate(FAINT) == []
                await window.page.evaluate("document.querySelector('h1').style.color = '#777'")
                assert len(await window.page.evaluate(FAINT)) == 1
                grounds.append(
                    await window.page.evaluate("getComputedStyle(document.body).backgroundColor")
                )
        assert grounds[0] != grounds[1]


async def test_a_hidden_tab_asks_nothing_and_wakes_up_when_it_is_looked_at(tmp_path):
    async with site(tmp_path) as one, dashboard(one) as window:
        await window.sees("Live", ".top")
        await window.page.evaluate(HIDE % "true")
        await window.holds("document.querySelector('#link').dataset.state !== 'live'")
        before = len(window.asked)
        # Two rounds of the busiest question would have come and gone.
        await window.page.evaluate("new Promise((ok) => setTimeout(ok, 4500))")
        assert window.asked[before:] == []
        await one.generate("asked meanwhile", priority="LOW")
        await window.page.evaluate(HIDE % "false")
        await window.sees("Live", ".top")
        await window.sees("asked meanwhile", "#waiting")


async def test_a_gateway_with_keys_asks_for_one_and_shows_a_requester_its_own(tmp_path):
    path = tmp_path / "keys.json"
    made = {
        agent: keys.add(path, agent, role, Priority.HIGH, "", SystemClock()).token
        for agent, role in (("ann", Role.OPERATOR), ("L2.01", Role.REQUESTER))
    }
    async with site(tmp_path, MMG_KEYS_FILE=str(path)) as one:
        async with dashboard(one) as window:
            window.expected = ("401", "403", "WebSocket")
            await window.sees("This gateway wants a key.", "#dialog")
            await window.page.get_by_label("Key").fill("mmg_wrong")
            await window.page.get_by_role("button", name="Use it").click()
            await window.holds("document.querySelector('#dialog .fault').textContent.length > 5")
            await window.page.get_by_label("Key").fill(made["ann"])
            await window.page.get_by_role("button", name="Use it").click()
            await window.sees("No worker answers", "#verdict")
            await window.sees("Live", ".top")
        async with dashboard(one) as window:
            window.expected = ("401", "403", "WebSocket")
            await window.page.get_by_label("Key").fill(made["L2.01"])
            await window.page.get_by_role("button", name="Use it").click()
            await window.sees("This key sees its own requests.", "#verdict")
            await window.page.get_by_label("Prompt").fill("my own")
            await window.page.get_by_role("button", name="Make it").click()
            await window.sees("my own", "#mine")
            assert await window.page.locator("#switches").is_hidden()


def test_the_page_asks_nothing_of_any_network():
    folder = ROOT / "agent" / "gateway" / "dashboard"
    for path in folder.iterdir():
        text = path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert "http:" not in text.replace('"http:', "").replace("https:", ""), path.name
        assert "://" not in text.replace("${scheme}//", "").replace("https://", ""), path.name
        for word in ("innerHTML", "outerHTML", "insertAdjacent", "document.write", "eval("):
            assert word not in text, f"{path.name}: {word}"
