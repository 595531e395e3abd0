"""Ending logins that JupyterHub has given out.

A login is a signed cookie that holds `User.cookie_id`; a new id makes every such cookie worthless. Each
session's page has an OAuth token of its own beside it, which jupyterhub-singleuser believes for up to five
minutes after it was last looked up (`HubAuth.cache_max_age`).

For the hub's event loop only: it uses the hub's database session.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC

from jupyterhub.orm import APIToken
from jupyterhub.user import User
from jupyterhub.utils import new_token

HUB_CLIENT_ID = "jupyterhub"
"""OAuth client of tokens that were made by hand or for a server's process, not for a browser."""


def end_browser_logins(user: User) -> None:
    """Log the user out everywhere. API tokens and running sessions stay."""
    _end(user, _is_browsers)


def end_access_from_before(user: User, unix_seconds: float) -> None:
    """Log the user out everywhere, and revoke the API tokens made before that time."""

    def is_earlier(token: APIToken) -> bool:
        return token.created is None or token.created.replace(tzinfo=UTC).timestamp() < unix_seconds

    _end(user, lambda token: _is_browsers(token) or is_earlier(token))


def end_all_access(user: User) -> None:
    """Log the user out everywhere and revoke all tokens, also those of running sessions' processes."""
    _end(user, lambda token: True)


def _is_browsers(token: APIToken) -> bool:
    return bool(token.session_id) or token.client_id != HUB_CLIENT_ID


def _end(user: User, is_to_go: Callable[[APIToken], bool]) -> None:
    user.orm_user.cookie_id = new_token()
    for token in list(user.orm_user.api_tokens):
        if is_to_go(token):
            user.db.delete(token)
    for code in list(user.orm_user.oauth_codes):
        user.db.delete(code)
    user.db.commit()
