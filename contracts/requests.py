"""The request: what an agent asks for, checked to the last field.

Strict in: unknown fields, wrong types and values out of range are refused by name and JSON path.
Must not know subjects or bytes; `contracts.codec` joins them.
"""

from enum import StrEnum
from typing import Annotated, Final
from urllib.parse import urlsplit

from msgspec import Meta, Struct

from contracts.errors import ContractError, ErrorCode

PROMPT_LENGTH_MAX: Final = 4000
NEGATIVE_LENGTH_MAX: Final = 2000
WEBHOOK_LENGTH_MAX: Final = 2048
SEED_MAX: Final = 2**32 - 1
_LOOPBACK: Final = ("127.0.0.1", "localhost", "::1")


class Priority(StrEnum):
    """How soon: CRITICAL is served first. Lower case in subjects, upper case in bodies."""

    CRITICAL = "CRITICAL"
    HIGH = "HIGH"
    MEDIUM = "MEDIUM"
    LOW = "LOW"

    @property
    def lane(self) -> str:
        """The token in subjects."""
        return self.value.lower()


class Quality(StrEnum):
    """How much effort: draft is quick, premium goes to the cloud first."""

    DRAFT = "draft"
    STANDARD = "standard"
    HIGH = "high"
    PREMIUM = "premium"


class Style(StrEnum):
    """What the picture is for; `workflows/styles.toml` says what each means."""

    TECHNICAL_DIAGRAM = "technical-diagram"
    REPORT_COVER = "report-cover"
    INFOGRAPHIC = "infographic"


class AspectRatio(StrEnum):
    """Shape of the picture, width to height."""

    SQUARE = "1:1"
    WIDE = "16:9"
    CLASSIC = "4:3"
    TALL = "9:16"


Side = Annotated[int, Meta(ge=256, le=2048, multiple_of=64)]
Token = Annotated[str, Meta(pattern="^[A-Za-z0-9_-]{1,64}$")]
AgentId = Annotated[str, Meta(pattern="^[A-Za-z0-9_.]{1,64}$")]
Name = Annotated[str, Meta(pattern="^[A-Za-z0-9_.-]{1,64}$")]


class ImageRef(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A picture the requester already owns, by request or by content; never a path."""

    asset: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{1,64}\.[A-Za-z0-9_-]{1,64}$")] | None = None
    sha256: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")] | None = None


class Options(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """How the picture should be made. Units: `width`, `height` in pixels.

    `width` and `height` come together and exclude `aspect_ratio`.
    """

    quality: Quality = Quality.STANDARD
    style: Style | None = None
    aspect_ratio: AspectRatio | None = None
    seed: Annotated[int, Meta(ge=0, le=SEED_MAX)] | None = None
    negative_prompt: Annotated[str, Meta(max_length=NEGATIVE_LENGTH_MAX)] | None = None
    count: Annotated[int, Meta(ge=1, le=10)] = 1
    enhance_prompt: bool = False
    previews: bool = False
    steps: Annotated[int, Meta(ge=1, le=100)] | None = None
    cfg: Annotated[float, Meta(ge=0, le=30)] | None = None
    width: Side | None = None
    height: Side | None = None
    model: Name | None = None
    workflow: Name | None = None
    image: ImageRef | None = None


class Request(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A request as it was sent; fields the subject carries may be left out of the body.

    Units: `deadline_s` seconds from the stored time within which the work must start.
    """

    type: Annotated[str, Meta(extra_json_schema={"enum": ["image"]})]
    prompt: Annotated[str, Meta(extra_json_schema={"minLength": 1, "maxLength": PROMPT_LENGTH_MAX})]
    options: Options = Options()
    request_id: Token | None = None
    priority: Priority | None = None
    requester: AgentId | None = None
    webhook_url: Annotated[str, Meta(max_length=WEBHOOK_LENGTH_MAX)] | None = None
    deadline_s: Annotated[int, Meta(ge=1, le=86400)] | None = None
    local_only: bool = False
    dry_run: bool = False
    replay_of: Token | None = None


def check(request: Request) -> None:
    """Check what the types cannot say.

    Raises: ContractError with the code and JSON path of the first fault, `type` before all
    others, because a request of another type is measured by other rules.
    """
    _check_type(request.type)
    length = len(request.prompt.strip())
    if not 1 <= length <= PROMPT_LENGTH_MAX:
        raise _invalid(
            f"prompt must have 1 to {PROMPT_LENGTH_MAX} characters after trimming, has {length}",
            "$.prompt",
        )
    options = request.options
    _check_line_ends(request)
    if (options.width is None) != (options.height is None):
        missing = "width" if options.width is None else "height"
        raise _invalid("width and height come together", f"$.options.{missing}")
    if options.width is not None and options.aspect_ratio is not None:
        raise _invalid("width and height exclude aspect_ratio", "$.options.aspect_ratio")
    if options.image is not None and (options.image.asset is None) == (
        options.image.sha256 is None
    ):
        raise _invalid("image needs exactly one of asset and sha256", "$.options.image")
    if request.webhook_url is not None:
        _check_webhook(request.webhook_url)


def _check_type(kind: str) -> None:
    """Tell image from what is planned and from what is not."""
    if kind == "image":
        return
    if kind == "voice":
        raise ContractError(
            ErrorCode.NOT_ENABLED, "voice is planned but not enabled here", "$.type"
        )
    raise ContractError(
        ErrorCode.UNSUPPORTED_TYPE, f"type {kind[:40]!r} is not supported; use 'image'", "$.type"
    )


def _check_line_ends(request: Request) -> None:
    r"""Refuse a last newline: Python's `$` matches before it, ECMA's and so JSON Schema's do not.

    `\Z` in the patterns would mend it too, but is no anchor outside Python.
    """
    options = request.options
    image = options.image or ImageRef()
    for path, value in (
        ("request_id", request.request_id),
        ("requester", request.requester),
        ("replay_of", request.replay_of),
        ("options.model", options.model),
        ("options.workflow", options.workflow),
        ("options.image.asset", image.asset),
        ("options.image.sha256", image.sha256),
    ):
        if value is not None and value.endswith("\n"):
            raise _invalid(f"{path} ends with a newline", f"$.{path}")


def _check_webhook(url: str) -> None:
    """Accept absolute https URLs without a user name; http only to the gateway's own machine.

    Whether it may be told is for the gateway, which has a list of what is allowed.
    """
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise _invalid(f"webhook_url is no URL: {error}", "$.webhook_url") from error
    secure = parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in _LOOPBACK)
    if not secure or not parts.hostname or parts.username is not None:
        raise _invalid("webhook_url must be https://host/... without a user", "$.webhook_url")


def _invalid(message: str, path: str) -> ContractError:
    return ContractError(ErrorCode.INVALID_REQUEST, message, path)
