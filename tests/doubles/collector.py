"""A collector of spans: a real HTTP server that reads OTLP as opentelemetry-proto defines it.

It keeps what it was sent, and answers what the test says. It must not check anything itself.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


class Seen(NamedTuple):
    """One span as it came; ids are hex, times seconds since 1970."""

    service: dict[str, Any]
    name: str
    kind: str
    trace_id: str
    span_id: str
    parent_id: str
    links: list[tuple[str, str]]
    attributes: dict[str, Any]
    events: list[tuple[str, dict[str, Any]]]
    is_error: bool
    began_s: float
    ended_s: float


class Collector:
    """The server; `status` is what it answers, and while `hangs` is set it answers nobody.

    It runs in threads, so that a test may block its own loop and it still answers.
    """

    def __init__(self) -> None:
        """It takes everything until told otherwise."""
        self.status = 200
        self.port = 0
        self.asked = 0
        self.hangs = threading.Event()
        self.freed = threading.Event()
        self.spans: list[Seen] = []
        self.headers: list[dict[str, str]] = []

    @property
    def url(self) -> str:
        """Return its address, as OTEL_EXPORTER_OTLP_ENDPOINT has it."""
        return f"http://127.0.0.1:{self.port}"

    def named(self, start: str) -> list[Seen]:
        """Return the spans whose name begins so, in the order in which they began."""
        found = [span for span in self.spans if span.name.startswith(start)]
        return sorted(found, key=lambda span: span.began_s)

    def take(self, path: str, headers: dict[str, str], body: bytes) -> int:
        """Take in one batch and return the status for it."""
        self.asked += 1
        if self.hangs.is_set():
            self.freed.wait()
        self.headers.append(headers)
        if path != "/v1/traces" or self.status != 200:
            return self.status if self.status != 200 else 404
        batch = ExportTraceServiceRequest.FromString(body)
        for resource in batch.resource_spans:
            service = _read(resource.resource.attributes)
            for scope in resource.scope_spans:
                self.spans += [_seen(service, span) for span in scope.spans]
        return 200


@contextmanager
def collector() -> Iterator[Collector]:
    """Run one on a free port of this machine."""
    one = Collector()

    class Door(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            status = one.take(self.path, headers, body)
            try:
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()
            except OSError:
                self.close_connection = True  # Who sent it has left.

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Door)
    server.daemon_threads = True
    one.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield one
    finally:
        one.freed.set()
        server.shutdown()
        server.server_close()
        thread.join()


def _seen(service: dict[str, Any], span: Any) -> Seen:
    return Seen(
        service=service,
        name=span.name,
        kind=type(span).SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex(),
        links=[(one.trace_id.hex(), one.span_id.hex()) for one in span.links],
        attributes=_read(span.attributes),
        events=[(one.name, _read(one.attributes)) for one in span.events],
        is_error=span.status.code == span.status.STATUS_CODE_ERROR,
        began_s=span.start_time_unix_nano / 1e9,
        ended_s=span.end_time_unix_nano / 1e9,
    )


def _read(attributes: Any) -> dict[str, Any]:
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in attributes}
