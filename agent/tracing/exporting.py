"""Sends spans to a collector from a thread of its own, and says once when nobody takes them.

Source: opentelemetry-sdk 1.45.2. Its batch processor holds at most OTEL_BSP_MAX_QUEUE_SIZE (2048)
spans and drops what is beyond; a batch that could not be sent within OTEL_EXPORTER_OTLP_TIMEOUT
(10 s) is dropped, too. It must not touch the event loop.
"""

import asyncio
import logging
import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

import structlog
from opentelemetry.exporter.otlp.proto.http import trace_exporter
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

log = structlog.get_logger()


class _Words(logging.Filter):
    """Keeps what the exporter says of a failure, so that it is told once and not at each try."""

    def __init__(self) -> None:
        """Nothing was said."""
        super().__init__()
        self._said = threading.local()

    def begin(self) -> None:
        """Forget what this thread heard of an earlier batch."""
        self._said.words = ""

    @property
    def words(self) -> str:
        """What was said first in this thread: later ones only tell that it was given up."""
        return str(getattr(self._said, "words", ""))

    def filter(self, record: logging.LogRecord) -> bool:
        """Keep the words and let none pass."""
        self._said.words = self.words or record.getMessage()
        return False


_words: Final = _Words()


class Exporter(SpanExporter):
    """Sends by OTLP over HTTP to where the environment says."""

    def __init__(self) -> None:
        """Read the environment. Raises: ValueError where it cannot be used."""
        logging.getLogger(trace_exporter.__name__).addFilter(_words)  # Once, however often called.
        self._inner = trace_exporter.OTLPSpanExporter()
        self._over = False
        self._lost = 0

    @property
    def is_failing(self) -> bool:
        """Whether the last batch was lost."""
        return self._lost > 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send a batch; called by the thread of the batch processor only."""
        _words.begin()
        result = self._inner.export(spans)
        if result is SpanExportResult.SUCCESS:
            if self._lost:
                log.info("tracing.sent_again", lost=self._lost)
            self._lost = 0
            return result
        if not self._lost:
            log.warning(
                "tracing.not_sent",
                reason=_words.words or "the collector took too long",
                action="spans are lost until it answers; jobs go on",
            )
        self._lost += len(spans)
        return result

    def shutdown(self) -> None:
        """End a pause between two tries, and send nothing more; may be called again."""
        if not self._over:
            self._over = True
            self._inner.shutdown()  # type: ignore[no-untyped-call] # 1.45 left it bare


async def close(provider: TracerProvider, exporter: Exporter, limit_s: float) -> None:
    """Send what is left, for at most `limit_s`; not at all where the last batch was lost already.

    In a daemon thread: one of `asyncio.to_thread` would be waited for when the process ends.
    """
    if exporter.is_failing:
        exporter.shutdown()
    done = asyncio.Event()
    loop = asyncio.get_running_loop()

    def end() -> None:
        provider.shutdown()
        with suppress(RuntimeError):  # The loop is closed: nobody has waited that long.
            loop.call_soon_threadsafe(done.set)

    threading.Thread(target=end, name="last spans", daemon=True).start()
    try:
        async with asyncio.timeout(limit_s):
            await done.wait()
    except TimeoutError:
        exporter.shutdown()
        log.warning("tracing.not_flushed", waited_s=limit_s, action="the last spans are lost")
