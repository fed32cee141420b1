"""Whether there are spans: the environment says so, by OpenTelemetry's own variables.

Whatever is wrong with them is one warning and no spans. It must never keep a process from starting.
"""

import os
from collections.abc import Mapping
from typing import Final

import structlog

from agent.tracing import UNTRACED, Tracer

ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
PROTOCOLS: Final = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
EXPORTER: Final = "OTEL_TRACES_EXPORTER"
DISABLED: Final = "OTEL_SDK_DISABLED"
SPOKEN: Final = "http/protobuf"

log = structlog.get_logger()


def open_tracer(role: str, name: str | None = None) -> Tracer:
    """Return what makes the spans of this process; `role` is worker or gateway, `name` its own.

    Order: `close` at the end. Never raises for what the environment says, or lacks.
    """
    refusal = _refusal(os.environ)
    if refusal is None:
        return UNTRACED
    if not refusal:
        try:
            from agent.tracing.spans import Spans  # noqa: PLC0415 - the extra may not be here

            tracer = Spans.open(role, name)
        except ImportError:
            refusal = "OpenTelemetry is not installed: pip install 'mmg[otel]'"
        except (ValueError, OSError) as error:
            refusal = f"OpenTelemetry refuses its settings: {error}"
        else:
            log.info("tracing.on", role=role)
            return tracer
    log.warning("tracing.off", reason=refusal, hint=f"unset {ENDPOINTS[1]} to do without")
    return UNTRACED


def _refusal(environ: Mapping[str, str]) -> str | None:
    """Tell why there are no spans: None: nobody wants any; empty: nothing is wrong."""
    if _first(environ, ENDPOINTS) is None or environ.get(DISABLED, "").strip().lower() == "true":
        return None
    exporter = environ.get(EXPORTER, "").strip() or "otlp"
    if exporter == "none":
        return None
    if exporter != "otlp":
        return f"{EXPORTER} is {exporter!r}, and only otlp is known here"
    protocol = _first(environ, PROTOCOLS) or SPOKEN
    if protocol != SPOKEN:
        return f"the protocol is {protocol!r}, and only {SPOKEN} is spoken here, often on port 4318"
    return ""


def _first(environ: Mapping[str, str], names: tuple[str, ...]) -> str | None:
    """Return the first of these that is set; an empty one is not."""
    return next((text for name in names if (text := environ.get(name, "").strip())), None)
