"""The keys of the gateway: a file of hashes, from which no key can be read back.

A key is 32 random bytes, so one round of SHA-256 is enough: there is nothing to guess. Must not
know HTTP. The file is replaced whole and is readable by its owner only.
"""

import base64
import hashlib
import hmac
import os
import secrets
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final

import msgspec
from filelock import FileLock, Timeout
from msgspec import Meta

from agent.clock import Clock
from contracts.errors import ContractError, ErrorCode
from contracts.events import Instant
from contracts.requests import AgentId, Priority

VERSION: Final = 1
PREFIX: Final = "mmg"
KEYS_MAX: Final = 10_000
LOCK_S: Final = 5.0
FILE_BYTES_MAX: Final = 16 * 1024 * 1024
_SECRET_BYTES: Final = 32
_OWNER_ONLY: Final = 0o600

Hex = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]


class Role(StrEnum):
    """A requester sees and asks for its own; an operator sees and switches everything."""

    REQUESTER = "requester"
    OPERATOR = "operator"


class Key(msgspec.Struct, frozen=True, kw_only=True):
    """What is kept of one key. `id` is no secret: it names the key in lists and in logs.

    `webhook_secret` signs what is sent to the agent; it has to be kept as it is.
    """

    id: Annotated[str, Meta(pattern="^[0-9a-f]{8}$")]
    agent: AgentId
    role: Role
    highest: Priority
    sha256: Hex
    webhook_secret: str
    made_at: Instant
    note: str = ""


class KeyFile(msgspec.Struct, frozen=True, kw_only=True):
    """The whole file. `secret` signs addresses of assets; all gateways with this file share it."""

    version: int = VERSION
    secret: Hex
    keys: tuple[Key, ...] = ()

    def find(self, token: str) -> Key | None:
        """Return the key of a token. All are compared, in the same time whatever is in them."""
        digest, found = _digest(token), None
        for key in self.keys:
            if hmac.compare_digest(key.sha256, digest):
                found = key
        return found

    def webhook_secret(self, agent: str) -> str | None:
        """Return what signs for an agent: that of its newest key."""
        secrets_of = [key.webhook_secret for key in self.keys if key.agent == agent]
        return secrets_of[-1] if secrets_of else None


class MadeKey(msgspec.Struct, frozen=True, kw_only=True):
    """A new key with its token, which nobody can show again."""

    key: Key
    token: str


class KeyFileError(Exception):
    """The file of keys cannot be read or written; the text says which and why."""


def read(path: Path) -> KeyFile | None:
    """Return what the file says; None if there is none. Raises: KeyFileError."""
    try:
        with path.open("rb") as file:
            data = file.read(FILE_BYTES_MAX + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise KeyFileError(f"{path.name} cannot be read: {error.strerror}") from error
    try:
        found = msgspec.json.decode(data, type=KeyFile)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise KeyFileError(f"{path.name} is no file of keys: {error}") from error
    if found.version != VERSION:
        raise KeyFileError(f"{path.name} has version {found.version}; this build reads {VERSION}")
    return found


def is_private(path: Path) -> bool:
    """Tell whether only its owner may read a file; where a system has no such rights: yes."""
    return os.name != "posix" or not path.stat().st_mode & 0o077


def add(path: Path, agent: str, role: Role, highest: Priority, note: str, clock: Clock) -> MadeKey:
    """Make a key and keep its hash. Raises: ContractError(invalid_request), KeyFileError."""
    token_id, random = secrets.token_hex(4), secrets.token_bytes(_SECRET_BYTES)
    token = f"{PREFIX}_{token_id}_{base64.urlsafe_b64encode(random).decode().rstrip('=')}"
    signing = base64.b64encode(secrets.token_bytes(_SECRET_BYTES)).decode()
    made = {
        "id": token_id,
        "agent": agent,
        "role": role,
        "highest": highest,
        "sha256": _digest(token),
        "webhook_secret": f"whsec_{signing}",
        "made_at": clock.now(),
        "note": note,
    }
    try:
        key = msgspec.convert(made, Key)
    except msgspec.ValidationError as error:
        raise ContractError(ErrorCode.INVALID_REQUEST, f"no key can be made: {error}") from error

    def change(keys: tuple[Key, ...]) -> tuple[Key, ...]:
        if len(keys) >= KEYS_MAX:
            raise KeyFileError(f"there are {KEYS_MAX} keys already; revoke some")
        return (*keys, key)

    _change(path, change)
    return MadeKey(key=key, token=token)


def revoke(path: Path, names: tuple[str, ...]) -> tuple[Key, ...]:
    """Forget the keys of these ids or agents; return them. The file stays, even without keys.

    So the gateway goes on to demand keys. Raises: KeyFileError.
    """
    gone: list[Key] = []

    def change(keys: tuple[Key, ...]) -> tuple[Key, ...]:
        gone.extend(key for key in keys if key.id in names or key.agent in names)
        return tuple(key for key in keys if key not in gone)

    if read(path) is not None:
        _change(path, change)
    return tuple(gone)


def _change(path: Path, change: Callable[[tuple[Key, ...]], tuple[Key, ...]]) -> None:
    """Replace the file by one with other keys; one writer at a time. Raises: KeyFileError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name(f"{path.name}.lock"), timeout=LOCK_S):
            found = read(path) or KeyFile(secret=secrets.token_hex(_SECRET_BYTES))
            _replace(path, msgspec.structs.replace(found, keys=change(found.keys)))
    except Timeout as error:
        raise KeyFileError(f"somebody else has been writing {path.name} for long") from error
    except OSError as error:
        raise KeyFileError(f"{path.name} cannot be written: {error.strerror}") from error


def _replace(path: Path, content: KeyFile) -> None:
    data = msgspec.json.format(msgspec.json.encode(content), indent=2) + b"\n"
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with os.fdopen(
            os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _OWNER_ONLY), "wb"
        ) as f:
            f.write(data)
            f.flush()
            os.fsync(f.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode(errors="surrogatepass")).hexdigest()
