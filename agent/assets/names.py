"""Names of asset files: built and read here and nowhere else.

A stem is `<agent>.<request_id>[.a<attempt>][.<n>]`, attempt and n from 2. Tokens have no dot, so
a name tells whose it is without any doubt: `a.b` never is a prefix of `a.b2`. Beside the picture
`<stem>.png|jpg|webp` lie `<stem>.json`, `<stem>.thumb.webp` and perhaps `<stem>.copy.jpg`; each is
written as `.<final name>.<writer>[.<k>].tmp` first. Pure; must not look at the disk.
"""

import re
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Final, Literal

import msgspec

from agent.core.picture import Picture
from contracts.subjects import Identity

RECORD: Final = ".json"
THUMBNAIL: Final = ".thumb.webp"
COPY: Final = ".copy.jpg"
_EXTENSIONS: Final = {"png": ".png", "jpeg": ".jpg", "webp": ".webp"}
PICTURES: Final = tuple(_EXTENSIONS.values())
JPEG: Final = _EXTENSIONS["jpeg"]

HASH_DIGITS: Final = 8
WRITER_LENGTH_MAX: Final = 64
"""With both tokens at their longest a temp name then stays below the 255 bytes of most systems."""

RESERVED: Final = frozenset({"con", "prn", "aux", "nul"}) | {
    f"{port}{number}" for port in ("com", "lpt") for number in range(10)
}
"""First parts that Windows takes for a device, whatever follows the dot."""

_TOKEN: Final = r"[A-Za-z0-9_-]{1,64}"  # noqa: S105 - a pattern, no secret
_FROM_2: Final = r"(?:[2-9]|[1-9][0-9]{1,5})"
_HASH: Final = rf"(?:~[0-9a-f]{{{HASH_DIGITS}}})?"
_IDENTITY: Final = re.compile(rf"{_TOKEN}\.{_TOKEN}")
_MONTH: Final = re.compile(r"[0-9]{4}-[0-9]{2}")
_FILE: Final = (
    rf"(?P<stem>(?P<agent>{_TOKEN}){_HASH}\.(?P<request_id>{_TOKEN})"
    rf"(?:\.a{_FROM_2})?(?:\.{_FROM_2})?{_HASH})"
    r"(?P<suffix>\.png|\.jpg|\.webp|\.json|\.thumb\.webp|\.copy\.jpg)"
)
_FINAL: Final = re.compile(_FILE)
_TEMPORARY: Final = re.compile(rf"\.{_FILE}\.(?P<writer>[A-Za-z0-9_-]+)(?:\.[0-9]+)?\.tmp")


Role = Literal["picture", "record", "thumbnail", "copy"]
_ROLES: Final[dict[str, Role]] = {RECORD: "record", THUMBNAIL: "thumbnail", COPY: "copy"}


class AssetName(msgspec.Struct, frozen=True, kw_only=True):
    """What a file name says. `writer` is None unless it is a temp file."""

    who: Identity
    stem: str
    role: Role
    writer: str | None = None


def read(file: str) -> AssetName | None:
    """Read a name of ours; None for any other."""
    found = _FINAL.fullmatch(file) or _TEMPORARY.fullmatch(file)
    if found is None:
        return None
    role = _ROLES.get(found["suffix"], "picture")
    who = Identity(found["agent"], found["request_id"])
    writer = found["writer"] if found.re is _TEMPORARY else None
    return AssetName(who=who, stem=found["stem"], role=role, writer=writer)


def is_month(folder: str) -> bool:
    """Tell whether a folder name is `YYYY-MM`."""
    return _MONTH.fullmatch(folder) is not None


def month(stored_at: datetime) -> str:
    """Return the folder of a stored time: its month in UTC."""
    assert stored_at.tzinfo is not None, "a stored time has a time zone"
    return stored_at.astimezone(UTC).strftime("%Y-%m")


def extension(picture: Picture) -> str:
    """Return the ending of a picture's file, by its format."""
    return _EXTENSIONS[picture.format]


def stems(who: Identity, attempt: int, n: int, sha256: str) -> Iterator[str]:
    """Propose stems for picture `n` of an attempt, the plain one first.

    The others carry `~` and eight digits of the content's hash, for a name that is taken, also by
    one that differs in case only where the file system does not care. Where the agent is a device
    of Windows the hash follows the agent: Windows looks at what precedes the first dot.
    """
    assert _IDENTITY.fullmatch(str(who)), "an identity has two well-formed tokens"
    rest = who.request_id
    rest += f".a{attempt}" if attempt > 1 else ""
    rest += f".{n}" if n > 1 else ""
    reserved = who.agent.lower() in RESERVED
    if not reserved:
        yield f"{who.agent}.{rest}"
    for start in range(0, len(sha256), HASH_DIGITS):
        digits = sha256[start : start + HASH_DIGITS]
        yield f"{who.agent}~{digits}.{rest}" if reserved else f"{who.agent}.{rest}~{digits}"


def temporary(file: str, writer: str, k: int) -> str:
    """Return the k-th temp name, from 1, under which `writer` may write `file`."""
    return f".{file}.{writer}{f'.{k}' if k > 1 else ''}.tmp"


def writer_token(name: str) -> str:
    """Turn the name of a worker into the part of a temp name, which has no dot."""
    return re.sub(r"[^A-Za-z0-9_-]", "-", name)[:WRITER_LENGTH_MAX] or "-"


def left_over(files: Iterable[str], who: Identity, keep: Iterable[str]) -> Iterator[str]:
    """Yield the files of `who` that belong to none of the pictures in `keep`.

    A thumbnail or copy that is just being written for a kept picture stays.
    """
    kept = set(keep)
    kept_stems = {name.stem for name in map(read, kept) if name is not None}
    for file in files:
        if not file.startswith((who.agent, f".{who.agent}")):
            continue  # most files of a month; spares reading them
        name = read(file)
        if name is None or name.who != who or file in kept:
            continue
        beside = name.role in ("thumbnail", "copy")
        beside = beside or (name.role == "record" and name.writer is None)
        if not (beside and name.stem in kept_stems):
            yield file
