"""Identity providers that others run: OpenID Connect, LDAP and PAM.

Only a translation of settings into the configuration of well-kept authenticators. What has no option here
is set in `jupyterhub_config.d/*.py` on the authenticator itself. Who may log in with a provider's
account (`allow_all`, `allowed_users`, `admin_users`) is common to all of them and set by the caller.
"""

from __future__ import annotations

import json
import os
import ssl
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

CLIENT_SECRET_ENV = "RESPAWNER_OIDC_CLIENT_SECRET"  # noqa: S105 - the name of a variable
LDAP_PASSWORD_ENV = "RESPAWNER_LDAP_LOOKUP_PASSWORD"  # noqa: S105

DISCOVERY_PATH = "/.well-known/openid-configuration"
DISCOVERY_TIMEOUT_SECONDS = 15


class ExternalAuthError(Exception):
    """The identity provider cannot be configured. The message names the option and what it needs."""


class SecretMissingError(ExternalAuthError):
    """A secret is neither in its file nor in its environment variable."""


class DiscoveryError(ExternalAuthError):
    """The OpenID Connect issuer did not tell its addresses."""


class _Options(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class OidcOptions(_Options):
    """OpenID Connect, by oauthenticator's `GenericOAuthenticator`."""

    client_id: str = Field(
        min_length=1, description="Identifier under which the hub is registered at the provider."
    )
    client_secret_file: Path | None = Field(
        None,
        description=(
            "File that holds the client secret and nothing else, readable by the hub alone. "
            f"Empty: the environment variable {CLIENT_SECRET_ENV}."
        ),
    )
    callback_url: str = Field(
        pattern=r"^https?://\S+/hub/oauth_callback$",
        description=(
            "Address to which the provider sends people back, as registered there, "
            "for example https://gpu.example.org/hub/oauth_callback."
        ),
    )
    issuer: str = Field(
        "",
        description=(
            "Issuer, for example https://login.example.org/realms/lab. Its addresses are asked for when the hub "
            "starts; set authorize_url, token_url and userdata_url instead if the hub must start while the "
            "provider does not answer."
        ),
    )
    authorize_url: str = Field("", description="The provider's authorization endpoint, without an issuer.")
    token_url: str = Field("", description="The provider's token endpoint, without an issuer.")
    userdata_url: str = Field("", description="The provider's userinfo endpoint, without an issuer.")
    scope: list[str] = Field(
        ["openid", "profile", "email"],
        description="Scopes to ask for. Some providers only tell groups with a scope of their own.",
    )
    username_claim: str = Field(
        "preferred_username",
        description=(
            "Claim that is the user's name in the hub. It must be unique and not changeable by the user: "
            "whoever holds a name gets its files."
        ),
    )
    groups_claim: str = Field("groups", description="Claim that lists the user's groups.")
    manage_groups: bool = Field(
        False,
        description="The provider's groups are the hub's groups. On by itself with allowed_groups or admin_groups.",
    )
    allowed_groups: list[str] = Field([], description="Groups whose members may log in.")
    admin_groups: list[str] = Field(
        [], description="Groups whose members may log in and administer the hub; others lose that right."
    )
    login_service: str = Field(
        "single sign-on", description="Name of the provider on the login button: “Sign in with …”."
    )
    ca_file: Path | None = Field(
        None,
        description="PEM file of the authority that signed the provider's certificate, if it is your own.",
    )

    @model_validator(mode="after")
    def _issuer_or_addresses(self) -> OidcOptions:
        addresses = (self.authorize_url, self.token_url, self.userdata_url)
        if self.issuer and any(addresses):
            raise ValueError("set either issuer, or authorize_url, token_url and userdata_url")
        if not self.issuer and not all(addresses):
            raise ValueError("needs an issuer, or all of authorize_url, token_url and userdata_url")
        return self


class LdapOptions(_Options):
    """LDAP or Active Directory, by `ldapauthenticator.LDAPAuthenticator`."""

    server: str = Field(
        min_length=1, description="Host name or address of the LDAP server, for example ldap.example.org."
    )
    port: int | None = Field(
        None, ge=1, le=65535, description="Port of the LDAP server. Empty: 389, or 636 with tls = on_connect."
    )
    tls: Literal["before_bind", "on_connect", "insecure"] = Field(
        "before_bind",
        description="before_bind (StartTLS), on_connect (LDAPS), or insecure: passwords cross the network readable.",
    )
    ca_file: Path | None = Field(
        None, description="PEM file of the authority that signed the server's certificate, if it is your own."
    )
    bind_dn_template: list[str] = Field(
        [],
        description=(
            "Names under which users log in to the directory, tried in order, "
            "for example uid={username},ou=people,dc=example,dc=org."
        ),
    )
    user_search_base: str = Field(
        "",
        description=(
            "Where users are looked up if their name does not follow a template (Active Directory), "
            "for example ou=people,dc=example,dc=org."
        ),
    )
    user_attribute: str = Field(
        "uid",
        description="Attribute that holds the login name. Active Directory: sAMAccountName.",
    )
    lookup_bind_dn: str = Field(
        "", description="Account that looks users up. Empty: the directory is asked anonymously."
    )
    lookup_password_file: Path | None = Field(
        None,
        description=(
            "File that holds that account's password and nothing else. "
            f"Empty: the environment variable {LDAP_PASSWORD_ENV}."
        ),
    )
    search_filter: str = Field(
        "",
        description="LDAP filter that a user must pass as well, for example (&({userattr}={username})(objectClass=person)).",
    )
    allowed_groups: list[str] = Field(
        [], description="Groups (their full names, DN) whose members may log in."
    )

    @model_validator(mode="after")
    def _template_or_lookup(self) -> LdapOptions:
        if bool(self.bind_dn_template) == bool(self.user_search_base) and not self.search_filter:
            raise ValueError("needs either bind_dn_template, or user_search_base to look users up")
        if self.search_filter and not self.user_search_base:
            raise ValueError("search_filter needs user_search_base")
        return self


class PamOptions(_Options):
    """The accounts of the hub's own machine, by JupyterHub's `PAMAuthenticator`."""

    service: str = Field(
        "login", min_length=1, description="PAM service, a file in /etc/pam.d, that checks passwords."
    )
    check_account: bool = Field(
        True, description="Ask PAM as well whether the account is locked, expired or not allowed here."
    )
    allowed_groups: list[str] = Field([], description="Unix groups whose members may log in.")
    admin_groups: list[str] = Field([], description="Unix groups whose members administer the hub.")


def configure_oidc(c: Any, options: OidcOptions) -> None:
    """Let people log in at an OpenID Connect provider.

    :raises SecretMissingError: the client secret is nowhere.
    :raises DiscoveryError: an issuer is set and does not tell its addresses.
    """
    c.JupyterHub.authenticator_class = "oauthenticator.generic.GenericOAuthenticator"
    oauth = c.GenericOAuthenticator
    oauth.client_id = options.client_id
    oauth.client_secret = _secret(
        options.client_secret_file, CLIENT_SECRET_ENV, "auth.oidc.client_secret_file"
    )
    oauth.oauth_callback_url = options.callback_url
    oauth.authorize_url, oauth.token_url, oauth.userdata_url = _endpoints(options)
    oauth.scope = options.scope
    oauth.username_claim = options.username_claim
    oauth.login_service = options.login_service
    if options.ca_file:
        oauth.http_request_kwargs = {"ca_certs": str(options.ca_file)}
    if options.manage_groups or options.allowed_groups or options.admin_groups:
        oauth.manage_groups = True
        oauth.auth_state_groups_key = f"oauth_user.{options.groups_claim}"
        oauth.allowed_groups = set(options.allowed_groups)
        oauth.admin_groups = set(options.admin_groups)


def configure_ldap(c: Any, options: LdapOptions) -> None:
    """Let people log in with their password in an LDAP directory.

    :raises SecretMissingError: the password of the account that looks users up is nowhere.
    """
    c.JupyterHub.authenticator_class = "ldapauthenticator.LDAPAuthenticator"
    ldap = c.LDAPAuthenticator
    ldap.server_address = options.server
    if options.port is not None:
        ldap.server_port = options.port
    ldap.tls_strategy = options.tls
    # ldap3 accepts any certificate unless told otherwise: https://ldap3.readthedocs.io/en/latest/ssltls.html
    ldap.tls_kwargs = {"validate": ssl.CERT_REQUIRED} | (
        {"ca_certs_file": str(options.ca_file)} if options.ca_file else {}
    )
    ldap.bind_dn_template = options.bind_dn_template
    if options.user_search_base:
        ldap.user_search_base = options.user_search_base
        ldap.user_attribute = options.user_attribute
        ldap.search_filter = options.search_filter
    if not options.bind_dn_template:
        ldap.lookup_dn = True
        ldap.lookup_dn_user_dn_attribute = options.user_attribute
    if options.lookup_bind_dn:
        ldap.lookup_dn_search_user = options.lookup_bind_dn
        ldap.lookup_dn_search_password = _secret(
            options.lookup_password_file, LDAP_PASSWORD_ENV, "auth.ldap.lookup_password_file"
        )
    ldap.allowed_groups = options.allowed_groups


def configure_pam(c: Any, options: PamOptions) -> None:
    """Let people log in with their account on the hub's machine."""
    c.JupyterHub.authenticator_class = "jupyterhub.auth.PAMAuthenticator"
    pam = c.PAMAuthenticator
    pam.service = options.service
    pam.check_account = options.check_account
    pam.allowed_groups = set(options.allowed_groups)
    pam.admin_groups = set(options.admin_groups)


def _secret(file: Path | None, variable: str, option: str) -> str:
    if file is None:
        secret = os.environ.get(variable, "").strip()
        where = f"environment variable {variable}"
    else:
        try:
            secret = file.read_text().strip()
        except OSError as error:
            raise SecretMissingError(f"{option} = {str(file)!r}: {error.strerror}") from error
        where = str(file)
    if not secret:
        raise SecretMissingError(f"{where} is empty: put the secret there, or set {option}")
    return secret


def _endpoints(options: OidcOptions) -> tuple[str, str, str]:
    """Authorization, token and userinfo endpoint."""
    if not options.issuer:
        return options.authorize_url, options.token_url, options.userdata_url
    document = _discover(options.issuer, options.ca_file)
    try:
        return (
            document["authorization_endpoint"],
            document["token_endpoint"],
            document["userinfo_endpoint"],
        )
    except KeyError as error:
        raise DiscoveryError(
            f"auth.oidc.issuer = {options.issuer!r}: its discovery document has no {error.args[0]}. "
            "Set authorize_url, token_url and userdata_url instead of issuer."
        ) from error


def _discover(issuer: str, ca_file: Path | None) -> dict[str, Any]:
    """OpenID Connect Discovery 1.0, section 4: https://openid.net/specs/openid-connect-discovery-1_0.html"""
    url = issuer.rstrip("/") + DISCOVERY_PATH
    if not url.startswith(("https://", "http://")):
        raise DiscoveryError(f"auth.oidc.issuer = {issuer!r}: must start with https://")
    context = ssl.create_default_context(cafile=str(ca_file) if ca_file else None)
    try:
        with urllib.request.urlopen(url, timeout=DISCOVERY_TIMEOUT_SECONDS, context=context) as reply:  # noqa: S310
            document = json.load(reply)
    except (urllib.error.URLError, TimeoutError, ValueError) as error:
        raise DiscoveryError(
            f"auth.oidc.issuer = {issuer!r}: {url} gave no discovery document ({error}). Does the provider "
            "answer from this machine? Setting authorize_url, token_url and userdata_url avoids asking."
        ) from error
    if not isinstance(document, dict) or document.get("issuer", "").rstrip("/") != issuer.rstrip("/"):
        raise DiscoveryError(
            f"auth.oidc.issuer = {issuer!r}: {url} speaks for another issuer. Write the issuer as it does."
        )
    return document
