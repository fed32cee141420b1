"""Where everything of a site lies on this disk. It must not read or write any of it.

nats.conf tls.conf accounts.conf     what nats-server reads
site.json                            who is on the site, public keys only
tls/ca.pem server.pem server.key     the certificate authority to trust, and the server's own
ca/ca.key                            signs the next server certificate; best kept elsewhere
keys/<role>.nk keys/agents/<token>.nk  seeds, each for one process to have
"""

from pathlib import Path

from agent.bus.login import seed_file
from agent.site.rights import ROLES
from contracts import subjects


class SiteError(Exception):
    """The folder is not as it must be; the text says what to do."""


class Layout:
    """The paths of one site."""

    def __init__(self, path: Path) -> None:
        """Know where; nothing needs to be there."""
        self.path = path
        self.keys = path / "keys"
        self.ca = path / "tls" / "ca.pem"
        self.authority_key = path / "ca" / "ca.key"
        self.server = path / "tls" / "server.pem"
        self.server_key = path / "tls" / "server.key"
        self.roster_file = path / "site.json"
        self.accounts_conf = path / "accounts.conf"
        self.tls_conf = path / "tls.conf"
        self.server_conf = path / "nats.conf"

    @property
    def exists(self) -> bool:
        """Whether a site was made here."""
        return self.roster_file.exists()

    def seed_of(self, who: str) -> Path:
        """Return where the seed of a role or an agent lies. Raises: ContractError."""
        if who in ROLES:
            return seed_file(self.keys, who)
        return seed_file(self.keys / "agents", subjects.identity(who, "any").agent)
