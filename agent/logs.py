"""How mmg logs: structlog in front, the standard library behind it, one line for each event.

Lines go to stderr, always: stdout carries the results of commands, so that `mmg generate --json`
can be piped while the log still shows. Nothing here decides what is worth a line. Prompts are
cut, secrets and the user part of addresses are hidden, in the lines of libraries as well.
"""

import json
import logging
import math
import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from io import TextIOWrapper
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Final, Literal
from uuid import UUID

import msgspec
import structlog
from structlog.stdlib import ProcessorFormatter
from structlog.typing import EventDict, Processor, WrappedLogger

LOGGER: Final = "mmg"
ALL_FILE: Final = "generation.log"
ERRORS_FILE: Final = "errors.log"
FILE_SIZE_MAX_BYTES: Final = 20 * 1024**2
FILES_MAX: Final = 10
"""Files kept of each log, the current one included."""
PROMPT_MAX: Final = 60
TEXT_MAX: Final = 16_384
DEPTH_MAX: Final = 6
KEYS_MAX: Final = 1024
"""Names of fields whose look is remembered."""
HIDDEN: Final = "[hidden]"

Format = Literal["json", "console"]

_PROMPTS: Final = ("prompt", "negative_prompt")
_SECRET: Final = re.compile(r"key|token|secret|password|authorization", re.IGNORECASE)
_USER: Final = re.compile(r"://[^/\s]*@")
_KEYS: Final = re.compile(
    r"\b(?:sk-[\w-]{16,}|whsec_[\w+/=-]{16,}|mmg_[A-Za-z0-9]{4,}_[\w-]{16,}|S[ACNOUXP][A-Z2-7]{56})"
    r"|(?i:(?<=bearer )[\w.~+/=-]{8,})"
)
"""Keys as the clouds, webhooks, our gateway and NATS spell them, wherever they stand in a text."""
SECRET_MIN: Final = 6
"""A shorter secret is no secret: hiding it everywhere would hide the log."""
_CONTROL: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_FIRST: Final = ("at", "level", "event", "role")
_json: Final = json.JSONEncoder(default=repr, separators=(",", ":"))
_LINE: Final = "line_of_mmg"
"""The attribute of a record that keeps the line written of it."""
_OWN: Final = ("_record", "_from_structlog")
"""Keys that the formatter puts in and takes out again."""

log = structlog.get_logger()
_installed: Final[list[logging.Handler]] = []
_known: Final[set[str]] = set()


class LogFile(RotatingFileHandler):
    """A log file that makes its folder when the first line comes, and never stops the program.

    Another process may rotate the same file: it is opened anew when it was moved away. A line that
    cannot be written is lost; the first one is told on stderr, and writing is tried again.
    `failing` is shared by the files of a folder, so that they complain once.
    """

    def __init__(self, path: Path, failing: set[str]) -> None:
        """Name the file; nothing is opened yet."""
        super().__init__(
            path,
            maxBytes=FILE_SIZE_MAX_BYTES,
            backupCount=FILES_MAX - 1,
            encoding="utf-8",
            delay=True,
        )
        self._failing = failing

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line, into the file that has the name now."""
        if self.stream is not None and self._moved_away(self.stream):
            self.stream.close()
            self.stream = None  # The base class opens it again.
        super().emit(record)

    def flush(self) -> None:
        """Flush, and note that this file works (again)."""
        super().flush()
        if self.stream is not None:
            self._failing.discard(self.baseFilename)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the base class's name
        """Say once that lines are lost."""
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
            return
        first = not self._failing
        self._failing.add(self.baseFilename)  # Before the warning: it comes here again.
        if first:
            log.warning(
                "logs.unwritable",
                file=self.baseFilename,
                reason=error.strerror or str(error),
                action="lines go to stderr only until it can be written",
            )

    def _open(self) -> TextIOWrapper:
        Path(self.baseFilename).parent.mkdir(parents=True, exist_ok=True)
        return super()._open()

    def _moved_away(self, stream: TextIOWrapper) -> bool:
        try:
            there = os.stat(self.baseFilename)  # noqa: PTH116 - for each line: a Path costs more
            return not os.path.samestat(there, os.fstat(stream.fileno()))
        except OSError:
            return True


class OnceFormatter(ProcessorFormatter):
    """Writes a line once for all the handlers that share this formatter."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record, kept with it from the first handler to the last."""
        line: str | None = getattr(record, _LINE, None)
        if line is None:
            line = super().format(record)
            setattr(record, _LINE, line)
        return line


def configure(format: Format, level: str, directory: Path | None, role: str) -> None:  # noqa: A002
    """Send all log lines of this process to stderr and, given a directory, to files there.

    `level` is debug, info, warning or error and holds for mmg; libraries are heard from warning
    up. `role` (worker, gateway, up ...) is part of every line. May be called again.
    """
    number = logging.getLevelNamesMapping()[level.upper()]
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="at"),
        structlog.processors.StackInfoRenderer(),
        structlog.processors.format_exc_info,
        _role(role),
        redact,
    ]
    structlog.configure(
        processors=[*shared, ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=lambda *_: logging.getLogger(LOGGER),
        cache_logger_on_first_use=False,  # so that a second configure reaches every module
    )
    foreign = [structlog.stdlib.add_logger_name, *shared]
    as_json = OnceFormatter(
        processors=[
            ProcessorFormatter.remove_processors_meta,
            _in_order,
            structlog.processors.JSONRenderer(to_json),
        ],
        foreign_pre_chain=foreign,
    )
    screen = logging.StreamHandler(sys.stderr)
    screen.setFormatter(
        as_json if format == "json" else _formatter([_visible, _console()], foreign)
    )
    handlers: list[logging.Handler] = [screen]
    if directory is not None:
        failing: set[str] = set()
        everything = LogFile(directory / ALL_FILE, failing)
        errors = LogFile(directory / ERRORS_FILE, failing)
        errors.setLevel(logging.WARNING)
        for file in (everything, errors):
            file.setFormatter(as_json)
            handlers.append(file)
    _install(handlers)
    logging.getLogger(LOGGER).setLevel(number)
    logging.getLogger().setLevel(logging.WARNING)


def hide(secrets: Iterable[str | None]) -> None:
    """Hide these from now on in every line, whatever the name or text they stand in."""
    _known.update(one for one in secrets if one is not None and len(one) >= SECRET_MIN)


def _install(handlers: Sequence[logging.Handler]) -> None:
    """Put these in the place of those of an earlier call; others are not ours to remove."""
    root = logging.getLogger()
    for old in _installed:
        root.removeHandler(old)
        old.close()
    _installed[:] = handlers
    for new in handlers:
        root.addHandler(new)


def _formatter(last: Sequence[Processor], foreign: Sequence[Processor]) -> ProcessorFormatter:
    return ProcessorFormatter(
        processors=[ProcessorFormatter.remove_processors_meta, *last], foreign_pre_chain=foreign
    )


def _console() -> Processor:
    colors = sys.stderr.isatty() and not os.environ.get("NO_COLOR")
    return structlog.dev.ConsoleRenderer(
        colors=colors,
        sort_keys=False,
        timestamp_key="at",
        exception_formatter=structlog.dev.plain_traceback,
    )


def _visible(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Write out control characters: text from a request must not steer a terminal."""
    for key, value in event.items():
        if isinstance(value, str):
            event[key] = _CONTROL.sub(lambda match: repr(match[0])[1:-1], value)
    return event


def _role(role: str) -> Processor:
    def add(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
        event.setdefault("role", role)
        return event

    return add


def _in_order(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Put what every line has in front."""
    return {**{key: event[key] for key in _FIRST if key in event}, **event}


def redact(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Cut prompts, hide secrets and the user part of addresses, at any depth."""
    return {
        key: value if key in _OWN else _shown(key, value, DEPTH_MAX) for key, value in event.items()
    }


def _shown(key: str, value: object, depth: int) -> object:
    """Return what may be logged of a value: text, numbers, and lists and tables of them.

    What most values are comes first: the checks for tables are slow.
    """
    if _is_secret(key):
        return value if value is None or isinstance(value, bool) else HIDDEN
    if value is None or isinstance(value, int):
        return value
    if isinstance(value, str):
        return _text(key, value)
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, msgspec.Struct):
        value = msgspec.structs.asdict(value)
    if isinstance(value, Mapping) and depth > 0:
        return {str(name): _shown(str(name), item, depth - 1) for name, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset) and depth > 0:
        return [_shown(key, item, depth - 1) for item in value]
    return _text(key, value)


@lru_cache(maxsize=KEYS_MAX)
def _is_secret(key: str) -> bool:
    return _SECRET.search(key) is not None


def _text(key: str, value: object) -> str:
    if isinstance(value, str):
        text = str(value)
    elif isinstance(value, Mapping | list | tuple | set | frozenset):
        return "..."  # Too deep to be read in a log; its repr could hold what is hidden here.
    else:
        text = str(value) if isinstance(value, os.PathLike | UUID | datetime) else repr(value)
    limit = PROMPT_MAX if key in _PROMPTS else TEXT_MAX
    text = _KEYS.sub(HIDDEN, _USER.sub(f"://{HIDDEN}@", text))
    for secret in _known:
        text = text.replace(secret, HIDDEN)
    return text if len(text) <= limit else f"{text[:limit]}…"


def to_json(event: EventDict, **_: object) -> str:
    """Write one line of JSON: ASCII only, so that no terminal and no pipe can refuse it."""
    return _json.encode(event)
