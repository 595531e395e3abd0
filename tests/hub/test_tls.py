"""The hub's certificate, with real TLS connections and a clock that the tests turn."""

import ipaddress
import socket
import ssl
import threading
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from respawner_hub.tls import (
    CertificateExpiredError,
    CertificateNotYetValidError,
    CertificateUnreadableError,
    KeyMismatchError,
    check_certificate,
    ensure_self_signed,
)

NAMES = ["gpu.example.org", "127.0.0.1", "::1"]


def load(path):
    return x509.load_pem_x509_certificate(path.read_bytes())


def shake_hands(cert, key, server_name: str) -> None:
    """A TLS connection of a client that trusts this certificate and nothing else."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(cert, key)
    client = ssl.create_default_context(cafile=str(cert))
    ours, theirs = socket.socketpair()

    def serve() -> None:
        try:
            server.wrap_socket(theirs, server_side=True).close()
        except ssl.SSLError:
            theirs.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        client.wrap_socket(ours, server_hostname=server_name).close()
    finally:
        ours.close()
        thread.join()


@pytest.mark.parametrize("server_name", NAMES)
def test_client_that_trusts_the_certificate_connects_by_each_name(tmp_path, server_name):
    made = ensure_self_signed(tmp_path, NAMES)
    assert made.created
    shake_hands(made.cert, made.key, server_name)


def test_client_refuses_another_name(tmp_path):
    made = ensure_self_signed(tmp_path, NAMES)
    with pytest.raises(ssl.SSLCertVerificationError, match="ostname"):
        shake_hands(made.cert, made.key, "other.example.org")


def test_certificate_is_p256_with_the_names_for_at_most_825_days(tmp_path):
    certificate = load(ensure_self_signed(tmp_path, NAMES).cert)
    assert isinstance(certificate.public_key().curve, ec.SECP256R1)
    lifetime = certificate.not_valid_after_utc - certificate.not_valid_before_utc
    assert lifetime <= timedelta(days=825)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["gpu.example.org"]
    assert names.get_values_for_type(x509.IPAddress) == [
        ipaddress.ip_address("127.0.0.1"),
        ipaddress.ip_address("::1"),
    ]


def test_key_is_readable_by_its_owner_only(tmp_path):
    made = ensure_self_signed(tmp_path, NAMES)
    assert made.key.stat().st_mode & 0o777 == 0o600


def test_second_call_keeps_the_certificate(tmp_path):
    first = ensure_self_signed(tmp_path, NAMES)
    before = first.cert.read_bytes(), first.key.read_bytes()
    again = ensure_self_signed(tmp_path, [*reversed(NAMES), "GPU.example.org."])
    assert again == (first.cert, first.key, False)
    assert (again.cert.read_bytes(), again.key.read_bytes()) == before


@pytest.mark.parametrize(
    ("days", "renewed"), [(0, False), (794, False), (796, True), (2000, True), (-2, True)]
)
def test_certificate_is_renewed_30_days_before_it_expires(tmp_path, days, renewed):
    now = datetime.now(UTC)
    ensure_self_signed(tmp_path, NAMES, now)
    assert ensure_self_signed(tmp_path, NAMES, now + timedelta(days=days)).created is renewed


def test_certificate_is_renewed_when_names_change(tmp_path):
    ensure_self_signed(tmp_path, NAMES)
    assert ensure_self_signed(tmp_path, [*NAMES, "10.0.0.1"]).created
    assert ensure_self_signed(tmp_path, NAMES[:1]).created


def test_half_written_or_exposed_pair_is_replaced(tmp_path):
    made = ensure_self_signed(tmp_path, NAMES)
    made.key.write_bytes(made.key.read_bytes()[:50])
    assert ensure_self_signed(tmp_path, NAMES).created
    made.cert.unlink()
    assert ensure_self_signed(tmp_path, NAMES).created
    made.key.chmod(0o644)
    assert ensure_self_signed(tmp_path, NAMES).created
    check_certificate(made.cert, made.key)
    assert {path.name for path in tmp_path.iterdir()} == {made.cert.name, made.key.name}


def test_folder_is_made(tmp_path):
    assert ensure_self_signed(tmp_path / "state" / "tls", NAMES).cert.is_file()


@pytest.mark.parametrize("names", [[], [""], ["a b"], ["https://gpu.example.org"], ["gpu:8000"], ["x" * 64]])
def test_what_is_no_name_is_refused(tmp_path, names):
    with pytest.raises(ValueError, match="host name"):
        ensure_self_signed(tmp_path, names)
    assert not list(tmp_path.iterdir())


def test_name_in_another_script_is_encoded(tmp_path):
    certificate = load(ensure_self_signed(tmp_path, ["bücher.example", "[::1]"]).cert)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["xn--bcher-kva.example"]
    assert names.get_values_for_type(x509.IPAddress) == [ipaddress.ip_address("::1")]


def test_good_pair_is_accepted_with_its_date(tmp_path):
    made = ensure_self_signed(tmp_path, NAMES)
    assert check_certificate(made.cert, made.key) == load(made.cert).not_valid_after_utc


def test_chain_behind_the_certificate_is_accepted(tmp_path):
    made = ensure_self_signed(tmp_path / "hub", NAMES)
    authority = ensure_self_signed(tmp_path / "authority", ["ca"])
    chain = tmp_path / "chain.pem"
    chain.write_bytes(made.cert.read_bytes() + authority.cert.read_bytes())
    check_certificate(chain, made.key)
    chain.write_bytes(authority.cert.read_bytes() + made.cert.read_bytes())
    with pytest.raises(KeyMismatchError, match="comes first"):
        check_certificate(chain, made.key)


def test_key_of_another_certificate_is_named(tmp_path):
    made = ensure_self_signed(tmp_path / "a", NAMES)
    other = ensure_self_signed(tmp_path / "b", NAMES)
    with pytest.raises(KeyMismatchError, match=str(other.key)):
        check_certificate(made.cert, other.key)


def test_key_of_another_kind_is_a_mismatch(tmp_path):
    made = ensure_self_signed(tmp_path, NAMES)
    made.key.write_bytes(
        rsa.generate_private_key(65537, 2048).private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.TraditionalOpenSSL,
            serialization.NoEncryption(),
        )
    )
    with pytest.raises(KeyMismatchError):
        check_certificate(made.cert, made.key)


def test_expired_and_future_certificates_are_told_apart(tmp_path):
    now = datetime.now(UTC)
    made = ensure_self_signed(tmp_path, NAMES, now)
    with pytest.raises(CertificateExpiredError, match="expired on"):
        check_certificate(made.cert, made.key, now + timedelta(days=826))
    with pytest.raises(CertificateNotYetValidError, match="clock"):
        check_certificate(made.cert, made.key, now - timedelta(days=1))


def test_unreadable_files_are_named(tmp_path):
    made = ensure_self_signed(tmp_path, NAMES)
    missing, rubbish = tmp_path / "missing.pem", tmp_path / "rubbish.pem"
    rubbish.write_text("-----BEGIN NONSENSE-----\n")
    for cert, key in [(missing, made.key), (made.cert, missing), (rubbish, made.key), (made.cert, rubbish)]:
        with pytest.raises(
            CertificateUnreadableError, match=str(missing if missing in (cert, key) else rubbish)
        ):
            check_certificate(cert, key)


def test_key_with_a_passphrase_is_named(tmp_path):
    made = ensure_self_signed(tmp_path, NAMES)
    key = serialization.load_pem_private_key(made.key.read_bytes(), None)
    made.key.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    with pytest.raises(CertificateUnreadableError, match="passphrase"):
        check_certificate(made.cert, made.key)
