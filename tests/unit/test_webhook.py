"""Goal: webhooks are signed as the standard says, tried on its schedule, and never sent inside.

Method: vectors made with the standard's own library, properties over any sequence of answers, and
addresses in all spellings that are known to have led others astray.
"""

import base64
import hmac
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.clock import SystemClock
from agent.core import webhook, webhook_url
from agent.core.webhook import SCHEDULE_S, Answer, Hook

NOW = datetime(2026, 3, 2, 9, 15, tzinfo=UTC)
HOOK = Hook(url="https://agent.example/hook", at=NOW)
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


def tried(hook: Hook, *answers: Answer, chance: float = 0.0) -> Hook:
    """Return the hook after these answers, each at the moment when the try was due."""
    for answer in answers:
        hook = webhook.after(hook, answer, hook.due_at or hook.at, chance)
    return hook


# --- the signature ------------------------------------------------------------------------------


def test_the_signature_is_that_of_the_standards_own_library():
    at = datetime.fromtimestamp(1614265330, UTC)
    secrets = [webhook.read_secret(SECRET)]
    made = webhook.headers("msg_p5jXN8AQM9LWM0D4loKWxJek", at, b'{"test": 2432232314}', secrets)
    assert made == {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }


def test_while_one_secret_replaces_another_both_sign():
    secrets = [webhook.read_secret(SECRET), b"x" * 32]
    made = webhook.headers("id", NOW, b"{}", secrets)["webhook-signature"].split(" ")
    assert len(made) == 2
    signed = f"id.{int(NOW.timestamp())}.{{}}".encode()
    assert made[1] == "v1," + base64.b64encode(hmac.digest(b"x" * 32, signed, "sha256")).decode()


@given(st.binary(min_size=24, max_size=64))
def test_a_secret_reads_back_as_it_was_made(token):
    assert webhook.read_secret(webhook.new_secret(token)) == token


@pytest.mark.parametrize(
    "text", ["", "whsec_", "whsec_c2hvcnQ=", SECRET[6:], "whsec_!!!!" + "A" * 40, SECRET + "é"]
)
def test_a_secret_of_another_form_is_refused(text):
    with pytest.raises(ValueError, match=r"prefix|begins|bytes|base64"):
        webhook.read_secret(text)


def test_the_body_holds_the_link_byte_for_byte():
    link = b'{"kind" : "completed", "n":2}'
    body = webhook.payload("completed", NOW, link)
    assert body == b'{"type":"mmg.completed","timestamp":"2026-03-02T09:15:00Z","data":%b}' % link


# --- the schedule -------------------------------------------------------------------------------


def test_a_receiver_that_is_down_is_tried_on_the_schedule_of_the_standard_and_then_given_up():
    assert list(SCHEDULE_S) == [0, 5, 300, 1800, 7200, 18000, 36000, 50400, 72000, 86400]
    hook, pauses = HOOK, []
    for _ in SCHEDULE_S:
        began = hook.due_at or hook.at
        hook = webhook.after(hook, Answer(status=503), began, 0.0)
        pauses.append(None if hook.due_at is None else (hook.due_at - began).total_seconds())
    assert pauses == [*SCHEDULE_S[1:], None]
    assert (hook.state, hook.tries) == ("undeliverable", len(SCHEDULE_S))
    assert hook.reason == "it answers 503"


@given(st.floats(0, 1), st.integers(1, len(SCHEDULE_S) - 1))
def test_chance_makes_a_pause_longer_by_a_tenth_at_most(chance, tries):
    hook = tried(HOOK, *[Answer(status=500)] * (tries - 1))
    later = webhook.after(hook, Answer(status=500), NOW, chance)
    assert later.due_at is not None
    pause_s = (later.due_at - NOW).total_seconds()
    assert SCHEDULE_S[tries] <= pause_s <= SCHEDULE_S[tries] * 1.1 + 1e-6


@pytest.mark.parametrize(
    ("text", "pause_s"),
    [
        ("120", 120),
        ("1", 5),
        (" 60 ", 60),
        ("99999999999999", 86400),
        ("Mon, 02 Mar 2026 09:20:00 GMT", 300),
        ("Mon, 02 Mar 2026 09:00:00 GMT", 5),
        ("soon", 5),
        ("-5", 5),
        ("", 5),
        ("\u0664", 5),
    ],
)
def test_retry_after_makes_a_pause_longer_but_never_longer_than_a_day(text, pause_s):
    later = webhook.after(HOOK, Answer(status=429, retry_after=text), NOW, 0.0)
    assert later.due_at == NOW + timedelta(seconds=pause_s)


@pytest.mark.parametrize("status", [200, 201, 204, 299])
def test_any_2xx_is_a_delivery(status):
    done = tried(HOOK, Answer(status=500), Answer(status=status))
    assert (done.state, done.tries, done.reason, done.due_at) == ("delivered", 2, "", None)


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_is_a_failure_and_says_so(status):
    later = tried(HOOK, Answer(status=status))
    assert later.state == "waiting"
    assert later.reason == f"it answers {status}: redirects are not followed"


def test_410_and_what_cannot_change_are_given_up_at_once():
    assert tried(HOOK, Answer(status=410)).state == "undeliverable"
    assert tried(HOOK, Answer(reason="no secret", never=True)).state == "undeliverable"


@given(st.lists(st.sampled_from([None, 100, 200, 302, 404, 410, 429, 500]), max_size=30))
def test_whatever_is_answered_a_webhook_ends_and_its_tries_are_counted(statuses):
    hook, count = HOOK, 0
    for status in [*statuses, *[500] * len(SCHEDULE_S)]:
        if hook.state != "waiting":
            break
        assert webhook.is_due(hook, hook.due_at or NOW)
        hook = tried(hook, Answer(status=status, reason="x" * 1000))
        count += 1
    assert hook.state != "waiting"
    assert hook.tries == count <= len(SCHEDULE_S)
    assert len(hook.reason) <= webhook.REASON_LENGTH_MAX
    assert msgspec.json.decode(msgspec.json.encode(hook), type=Hook) == hook


def test_a_person_may_have_it_begin_again():
    again = webhook.again(tried(HOOK, Answer(status=410)), NOW)
    assert again == HOOK


# --- where it may go ----------------------------------------------------------------------------

INSIDE = [
    "127.0.0.1",
    "127.8.9.1",
    "0.0.0.0",  # noqa: S104 - it is refused
    "10.1.2.3",
    "172.16.0.1",
    "192.168.1.1",
    "169.254.169.254",
    "100.64.0.1",
    "192.0.0.1",
    "198.18.0.1",
    "224.0.0.1",
    "255.255.255.255",
    "240.0.0.1",
    "::",
    "::1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "::127.0.0.1",
    "64:ff9b::7f00:1",
    "64:ff9b:1::7f00:1",
    "2002:7f00:1::",
    "2001:0:7f00:1::",
    "2001:db8::1",
    "3fff::1",
    "fe80::1",
    "fe80::1%eth0",
    "fd00::1",
    "fec0::1",
    "ff02::1",
]


@pytest.mark.parametrize("address", INSIDE)
def test_an_address_inside_is_refused_by_the_socket_and_by_its_text(address):
    assert webhook_url.address_refusal(address)
    host = f"[{address.partition('%')[0]}]" if ":" in address else address
    assert webhook_url.refusal(f"https://{host}/hook", ())


@pytest.mark.parametrize(
    "address", ["8.8.8.8", "1.1.1.1", "2606:4700:4700::1111", "::ffff:8.8.8.8"]
)
def test_a_public_address_may_be_told(address):
    assert webhook_url.address_refusal(address) is None


@pytest.mark.parametrize(
    "url",
    [
        "http://agent.example/hook",
        "https://agent.example:8443/hook",
        "https://user@agent.example/",
        "https://user:word@127.0.0.1/",
        "ftp://agent.example/",
        "file:///etc/passwd",
        "https:///hook",
        "https://agent.example:99999/",
        "https://agent.example:abc/",
        "https://[::1/",
        "//agent.example/",
        "agent.example",
        "https://2130706433/",
        "https://0x7f.1/",
        "https://0x7f000001/",
        "https://0177.0.0.1/",
        "https://127.1/",
        "https://0/",
        "https://127.0.0.1./",
        "https://\uff11\uff12\uff17.0.0.1/",
    ],
)
def test_an_address_that_is_none_of_https_to_a_public_host_is_refused(url):
    assert webhook_url.refusal(url, ())


def test_what_an_operator_allows_may_be_told_by_http_too_and_nothing_beside_it():
    allowed = {
        webhook_url.read_allowed(one) for one in ("127.0.0.1:9000", "Hooks.Lan:8443", "[::1]:1")
    }
    for url in ("http://127.0.0.1:9000/x", "https://hooks.lan:8443/", "http://[::1]:1/"):
        assert webhook_url.refusal(url, allowed) is None
        assert webhook_url.is_allowed(url, allowed)
    for url in ("http://127.0.0.1:9001/x", "https://127.0.0.1/", "https://a.hooks.lan:8443/"):
        assert webhook_url.refusal(url, allowed)
        assert not webhook_url.is_allowed(url, allowed)


@pytest.mark.parametrize(
    "text", ["", "host", "host:", ":1", "host:0", "host:65536", "a b:1", "x:1/y"]
)
def test_what_is_no_host_and_port_cannot_be_allowed(text):
    with pytest.raises(ValueError, match="host:port"):
        webhook_url.read_allowed(text)


@given(st.text(max_size=60))
def test_no_text_at_all_breaks_the_judgement(text):
    for url in (text, f"https://{text}", f"https://agent.example/{text}"):
        verdict = webhook_url.refusal(url, ())
        assert verdict is None or verdict
        assert webhook_url.is_allowed(url, ()) is False
    assert webhook_url.address_refusal(text) is None or webhook_url.address_refusal(text)


def test_the_ten_lines_in_the_documentation_accept_what_is_sent_and_nothing_else():
    page = (Path(__file__).parents[2] / "docs" / "webhooks.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    names: dict[str, Any] = {}
    exec(code, names)  # noqa: S102 - our own page
    verify, now = names["verify"], SystemClock().now()
    made = webhook.headers("id", now, b"{}", [b"y" * 32, webhook.read_secret(SECRET)])
    assert verify(SECRET, made, b"{}")
    assert not verify(SECRET, made, b"{ }")
    assert not verify(webhook.new_secret(b"z" * 32), made, b"{}")
    old = webhook.headers("id", now - timedelta(hours=1), b"{}", [webhook.read_secret(SECRET)])
    assert not verify(SECRET, old, b"{}")
