"""Errors as answers: RFC 9457 problem details with the codes of the contract.

Whatever goes wrong behind the door leaves it as one sentence for a person and one code for a
program. No traceback, no path of the server, no header that names the software.
"""

import asyncio
import secrets
from http import HTTPStatus
from typing import Final

import msgspec
import structlog
from aiohttp import web
from aiohttp.typedefs import Handler

from agent.bus.connection import BusError
from contracts.errors import HTTP_STATUS, ContractError, ErrorBody, ErrorCode, error_body

PROBLEM_TYPE: Final = "application/problem+json"
DOCS: Final = "/docs/errors"
RETRY_AFTER_S: Final = 5
_NO_CODE: Final = 500

SOCKET: Final = web.RequestKey("socket", web.WebSocketResponse)
"""The WebSocket of a request that was upgraded: after that nothing but a close can answer it."""
STREAM: Final = web.RequestKey("stream", web.StreamResponse)
"""The stream of a request whose answer has begun: after that it can only be cut off."""

_HEADERS: Final = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
}
_PROBES: Final = ("/healthz", "/readyz")
_CODES: Final = {404: ErrorCode.NOT_FOUND, 403: ErrorCode.FORBIDDEN, 429: ErrorCode.RATE_LIMITED}

log = structlog.get_logger()


class Problem(Exception):
    """An answer that is an error."""

    def __init__(
        self, body: ErrorBody, status: int | None = None, headers: dict[str, str] | None = None
    ) -> None:
        """Keep the answer; without a status it follows from the code."""
        super().__init__(body.message)
        self.body = body
        self.status = HTTP_STATUS.get(body.code, _NO_CODE) if status is None else status
        self.headers = headers or {}


class ProblemDetails(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The body of an error, RFC 9457: `detail` is the sentence, `path` the JSON path it is about.

    `instance` names the one occurrence of an error whose reason is only in the log.
    """

    type: str
    title: str
    status: int
    detail: str
    code: ErrorCode
    retryable: bool
    path: str | None = None
    instance: str | None = None


def problem(
    code: ErrorCode,
    message: str,
    path: str | None = None,
    *,
    status: int | None = None,
    headers: dict[str, str] | None = None,
) -> Problem:
    """Build an error answer from its code and sentence."""
    return Problem(error_body(code, message, path), status, headers)


def answer(found: Problem, instance: str | None = None) -> web.Response:
    """Turn an error into a response."""
    body = found.body
    details = ProblemDetails(
        type=f"{DOCS}#{body.code}",
        title=body.code.replace("_", " ").capitalize(),
        status=found.status,
        detail=body.message,
        code=body.code,
        retryable=body.retryable,
        path=body.detail,
        instance=instance,
    )
    headers = dict(found.headers)
    if found.status in (HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.TOO_MANY_REQUESTS):
        headers.setdefault("Retry-After", str(RETRY_AFTER_S))
    return web.Response(
        status=found.status,
        body=msgspec.json.encode(details),
        content_type=PROBLEM_TYPE,
        headers=headers,
    )


def bus_away(reason: str) -> Problem:
    """Return the answer for a bus that does not do what it is asked now."""
    return problem(
        ErrorCode.INTERNAL,
        f"the message bus cannot do this now: {reason}",
        status=HTTPStatus.SERVICE_UNAVAILABLE,
    )


def could_not_say(body: ErrorBody) -> Problem:
    """Return the answer for an error; 503 where nobody could say what became of the wish."""
    unsure = body.code is ErrorCode.INTERNAL
    return Problem(body, HTTPStatus.SERVICE_UNAVAILABLE if unsure else None)


@web.middleware
async def answer_problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn every error of a handler into its answer, and log the request in one line.

    1. A broken contract or a problem: as it says. 2. The bus: 503. 3. What aiohttp refuses: its
    status in our form. 4. Anything else: 500 with an incident id that the log has, too.
    """
    loop = asyncio.get_running_loop()
    began = loop.time()
    try:
        response = await handler(request)
    except ContractError as error:
        response = answer(Problem(error.body))  # 1
    except Problem as error:
        response = answer(error)  # 1
    except BusError as error:
        log.warning("gateway.bus_away", path=request.path, reason=str(error))
        response = answer(bus_away(str(error)))  # 2
    except web.HTTPException as error:
        response = answer(_refusal(error))  # 3
    except ConnectionResetError:
        raise  # The client has gone: nobody is left to be answered.
    except Exception as error:  # noqa: BLE001 - the door: no client ever sees a traceback
        response = await _incident(request, error)  # 4
    tell = log.debug if request.path in _PROBES and response.status < _NO_CODE else log.info
    tell(
        "gateway.request",
        method=request.method,
        path=request.path,
        status=response.status,
        ms=round((loop.time() - began) * 1000, 1),
    )
    return response


async def harden(_request: web.BaseRequest, response: web.StreamResponse) -> None:
    """Give every response the headers that keep browsers careful, and take the server's name."""
    for name, value in _HEADERS.items():
        response.headers.setdefault(name, value)
    response.headers.setdefault("Cache-Control", "no-store")
    response.headers.popall("Server", None)


def _refusal(error: web.HTTPException) -> Problem:
    """Say in our form what aiohttp refuses."""
    headers = {name: error.headers[name] for name in ("Allow", "Upgrade") if name in error.headers}
    if isinstance(error, web.HTTPRequestEntityTooLarge):
        text = "the body is larger than the 65536 bytes a request may have"
    elif isinstance(error, web.HTTPNotFound):
        text = "there is nothing under this address"
    elif isinstance(error, web.HTTPMethodNotAllowed):
        allowed = ", ".join(sorted(error.allowed_methods))
        text = f"this address takes {allowed}, not {error.method}"
    else:
        text = error.reason
    code = _CODES.get(error.status)
    if code is None:
        client = error.status < HTTPStatus.INTERNAL_SERVER_ERROR
        code = ErrorCode.INVALID_REQUEST if client else ErrorCode.INTERNAL
    return problem(code, text, status=error.status, headers=headers)


async def _incident(request: web.Request, error: Exception) -> web.StreamResponse:
    """Log what nobody expected under an id, and tell the client the id only."""
    incident = secrets.token_hex(8)
    log.error("gateway.incident", incident=incident, path=request.path, exc_info=error)
    socket: web.WebSocketResponse | None = request.get(SOCKET)
    if socket is not None:
        await socket.close(code=1011, message=f"incident {incident}".encode())
        return socket
    stream: web.StreamResponse | None = request.get(STREAM)
    if stream is not None:
        if request.transport is not None:
            request.transport.abort()
        return stream
    found = problem(
        ErrorCode.INTERNAL, f"something broke in the gateway; the log has incident {incident}"
    )
    return answer(found, instance=f"urn:mmg:incident:{incident}")
