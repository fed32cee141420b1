"""What a person or a machine sees of one request: a bar, plain lines, or JSON.

Progress goes to stderr, results to stdout, so that `path=$(mmg generate ...)` works. It shows
events; it must not ask for them.
"""

import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Final, Protocol, Self, TextIO

import msgspec
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from agent.client import Event, Ticket
from contracts import codec
from contracts.events import (
    Cancelled,
    Completed,
    Expired,
    Failed,
    Preempted,
    Released,
    Retrying,
    Started,
    kind_of,
)
from contracts.events import Progress as Step

PERCENT_PER_LINE: Final = 10
"""Plain lines show progress when it has grown by this much."""


class Screen(AbstractContextManager["Screen"], Protocol):
    """Shows one request; a context, so that a terminal is always left in order."""

    def accepted(self, ticket: Ticket) -> None:
        """Show that the request is stored."""
        ...

    def show(self, event: Event) -> None:
        """Show one event."""
        ...

    def note(self, text: str) -> None:
        """Tell a person something that is no event."""
        ...

    def result(self, paths: Sequence[str]) -> None:
        """Show where the pictures are, last."""
        ...


def choose(*, as_json: bool, terminal: bool | None = None) -> Screen:
    """Return the screen for these streams: JSON if asked for, a bar on a terminal, else lines."""
    if as_json:
        return JsonLines(sys.stdout, sys.stderr)
    on_terminal = sys.stderr.isatty() if terminal is None else terminal
    return Bar(sys.stdout) if on_terminal else Lines(sys.stdout, sys.stderr)


class JsonLines(Screen):
    """One JSON object per event on stdout; `queued` comes first, as the gateway says it."""

    def __init__(self, out: TextIO, err: TextIO) -> None:
        """Write events to `out`, words to `err`."""
        self._out = out
        self._err = err

    def __exit__(self, *exc: object) -> None:
        """Leave nothing behind."""

    def accepted(self, ticket: Ticket) -> None:
        """Print a `queued` event with n 0, which is no link."""
        queued = {
            "kind": "queued",
            "n": 0,
            "request_id": ticket.request_id,
            "requester": ticket.requester,
            "status": "queued",
            "joined": ticket.joined,
        }
        print(msgspec.json.encode(queued).decode(), file=self._out, flush=True)

    def show(self, event: Event) -> None:
        """Print the event as it is on the wire."""
        print(codec.encode(event).decode(), file=self._out, flush=True)

    def note(self, text: str) -> None:
        """Print to stderr."""
        print(f"mmg: {text}", file=self._err, flush=True)

    def result(self, paths: Sequence[str]) -> None:
        """Print nothing: the terminal event has the paths."""


class Lines(Screen):
    """One plain line per event on stderr; the paths on stdout."""

    def __init__(self, out: TextIO, err: TextIO) -> None:
        """Write results to `out`, everything else to `err`."""
        self._out = out
        self._err = err
        self._percent = 0

    def __exit__(self, *exc: object) -> None:
        """Leave nothing behind."""

    def accepted(self, ticket: Ticket) -> None:
        """Print the id."""
        self._line("queued", _accepted_text(ticket))

    def show(self, event: Event) -> None:
        """Print a link; progress only when there is news worth a line."""
        if isinstance(event, Step):
            if event.progress_percent < self._percent + PERCENT_PER_LINE:
                return
            self._percent = event.progress_percent
            self._line("progress", f"{event.progress_percent:3d} %  {event.message}")
            return
        self._percent = event.progress_percent
        self._line(kind_of(event), describe(event))

    def note(self, text: str) -> None:
        """Print to stderr."""
        print(f"mmg: {text}", file=self._err, flush=True)

    def result(self, paths: Sequence[str]) -> None:
        """Print one path per line."""
        for path in paths:
            print(path, file=self._out, flush=True)

    def _line(self, kind: str, text: str) -> None:
        print(f"{kind:<10} {text}", file=self._err, flush=True)


class Bar(Screen):
    """A live bar on stderr; links stay above it as lines; the paths go to stdout."""

    def __init__(self, out: TextIO, console: Console | None = None) -> None:
        """Draw nothing yet."""
        self._out = out
        self._progress = Progress(
            SpinnerColumn(finished_text=" "),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=28),
            TextColumn("{task.percentage:>3.0f} %", markup=False),
            TimeElapsedColumn(),
            console=console or Console(stderr=True, highlight=False),
            redirect_stdout=False,
        )
        self._task = self._progress.add_task("connecting", total=100)

    def __enter__(self) -> Self:
        """Begin to draw; log lines on stderr appear above the bar."""
        self._progress.start()
        return self

    def __exit__(self, *exc: object) -> None:
        """Leave the last state of the bar on the terminal."""
        self._progress.stop()

    def accepted(self, ticket: Ticket) -> None:
        """Show the id."""
        self._progress.update(self._task, description="waiting")
        self._above("queued", _accepted_text(ticket))

    def show(self, event: Event) -> None:
        """Move the bar; keep a line of each link."""
        percent = event.progress_percent
        if isinstance(event, Step):
            self._progress.update(self._task, description=_short(event.message), completed=percent)
            return
        self._progress.update(self._task, description=kind_of(event), completed=percent)
        self._above(kind_of(event), describe(event))

    def note(self, text: str) -> None:
        """Show a line above the bar."""
        self._above("", text)

    def result(self, paths: Sequence[str]) -> None:
        """Stop drawing and print one path per line."""
        self._progress.stop()
        for path in paths:
            print(path, file=self._out, flush=True)

    def _above(self, kind: str, text: str) -> None:
        self._progress.console.print(f"{kind:<10} {text}", markup=False, soft_wrap=True)


def describe(event: Event) -> str:
    """Say in a line what an event means to a person."""
    match event:
        case Started():
            engine = (
                event.engine if event.model == event.engine else f"{event.engine}/{event.model}"
            )
            again = f", attempt {event.attempt}" if event.attempt > 1 else ""
            return f"{engine} on {event.worker}{again} ({event.reason})"
        case Retrying():
            return f"in {event.delay_s:.0f} s, because {event.error.message} ({event.error.code})"
        case Preempted() | Released():
            return f"queued again by {event.by}: {event.reason}"
        case Completed():
            return _completed_text(event)
        case Failed() | Expired():
            return f"{event.error.code}: {event.error.message}"
        case Cancelled():
            return f"by {event.by}"
        case Step():
            return event.message


def _completed_text(event: Completed) -> str:
    size = f"{event.output.width}x{event.output.height}" if event.output else "no picture"
    many = f" ({len(event.outputs)} pictures)" if len(event.outputs) > 1 else ""
    cost = f", {event.cost_usd:.2f} USD" if event.cost_usd else ""
    return (
        f"{size}{many} by {event.engine} in {event.generation_time_seconds:.1f} s"
        f", seed {event.seed}{cost}"
    )


def _accepted_text(ticket: Ticket) -> str:
    known = " (known already: following it)" if ticket.joined else ""
    return f"{ticket.request_id}{known}"


def _short(text: str) -> str:
    """Return at most 40 columns: the bar needs the rest of the line."""
    return text if len(text) <= 40 else f"{text[:39]}…"  # noqa: PLR2004 - said above
