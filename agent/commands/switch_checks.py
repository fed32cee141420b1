"""Checks of what a person left switched, and of what waits for a person.

They only ask; each warning names the command that ends it.
"""

from agent.bus import control, dead, overview
from agent.bus.connection import Bus, BusError
from agent.commands.findings import Finding
from agent.commands.wording import instant, plain, until
from contracts import subjects

WHAT = "switches"


async def examine(bus: Bus, *, as_designed: bool) -> list[Finding]:
    """Look at intake, lanes and dead letters.

    Nothing is said of what cannot be read on a bus that is not `as_designed`: that comes first.
    """
    try:
        return [await _intake(bus), await _lanes(bus), await _dead(bus)]
    except BusError as error:
        if not as_designed:
            return []
        return [Finding.warn(WHAT, f"cannot be read: {error}", "give this user the right to ask")]


async def _intake(bus: Bus) -> Finding:
    intake = await control.read_intake(bus)
    if intake is None or intake.open:
        return Finding.ok("intake", "open")
    seen = f"closed by {plain(intake.by)}: {plain(intake.reason)}, since {instant(intake.at)}"
    return Finding.warn("intake", seen, "`mmg intake on` opens it")


async def _lanes(bus: Bus) -> Finding:
    now = await overview.server_now(bus)
    paused = [lane for lane in await overview.read_lanes(bus) if lane.paused_until is not None]
    if not paused:
        return Finding.ok("lanes", "handed out")
    names = ", ".join(lane.priority for lane in paused)
    which = "all" if len(paused) == len(subjects.LANES) else names
    note = await control.read_lanes_note(bus)
    by = "" if note is None or not note.paused else f" by {plain(note.by)}: {plain(note.reason)},"
    seen = f"{which} paused{by} {until(paused[0].paused_until, now)}"
    return Finding.warn("lanes", seen, "`mmg resume` hands them out again")


async def _dead(bus: Bus) -> Finding:
    found = await dead.read_letters(bus, limit=1)
    if not found.total:
        return Finding.ok("dead letters", "none")
    newest = found.letters[0]
    seen = (
        f"{found.total}, the newest at {instant(newest.link.at)}: {newest.who.request_id}"
        f" ({newest.link.error.code})"
    )
    way_out = "`mmg dead list` shows them; `mmg dead show ID` says what happened and what to do"
    return Finding.warn("dead letters", seen, way_out)
