"""The settings of a site with keys: who a process is, and which server it trusts.

A folder made by `mmg key init` says all of it; a process on another machine has only its own.
"""

from typing import Final

from agent.config import values
from agent.config.row import Row

SITE: Final = (
    Row(
        name="MMG_SITE_DIR",
        section="site",
        key="dir",
        default=None,
        unset="no keys: the bus asks for none",
        parse=None,
        allowed="a folder made by `mmg key init`",
        help="keys and certificates; the nats-server of `mmg up` then lets nobody in without",
    ),
    Row(
        name="MMG_NATS_NKEY",
        section="site",
        key="nkey",
        default=None,
        unset="the key of its role in MMG_SITE_DIR, else none",
        parse=values.nkey,
        allowed="the seed of a user: SU and 56 more of A-Z 2-7",
        help="the key of this process on the bus; better as a file",
        hide="all",
    ),
    Row(
        name="MMG_NATS_CREDS",
        section="site",
        key="creds",
        default=None,
        unset="no such file is used",
        parse=None,
        allowed="a .creds file: a JWT with its seed",
        help="instead of a key, where the bus belongs to a site with an operator of its own",
    ),
    Row(
        name="MMG_NATS_CA",
        section="site",
        key="ca",
        default=None,
        unset="that of MMG_SITE_DIR, else none: then TLS is not demanded",
        parse=None,
        allowed="a file with certificates, PEM",
        help="the certificate authority of nats-server; nothing is sent to one without TLS",
    ),
)
