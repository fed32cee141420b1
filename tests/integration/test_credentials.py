"""Goal: a process logs in with a .creds file where the bus has an operator and JWTs of its own.

Method: a real nats-server in operator mode; the JWTs are made here, by hand, as `nsc` would.
"""

import base64
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agent.bus.connection import NoAnswer, connect
from agent.bus.login import Login, LoginError
from agent.bus.nkeys import Nkey, NkeyError, _encode
from agent.embedded import EmbeddedServer

OPERATOR, ACCOUNT, USER = 14 << 3, 0, 20 << 3


class Signer:
    """A key of any kind."""

    def __init__(self, kind: int) -> None:
        self.key = Nkey.new()
        self.public = _encode(bytes([kind]) + self.key._private.public_key().public_bytes_raw())

    def vouch(self, kind: str, whom: str, **more: object) -> str:
        """Sign a JWT about somebody."""
        claims = {
            "jti": kind.upper(),
            "iat": 1,
            "iss": self.public,
            "sub": whom,
            "name": kind,
            "nats": {"type": kind, "version": 2, **more},
        }
        head = {"typ": "JWT", "alg": "ed25519-nkey"}
        body = ".".join(_web(json.dumps(part).encode()) for part in (head, claims))
        return f"{body}.{_web(self.key._private.sign(body.encode()))}"


def _web(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def creds(jwt: str, seed: str) -> str:
    return (
        f"-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n"
        f"-----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
    )


@pytest.fixture
async def site(tmp_path) -> AsyncIterator[tuple[str, Path]]:
    """Run the server; return where it is and a good file."""
    operator, user = Signer(OPERATOR), Signer(USER)
    system, account = Signer(ACCOUNT), Signer(ACCOUNT)
    limits = dict.fromkeys(("subs", "data", "payload", "imports", "exports", "conn", "leaf"), -1)
    limits["wildcards"] = True
    accounts = ", ".join(
        f"{one.public}: {operator.vouch('account', one.public, limits=limits)}"
        for one in (system, account)
    )
    conf = tmp_path / "operator.conf"
    conf.write_text(
        f"operator: {operator.vouch('operator', operator.public)}\n"
        f"system_account: {system.public}\n"
        f"resolver: MEMORY\nresolver_preload: {{ {accounts} }}\n",
        encoding="utf-8",
    )
    file = tmp_path / "worker.creds"
    limitless = {"subs": -1, "data": -1, "payload": -1}
    file.write_text(creds(account.vouch("user", user.public, **limitless), user.key.seed))
    server = EmbeddedServer(tmp_path / "nats", 0, (conf,))
    await server.start()
    try:
        yield server.url, file
    finally:
        await server.stop()


async def test_a_process_logs_in_with_its_credentials_file(site):
    url, file = site
    async with await connect([url], "w", patience_s=2, login=Login(creds=file)) as bus:
        heard: list[bytes] = []

        async def hear(msg) -> None:
            heard.append(msg.data)
            await bus.respond(msg, b"yes")

        await bus.subscribe("trial", hear)
        assert (await bus.request("trial", b"there?")).data == b"yes"
    assert heard == [b"there?"]


async def test_a_key_that_the_jwt_does_not_name_is_refused(site):
    url, file = site
    text = file.read_text()
    jwt = text.splitlines()[1]
    file.write_text(creds(jwt, Nkey.new().seed))
    with pytest.raises(NoAnswer, match="refuses this key"):
        await connect([url], "w", patience_s=0.1, login=Login(creds=file))


async def test_what_cannot_be_used_is_named_without_being_shown(tmp_path):
    file = tmp_path / "worker.creds"
    with pytest.raises(LoginError, match="cannot be read"):
        await connect(["nats://127.0.0.1:1"], "w", login=Login(creds=file))
    file.write_text("nothing of the kind")
    with pytest.raises(LoginError, match="no credentials file"):
        await connect(["nats://127.0.0.1:1"], "w", login=Login(creds=file))
    with pytest.raises(LoginError, match="no certificate authority"):
        await connect(["nats://127.0.0.1:1"], "w", login=Login(ca=file))
    good = Nkey.new().seed
    for wrong in (good[:-1], good[:-1] + ("A" if good[-1] != "A" else "B"), good[1:], "", "SU"):
        with pytest.raises(LoginError) as raised:
            await connect(["nats://127.0.0.1:1"], "w", login=Login(seed=wrong))
        assert wrong == "" or len(wrong) < 3 or wrong not in str(raised.value)
    with pytest.raises(NkeyError):
        Nkey.read(Nkey.new().public)


def test_a_key_is_read_back_as_it_was_written():
    key = Nkey.new()
    again = Nkey.read(f" {key.seed}\n")
    assert (again.public, again.sign(b"nonce")) == (key.public, key.sign(b"nonce"))
    assert key.seed.startswith("SU")
    assert len(key.seed) == 58
    assert key.public.startswith("U")
    assert key.seed not in repr(key)
