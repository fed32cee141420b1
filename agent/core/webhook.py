"""The rules of a webhook: how it is signed, when it is tried again, when it is given up. Pure.

A webhook tells one address how one request ended. Source: Standard Webhooks, commit b2fa7b8: the
schedule, the headers, 410 disables, a redirect is a failure. Must not know HTTP or the bus.
"""

import base64
import binascii
import hashlib
import hmac
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Final, Literal

import msgspec
from msgspec.structs import replace

SECRET_PREFIX: Final = "whsec_"  # noqa: S105 - what every secret begins with
SECRET_BYTES_MIN: Final = 24
SECRET_BYTES_MAX: Final = 64

_M: Final = 60.0
_H: Final = 3600.0
SCHEDULE_S: Final = (0.0, 5.0, 5 * _M, 30 * _M, *(hours * _H for hours in (2, 5, 10, 14, 20, 24)))
"""Seconds before each try, counted from the end of the one before."""
JITTER: Final = 0.1
"""The most by which a pause is made longer, so that many that failed together come apart."""
RETRY_AFTER_MAX_S: Final = 24 * _H
REASON_LENGTH_MAX: Final = 200
OK_FIRST: Final = 200
OK_LAST: Final = 299
REDIRECT_LAST: Final = 399
GONE: Final = 410


class Hook(msgspec.Struct, frozen=True, kw_only=True):
    """The webhook of one request, as kept in the state bucket. `tries` counts those made.

    `due_at` is when the next try may begin; None: at once. `reason` says why the last one failed.
    """

    url: str
    state: Literal["waiting", "delivered", "undeliverable"] = "waiting"
    tries: int = 0
    due_at: datetime | None = None
    reason: str = ""
    at: datetime


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What came of one try: a status, or None and the reason why there was none.

    `never`: another try cannot change it. `retry_after` is the header as it was sent.
    """

    status: int | None = None
    reason: str = ""
    retry_after: str | None = None
    never: bool = False


class Payload(msgspec.Struct, frozen=True, kw_only=True):
    """The body: `data` is the terminal link, byte for byte as the chain has it."""

    type: str
    timestamp: datetime
    data: msgspec.Raw


def is_due(hook: Hook, now: datetime) -> bool:
    """Tell whether a try may begin."""
    return hook.due_at is None or now >= hook.due_at


def after(hook: Hook, answer: Answer, now: datetime, chance: float) -> Hook:
    """Return the hook after one more try. `chance` is a random number from 0 to 1.

    1. 2xx: delivered. 2. 410, or what cannot change: given up at once. 3. The tries of the
    schedule are used up: given up. 4. Otherwise the next pause, made longer by chance, or what
    Retry-After asks for if that is more.
    """
    tries = hook.tries + 1
    if answer.status is not None and OK_FIRST <= answer.status <= OK_LAST:
        return replace(hook, state="delivered", tries=tries, due_at=None, reason="", at=now)  # 1
    reason = _why(answer)[:REASON_LENGTH_MAX]
    failed = replace(hook, tries=tries, due_at=None, reason=reason, at=now)
    if answer.never or answer.status == GONE or tries >= len(SCHEDULE_S):
        return replace(failed, state="undeliverable")  # 2, 3
    pause_s = SCHEDULE_S[tries] * (1 + JITTER * chance)
    asked_s = retry_after_s(answer.retry_after, now)
    pause_s = max(pause_s, min(asked_s, RETRY_AFTER_MAX_S))
    return replace(failed, due_at=now + timedelta(seconds=pause_s))  # 4


def again(hook: Hook, now: datetime) -> Hook:
    """Return the hook as it was before its first try, for a person who wants it tried again."""
    return Hook(url=hook.url, at=now)


def retry_after_s(text: str | None, now: datetime) -> float:
    """Return how long a receiver wants to be left alone: seconds or a date; 0 for anything else."""
    if text is None:
        return 0.0
    stripped = text.strip()
    if stripped.isascii() and stripped.isdigit():
        return min(float(stripped[:10]), RETRY_AFTER_MAX_S)
    try:
        at = parsedate_to_datetime(stripped)
    except (ValueError, TypeError, OverflowError):
        return 0.0
    zoned = at if at.tzinfo is not None else at.replace(tzinfo=UTC)
    return max(0.0, (zoned - now).total_seconds())


def payload(kind: str, at: datetime, link: bytes) -> bytes:
    """Return the body that tells of a terminal link."""
    return msgspec.json.encode(Payload(type=f"mmg.{kind}", timestamp=at, data=msgspec.Raw(link)))


def headers(
    message_id: str, now: datetime, body: bytes, secrets: Sequence[bytes]
) -> dict[str, str]:
    """Return the three headers of a try, with one signature for each secret.

    `message_id` is the same at each try, `now` is not.
    """
    assert secrets, "nothing is sent unsigned"
    timestamp = str(int(now.timestamp()))
    signed = f"{message_id}.{timestamp}.".encode() + body
    signatures = (hmac.digest(secret, signed, hashlib.sha256) for secret in secrets)
    return {
        "webhook-id": message_id,
        "webhook-timestamp": timestamp,
        "webhook-signature": " ".join(f"v1,{base64.b64encode(one).decode()}" for one in signatures),
    }


def new_secret(token: bytes) -> str:
    """Spell random bytes as a secret."""
    assert SECRET_BYTES_MIN <= len(token) <= SECRET_BYTES_MAX, "of the length the standard asks for"
    return SECRET_PREFIX + base64.b64encode(token).decode()


def read_secret(text: str) -> bytes:
    """Read a secret as people have it. Raises: ValueError saying what is wrong with it."""
    if not text.startswith(SECRET_PREFIX):
        raise ValueError(f"a secret begins with {SECRET_PREFIX}")
    try:
        token = base64.b64decode(text.removeprefix(SECRET_PREFIX), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError("what follows its prefix is not base64") from error
    if not SECRET_BYTES_MIN <= len(token) <= SECRET_BYTES_MAX:
        raise ValueError(f"it has {len(token)} bytes, not {SECRET_BYTES_MIN} to {SECRET_BYTES_MAX}")
    return token


def _why(answer: Answer) -> str:
    """Say in words why a try has failed."""
    if answer.status is None:
        return answer.reason
    if answer.status == GONE:
        return "it answers 410: nobody wants to be told there any more"
    if OK_LAST < answer.status <= REDIRECT_LAST:
        return f"it answers {answer.status}: redirects are not followed"
    return f"it answers {answer.status}"
