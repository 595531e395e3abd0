"""The hub's certificate: a self-signed one where the team has none, and a check of the team's own.

Not for certificates from an authority (ACME): put those into `[tls]`, renewed by whatever renews them.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from .whole_files import whole_file

CERTIFICATE_NAME = "self-signed.crt"
KEY_NAME = "self-signed.key"

VALID_DAYS = 825
"""Longer ones are refused by Apple's systems: https://support.apple.com/en-us/103769"""
RENEW_DAYS = 30
CLOCK_SKEW = timedelta(hours=1)


class TlsError(Exception):
    """The certificate cannot be used. The message names the file and the next step."""


class CertificateUnreadableError(TlsError):
    """A file is missing, may not be read, or is not PEM."""


class KeyMismatchError(TlsError):
    """The private key is not the certificate's."""


class CertificateExpiredError(TlsError):
    """The certificate was valid once."""


class CertificateNotYetValidError(TlsError):
    """The certificate will be valid, or this machine's clock is wrong."""


class SelfSigned(NamedTuple):
    cert: Path
    key: Path
    created: bool
    """Whether it is new: browsers that were told to trust the one before ask again."""


def ensure_self_signed(folder: Path, names: Iterable[str], now: datetime | None = None) -> SelfSigned:
    """A self-signed certificate for the names, kept in the folder; a new one when names change or it expires soon.

    :param names: host names and IP addresses by which browsers reach the hub, at least one.
    :param now: with a time zone; the current time by default.
    :raises ValueError: a name is neither.
    """
    now = now or datetime.now(UTC)
    wanted = _subject_names(names)
    cert, key = folder / CERTIFICATE_NAME, folder / KEY_NAME
    if _is_good(cert, key, wanted, now):
        return SelfSigned(cert, key, created=False)
    private_key = ec.generate_private_key(ec.SECP256R1())
    certificate = _sign(private_key, wanted, now)
    # a crash between the two leaves a pair that does not match, which is replaced at the next start
    _write(key, _key_pem(private_key), mode=0o600)
    _write(cert, certificate.public_bytes(serialization.Encoding.PEM), mode=0o644)
    return SelfSigned(cert, key, created=True)


def check_certificate(cert: Path, key: Path, now: datetime | None = None) -> datetime:
    """Check that the two files are a pair that browsers can use now, and return when it expires.

    Chain and host name are not checked: that is the browser's.

    :raises CertificateUnreadableError:
    :raises KeyMismatchError:
    :raises CertificateExpiredError:
    :raises CertificateNotYetValidError:
    """
    now = now or datetime.now(UTC)
    certificate, private_key = _load_certificate(cert), _load_key(key)
    if certificate.public_key() != private_key.public_key():
        raise KeyMismatchError(
            f"{key} is not the private key of {cert}. In a file with a chain, the hub's own certificate comes first."
        )
    if now >= certificate.not_valid_after_utc:
        raise CertificateExpiredError(
            f"{cert} expired on {certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC. "
            "Put a new one there and restart the hub."
        )
    if now < certificate.not_valid_before_utc:
        raise CertificateNotYetValidError(
            f"{cert} is valid from {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC, and here it is "
            f"{now.astimezone(UTC):%Y-%m-%d %H:%M} UTC. Is this machine's clock right?"
        )
    return certificate.not_valid_after_utc


def _is_good(cert: Path, key: Path, wanted: list[x509.GeneralName], now: datetime) -> bool:
    try:
        expires = check_certificate(cert, key, now)
    except TlsError:
        return False
    if expires - now <= timedelta(days=RENEW_DAYS) or key.stat().st_mode & 0o077:
        return False
    extensions = _load_certificate(cert).extensions
    return set(extensions.get_extension_for_class(x509.SubjectAlternativeName).value) == set(wanted)


def _subject_names(names: Iterable[str]) -> list[x509.GeneralName]:
    found = list(dict.fromkeys(_subject_name(name) for name in names))
    if not found:
        raise ValueError("a self-signed certificate needs at least one host name or IP address")
    return found


def _subject_name(name: str) -> x509.GeneralName:
    bare = name.strip().removeprefix("[").removesuffix("]").rstrip(".")
    try:
        return x509.IPAddress(ipaddress.ip_address(bare))
    except ValueError:
        pass
    try:
        ascii_name = bare.encode("idna").decode().lower()
    except UnicodeError as error:
        raise ValueError(f"{name!r} is neither a host name nor an IP address") from error
    if not ascii_name or any(character in ascii_name for character in " /:@"):
        raise ValueError(f"{name!r} is neither a host name nor an IP address")
    return x509.DNSName(ascii_name)


def _sign(
    private_key: ec.EllipticCurvePrivateKey, names: list[x509.GeneralName], now: datetime
) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, str(names[0].value)[:64])])
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private_key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(now - CLOCK_SKEW + timedelta(days=VALID_DAYS))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(private_key, hashes.SHA256())
    )


def _key_pem(private_key: ec.EllipticCurvePrivateKey) -> bytes:
    return private_key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _load_certificate(path: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificates(_read(path))[0]
    except ValueError as error:
        raise CertificateUnreadableError(f"{path} is not a certificate in PEM format: {error}") from error


def _load_key(path: Path) -> PrivateKeyTypes:
    try:
        return serialization.load_pem_private_key(_read(path), password=None)
    except TypeError as error:
        raise CertificateUnreadableError(
            f"{path} is locked with a passphrase, which a hub that starts by itself cannot type. "
            f"Store it without: openssl pkey -in {path.name} -out unlocked.key"
        ) from error
    except ValueError as error:
        raise CertificateUnreadableError(f"{path} is not a private key in PEM format: {error}") from error


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CertificateUnreadableError(f"{path}: {error.strerror}") from error


def _write(path: Path, content: bytes, mode: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path, mode) as file:
        file.write(content)
