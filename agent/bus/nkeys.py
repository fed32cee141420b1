"""Keys of users on the bus: made, read and used to sign, as nats-server spells them.

An nkey is an Ed25519 key in base32 with a checksum: `SU...` is the seed, which is secret, `U...`
the public key, which the server's configuration names. It must not know files or servers.
Source: github.com/nats-io/nkeys (strkey.go); CRC-16 is XMODEM, little endian.
"""

import base64
import binascii
import secrets
from typing import TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

_SEED: Final = 18 << 3
_USER: Final = 20 << 3
_KEY_BYTES: Final = 32
_CRC_BYTES: Final = 2


class NkeyError(ValueError):
    """A text that is no seed of a user; the text itself is never repeated."""


class Nkey:
    """The key of one user."""

    def __init__(self, raw: bytes) -> None:
        """Take the 32 secret bytes."""
        self._raw = raw
        self._private = _private(raw)

    @classmethod
    def new(cls) -> Self:
        """Make a key that nobody has."""
        return cls(secrets.token_bytes(_KEY_BYTES))

    @classmethod
    def read(cls, text: str) -> Self:
        """Read a seed. Raises: NkeyError, which says nothing of what it was given."""
        raw = _decode(text.strip())
        if raw is None or len(raw) != _KEY_BYTES + 2 or raw[:2] != _seed_prefix():
            raise NkeyError("this is no seed of a user: it begins with SU and has 58 characters")
        return cls(raw[2:])

    @property
    def seed(self) -> str:
        """The secret half, as a file holds it."""
        return _encode(_seed_prefix() + self._raw)

    @property
    def public(self) -> str:
        """The half that the server's configuration names."""
        return _encode(bytes([_USER]) + self._private.public_key().public_bytes_raw())

    def sign(self, nonce: bytes) -> bytes:
        """Return the signature of what the server asks to be signed, in base64."""
        return base64.b64encode(self._private.sign(nonce))

    def __repr__(self) -> str:
        """Hide the secret."""
        return f"Nkey({self.public})"


def _private(raw: bytes) -> "Ed25519PrivateKey":
    """Return the key as one that can sign; who has no key does not pay 50 ms for the import."""
    from cryptography.hazmat.primitives.asymmetric import ed25519  # noqa: PLC0415

    return ed25519.Ed25519PrivateKey.from_private_bytes(raw)


def is_public(text: str) -> bool:
    """Tell whether a text is the public key of a user."""
    raw = _decode(text)
    return raw is not None and len(raw) == _KEY_BYTES + 1 and raw[0] == _USER


def _seed_prefix() -> bytes:
    """Return the two bytes in front: that it is a seed, and that it is a user's."""
    return bytes([_SEED | (_USER >> 5), (_USER & 31) << 3])


def _encode(raw: bytes) -> str:
    checksum = binascii.crc_hqx(raw, 0).to_bytes(_CRC_BYTES, "little")
    return base64.b32encode(raw + checksum).decode().rstrip("=")


def _decode(text: str) -> bytes | None:
    """Return the bytes without their checksum; None where it does not fit."""
    try:
        raw = base64.b32decode(text + "=" * (-len(text) % 8))
    except (binascii.Error, ValueError):
        return None
    body, checksum = raw[:-_CRC_BYTES], raw[-_CRC_BYTES:]
    return body if binascii.crc_hqx(body, 0).to_bytes(_CRC_BYTES, "little") == checksum else None
