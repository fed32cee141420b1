"""`mmg generate`: one request sent, followed to its end, and its pictures on this disk.

The client does the asking; how it looks is the screen's work.
"""

import argparse
import asyncio
import sys
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec

from agent.bus.submit import new_request_id
from agent.client import Client, GenerationFailed, check_same
from agent.commands import exits, pictures, screen, session
from agent.commands.faults import complain
from agent.config import Http
from contracts import codec
from contracts.events import Cancelled, Completed, Expired, Failed
from contracts.requests import Request

NOBODY_AFTER_S: Final = 4.0
NOBODY: Final = "waiting: no worker has taken it yet; is `mmg worker` or `mmg up` running?"


def run(arguments: argparse.Namespace) -> int:
    """Ask for the pictures that the arguments describe."""
    request = request_from(arguments)
    config = session.read_config()
    pursuit = Pursuit(request, config.http, arguments.timeout)

    async def work(view: screen.Screen) -> int:
        async with session.connected(config, arguments.requester) as client:
            if arguments.no_wait:
                return await _leave_it(client, request, as_json=arguments.json)
            return await pursuit.carry(client, view)

    return pursuit.perform(work, as_json=arguments.json)


def request_from(arguments: argparse.Namespace) -> Request:
    """Build the request, with its id. Raises: ContractError."""
    prompt = sys.stdin.read() if arguments.prompt == "-" else arguments.prompt
    options: dict[str, object] = {
        "style": arguments.style,
        "aspect_ratio": arguments.aspect,
        "quality": arguments.quality,
        "seed": arguments.seed,
        "count": getattr(arguments, "count", None),
        "negative_prompt": getattr(arguments, "negative", None),
        "model": getattr(arguments, "model", None),
    }
    if (size := getattr(arguments, "size", None)) is not None:
        options["width"], options["height"] = size
    body: dict[str, object] = {
        "type": "image",
        "prompt": prompt,
        "options": {name: value for name, value in options.items() if value is not None},
        "request_id": getattr(arguments, "id", None) or new_request_id(),
        "requester": arguments.requester,
        "priority": getattr(arguments, "priority", None),
        "deadline_s": getattr(arguments, "deadline", None),
    }
    return codec.decode_request(msgspec.json.encode(body))


async def _leave_it(client: Client, request: Request, *, as_json: bool) -> int:
    ticket = await client.submit(request)
    if as_json:
        screen.choose(as_json=True).accepted(ticket)
    else:
        print(ticket.request_id)
    return exits.OK


class Pursuit:
    """One request of the command line, from the first byte to the exit code."""

    def __init__(self, request: Request, http: Http, timeout_s: float | None = None) -> None:
        """Remember what to ask for; `timeout_s` None waits for ever."""
        self._http = http
        assert request.request_id is not None, "it has its id"
        self._request = request
        self._id = request.request_id
        self._timeout_s = timeout_s
        self._stored = False

    def perform(
        self, work: Callable[[screen.Screen], Awaitable[int]], *, as_json: bool = False
    ) -> int:
        """Run `work` with a screen; say what goes on when the person or the time leaves."""

        async def on_screen() -> int:
            with screen.choose(as_json=as_json) as view:
                return await work(view)

        try:
            return asyncio.run(on_screen())
        except KeyboardInterrupt:
            if not self._stored:
                raise
            complain("interrupted; the request goes on", self.how_to_watch)
            return exits.INTERRUPTED

    @property
    def how_to_watch(self) -> str:
        """The command that follows this request later."""
        requester = self._request.requester
        whose = "" if requester in (None, "user") else f" --requester {requester}"
        return f"Follow it with: mmg watch {self._id}{whose}"

    async def carry(self, client: Client, view: screen.Screen) -> int:
        """Send, follow, fetch; return the exit code. Raises: BusError, ContractError."""
        try:
            async with asyncio.timeout(self._timeout_s):
                done = await self._ask(client, view)
        except TimeoutError:
            view.note(f"not done within {self._timeout_s:g} s; the request goes on")
            view.note(self.how_to_watch)
            return exits.TIMEOUT
        except GenerationFailed as error:
            _explain_failure(error, view)
            return exits.FAILED
        return await deliver(done, view, self._http)

    async def _ask(self, client: Client, view: screen.Screen) -> Completed:
        """Follow the request to its end. Raises: GenerationFailed, ContractError, BusError."""
        async with client.follow(self._id) as events:
            ticket = await client.submit(self._request)
            self._stored = True
            view.accepted(ticket)
            bell = asyncio.get_running_loop().call_later(NOBODY_AFTER_S, view.note, NOBODY)
            try:
                async for event in events:
                    bell.cancel()
                    check_same(self._request, event)
                    view.show(event)
                    if isinstance(event, Completed):
                        return event
                    if isinstance(event, Failed | Expired | Cancelled):
                        raise GenerationFailed.by(event)
            finally:
                bell.cancel()
        raise GenerationFailed.unreadable()


async def deliver(done: Completed, view: screen.Screen, http: Http) -> int:
    """Make sure that the pictures are on this disk and say where."""
    try:
        paths = await pictures.on_this_disk(done, view.note, http)
    except pictures.NotHereError as error:
        view.note(str(error))
        return exits.FAILED
    view.result([str(path) for path in paths])
    return exits.OK


def _explain_failure(error: GenerationFailed, view: screen.Screen) -> None:
    retry = " It may work later." if error.error.retryable else ""
    view.note(f"no picture: {error.error.message} ({error.error.code}).{retry}")
