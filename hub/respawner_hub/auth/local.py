"""JupyterHub's authenticator for local accounts. Its pages are in `pages`, its store in `accounts`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

from jupyterhub import orm
from jupyterhub.auth import Authenticator
from jupyterhub.handlers.base import BaseHandler
from jupyterhub.user import User
from tornado import web
from traitlets import Float, Integer, TraitError, Unicode, default

from . import pages
from .accounts import (
    CODE_DAYS,
    MIN_PASSWORD_LENGTH,
    Accounts,
    State,
    UnknownAccountError,
    is_valid_name,
    normalised_name,
)
from .address import client_address
from .revoke import end_access_from_before, end_all_access
from .throttle import Throttle, wait_message

REFRESH_SECONDS = 60
HASHING_THREADS = 2  # each hash takes 64 MiB

T = TypeVar("T")


class TooManyAttemptsError(web.HTTPError):
    """An attempt refused unchecked. Login form, pages and API all show its message."""

    def __init__(self, wait_seconds: float) -> None:
        super().__init__(429, wait_message(wait_seconds))
        self.jupyterhub_message = wait_message(wait_seconds)
        self.headers = {"Retry-After": str(int(wait_seconds) + 1)}


class LocalAccountsAuthenticator(Authenticator):
    """Accounts that an admin adds on `/hub/accounts` or with `respawner-hub user`, and nobody else.

    The accounts are the authority on who is an admin: a change on JupyterHub's own admin page lasts until
    the account is next looked at. A removed or reset account loses its logins within
    `auth_refresh_age` seconds also when that was done by the command line.
    """

    database_url = Unicode(
        config=True,
        help="""
        SQLAlchemy URL of the database that holds the accounts (table `respawner_accounts`).

        Not the SQLite file of the hub itself, which it locks while it writes. Example:

            c.LocalAccountsAuthenticator.database_url = "sqlite:////srv/respawner/var/respawner.sqlite"
        """,
    )

    min_password_length = Integer(
        MIN_PASSWORD_LENGTH,
        min=8,
        config=True,
        help="""
        Shortest password, in characters, that a user may choose. Example:

            c.LocalAccountsAuthenticator.min_password_length = 16
        """,
    )

    code_days = Float(
        CODE_DAYS,
        min=0.01,
        config=True,
        help="""
        Days for which a one-time code is valid. Example:

            c.LocalAccountsAuthenticator.code_days = 2
        """,
    )

    @default("allow_all")
    def _who_has_an_account_is_allowed(self) -> bool:
        return True

    @default("auth_refresh_age")
    def _accounts_are_looked_at_often(self) -> int:
        return REFRESH_SECONDS

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not self.database_url:
            raise TraitError(
                "LocalAccountsAuthenticator.database_url is not set. "
                "Set it to a SQLAlchemy URL, for example sqlite:////srv/respawner/var/respawner.sqlite"
            )
        self.accounts = Accounts(
            self.database_url, min_password_length=self.min_password_length, code_days=self.code_days
        )
        self.throttle = Throttle()
        self._threads = ThreadPoolExecutor(HASHING_THREADS, thread_name_prefix="accounts")

    def get_handlers(self, app: Any) -> list[tuple[str, type[BaseHandler]]]:
        """Adds the pages, and the variable by which our templates link to them.

        The hub's `template_paths` must have the folder `templates` of this package.
        """
        app.template_vars["local_accounts"] = True
        return [*super().get_handlers(app), *pages.HANDLERS]

    def normalize_username(self, username: str) -> str:
        """The account's name. `username_map` is not for accounts that are the hub's own."""
        return normalised_name(username)

    def validate_username(self, username: str) -> bool:
        return is_valid_name(username) and super().validate_username(username)

    async def authenticate(self, handler: BaseHandler | None, data: dict[str, Any]) -> dict[str, Any] | None:
        name, password = data.get("username"), data.get("password")
        if not isinstance(name, str) or not isinstance(password, str):  # the API passes any JSON
            return None
        name = normalised_name(name)
        if not await self.is_password(handler, name, password):
            return None
        await self.in_thread(self.accounts.record_login, name)
        account = await self.in_thread(self.accounts.get, name)
        return {"name": name, "admin": self._is_admin(name, account.admin)} if account else None

    async def is_password(self, handler: BaseHandler | None, name: str, password: str) -> bool:
        """
        :raises TooManyAttemptsError:
        """
        attempt = self._admit(handler, name)
        if not await self.in_thread(self.accounts.check, name, password):
            return False
        self.throttle.succeeded(*attempt)
        return True

    async def claim(self, handler: BaseHandler, name: str, code: str, password: str) -> None:
        """Set a password with a one-time code, and end the logins that the name may still have.

        :raises UnsuitablePasswordError:
        :raises WrongCodeError:
        :raises TooManyAttemptsError:
        """
        self.accounts.check_suitable(name, password)
        attempt = self._admit(handler, name)
        await self.in_thread(self.accounts.set_password, name, code, password)
        self.throttle.succeeded(*attempt)
        self.log.info("Password of %r was set with a one-time code from %s", name, attempt[1])
        account = await self.in_thread(self.accounts.get, name)
        user = handler.find_user(name)
        if account and user:
            # the hub's user may be older than the account, and another person's
            end_access_from_before(user, account.created_at)

    async def refresh_user(self, user: User, handler: BaseHandler | None = None) -> bool | dict[str, Any]:
        """Called for requests of the user, at most every `auth_refresh_age` seconds.

        Without a password there is no login, but there are API tokens: of running sessions, or made by an
        admin for a user who never logs in.
        """
        account = await self.in_thread(self.accounts.get, user.name)
        if account is None:
            end_all_access(user)
            return False
        if account.state is not State.ACTIVE:
            end_access_from_before(user, account.created_at)
            return bool(getattr(handler, "_token_authenticated", False))
        admin = self._is_admin(user.name, account.admin)
        return True if admin == user.admin else {"admin": admin}

    async def add_user(self, user: User | orm.User) -> None:
        """A user who is added by JupyterHub's admin page or API gets an account, which waits for a code.

        At its start the hub calls this for every user it remembers, with the bare database row. Those get
        no account: it may have been removed on purpose.
        """
        if user.name != normalised_name(user.name):
            raise ValueError(f"{user.name!r} could never log in: names are lower case")
        super().add_user(user)
        if not isinstance(user, orm.User):
            await self.in_thread(self.accounts.add_without_code, user.name, admin=user.admin)

    async def delete_user(self, user: User) -> None:
        super().delete_user(user)
        await self.remove_account(user.name)

    async def remove_account(self, name: str) -> None:
        """Forget an account, if there is one, and the addresses known for it."""
        try:
            await self.in_thread(self.accounts.remove, name)
        except UnknownAccountError:
            self.log.debug("%r had no account to remove", name)
        self.throttle.forget(name)

    async def in_thread(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Run what hashes or waits for a database, without holding up the hub."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, partial(function, *args, **kwargs))

    def _is_admin(self, name: str, account_admin: bool) -> bool:
        return account_admin or name in self.admin_users

    def _admit(self, handler: BaseHandler | None, name: str) -> tuple[str, str]:
        """Count an attempt at the name's password or code; the result is for `Throttle.succeeded`."""
        # names that nobody can have share a counter, which bounds what a counter's name can hold
        attempt = (
            name if is_valid_name(name) else "",
            client_address(handler.request) if handler else "",
        )
        wait = self.throttle.admit(*attempt)
        if wait:
            self.log.warning("Refused attempt at %r from %s for %.0f s", *attempt, wait)
            raise TooManyAttemptsError(wait)
        return attempt
