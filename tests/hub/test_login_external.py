"""Identity providers of others: our options against the real authenticators' traits."""

from __future__ import annotations

import http.server
import json
import ssl
import threading
from pathlib import Path
from urllib.parse import parse_qs, urlencode

import ldapauthenticator
import pytest
from jupyterhub.auth import PAMAuthenticator
from oauthenticator.generic import GenericOAuthenticator
from pydantic import ValidationError
from respawner_hub.auth.external import (
    CLIENT_SECRET_ENV,
    DISCOVERY_PATH,
    LDAP_PASSWORD_ENV,
    DiscoveryError,
    LdapOptions,
    OidcOptions,
    PamOptions,
    SecretMissingError,
    configure_ldap,
    configure_oidc,
    configure_pam,
)
from traitlets.config import Config

from tests.hub.running_hub import Browser, RunningHub, text_of

ADDRESSES = {
    "authorize_url": "https://login.example.org/authorize",
    "token_url": "https://login.example.org/token",
    "userdata_url": "https://login.example.org/userinfo",
}
CLIENT = {"client_id": "hub", "callback_url": "https://gpu.example.org/hub/oauth_callback"}


@pytest.fixture(autouse=True)
def _no_secrets_of_this_machine(monkeypatch):
    monkeypatch.delenv(CLIENT_SECRET_ENV, raising=False)
    monkeypatch.delenv(LDAP_PASSWORD_ENV, raising=False)


@pytest.fixture
def secret(tmp_path) -> Path:
    file = tmp_path / "secret"
    file.write_text("s3cret\n")
    return file


def configured(configure, options, authenticator_class):
    """The authenticator as the hub would make it; every name that we set must be one of its traits."""
    config = Config()
    configure(config, options)
    chosen = config.JupyterHub.authenticator_class
    assert chosen in (
        f"{authenticator_class.__module__}.{authenticator_class.__name__}",
        f"{authenticator_class.__module__.split('.')[0]}.{authenticator_class.__name__}",
    )
    ours = config[authenticator_class.__name__]
    assert set(ours) <= set(authenticator_class.class_traits(config=True))
    authenticator = authenticator_class(config=config)
    for name in ours:
        getattr(authenticator, name)
    return authenticator


def oidc(secret: Path, **options) -> GenericOAuthenticator:
    given = CLIENT | {"client_secret_file": secret} | options
    if "issuer" not in options:
        given = ADDRESSES | given
    return configured(configure_oidc, OidcOptions(**given), GenericOAuthenticator)


def test_oidc_reaches_the_real_authenticator(secret, tmp_path):
    authenticator = oidc(secret, login_service="the lab", ca_file=tmp_path / "ca.pem")
    assert authenticator.client_secret == "s3cret"
    assert authenticator.oauth_callback_url == CLIENT["callback_url"]
    assert authenticator.token_url == ADDRESSES["token_url"]
    assert authenticator.login_service == "the lab"
    assert authenticator.http_request_kwargs == {"ca_certs": str(tmp_path / "ca.pem")}
    assert not authenticator.manage_groups
    assert not authenticator.allow_all


def test_oidc_name_is_the_chosen_claim(secret):
    authenticator = oidc(secret, username_claim="uid")
    assert authenticator.user_info_to_username({"uid": "alice", "preferred_username": "other"}) == "alice"


def test_secret_comes_from_the_environment_without_a_file(monkeypatch, secret):
    monkeypatch.setenv(CLIENT_SECRET_ENV, "from the environment")
    assert oidc(None).client_secret == "from the environment"


def test_missing_secret_is_named(secret, tmp_path):
    with pytest.raises(SecretMissingError, match=CLIENT_SECRET_ENV):
        oidc(None)
    with pytest.raises(SecretMissingError, match=r"nowhere.*No such file"):
        oidc(tmp_path / "nowhere")
    secret.write_text("\n")
    with pytest.raises(SecretMissingError, match="is empty"):
        oidc(secret)


@pytest.mark.parametrize(
    "wrong",
    [
        {"client_secret": "in the settings file"},
        {"issuer": "https://login.example.org"},
        {"token_url": ""},
        {"callback_url": "https://gpu.example.org/"},
        {"client_id": ""},
    ],
)
def test_wrong_oidc_options_are_refused(wrong):
    with pytest.raises(ValidationError):
        OidcOptions(**(CLIENT | ADDRESSES | wrong))


class Provider(http.server.ThreadingHTTPServer):
    """An OpenID Connect provider at which everybody logs in as `userinfo` says, without being asked."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), ProviderAnswer)
        self.issuer = f"http://127.0.0.1:{self.server_port}/realm"
        self.document = document(self.issuer)
        self.userinfo: dict[str, object] = {}


class ProviderAnswer(http.server.BaseHTTPRequestHandler):
    server: Provider

    def do_GET(self) -> None:
        path, _, query = self.path.removeprefix("/realm").partition("?")
        if path == "/authorization":
            asked = parse_qs(query)
            back = urlencode({"code": "from-the-provider", "state": asked["state"][0]})
            self.answer(302, Location=f"{asked['redirect_uri'][0]}?{back}")
        elif path == "/userinfo" and self.headers["Authorization"].split() == ["Bearer", "the-token"]:
            self.answer(200, json.dumps(self.server.userinfo).encode())
        elif path == DISCOVERY_PATH:
            self.answer(200, self.server.document)
        else:
            self.answer(404)

    def do_POST(self) -> None:
        """The token endpoint. The hub proves who it is with its secret, and the code with PKCE's verifier."""
        form = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
        expected = {"code": ["from-the-provider"], "client_id": ["hub"], "client_secret": ["s3cret"]}
        if all(form.get(key) == value for key, value in expected.items()) and form.get("code_verifier"):
            self.answer(200, b'{"access_token": "the-token", "token_type": "Bearer", "scope": "openid"}')
        else:
            self.answer(400, b"{}")

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def provider():
    server = Provider()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def document(issuer: str, **changes) -> bytes:
    endpoints = {f"{kind}_endpoint": f"{issuer}/{kind}" for kind in ("authorization", "token", "userinfo")}
    return json.dumps({"issuer": issuer, **endpoints, **changes}).encode()


@pytest.mark.parametrize("slash", ["", "/"])
def test_issuer_tells_its_addresses(secret, provider, slash):
    provider.document = document(provider.issuer + slash)
    authenticator = oidc(secret, issuer=provider.issuer + "/")
    assert authenticator.authorize_url == f"{provider.issuer}{slash}/authorization"
    assert authenticator.userdata_url == f"{provider.issuer}{slash}/userinfo"


def test_people_log_in_at_the_provider_and_its_groups_decide(provider, secret, tmp_path):
    authentication = f"""
from respawner_hub.auth.external import OidcOptions, configure_oidc
configure_oidc(c, OidcOptions(
    client_id="hub",
    client_secret_file={str(secret)!r},
    callback_url=c.JupyterHub.bind_url + "hub/oauth_callback",
    issuer={provider.issuer!r},
    groups_claim="roles",
    allowed_groups=["lab"],
    admin_groups=["ops"],
    login_service="the lab",
))
"""

    def log_in(name: str, *groups: str) -> str | None:
        provider.userinfo = {"preferred_username": name, "roles": groups}
        browser = Browser(hub)
        browser.get("/oauth_login?next=/hub/home")
        if browser.user() is None:
            return None
        return "admin" if browser.get("/admin").ok else "user"

    with RunningHub(tmp_path, authentication) as hub:
        assert "Sign in with the lab" in text_of(Browser(hub).get("/login"))
        assert log_in("alice", "lab", "others") == "user"
        assert log_in("olivia", "ops") == "admin"
        assert log_in("guest", "others") is None
        assert log_in("olivia", "lab") == "user", "admin rights outlive the group"


def test_issuer_that_does_not_tell_is_named(secret, provider):
    wrong_documents = {
        "another issuer": document("https://evil.example.org"),
        "no token_endpoint": json.dumps(
            {"issuer": provider.issuer, "authorization_endpoint": "https://login.example.org/a"}
        ).encode(),
        "no discovery document": b"<html>",
    }
    for message, wrong in wrong_documents.items():
        provider.document = wrong
        with pytest.raises(DiscoveryError, match=message):
            oidc(secret, issuer=provider.issuer)
    with pytest.raises(DiscoveryError, match="404"):
        oidc(secret, issuer=provider.issuer + "/elsewhere")
    with pytest.raises(DiscoveryError, match="must start with"):
        oidc(secret, issuer="file:///etc")


def ldap(**options) -> ldapauthenticator.LDAPAuthenticator:
    return configured(
        configure_ldap, LdapOptions(server="ldap.example.org", **options), ldapauthenticator.LDAPAuthenticator
    )


def test_ldap_with_names_by_template(tmp_path):
    authenticator = ldap(
        bind_dn_template=["uid={username},ou=people,dc=example,dc=org"],
        allowed_groups=["cn=lab,dc=example,dc=org"],
        ca_file=tmp_path / "ca.pem",
    )
    assert authenticator.server_port == 389
    assert authenticator.tls_strategy.name == "before_bind"
    assert authenticator.tls_kwargs == {
        "validate": ssl.CERT_REQUIRED,
        "ca_certs_file": str(tmp_path / "ca.pem"),
    }
    assert not authenticator.lookup_dn


def test_ldap_with_names_looked_up(secret):
    authenticator = ldap(
        tls="on_connect",
        user_search_base="ou=people,dc=example,dc=org",
        user_attribute="sAMAccountName",
        lookup_bind_dn="cn=reader,dc=example,dc=org",
        lookup_password_file=secret,
    )
    assert authenticator.server_port == 636
    assert authenticator.lookup_dn
    assert authenticator.lookup_dn_search_password == "s3cret"
    assert authenticator.lookup_dn_user_dn_attribute == "sAMAccountName"


def test_ldap_certificate_is_verified_unless_ldap_is_insecure():
    """ldap3 would accept any: https://ldap3.readthedocs.io/en/latest/ssltls.html"""
    for tls in ("before_bind", "on_connect"):
        assert ldap(tls=tls, bind_dn_template=["uid={username}"]).tls_kwargs["validate"] is ssl.CERT_REQUIRED


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"bind_dn_template": ["uid={username}"], "user_search_base": "dc=example"},
        {"bind_dn_template": ["uid={username}"], "search_filter": "(a=b)"},
        {"bind_dn_template": ["uid={username}"], "tls": "yes"},
        {"bind_dn_template": ["uid={username}"], "lookup_password": "in the settings file"},
    ],
)
def test_wrong_ldap_options_are_refused(wrong):
    with pytest.raises(ValidationError):
        LdapOptions(server="ldap.example.org", **wrong)


def test_pam_reaches_the_real_authenticator():
    authenticator = configured(
        configure_pam,
        PamOptions(service="sshd", admin_groups=["wheel"], allowed_groups=["lab"]),
        PAMAuthenticator,
    )
    assert authenticator.service == "sshd"
    assert authenticator.admin_groups == {"wheel"}
    assert authenticator.allowed_groups == {"lab"}


@pytest.mark.parametrize("options", [OidcOptions, LdapOptions, PamOptions])
def test_every_option_is_described(options):
    undescribed = [name for name, field in options.model_fields.items() if not field.description]
    assert undescribed == []
