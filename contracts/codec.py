"""Bytes to structs and back: the only place that encodes or decodes the wire.

Must not talk to a server. Times are UTC; sizes are bytes.
"""

import re
from collections.abc import Mapping
from enum import StrEnum
from typing import Final, TypeVar
from urllib.parse import quote

import msgspec
from msgspec import Raw

from contracts import CONTRACT_VERSION, subjects
from contracts.errors import ContractError, ErrorBody, ErrorCode
from contracts.events import Idle, Link, LinkHead, Progress, Snapshot, WorkerStatus, kind_of
from contracts.requests import AspectRatio, Priority, Quality, Request, Style, check
from contracts.status import Loaded, ModelWish, WorkerModels
from contracts.subjects import Identity

REQUEST_SIZE_MAX_BYTES: Final = 64 * 1024
CONTRACT_HEADER: Final = "Mmg-Contract"
MESSAGE_ID_HEADER: Final = "Nats-Msg-Id"

T = TypeVar("T")
Message = (
    Request
    | Link
    | Progress
    | Snapshot
    | WorkerStatus
    | Idle
    | ErrorBody
    | WorkerModels
    | ModelWish
    | Loaded
)
"""What travels on the bus."""

_encoder: Final = msgspec.json.Encoder()
_request: Final = msgspec.json.Decoder(Request)
_link: Final[msgspec.json.Decoder[Link]] = msgspec.json.Decoder(Link)
_head: Final = msgspec.json.Decoder(LinkHead)
_progress: Final = msgspec.json.Decoder(Progress)
_error: Final = msgspec.json.Decoder(ErrorBody)
_SHOWN_MAX: Final = 80
"""Characters of a sender's own text that an error repeats."""
_PATH: Final = re.compile(r"^(?P<text>.*) - at `(?P<path>[^`]*)`$", re.DOTALL)
_UNKNOWN: Final = re.compile(r"^Object contains unknown field `(?P<name>.*)`$", re.DOTALL)
_MISSING: Final = re.compile(r"^Object missing required field `(?P<name>.*)`$")
_PATTERN: Final = re.compile(r"^Expected `str` matching regex '\^(?P<pattern>.*)\$'$")
_CHOICES: Final[dict[str, type[StrEnum]]] = {
    "$.priority": Priority,
    "$.options.quality": Quality,
    "$.options.style": Style,
    "$.options.aspect_ratio": AspectRatio,
}


class Received(msgspec.Struct, frozen=True, kw_only=True):
    """A request whose body and subject agree; `request` has all three fields filled in."""

    who: Identity
    priority: Priority
    request: Request


def decode_request(data: bytes) -> Request:
    """Read and check a request's body.

    Raises: ContractError with the code and JSON path of the fault.
    """
    if len(data) > REQUEST_SIZE_MAX_BYTES:
        raise ContractError(
            ErrorCode.INVALID_REQUEST,
            f"the request has {len(data)} bytes, the limit is {REQUEST_SIZE_MAX_BYTES}",
            "$",
        )
    _check_type_first(data)
    try:
        request = _request.decode(data)
    except msgspec.ValidationError as error:
        raise _invalid(str(error)) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ContractError(ErrorCode.INVALID_REQUEST, f"not JSON: {error}", "$") from error
    check(request)
    return request


def receive(subject: str, headers: Mapping[str, str] | None, data: bytes) -> Received:
    """Read a stored request: contract version, body, subject, and that they agree.

    Raises: ContractError with the code and JSON path of the fault.
    """
    priority, who = subjects.parse_request(subject)
    check_contract(headers)
    request = decode_request(data)
    claims: tuple[tuple[str, str | None, str], ...] = (
        ("request_id", request.request_id, who.request_id),
        ("requester", request.requester, who.requester),
        ("priority", request.priority, priority),
    )
    for field, claimed, true in claims:
        if claimed is not None and claimed != true:
            raise ContractError(
                ErrorCode.INVALID_REQUEST,
                f"{field} is {claimed!r} in the body but {true!r} in the subject",
                f"$.{field}",
            )
    filled = msgspec.structs.replace(
        request, request_id=who.request_id, requester=who.requester, priority=priority
    )
    return Received(who=who, priority=priority, request=filled)


def check_contract(headers: Mapping[str, str] | None) -> None:
    """Refuse a higher major contract version than ours; absent means 1.

    Raises: ContractError(unsupported_contract).
    """
    version = header(headers, CONTRACT_HEADER)
    if version is None:
        return
    major = version.split(".")[0]
    spoken = {str(number) for number in range(1, CONTRACT_VERSION + 1)}
    if major not in spoken:
        raise ContractError(
            ErrorCode.UNSUPPORTED_CONTRACT,
            f"contract {version[:20]!r} is not spoken here; this is {CONTRACT_VERSION}",
        )


def public(request: Request) -> Request:
    """Return the request as links show it: without its webhook address."""
    return msgspec.structs.replace(request, webhook_url=None)


def same_request(left: Request, right: Request) -> bool:
    """Tell whether two bodies of one identity ask for the same thing."""
    blank = {"request_id": None, "requester": None, "priority": None, "webhook_url": None}
    return msgspec.structs.replace(left, **blank) == msgspec.structs.replace(right, **blank)


def encode(value: Message | dict[str, ErrorBody]) -> bytes:
    """Return the bytes of a message."""
    return _encoder.encode(value)


def decode_link(data: bytes) -> Link:
    """Read a link. Raises: msgspec.DecodeError if it is none, or of a kind not known here."""
    return _tolerant(_link, data)


def decode_head(data: bytes) -> LinkHead:
    """Read the few fields a relay needs. Raises: msgspec.DecodeError."""
    return _tolerant(_head, data)


def decode_progress(data: bytes) -> Progress:
    """Read a progress message. Raises: msgspec.DecodeError."""
    return _tolerant(_progress, data)


def decode_snapshot(data: bytes) -> Snapshot:
    """Read a snapshot. Raises: msgspec.DecodeError."""
    read = _tolerant(_snapshot, data)
    fields = {name: getattr(read, name) for name in Snapshot.__struct_fields__}
    return Snapshot(**{**fields, "result": None if bytes(read.result) == b"null" else read.result})


def decode_error(data: bytes) -> ErrorBody:
    """Read an error object. Raises: msgspec.DecodeError."""
    return _tolerant(_error, data)


def _tolerant(decoder: "msgspec.json.Decoder[T]", data: bytes) -> T:
    """Decode what another process wrote; hostile bytes raise msgspec.DecodeError like bad ones."""
    try:
        return decoder.decode(data)
    except (UnicodeDecodeError, RecursionError) as error:
        raise msgspec.DecodeError(str(error)) from error


def decode_answer(data: bytes, kind: type[T]) -> T:
    """Read what a worker answers to an operator. Raises: msgspec.DecodeError."""
    return _tolerant(msgspec.json.Decoder(kind), data)


def encode_preview(request_id: str, attempt: int, step: int, jpeg: bytes) -> bytes:
    """Return a preview frame: 4-byte length, JSON {request_id, attempt, step}, JPEG."""
    about = _encoder.encode({"request_id": request_id, "attempt": attempt, "step": step})
    return len(about).to_bytes(4, "big") + about + jpeg


def link_headers(link: Link, source: str) -> dict[str, str]:
    """Return a link's headers: CloudEvents 1.0 in binary mode and the contract version.

    `source` is a URI reference of the writer. A fresh dict each time: the client library
    changes the one it is given. Source: CloudEvents NATS binding 1.0.3, section 3.1.
    """
    return {
        "ce-specversion": "1.0",
        "ce-id": _percent(link.id),
        "ce-type": f"mmg.{kind_of(link)}",
        "ce-source": _percent(source),
        "ce-time": link.at.isoformat().replace("+00:00", "Z"),
        "ce-datacontenttype": "application/json",
        CONTRACT_HEADER: str(CONTRACT_VERSION),
    }


def header(headers: Mapping[str, str] | None, name: str) -> str | None:
    """Look a header up whatever its case: NATS keeps the sender's spelling (ADR-4)."""
    for key, value in (headers or {}).items():
        if key.lower() == name.lower():
            return value
    return None


def decode_headers(block: bytes) -> dict[str, str]:
    """Read the headers of a stored message, as STREAM.MSG.GET answers them.

    Source: ADR-4: a line `NATS/1.0`, then `name: value` lines; of a name that is repeated the last.
    """
    lines = block.decode("utf-8", "replace").split("\r\n")[1:]
    pairs = (line.partition(":") for line in lines)
    return {name: value.strip() for name, colon, value in pairs if colon}


def _percent(value: str) -> str:
    """Encode a header value as CloudEvents asks: U+0021..U+007E stay, but for `"` and `%`."""
    return quote(value, safe="!#$&'()*+,-./:;<=>?@[\\]^_`{|}~")


class _SnapshotAsRead(Snapshot, frozen=True, kw_only=True):
    """msgspec 0.22 refuses every value of `Raw | None` but null; `Raw` alone takes both."""

    result: Raw


_snapshot: Final = msgspec.json.Decoder(_SnapshotAsRead)


class _TypeOnly(msgspec.Struct):
    type: str


_type_only: Final = msgspec.json.Decoder(_TypeOnly)


def _check_type_first(data: bytes) -> None:
    """Answer voice and video as such, whatever other fields they carry."""
    try:
        kind = _type_only.decode(data).type
    except (msgspec.DecodeError, UnicodeDecodeError):
        return  # The full decoding names this fault with its path.
    except RecursionError as error:
        # Only here: the full decoding stops at the first value that does not fit its type.
        raise ContractError(ErrorCode.INVALID_REQUEST, "nested too deep", "$") from error
    if kind != "image":
        check(Request(type=kind, prompt="x"))


def _invalid(text: str) -> ContractError:
    """Turn msgspec's sentence into one that names the field, and its JSON path.

    1. An unknown or a missing field is named in the path too; msgspec stops at its object.
    2. A value that is none of an enum -> the allowed ones, in the order they are declared.
    3. A value that breaks a pattern -> the pattern.
    4. Anything else -> msgspec's own words behind the field's name.
    """
    match = _PATH.match(text)
    words, path = (match["text"], match["path"]) if match else (text, "$")
    field = path.removeprefix("$").removeprefix(".")
    if unknown := _UNKNOWN.match(words):  # 1
        name = unknown["name"][:_SHOWN_MAX]
        words, path = f"unknown field {name!r}", f"{path}.{name}"
    elif missing := _MISSING.match(words):
        words, path = f"{missing['name']} is required", f"{path}.{missing['name']}"
    elif words.startswith("Invalid enum value ") and path in _CHOICES:  # 2
        allowed = ", ".join(choice.value for choice in _CHOICES[path])
        words = f"{field.rpartition('.')[2]} must be one of {allowed}"
    elif pattern := _PATTERN.match(words):  # 3
        words = f"{field} must match {pattern['pattern']}"
    elif field:  # 4
        words = f"{field}: {words[:1].lower()}{words[1:]}"
    return ContractError(ErrorCode.INVALID_REQUEST, words, path)
