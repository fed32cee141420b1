"""Who a process is on the bus, and which server it trusts: from files to what the client sends.

A key signs the server's nonce and never leaves the process. With a certificate authority nothing
is sent to a server that does not prove itself. Source: nats-py 2.16.0, which by itself goes on
unencrypted where a server offers no TLS, whatever the address says.
"""

import re
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec
import nats.errors
from nats.aio.client import Client

from agent.bus.errors import BusError
from agent.bus.nkeys import Nkey, NkeyError

OPERATOR: Final = "operator"
CLIENT: Final = "client"
SEED_SUFFIX: Final = ".nk"

NO_TLS: Final = "the server offers no TLS, and MMG_NATS_CA demands it"

_JWT: Final = re.compile(r"-+BEGIN NATS USER JWT-+\s*(\S+)\s*-+END NATS USER JWT-+")
_SEED: Final = re.compile(r"-+BEGIN USER NKEY SEED-+\s*(\S+)\s*-+END USER NKEY SEED-+")


class LoginError(BusError):
    """The key or the certificate authority cannot be used; the text names the file, no secret."""


class Login(msgspec.Struct, frozen=True, kw_only=True):
    """What a process was given to log in with; nothing of it: a server that asks for nothing.

    `seed` is the key itself; `keys` a folder with `<role>.nk` for each role, as `mmg key init`
    makes it; `creds` a file with a JWT and its seed, from a site with an operator of its own.
    """

    seed: str | None = None
    keys: Path | None = None
    creds: Path | None = None
    ca: Path | None = None

    @property
    def named(self) -> bool:
        """Whether it says who we are."""
        return (self.seed or self.keys or self.creds) is not None

    def __repr__(self) -> str:
        """Hide the seed."""
        seed = None if self.seed is None else "[hidden]"
        return f"Login(seed={seed}, keys={self.keys}, creds={self.creds}, ca={self.ca})"


NOBODY: Final = Login()


class Credential(msgspec.Struct, frozen=True, kw_only=True):
    """A key that can sign, with the JWT that vouches for it where there is one."""

    key: Nkey
    jwt: str | None = None


def credential_of(login: Login, role: str) -> Credential | None:
    """Read the key of a role; None where nobody has to say who he is. Raises: LoginError."""
    if login.creds is not None:
        text = _read(login.creds)
        jwt, seed = _JWT.search(text), _SEED.search(text)
        if jwt is None or seed is None:
            raise LoginError(f"{login.creds} is no credentials file: it lacks a JWT or a seed")
        return Credential(key=_key(seed[1], str(login.creds)), jwt=jwt[1])
    if login.seed is not None:
        return Credential(key=_key(login.seed, "MMG_NATS_NKEY"))
    if login.keys is not None:
        path = seed_file(login.keys, role)
        return Credential(key=_key(_read(path), str(path)))
    return None


def seed_file(keys: Path, role: str) -> Path:
    """Return where the seed of a role lies; commands and their clients are the operator."""
    return keys / f"{OPERATOR if role == CLIENT else role}{SEED_SUFFIX}"


def trust(ca: Path) -> ssl.SSLContext:
    """Return what trusts this certificate authority and nobody else. Raises: LoginError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_verify_locations(ca)
    except (OSError, ssl.SSLError) as error:
        raise LoginError(f"{ca} is no certificate authority: {error}") from error
    return context


class ProvenClient(Client):
    """A client that tells nobody who it is before the server has proved itself.

    The key is read again for each connection, so that a rotated one is used without a restart.
    """

    def __init__(self, read: Callable[[], Credential | None], *, tls: bool) -> None:
        """Use what `read` returns; `tls`: never go on without."""
        super().__init__()
        self._read_credential = read
        self._tls_demanded = tls

    @property
    def certificate_ends_s(self) -> float | None:
        """When the certificate that the server has shown ends, in seconds since 1970."""
        writer = getattr(self._transport, "_io_writer", None)
        tls = None if writer is None else writer.get_extra_info("ssl_object")
        shown = None if tls is None else tls.getpeercert()
        return ssl.cert_time_to_seconds(str(shown["notAfter"])) if shown else None

    def _connect_command(self) -> bytes:
        """Compose CONNECT: the last thing before a secret would leave, on each connection."""
        if self._tls_demanded and not self._server_info.get("tls_required", False):
            raise nats.errors.Error(f"nats: {NO_TLS}")
        writer = getattr(self._transport, "_io_writer", None)
        if self._server_info.get("tls_required", False) and writer is not None:
            # nats-py 2.16.0 does not say so, and asyncio then complains at each close.
            writer._protocol._over_ssl = True  # noqa: SLF001
        try:
            found = self._read_credential()
        except LoginError as error:
            raise nats.errors.Error(f"nats: {error}") from error
        if found is not None:
            self._auth_configured = True
            self._signature_cb = lambda nonce: found.key.sign(nonce.encode())
            self._public_nkey = found.key.public
            jwt = found.jwt
            self._user_jwt_cb = None if jwt is None else lambda: bytearray(jwt.encode())
        return super()._connect_command()

    async def close(self) -> None:
        """Close, the socket under the encryption too, which nats-py 2.16.0 leaves to the end."""
        try:
            await super().close()
        finally:
            bare = getattr(self._transport, "_bare_io_writer", None)
            if bare is not None:
                bare.close()


def client_for(login: Login, role: str) -> tuple[ProvenClient, dict[str, Any]]:
    """Return a client that logs in so, and the options of its connect. Raises: LoginError."""
    credential_of(login, role)
    options: dict[str, Any] = {} if login.ca is None else {"tls": trust(login.ca)}
    return ProvenClient(lambda: credential_of(login, role), tls=login.ca is not None), options


def refusal(error: Exception) -> str:
    """Say why a server and we do not trust each other; empty where it is another trouble."""
    if "authorization violation" in str(error).lower():
        return "the server refuses this key, or wants one and MMG_NATS_NKEY_FILE names none"
    if isinstance(error, ssl.SSLError):
        return f"the server's certificate is not trusted (MMG_NATS_CA): {error}"
    return NO_TLS if NO_TLS in str(error) else ""


class _Publish(msgspec.Struct, frozen=True):
    allow: list[str] | None = None


class _Permissions(msgspec.Struct, frozen=True):
    publish: _Publish = _Publish()


class _User(msgspec.Struct, frozen=True):
    permissions: _Permissions = _Permissions()


class _UserAnswer(msgspec.Struct, frozen=True):
    data: _User = _User()


def may_read_streams(answer: bytes) -> bool:
    """Tell from the server's answer about our own key whether it may ask JetStream anything."""
    try:
        allowed = msgspec.json.decode(answer, type=_UserAnswer).data.permissions.publish.allow
    except msgspec.DecodeError:
        return True
    return allowed is None or any(one == ">" or one.startswith("$JS.API.") for one in allowed)


def _key(text: str, where: str) -> Nkey:
    try:
        return Nkey.read(text)
    except NkeyError as error:
        raise LoginError(f"{where}: {error}") from error


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not text"
        raise LoginError(f"{path} cannot be read: {reason}") from error
