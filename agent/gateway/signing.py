"""Addresses that open by themselves for a while: signed with the secret of the keys file.

For pictures in a page, which cannot send a key. Must not know whose picture it is.
"""

import hashlib
import hmac
from typing import Final
from urllib.parse import urlencode

VALID_S: Final = 3600
_DIGITS_MAX: Final = 12


def sign(path: str, secret: str, until_s: int) -> str:
    """Return what stands behind the question mark of `path`. Units: `until_s` in Unix seconds."""
    return urlencode({"expires": until_s, "signature": _signature(path, secret, until_s)})


def is_signed(path: str, query: "dict[str, str]", secret: str, now_s: float) -> bool:
    """Tell whether an address was signed with this secret and is still good."""
    expires, signature = query.get("expires", ""), query.get("signature", "")
    if not (expires.isascii() and expires.isdigit() and len(expires) <= _DIGITS_MAX):
        return False
    wanted = _signature(path, secret, int(expires)).encode()
    return hmac.compare_digest(wanted, signature.encode(errors="replace")) and now_s < int(expires)


def _signature(path: str, secret: str, until_s: int) -> str:
    message = f"{path}\n{until_s}".encode()
    return hmac.new(bytes.fromhex(secret), message, hashlib.sha256).hexdigest()
