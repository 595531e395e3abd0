"""Pages of local accounts: set a password with a one-time code, change it, and administer accounts.

JupyterHub checks the XSRF token of every form before a handler's method runs.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from jupyterhub.roles import assign_default_roles
from jupyterhub.scopes import needs_scope
from jupyterhub.user import User
from jupyterhub.utils import url_path_join
from tornado import web

from ..forms import FormPage
from .accounts import AccountError, State, UnsuitablePasswordError, normalised_name
from .revoke import end_all_access, end_browser_logins

if TYPE_CHECKING:
    from .local import LocalAccountsAuthenticator


class AccountPage(FormPage):
    """What the pages have in common."""

    authenticator: LocalAccountsAuthenticator

    def set_default_headers(self) -> None:
        super().set_default_headers()
        # a one-time code or a password must not come back with the browser's back button
        self.set_header("Cache-Control", "no-store")

    async def show(self, template: str, **namespace: Any) -> None:
        self.finish(await self.render_template(template, **namespace))

    def refuse(self, error: AccountError | web.HTTPError) -> str:
        """Set the status for an error that the form shows, and return its text."""
        if isinstance(error, web.HTTPError):
            self.set_status(error.status_code)
            for key, value in getattr(error, "headers", {}).items():
                self.set_header(key, value)
            return str(getattr(error, "jupyterhub_message", error.log_message))
        self.set_status(400 if isinstance(error, UnsuitablePasswordError) else 403)
        return str(error)

    def new_password(self) -> str:
        """
        :raises UnsuitablePasswordError: it was not typed the same twice.
        """
        password = self.get_body_argument("new_password", "", strip=False)
        if password != self.get_body_argument("repeat_password", "", strip=False):
            raise UnsuitablePasswordError("The two new passwords differ.")
        return password


class SetPasswordHandler(AccountPage):
    """For somebody who has no password yet, so it needs no login: the one-time code proves who it is."""

    async def get(self) -> None:
        await self._show(self.get_argument("username", ""))

    async def post(self) -> None:
        name = normalised_name(self.get_body_argument("username", ""))
        code = self.get_body_argument("code", "")
        try:
            password = self.new_password()
            await self.authenticator.claim(self, name, code, password)
        except (AccountError, web.HTTPError) as error:
            await self._show(name, self.refuse(error))
            return
        user = await self.login_user({"username": name, "password": password})
        if user is None:  # c.Authenticator.blocked_users, for example
            raise web.HTTPError(403, "Your password is set, but this hub does not let you log in.")
        self.redirect(self.get_next_url(user))

    async def _show(self, name: str, error: str = "") -> None:
        accounts = self.authenticator.accounts
        await self.show(
            "set-password.html", username=name, error=error, min_length=accounts.min_password_length
        )


class ChangePasswordHandler(AccountPage):
    @web.authenticated
    async def get(self) -> None:
        await self._show(changed=bool(self.get_argument("changed", "")))

    @web.authenticated
    async def post(self) -> None:
        user = self.current_user
        try:
            password = self.new_password()
            self.authenticator.accounts.check_suitable(user.name, password)
            await self._prove_old_password(user)
            await self.authenticator.in_thread(
                self.authenticator.accounts.change_password, user.name, password
            )
        except (AccountError, web.HTTPError) as error:
            await self._show(error=self.refuse(error))
            return
        end_browser_logins(user)
        self.set_login_cookie(user)  # this browser stays logged in
        self.log.info("Password of %r was changed", user.name)
        self.redirect(url_path_join(self.hub.base_url, "change-password") + "?changed=1")

    async def _prove_old_password(self, user: User) -> None:
        old = self.get_body_argument("old_password", "", strip=False)
        if not await self.authenticator.is_password(self, user.name, old):
            raise web.HTTPError(403, "The old password is wrong.")

    async def _show(self, error: str = "", changed: bool = False) -> None:
        accounts = self.authenticator.accounts
        await self.show(
            "change-password.html", error=error, changed=changed, min_length=accounts.min_password_length
        )


class AccountsHandler(AccountPage):
    """The admin's table. A form's `action` says what to do with `username`."""

    @web.authenticated
    @needs_scope("admin:users")
    async def get(self) -> None:
        await self._show()

    @web.authenticated
    @needs_scope("admin:users")
    async def post(self) -> None:
        actions = {
            "add": self._add,
            "reset": self._reset,
            "make-admin": self._make_admin,
            "revoke-admin": self._revoke_admin,
            "remove": self._remove,
        }
        action = self.get_body_argument("action", "")
        if action not in actions:
            raise web.HTTPError(400, f"action = {action!r}: must be one of {', '.join(actions)}")
        name = normalised_name(self.get_body_argument("username", ""))
        try:
            shown = await actions[action](name)
        except AccountError as error:
            self.set_status(400)
            shown = {"error": str(error)}
        else:
            self.log.info("%s: account %r: %s", self.current_user.name, name, action)
        await self._show(**shown)

    async def _add(self, name: str) -> dict[str, Any]:
        admin = bool(self.get_body_argument("admin", ""))
        earlier = self.find_user(name)
        if admin or (earlier and earlier.admin):
            self._require_admin()
        code = await self.authenticator.in_thread(self.authenticator.accounts.add, name, admin=admin)
        if earlier:
            end_all_access(earlier)  # the name may be somebody else's now
        self._set_hub_admin(self.user_from_username(name), admin)
        return {"code": code, "code_for": name}

    async def _reset(self, name: str) -> dict[str, Any]:
        user = await self._other(name)
        code = await self.authenticator.in_thread(self.authenticator.accounts.reset, name)
        if user:
            end_browser_logins(user)
        return {"code": code, "code_for": name}

    async def _make_admin(self, name: str) -> dict[str, Any]:
        self._require_admin()
        return await self._set_admin(name, True, f"{name} is an admin now.")

    async def _revoke_admin(self, name: str) -> dict[str, Any]:
        return await self._set_admin(name, False, f"{name} is no longer an admin.")

    async def _set_admin(self, name: str, admin: bool, notice: str) -> dict[str, Any]:
        user = await self._other(name)
        await self.authenticator.in_thread(self.authenticator.accounts.set_admin, name, admin)
        if user:
            self._set_hub_admin(user, admin)
        return {"notice": notice}

    async def _remove(self, name: str) -> dict[str, Any]:
        """End all access, stop the sessions, and keep what is the user's: files, snapshots, hub record."""
        user = await self._other(name)
        await self.authenticator.remove_account(name)
        stopping = []
        if desk := self.settings.get(
            "gpu_desk"
        ):  # before the stops: nothing of them shall come back by itself
            by = f"user:{self.current_user.name}"
            await self.authenticator.in_thread(desk.ledger.withdraw, name, by, "its account was removed")
        if user:
            end_all_access(user)
            stopping = await self._stop_sessions(user)
        return {"removed": name, "stopping": stopping}

    async def _stop_sessions(self, user: User) -> list[str]:
        """Ask every session to stop; returns after seconds, though a stop may take minutes."""
        active = {name: spawner for name, spawner in user.spawners.items() if spawner.active}
        stoppable = [name for name, spawner in active.items() if not spawner.pending]
        results = await asyncio.gather(
            *(self.stop_single_user(user, name) for name in stoppable), return_exceptions=True
        )
        for name, result in zip(stoppable, results, strict=True):
            if isinstance(result, Exception):
                self.log.error("Could not stop %s:%s: %s", user.name, name, result)
        return [name or "default" for name, spawner in active.items() if spawner.active]

    async def _other(self, name: str) -> User | None:
        """The hub's user of that name, if it is one whose account the current user may change.

        As in JupyterHub's API, only admins change admins: else `admin:users` would make one.
        """
        if name == self.current_user.name:
            raise AccountError("That is your own account: another admin can change it, not you.")
        account = await self.authenticator.in_thread(self.authenticator.accounts.get, name)
        user = self.find_user(name)
        if (account and account.admin) or (user and user.admin):
            self._require_admin()
        return user

    def _require_admin(self) -> None:
        if not self.current_user.admin:
            raise web.HTTPError(403, "Only admins may change admins' accounts or make admins.")

    def _set_hub_admin(self, user: User, admin: bool) -> None:
        user.orm_user.admin = admin
        assign_default_roles(self.db, entity=user.orm_user)
        self.db.commit()

    async def _show(self, **namespace: Any) -> None:
        accounts = await self.authenticator.in_thread(self.authenticator.accounts.list)
        await self.show(
            "accounts.html",
            accounts=accounts,
            State=State,
            iso_time=_iso_time,
            code_days=self.authenticator.code_days,
            set_password_url=self._set_password_url(namespace.get("code_for", "")),
            **namespace,
        )

    def _set_password_url(self, name: str) -> str:
        public = self.settings.get("public_url")
        origin = (
            f"{public.scheme}://{public.netloc}"
            if public
            else f"{self.request.protocol}://{self.request.host}"
        )
        path = url_path_join(self.hub.base_url, "set-password")
        return f"{origin}{path}?{urlencode({'username': name})}"


def _iso_time(unix_seconds: int) -> str:
    return datetime.fromtimestamp(unix_seconds, UTC).isoformat(timespec="minutes")


HANDLERS = [
    ("/set-password", SetPasswordHandler),
    ("/change-password", ChangePasswordHandler),
    ("/accounts", AccountsHandler),
]
