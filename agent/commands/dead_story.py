"""What happened to a request that was given up, told for somebody who was asleep until now.

It only words what the chain says; it must not ask anybody.
"""

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta

from agent.bus.dead import Letter
from agent.commands import error_page, screen
from agent.commands.wording import age, cut, instant, plain, since, whose
from contracts.errors import ErrorCode
from contracts.events import Failed, Link, Started, kind_of
from contracts.requests import Request

PROMPT_WIDTH = 200


def tell(letter: Letter, links: Sequence[Link], now: datetime) -> Iterator[str]:
    """Yield lines: who wanted what, what was tried when and where, why it ended, what to do."""
    yield f"dead letter {letter.who.request_id} of {letter.who.requester}"
    yield ""
    yield from _wanted(letter, links, now)
    yield ""
    yield from _happened(links)
    yield ""
    yield from _faults(letter)
    yield from _advice(letter)
    yield ""
    yield from _choices(letter)


def _wanted(letter: Letter, links: Sequence[Link], now: datetime) -> Iterator[str]:
    request = letter.link.request
    if isinstance(request, Request):
        yield f"prompt    {cut(request.prompt, PROMPT_WIDTH)}"
        yield f"priority  {request.priority}"
        if request.replay_of is not None:
            yield f"replay of {request.replay_of}"
    asked = _asked_at(links)
    if asked is not None:
        yield f"asked     {since(asked, now)}"
    tries = "1 attempt" if letter.link.attempt == 1 else f"{letter.link.attempt} attempts"
    lasted = "" if asked is None else f", {_spent(letter.link.at - asked)} after it was asked"
    yield f"given up  {since(letter.link.at, now)}; {tries}{lasted}"
    yield f"because   {letter.link.error.code}: {plain(letter.link.error.message)}"


def _happened(links: Sequence[Link]) -> Iterator[str]:
    """Tell each link with the time since the request was stored."""
    asked = _asked_at(links)
    first = links[0].at if links and asked is None else asked
    yield "what happened (UTC)"
    if asked is not None:
        yield f"  {asked:%H:%M:%S}  {'asked':<10}stored in its lane"
    running: Started | None = None
    for link in links:
        assert first is not None, "there is a link"
        if running is not None and _was_lost(link):
            yield f"  {'':<8}  {'lost':<10}{running.worker} was not heard of again"
        running = link if isinstance(link, Started) else None
        text = plain(screen.describe(link))
        yield f"  {link.at:%H:%M:%S}  {kind_of(link):<10}{text}  [+{_spent(link.at - first)}]"


def _was_lost(following: Link) -> bool:
    """Tell whether the attempt before this link ended without a word of its worker."""
    if isinstance(following, Failed):
        return following.error.code is ErrorCode.WORKER_LOST
    return isinstance(following, Started)


def _faults(letter: Letter) -> Iterator[str]:
    """List the tries; a lost worker has no link of its own."""
    if not letter.link.faults:
        return
    yield "what went wrong in each attempt"
    for fault in letter.link.faults:
        engine = "" if fault.engine is None else f" on {fault.engine}"
        detail = "" if fault.error.detail is None else f" (at {plain(fault.error.detail)})"
        yield (
            f"  {fault.attempt}{engine}: {fault.error.code}: {plain(fault.error.message)}{detail}"
        )
    yield ""


def _advice(letter: Letter) -> Iterator[str]:
    code = letter.link.error.code
    found = error_page.explain(code)
    if found is None:
        yield f"{code}: see {error_page.PAGE}"
        return
    yield f"{code}: {found.meaning}"
    yield f"  usual cause  {found.cause}"
    yield f"  what to do   {found.todo}"


def _choices(letter: Letter) -> Iterator[str]:
    """Name the commands, or who has decided already."""
    done = letter.dismissed
    if done is not None:
        yield f"off the list: {plain(done.reason)} by {plain(done.by)} at {instant(done.at)}"
    if letter.replayed:
        return
    named = f"{letter.who.request_id}{whose(letter.who.requester)}"
    yield f"send it again:  mmg dead replay {named}"
    if done is None:
        yield f"forget it:      mmg dead drop {named}"


def _asked_at(links: Sequence[Link]) -> datetime | None:
    if not links or not isinstance(links[0].requested_at, datetime):
        return None
    return links[0].requested_at


def _spent(span: timedelta) -> str:
    seconds = max(0.0, span.total_seconds())
    return f"{seconds:.1f} s" if seconds < 60 else age(seconds)  # noqa: PLR2004 - a minute
