"""The store of local accounts: who exists, who is an admin, whose password or one-time code is right.

An admin adds a name and hands over the one-time code; its user sets the password with it. No account can be
claimed without a code, and there is no way to register oneself. This module knows nothing of JupyterHub and
is not for throttling (`throttle`) or for ending logins (`local`); any number of processes may use it at once.

Codes have 100 random bits and are stored as SHA-256: nothing slower is needed for what cannot be guessed.
Passwords are stored as Argon2id by argon2-cffi with its defaults (RFC 9106, low memory).
"""

from __future__ import annotations

import hashlib
import re
import secrets
import time
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

import argon2
import sqlalchemy as sa

CODE_DAYS = 7
MIN_PASSWORD_LENGTH = 12
MAX_PASSWORD_LENGTH = 1024
BUSY_TIMEOUT_MS = 10_000

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"  # Crockford's base32: no I, L, O, U
_CODE_LENGTH = 20
_NAME = re.compile(r"[a-z0-9][a-z0-9._@+-]{0,63}", re.ASCII)

_metadata = sa.MetaData()

_table = sa.Table(
    "respawner_accounts",
    _metadata,
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("admin", sa.Boolean, nullable=False),
    sa.Column("password_hash", sa.String(255)),
    sa.Column("code_hash", sa.String(64)),
    # times are Unix seconds, UTC
    sa.Column("code_expires_at", sa.BigInteger),
    sa.Column("created_at", sa.Double, nullable=False),  # in full: older logins are not this account's
    sa.Column("password_set_at", sa.BigInteger),
    sa.Column("last_login_at", sa.BigInteger),
)


class AccountError(Exception):
    """Something about accounts that the person asking can put right. The message is for that person."""


class InvalidNameError(AccountError):
    """The name can never be an account's."""


class AccountExistsError(AccountError):
    """The name has an account already."""


class UnknownAccountError(AccountError):
    """The name has no account."""


class UnsuitablePasswordError(AccountError):
    """The new password is too short, too long, or the name itself."""


class WrongCodeError(AccountError):
    """Name and code do not belong together, or the code has been used or has expired: which, is not told."""


class State(Enum):
    ACTIVE = "active"
    WAITING = "waiting for code"
    EXPIRED = "code expired"
    NO_CODE = "no code yet"


@dataclass(frozen=True)
class Account:
    """One row, as it was when it was read. Times are Unix seconds."""

    name: str
    admin: bool
    state: State
    code_expires_at: int | None
    created_at: float
    password_set_at: int | None
    last_login_at: int | None


def normalised_name(name: str) -> str:
    """The name as JupyterHub's `Authenticator.normalize_username` writes it."""
    return name.lower()


def is_valid_name(name: str) -> bool:
    """Whether the normalised name can be an account's.

    ASCII without spaces, 64 characters, so that no two names look the same and one fits everywhere that a
    name goes: volumes, containers, URLs. A subset of what `Authenticator.validate_username` allows.
    """
    return bool(_NAME.fullmatch(name))


class Accounts:
    """Accounts in a database. Every method is one short transaction; safe in threads.

    `check`, `set_password` and `change_password` hash, which takes tens of milliseconds and 64 MiB: keep
    them off an event loop.

    :param url: SQLAlchemy's; the table is made if it is missing.
    :param clock: Unix time in seconds.
    :param random_below: a random number below its argument, unpredictable.
    """

    def __init__(
        self,
        url: str,
        *,
        min_password_length: int = MIN_PASSWORD_LENGTH,
        code_days: float = CODE_DAYS,
        clock: Callable[[], float] = time.time,
        random_below: Callable[[int], int] = secrets.randbelow,
    ) -> None:
        self.min_password_length = min_password_length
        self.code_days = code_days
        self._clock = clock
        self._random_below = random_below
        self._hasher = argon2.PasswordHasher()
        # verified when there is no password, so that an unknown name takes as long as a known one
        self._nobodys_hash = self._hasher.hash(secrets.token_hex(16))
        self._engine = _engine(url)
        # not create_all: that looks first, and two processes that start together both find nothing
        with self._engine.begin() as connection:
            connection.execute(sa.schema.CreateTable(_table, if_not_exists=True))

    def add(self, name: str, *, admin: bool = False) -> str:
        """Make an account that waits for its user, and return its one-time code, which is not kept.

        :raises InvalidNameError:
        :raises AccountExistsError:
        """
        code = self._new_code()
        self._insert(name, admin, code_hash=_code_hash(code), code_expires_at=self._code_expiry())
        return code

    def add_without_code(self, name: str, *, admin: bool = False) -> None:
        """Make an account that nobody can use until `reset` gives it a code. Leaves an existing one alone.

        :raises InvalidNameError:
        """
        try:
            self._insert(name, admin)
        except AccountExistsError:
            return

    def reset(self, name: str) -> str:
        """Give an account a new one-time code; its password and any earlier code stop working at once.

        :raises UnknownAccountError:
        """
        code = self._new_code()
        self._update(
            name, password_hash=None, code_hash=_code_hash(code), code_expires_at=self._code_expiry()
        )
        return code

    def set_password(self, name: str, code: str, password: str) -> None:
        """Set a password with a one-time code, which is used up by it.

        :raises UnsuitablePasswordError: before the code is looked at; the code stays valid.
        :raises WrongCodeError:
        """
        name = normalised_name(name)
        self.check_suitable(name, password)
        if _code_hash(password) == _code_hash(code):
            raise UnsuitablePasswordError("The password must not be the one-time code: others have seen it.")
        hashed, now = self._hasher.hash(_nfkc(password)), int(self._clock())
        statement = (
            sa.update(_table)
            .where(
                _table.c.name == name,
                _table.c.code_hash == _code_hash(code),
                _table.c.code_expires_at > now,
            )
            .values(password_hash=hashed, code_hash=None, code_expires_at=None, password_set_at=now)
        )
        # one statement, so of two who use a code at once one wins
        if not is_valid_name(name) or self._rows_changed(statement) != 1:
            raise WrongCodeError(
                "Name and one-time code do not belong together, or the code was used or has expired. "
                "An admin can give you a new code."
            )

    def change_password(self, name: str, password: str) -> None:
        """Set a password for a user who has proved the old one (`check`).

        :raises UnsuitablePasswordError:
        :raises UnknownAccountError: there is no account, or it has been reset meanwhile.
        """
        name = normalised_name(name)
        self.check_suitable(name, password)
        self._update(
            name,
            _table.c.password_hash.is_not(None),
            password_hash=self._hasher.hash(_nfkc(password)),
            password_set_at=int(self._clock()),
        )

    def check_suitable(self, name: str, password: str) -> None:
        """
        :raises UnsuitablePasswordError: the password may not be this account's.
        """
        name = normalised_name(name)
        if len(password) < self.min_password_length:
            raise UnsuitablePasswordError(
                f"The password must have at least {self.min_password_length} characters; a few random words do well."
            )
        if len(password) > MAX_PASSWORD_LENGTH:
            raise UnsuitablePasswordError(f"The password must have at most {MAX_PASSWORD_LENGTH} characters.")
        if name in password.lower() and len(password) - len(name) < self.min_password_length // 2:
            raise UnsuitablePasswordError("The password must not be little more than the user's name.")

    def check(self, name: str, password: str) -> bool:
        """Whether this is the account's password. Takes as long for names without account or password."""
        name = normalised_name(name)
        stored = self._password_hash(name) if is_valid_name(name) else None
        right = self._verify(stored or self._nobodys_hash, password)
        if not (stored and right):
            return False
        if self._hasher.check_needs_rehash(stored):
            self._rehash(name, stored, password)
        return True

    def record_login(self, name: str) -> None:
        """Remember that the user logged in now. An account removed meanwhile is no error."""
        statement = sa.update(_table).where(_table.c.name == normalised_name(name))
        self._rows_changed(statement.values(last_login_at=int(self._clock())))

    def set_admin(self, name: str, admin: bool) -> None:
        """
        :raises UnknownAccountError:
        """
        self._update(name, admin=admin)

    def remove(self, name: str) -> None:
        """Forget an account. Nothing else of the user's goes: files, volumes and sessions are not ours.

        :raises UnknownAccountError:
        """
        name = normalised_name(name)
        if self._rows_changed(sa.delete(_table).where(_table.c.name == name)) != 1:
            raise _unknown(name)

    def get(self, name: str) -> Account | None:
        with self._engine.connect() as connection:
            row = connection.execute(sa.select(_table).where(_table.c.name == normalised_name(name))).first()
        return self._account(row) if row else None

    def list(self) -> list[Account]:
        """All accounts, by name."""
        with self._engine.connect() as connection:
            return [self._account(row) for row in connection.execute(sa.select(_table).order_by("name"))]

    def close(self) -> None:
        self._engine.dispose()

    def _account(self, row: Any) -> Account:
        if row.password_hash:
            state = State.ACTIVE
        elif not row.code_hash:
            state = State.NO_CODE
        else:
            state = State.WAITING if row.code_expires_at > self._clock() else State.EXPIRED
        return Account(
            row.name,
            row.admin,
            state,
            row.code_expires_at,
            row.created_at,
            row.password_set_at,
            row.last_login_at,
        )

    def _insert(self, name: str, admin: bool, **values: Any) -> None:
        name = normalised_name(name)
        if not is_valid_name(name):
            raise InvalidNameError(
                f"{name!r} cannot be a user's name: use up to 64 letters a-z, digits and . _ @ + -, "
                "with a letter or digit first."
            )
        row = sa.insert(_table).values(name=name, admin=admin, created_at=self._clock(), **values)
        try:
            with self._engine.begin() as connection:
                connection.execute(row)
        except sa.exc.IntegrityError as error:
            raise AccountExistsError(
                f"{name!r} has an account already. Reset it to give out a new code."
            ) from error

    def _update(self, name: str, *conditions: sa.ColumnElement[bool], **values: Any) -> None:
        name = normalised_name(name)
        statement = sa.update(_table).where(_table.c.name == name, *conditions).values(**values)
        if self._rows_changed(statement) != 1:
            raise _unknown(name)

    def _rows_changed(self, statement: sa.Update | sa.Delete) -> int:
        with self._engine.begin() as connection:
            return connection.execute(statement).rowcount

    def _password_hash(self, name: str) -> str | None:
        with self._engine.connect() as connection:
            return connection.scalar(sa.select(_table.c.password_hash).where(_table.c.name == name))

    def _verify(self, stored: str, password: str) -> bool:
        try:
            return self._hasher.verify(stored, _nfkc(password[: MAX_PASSWORD_LENGTH + 1]))
        except argon2.exceptions.VerifyMismatchError:
            return False

    def _rehash(self, name: str, stored: str, password: str) -> None:
        """Store the hash with today's parameters, unless the password has changed meanwhile."""
        statement = sa.update(_table).where(_table.c.name == name, _table.c.password_hash == stored)
        self._rows_changed(statement.values(password_hash=self._hasher.hash(_nfkc(password))))

    def _new_code(self) -> str:
        characters = "".join(_ALPHABET[self._random_below(32)] for _ in range(_CODE_LENGTH))
        return "-".join(characters[start : start + 5] for start in range(0, _CODE_LENGTH, 5))

    def _code_expiry(self) -> int:
        return int(self._clock() + self.code_days * 86_400)


def _unknown(name: str) -> UnknownAccountError:
    return UnknownAccountError(f"{name!r} has no account.")


def _code_hash(code: str) -> str:
    """Hash of a code as a person may type it: any case, with or without hyphens, O for 0, I or L for 1."""
    typed = re.sub(r"[\s-]", "", code).upper().translate(str.maketrans("OIL", "011"))
    return hashlib.sha256(_bytes(typed)).hexdigest()


def _nfkc(password: str) -> bytes:
    """One form for a password that keyboards write in several, as NIST SP 800-63B asks."""
    return _bytes(unicodedata.normalize("NFKC", password))


def _bytes(text: str) -> bytes:
    """Even of what no keyboard writes: JSON can carry lone surrogates, and a request must not fail by them."""
    return text.encode("utf-8", "surrogatepass")


def _engine(url: str) -> sa.Engine:
    engine = sa.create_engine(url, pool_pre_ping=True)
    if engine.dialect.name == "sqlite":

        @sa.event.listens_for(engine, "connect")
        def _set_up(connection: Any, _record: Any) -> None:
            connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
            connection.execute("PRAGMA journal_mode = WAL")

    return engine
