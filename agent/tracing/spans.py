"""The spans themselves, by OpenTelemetry; with `exporting` the only module that imports it.

The span of a job is linked to the one that sent its request, and begins a trace of its own: it may
come hours later, and be one of several tries. Links of the chain are events of it, not spans: each
takes half a millisecond, and there are four or so. Source: OpenTelemetry semantic conventions 1.44
for messaging, in development; names are copied, because their package may rename them.
What is sent holds ids, names and times: no prompt, no address, no words of an error.
"""

from collections.abc import Mapping
from typing import Final, Self

from opentelemetry import trace as otel
from opentelemetry.context import Context
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from agent import __version__
from agent.core.job import StoredRequest
from agent.core.steps import (
    Command,
    Draw,
    Elsewhere,
    Event,
    Faulted,
    Interrupted,
    Keep,
    TakeSlot,
    WaitUntil,
)
from agent.tracing import NO_STEP, JobSpan, Sending, Step
from agent.tracing.exporting import Exporter, close
from contracts import subjects, trace
from contracts.errors import ContractError
from contracts.events import Expired, Failed, Link, kind_of
from contracts.requests import Priority
from contracts.subjects import Identity
from contracts.trace import Trace

CLOSE_S: Final = 2.0
"""How long a stop waits for a collector; `mmg up` closes two tracers, one after the other."""
TEMPLATE: Final = subjects.template_request()

_ERROR: Final = "error.type"
_SCOPE: Final = "mmg"

Attributes = Mapping[str, str | int | bool]


class Spans:
    """Makes the spans of one process."""

    def __init__(self, provider: TracerProvider, exporter: Exporter) -> None:
        """Use `open`."""
        self._provider = provider
        self._exporter = exporter
        self._tracer = provider.get_tracer(_SCOPE, __version__)

    @classmethod
    def open(cls, role: str, name: str | None) -> Self:
        """Begin, with sampler, limits and collector as the environment has them.

        Raises: ValueError where it cannot be used.
        """
        exporter = Exporter()
        # Not for the end of the process: `close` has a limit, and that has none.
        provider = TracerProvider(resource=_resource(role, name), shutdown_on_exit=False)
        provider.add_span_processor(BatchSpanProcessor(exporter))
        return cls(provider, exporter)

    def process(self, stored: StoredRequest, deliveries: int) -> JobSpan:
        """Begin the span of a job, linked to whoever sent its request."""
        links = [] if stored.trace is None else [otel.Link(_context_of(stored.trace))]
        span = self._tracer.start_span(
            f"process {TEMPLATE}",
            context=Context(),
            kind=otel.SpanKind.CONSUMER,
            attributes={
                **_message("process", stored.who, stored.priority),
                "messaging.consumer.group.name": subjects.durable(stored.priority),
                "mmg.seq": stored.seq,
                "mmg.deliveries": deliveries,
            },
            links=links,
        )
        return _JobSpan(self._tracer, span)

    def send(self, of: Trace | None) -> Sending:
        """Begin the span of a request that comes in, as a part of the trace that it names."""
        parent = Context()
        if of is not None:
            remote = otel.NonRecordingSpan(_context_of(of))
            parent = otel.set_span_in_context(remote, parent)
        span = self._tracer.start_span(
            f"send {TEMPLATE}",
            context=parent,
            kind=otel.SpanKind.PRODUCER,
            attributes=_operation("send"),
        )
        return _Sending(span)

    async def close(self) -> None:
        """Send what is left, for `CLOSE_S` at most."""
        await close(self._provider, self._exporter, CLOSE_S)


class _JobSpan:
    """The span of one job."""

    def __init__(self, tracer: otel.Tracer, span: otel.Span) -> None:
        self._tracer = tracer
        self._span = span
        self._context = otel.set_span_in_context(span, Context())

    @property
    def trace_id(self) -> str:
        """The trace that began with this job."""
        return otel.format_trace_id(self._span.get_span_context().trace_id)

    def step(self, command: Command) -> Step:
        """Return the span of a command that takes time: a slot, the drawing, storing, a pause."""
        match command:
            case TakeSlot(candidate=candidate):
                name: str = "wait for a slot"
                told: Attributes = {"mmg.engine": candidate.engine, "mmg.slot": candidate.slot}
            case Draw(started=started):
                name = "draw"
                told = {
                    "mmg.engine": started.engine,
                    "mmg.model": started.model,
                    "mmg.attempt": started.attempt,
                }
            case Keep(attempt=attempt):
                name, told = "store", {"mmg.attempt": attempt}
            case WaitUntil():
                name, told = "pause", {}
            case _:
                return NO_STEP
        return _Step(self._tracer.start_span(name, context=self._context, attributes=told))

    def link(self, link: Link, seq: int) -> None:
        """Add the event of a link; one that tells of an error makes the span one of an error."""
        kind = f"mmg.{kind_of(link)}"
        told: Attributes = {
            "cloudevents.event_id": link.id,
            "cloudevents.event_type": kind,
            "mmg.seq": seq,
        }
        self._span.add_event(kind, told)
        if isinstance(link, Failed | Expired):
            _fail(self._span, link.error.code)

    def end(self, ended: str) -> None:
        """End it; a second end says nothing."""
        if self._span.is_recording():
            self._span.set_attribute("mmg.ended", ended)
            self._span.end()


class _Step:
    """The span of one command."""

    def __init__(self, span: otel.Span) -> None:
        self._span = span

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: object
    ) -> None:
        if kind is not None:
            _fail(self._span, kind.__name__)
        self._span.end()

    def came(self, event: Event) -> None:
        """Note a fault, or why there is nothing."""
        match event:
            case Faulted(fault=fault):
                _fail(self._span, fault.code)
            case Interrupted(why=why) | Elsewhere(why=why):
                self._span.set_attribute("mmg.why", why)
            case _:
                pass


class _Sending:
    """The span of one request on its way to its lane."""

    def __init__(self, span: otel.Span) -> None:
        self._span = span

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: object
    ) -> None:
        if isinstance(error, ContractError):
            _fail(self._span, error.body.code)
        elif kind is not None:
            _fail(self._span, kind.__name__)
        self._span.end()

    @property
    def trace(self) -> Trace | None:
        """This very span: what is linked to later."""
        context = self._span.get_span_context()
        ids = otel.format_trace_id(context.trace_id), otel.format_span_id(context.span_id)
        parent = f"00-{ids[0]}-{ids[1]}-{int(context.trace_flags):02x}"
        return trace.parse(parent, context.trace_state.to_header())

    def stored(self, who: Identity, priority: Priority, *, joined: bool) -> None:
        """Note which request it is."""
        self._span.set_attributes({**_message("send", who, priority), "mmg.joined": joined})


def _operation(name: str) -> dict[str, str | int | bool]:
    return {
        "messaging.system": "nats",
        "messaging.operation.name": name,
        "messaging.operation.type": name,
        "messaging.destination.template": TEMPLATE,
    }


def _message(operation: str, who: Identity, priority: Priority) -> dict[str, str | int | bool]:
    """Return what the conventions want to know about one message."""
    return _operation(operation) | {
        "messaging.destination.name": subjects.request(priority, who),
        "messaging.message.id": str(who),
        "mmg.priority": priority.lane,
    }


def _fail(span: otel.Span, what: str) -> None:
    """Mark a span as one of an error; the words of an error may repeat a request, and stay here."""
    span.set_attribute(_ERROR, what)
    span.set_status(otel.StatusCode.ERROR)


def _context_of(of: Trace) -> otel.SpanContext:
    return otel.SpanContext(
        trace_id=int(of.trace_id, 16),
        span_id=int(of.span_id, 16),
        is_remote=True,
        trace_flags=otel.TraceFlags(of.flags),
        trace_state=otel.TraceState.from_header([of.state]) if of.state else otel.TraceState(),
    )


def _resource(role: str, name: str | None) -> Resource:
    """Return who tells; what the environment says of it counts more."""
    own = {"service.name": f"mmg-{role}", "service.version": __version__}
    if name is not None:
        own["service.instance.id"] = name
    said = OTELResourceDetector().detect().attributes
    return Resource.create({**own, **said})
