"""A certificate authority of a site, and the certificate of its server: made, signed, read.

It must not know files; PEM goes in and out. The authority signs servers only, and only for itself.
"""

import ipaddress
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

CA_DAYS: Final = 3650
SERVER_DAYS: Final = 397
"""About thirteen months: one rotation a year, with a month to spare."""
_SKEW: Final = timedelta(hours=1)


class CertificateError(Exception):
    """What was given is no certificate or key; the text says which."""


class Pair(msgspec.Struct, frozen=True, kw_only=True):
    """A certificate and its secret key, both PEM."""

    certificate: bytes
    key: bytes


def new_authority(name: str, now: datetime) -> Pair:
    """Make a certificate authority that can sign servers and nothing below itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = _name(f"mmg certificate authority of {name}")
    built = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _SKEW)
        .not_valid_after(now + timedelta(days=CA_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return Pair(certificate=built.public_bytes(Encoding.PEM), key=_pem(key))


def new_server(authority: Pair, hosts: Sequence[str], now: datetime) -> Pair:
    """Make the certificate of a server that answers to `hosts`: names and addresses.

    Raises: CertificateError if the authority cannot be read.
    """
    issuer = _certificates(authority.certificate)[0]
    try:
        signer = load_pem_private_key(authority.key, password=None)
    except (ValueError, TypeError) as error:
        raise CertificateError("the key of the certificate authority cannot be read") from error
    if not isinstance(signer, ec.EllipticCurvePrivateKey):
        raise CertificateError("the key of the certificate authority is of another kind")
    key = ec.generate_private_key(ec.SECP256R1())
    ends = min(now + timedelta(days=SERVER_DAYS), issuer.not_valid_after_utc)
    built = (
        x509.CertificateBuilder()
        .subject_name(_name(hosts[0]))
        .issuer_name(issuer.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _SKEW)
        .not_valid_after(ends)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(list(map(_general, hosts))), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()),
            critical=False,
        )
        .sign(signer, hashes.SHA256())
    )
    return Pair(certificate=built.public_bytes(Encoding.PEM), key=_pem(key))


def ends_at(pem: bytes) -> datetime:
    """Return when the first of these certificates to end ends. Raises: CertificateError."""
    return min(one.not_valid_after_utc for one in _certificates(pem))


def _certificates(pem: bytes) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError as error:
        raise CertificateError("no certificate in PEM form") from error


def _general(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text[:64])])


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
