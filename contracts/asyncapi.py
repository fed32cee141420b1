"""The AsyncAPI 3.0 document: which messages travel on which subjects, seen from mmg.

mmg is the application: it receives requests and sends events. An agent reads `receive` as what
it may send and `send` as what it may subscribe to. Must not describe what is not built.

NATS bindings 0.1.0 know only the queue of an operation, and parameters have no pattern; streams
and patterns are `x-` extensions. Payloads are AsyncAPI schema objects: JSON Schema draft-07.
Source: AsyncAPI 3.0.0, NATS bindings 0.1.0.
"""

from typing import Any, Final

import msgspec

from contracts import CONTRACT_VERSION, codec, examples, subjects, trace
from contracts.codec import CONTRACT_HEADER, MESSAGE_ID_HEADER, REQUEST_SIZE_MAX_BYTES
from contracts.errors import HTTP_STATUS, RETRYABLE, ErrorCode
from contracts.events import LINK_TYPES, Link
from contracts.requests import Priority

Document = dict[str, Any]

KINDS: Final = tuple(str(link.__struct_config__.tag) for link in LINK_TYPES)
MODEL_VERBS: Final = ("load", "unload")
_TEXT: Final[Document] = {"type": "string"}
_NATS: Final[Document] = {"bindingVersion": "0.1.0"}
_REPUBLISHED: Final = (
    "Nats-Last-Sequence",
    "Nats-Sequence",
    "Nats-Stream",
    "Nats-Subject",
    "Nats-Time-Stamp",
)
"""Headers that the server adds to a republished message."""
_TRACE: Final[Document] = {
    trace.PARENT: {**_TEXT, "description": "W3C Trace Context; ignored where it is malformed."},
    trace.STATE: {**_TEXT, "description": f"Goes with it; {trace.STATE_MAX} characters at most."},
}
"""Of a request, and as it came on all that is said about that request."""


def document(definitions: dict[str, Document]) -> Document:
    """Return the document; `definitions` as `contracts.schema.definitions` makes them."""
    return {
        "asyncapi": "3.0.0",
        "id": f"urn:mmg:contract:{CONTRACT_VERSION}",
        "info": {
            "title": "mmg, the L2 Multimodal Generator",
            "version": f"{CONTRACT_VERSION}.0.0",
            "description": (
                "Requests in, images out, over NATS JetStream. Operations are mmg's own: what it"
                " receives an agent sends, and what it sends an agent subscribes to."
            ),
            "license": {
                "name": "Apache-2.0",
                "url": "https://www.apache.org/licenses/LICENSE-2.0",
            },
        },
        "defaultContentType": "application/json",
        "servers": {
            "bus": {
                "host": "127.0.0.1:4222",
                "protocol": "nats",
                "description": "The default of MMG_NATS_URL; nats-server 2.12 or newer.",
            }
        },
        "channels": _channels(),
        "operations": _operations(),
        "components": {
            "messages": _messages(),
            "schemas": {name: _draft_07(schema) for name, schema in definitions.items()},
        },
        "x-error-codes": {
            code.value: {"http_status": HTTP_STATUS.get(code, 500), "retryable": code in RETRYABLE}
            for code in ErrorCode
        },
        "x-jetstream": _streams(),
    }


def _channels() -> Document:
    """Every subject, with the messages that travel on it."""
    priority = {
        "description": "Lane, the first one is served first.",
        "enum": [lane.lane for lane in subjects.LANES],
    }
    kind = {"description": "Kind of the link.", "enum": list(KINDS)}
    stream = "x-jetstream"
    return {
        "request": {
            "address": subjects.template_request(),
            "description": (
                "Publish a request here with JetStream's acknowledgement: acknowledged is kept."
                " Each identity is used once."
            ),
            "messages": _pick("request"),
            "parameters": {"priority": priority, **_identity()},
            stream: {"stream": subjects.STREAM_REQUESTS},
        },
        "event": {
            "address": subjects.template_event(),
            "description": (
                "The reply subject of a request: the server's republish of each stored link."
                " Subscribe here, not to the stored subject, which also carries refused appends."
            ),
            "messages": _pick(*KINDS),
            "parameters": {**_identity(), "kind": kind},
            stream: {
                "stream": subjects.STREAM_EVENTS,
                "stored_as": subjects.template_chain(),
                "delivery": "republish",
            },
        },
        "progress": {
            "address": subjects.template_progress(),
            "description": "Step progress; only the last one is kept.",
            "messages": _pick("progress"),
            "parameters": _identity(),
            stream: {"stream": subjects.STREAM_PROGRESS},
        },
        **_questions(),
        "queued": {
            "address": subjects.template_queued(),
            "description": "Doorbell: a request was stored or handed back. It carries no body.",
            "messages": _pick("doorbell"),
            "parameters": {"priority": priority, **_identity()},
            stream: {"stream": subjects.STREAM_REQUESTS, "delivery": "republish, headers only"},
        },
    }


def _questions() -> Document:
    """The subjects on which somebody asks, and the inboxes of the answers."""
    reply = {"address": None, "description": "The reply inbox of the question."}
    return {
        "snapshot": {
            "address": subjects.template_snapshot(),
            "description": "Ask here for the state of one request: request-reply.",
            "messages": _pick("snapshotQuestion"),
            "parameters": _identity(),
        },
        "snapshotReply": {**reply, "messages": _pick("snapshot", "error")},
        "status": {
            "address": subjects.rpc("status"),
            "description": (
                "Ask here how workers stand: each answers, whoever asks collects. With `.<worker>`"
                " behind it that one answers."
            ),
            "messages": _pick("statusQuestion"),
        },
        "statusReply": {**reply, "messages": _pick("status", "error")},
        "models": {
            "address": subjects.rpc("models"),
            "description": "Ask here which models workers have, and why the rest cannot run.",
            "messages": _pick("modelsQuestion"),
        },
        "modelsReply": {**reply, "messages": _pick("models", "error")},
        **{
            verb: {
                "address": subjects.rpc(verb, "{worker}"),
                "description": f"Let one worker {verb} models, by its arbiter's leave.",
                "messages": _pick("modelWish"),
                "parameters": {"worker": {"description": "Name of the worker."}},
            }
            for verb in MODEL_VERBS
        },
        "modelWishReply": {**reply, "messages": _pick("loaded", "error")},
    }


def _operations() -> Document:
    """What mmg does on each channel."""
    return {
        "receiveRequest": _operation("receive", "request", "A worker pulls requests from lanes."),
        "sendEvent": _operation("send", "event", "A link was appended to the request's chain."),
        "sendProgress": _operation("send", "progress", "A step of the running attempt is done."),
        "answerSnapshot": {
            **_operation("receive", "snapshot", "One of those who can answers."),
            "bindings": {"nats": {"queue": subjects.QUEUE_SNAPSHOT, **_NATS}},
            "reply": {"channel": {"$ref": "#/channels/snapshotReply"}},
        },
        "answerStatus": {
            **_operation("receive", "status", "Each worker tells how it stands."),
            "reply": {"channel": {"$ref": "#/channels/statusReply"}},
        },
        "answerModels": {
            **_operation("receive", "models", "Each worker tells which models it has."),
            "reply": {"channel": {"$ref": "#/channels/modelsReply"}},
        },
        **{
            f"{verb}Model": {
                **_operation("receive", verb, f"The worker that is named has models {verb}ed."),
                "reply": {"channel": {"$ref": "#/channels/modelWishReply"}},
            }
            for verb in MODEL_VERBS
        },
        "hearDoorbell": _operation("receive", "queued", "A worker with a free slot looks."),
        "ringDoorbell": _operation("send", "queued", "A worker handed a request back."),
    }


def _operation(action: str, channel: str, summary: str) -> Document:
    return {
        "action": action,
        "channel": {"$ref": f"#/channels/{channel}"},
        "summary": summary,
        "bindings": {"nats": dict(_NATS)},
    }


def _messages() -> Document:
    """Every message with its headers, payload and examples."""
    version = {"type": "string", "enum": [str(n) for n in range(1, CONTRACT_VERSION + 1)]}
    contract = {CONTRACT_HEADER: {**version, "description": "Major version; absent means 1."}}
    token = subjects.TOKEN_PATTERN
    return {
        "request": {
            **_message("Request", "request-minimal", "request-full"),
            "summary": "Make a picture.",
            "headers": _headers(
                contract
                | {
                    MESSAGE_ID_HEADER: {
                        "type": "string",
                        "pattern": rf"^{token}\.{token}$",
                        "description": "`<agent>.<request_id>`",
                    },
                }
                | _TRACE
            ),
        },
        **{
            kind: {
                **_message(link.__name__, *(n for n in examples.LINKS if n.startswith(kind))),
                "summary": (link.__doc__ or "").split("\n")[0],
                "headers": _link_headers(kind, examples.LINKS[kind]),
            }
            for kind, link in zip(KINDS, LINK_TYPES, strict=True)
        },
        "progress": _message("Progress", "progress")
        | {"summary": "Step progress.", "headers": _headers(_TRACE)},
        "snapshotQuestion": {"summary": "An empty body.", "payload": {"maxLength": 0, **_TEXT}},
        "snapshot": {
            **_message("Snapshot", "snapshot", "snapshot-running"),
            "summary": "The state of the request, and its whole chain.",
        },
        "statusQuestion": {"summary": "An empty object or body.", "payload": _TEXT},
        "status": {
            **_message("WorkerReport", "status"),
            "summary": "Cards, jobs, who waits and why, engines, money, the last decisions.",
        },
        "modelsQuestion": {"summary": "An empty object or body.", "payload": _TEXT},
        "models": {
            **_message("WorkerModels", "models"),
            "summary": "What a worker can draw with, and what tenants of its card hold.",
        },
        "modelWish": {**_message("ModelWish", "model-wish"), "summary": "Load or unload a model."},
        "loaded": {**_message("Loaded", "loaded"), "summary": "It is done, and the card shows it."},
        "error": {
            **_message("ErrorBody", "error"),
            "summary": "The question cannot be answered.",
            "headers": _headers(
                {"Nats-Service-Error": _TEXT, "Nats-Service-Error-Code": _TEXT}, required=True
            ),
        },
        "doorbell": {
            "summary": "The headers that the server adds to a republished request, or none.",
            "headers": _headers(dict.fromkeys((*_REPUBLISHED, "Nats-Msg-Size"), _TEXT)),
            "payload": {"maxLength": 0, **_TEXT},
        },
    }


def _message(definition: str, *names: str) -> Document:
    """A message whose payload is one of the definitions, with examples by name."""
    return {
        "payload": {"$ref": f"#/components/schemas/{definition}"},
        "examples": [
            {"name": name, "payload": msgspec.json.decode(codec.encode(examples.EXAMPLES[name]))}
            for name in names
        ],
    }


def _link_headers(kind: str, example: Link) -> Document:
    """CloudEvents 1.0 in binary mode, and what the server adds when it republishes a link."""
    written = codec.link_headers(example, examples.SOURCE)
    fixed = {
        "ce-specversion": written["ce-specversion"],
        "ce-type": f"mmg.{kind}",
        "ce-datacontenttype": written["ce-datacontenttype"],
        CONTRACT_HEADER: written[CONTRACT_HEADER],
    }
    shape: Document = {
        name: {**_TEXT, **({"const": fixed[name]} if name in fixed else {}), "examples": [value]}
        for name, value in written.items()
    }
    shape["ce-time"]["format"] = "date-time"
    added = dict.fromkeys(_REPUBLISHED, _TEXT)
    return {**_headers(shape | added | _TRACE), "required": list(written)}


def _headers(shape: Document, *, required: bool = False) -> Document:
    """NATS headers: text, other names may come along."""
    return {
        "type": "object",
        "properties": shape,
        **({"required": list(shape)} if required else {}),
    }


def _identity() -> Document:
    """The two parameters that name a request."""
    pattern = f"^{subjects.TOKEN_PATTERN}$"
    return {
        "agent": {
            "description": "Agent id with `-` for `.`.",
            "examples": ["L2-05-03"],
            "x-pattern": pattern,
        },
        "request_id": {
            "description": "Chosen by the sender, used once.",
            "examples": ["mmg-20260302-091500-5f0c2a7e"],
            "x-pattern": pattern,
        },
    }


def _pick(*names: str) -> Document:
    return {name: {"$ref": f"#/components/messages/{name}"} for name in names}


def _streams() -> Document:
    """The streams behind the channels; sizes and ages are the site's."""
    return {
        "streams": {
            subjects.STREAM_REQUESTS: {
                "subjects": list(subjects.REQUEST_SUBJECTS),
                "retention": "workqueue",
                "max_msg_size": REQUEST_SIZE_MAX_BYTES,
                "max_msgs_per_subject": 1,
                "discard": "new",
                "republish": _republish(subjects.REQUESTS_ALL, subjects.QUEUED_ALL, bare=True),
                "consumers": [_consumer(priority) for priority in subjects.LANES],
            },
            subjects.STREAM_EVENTS: {
                "subjects": list(subjects.EVENT_STREAM_SUBJECTS),
                "retention": "limits",
                "discard": "new",
                "republish": _republish(subjects.CHAIN_ALL, subjects.EVENTS_ALL, bare=False),
            },
            subjects.STREAM_PROGRESS: {
                "subjects": list(subjects.PROGRESS_SUBJECTS),
                "retention": "limits",
                "max_msgs_per_subject": 1,
                "discard": "old",
            },
        }
    }


def _republish(source: str, destination: str, *, bare: bool) -> Document:
    return {"src": source, "dest": destination, "headers_only": bare}


def _consumer(priority: Priority) -> Document:
    return {
        "durable": subjects.durable(priority),
        "filter_subject": subjects.lane_filter(priority),
        "ack_policy": "explicit",
    }


def _draft_07(schema: object) -> Any:
    """Rewrite a schema for AsyncAPI.

    1. References point into the components.
    2. Draft-07 ignores what stands beside a reference, so the reference moves into `allOf`.
    3. `discriminator` is another thing in AsyncAPI; the constant `kind` tells the links apart.
    4. The items of a tuple are told by `items` alone.
    """
    match schema:
        case {"$ref": str(target), **rest}:
            moved = {"$ref": target.replace("#/$defs/", "#/components/schemas/")}  # 1
            return {**_draft_07(rest), "allOf": [moved]} if rest else moved  # 2
        case {"prefixItems": list(items), **rest}:
            return {**rest, "items": _draft_07(items), "additionalItems": False}  # 4
        case dict():
            return {
                key: _draft_07(value) for key, value in schema.items() if key != "discriminator"
            }  # 3
        case list():
            return [_draft_07(value) for value in schema]
        case _:
            return schema
