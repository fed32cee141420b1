"""The folder of a site: keys, certificates and the configuration of its nats-server.

Secrets are written for their owner only; every file is replaced whole. It must not decide who may
do what, nor talk to a server. Where what lies: `agent.site.layout`.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Final

import msgspec
from filelock import FileLock, Timeout

from agent.bus.login import SEED_SUFFIX
from agent.bus.nkeys import Nkey
from agent.site import certificates, roster, server_config
from agent.site.certificates import CertificateError, Pair
from agent.site.layout import Layout, SiteError
from agent.site.roster import Roster
from contracts.requests import Priority

SECRET: Final = 0o600
PUBLIC: Final = 0o644
LOCK_S: Final = 5.0


class Expiry(msgspec.Struct, frozen=True, kw_only=True):
    """When a certificate ends."""

    name: str
    ends_at: datetime


class SiteFolder(Layout):
    """One site on this disk. Blocking: a command calls it, or a thread."""

    def make(self, name: str, hosts: Sequence[str], port: int, now: datetime) -> Roster:
        """Make everything for a new site. Raises: SiteError where one is already, OSError."""
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self._alone():
            if self.exists:
                raise SiteError(f"{self.path} holds a site already; nothing was changed")
            authority = certificates.new_authority(name, now)
            _write(self.authority_key, authority.key, SECRET)
            _write(self.ca, authority.certificate, PUBLIC)
            made = roster.new(name, tuple(hosts), port, self._new_key)
            self._certify(made, authority, now)
            _write(self.server_conf, server_config.server(made, self._whole).encode(), PUBLIC)
            self._keep(made)
            return made

    def roster(self) -> Roster:
        """Return who is on the site. Raises: SiteError."""
        try:
            return msgspec.json.decode(self.roster_file.read_bytes(), type=Roster)
        except FileNotFoundError as error:
            raise SiteError(f"{self.path} holds no site; `mmg key init` makes one") from error
        except (OSError, msgspec.DecodeError) as error:
            raise SiteError(f"{self.roster_file} cannot be read: {error}") from error

    def add_agent(self, agent: str, highest: Priority) -> Path:
        """Add an agent and return its seed file. Raises: SiteError, RosterError, ContractError."""
        with self._alone():
            before = self.roster()
            roster.require_free(before, agent)
            key = self._new_key(agent)
            self._keep(roster.with_agent(before, agent, highest, key))
        return self.seed_of(agent)

    def remove_agent(self, agent: str) -> None:
        """Take an agent's rights away. Raises: SiteError, RosterError."""
        with self._alone():
            self._keep(roster.without_agent(self.roster(), agent))
            self.seed_of(agent).unlink(missing_ok=True)

    def rotate(self, who: str, *, at_once: bool) -> Path:
        """Give a role or an agent a new key and return its file. Raises: SiteError, RosterError."""
        with self._alone():
            before = self.roster()
            new = Nkey.new()
            after = roster.rotated(before, who, new.public, at_once=at_once)
            # The rights first: a process that reads the new seed finds it already known.
            self._keep(after)
            _write(self.seed_of(who), f"{new.seed}\n".encode(), SECRET)
        return self.seed_of(who)

    def finish(self, who: str) -> None:
        """End the keys of `who` from before its rotation. Raises: SiteError, RosterError."""
        with self._alone():
            self._keep(roster.finished(self.roster(), who))

    def renew_certificate(self, now: datetime) -> datetime:
        """Make a new certificate for the server and return its end. Raises: SiteError."""
        with self._alone():
            try:
                authority = Pair(
                    certificate=self.ca.read_bytes(), key=self.authority_key.read_bytes()
                )
            except OSError as error:
                raise SiteError(
                    f"{error.filename} cannot be read ({error.strerror}); the certificate"
                    " authority signs the new certificate: bring its key back for that"
                ) from error
            return self._certify(self.roster(), authority, now)

    def expiries(self) -> list[Expiry]:
        """Return when each certificate ends. Raises: SiteError."""
        found: list[Expiry] = []
        for name, path in (("server", self.server), ("ca", self.ca)):
            try:
                found.append(Expiry(name=name, ends_at=certificates.ends_at(path.read_bytes())))
            except (OSError, CertificateError) as error:
                raise SiteError(f"{path} cannot be read: {error}") from error
        return found

    def exposed(self) -> list[Path]:
        """Return the secrets that others on this machine may read; on Windows none can be told."""
        if os.name == "nt":
            return []
        secrets = [*self.keys.rglob(f"*{SEED_SUFFIX}"), self.server_key, self.authority_key]
        return [path for path in secrets if path.exists() and path.stat().st_mode & 0o077]

    @property
    def _whole(self) -> Path:
        return Path(os.path.abspath(self.path))  # noqa: PTH100 - resolve() would follow links

    def _new_key(self, who: str) -> str:
        """Make a key, write its seed, and return the public half."""
        key = Nkey.new()
        _write(self.seed_of(who), f"{key.seed}\n".encode(), SECRET)
        return key.public

    def _certify(self, of: Roster, authority: Pair, now: datetime) -> datetime:
        try:
            made = certificates.new_server(authority, of.hosts, now)
        except CertificateError as error:
            raise SiteError(str(error)) from error
        _write(self.server_key, made.key, SECRET)
        _write(self.server, made.certificate, PUBLIC)
        return certificates.ends_at(made.certificate)

    def _keep(self, of: Roster) -> None:
        """Write who is there, and what nats-server has to know of it."""
        _write(self.tls_conf, server_config.tls(self._whole).encode(), PUBLIC)
        _write(self.accounts_conf, server_config.accounts(of).encode(), PUBLIC)
        _write(self.roster_file, msgspec.json.format(msgspec.json.encode(of), indent=2), PUBLIC)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Change the site alone. Raises: SiteError where somebody else does."""
        if not self.path.is_dir():
            raise SiteError(f"{self.path} holds no site; `mmg key init` makes one")
        lock = FileLock(self.path / ".lock")
        try:
            lock.acquire(timeout=LOCK_S)
        except Timeout as error:
            raise SiteError(f"another `mmg key` changes {self.path} now") from error
        try:
            yield
        finally:
            lock.release()


def _write(path: Path, data: bytes, mode: int) -> None:
    """Replace a file whole; its folder is for the owner only where it holds a secret."""
    path.parent.mkdir(mode=0o700 if mode == SECRET else 0o755, parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.new")
    temporary.unlink(missing_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    with os.fdopen(os.open(temporary, flags, mode), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
