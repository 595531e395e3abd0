"""A new password for the hub's database: into the file where libpq finds it. Prints the statement by which the server learns of it.

    password.py PASSFILE | psql

The statement has what SCRAM needs to check a password, as psql's \\password sends it, and not the password: PostgreSQL writes
statements into its log when they fail, or when it is told to. Needs Python's standard library alone.
"""

import hashlib
import hmac
import os
import secrets
import sys
from base64 import b64encode
from pathlib import Path

ITERATIONS = 4096
"""PostgreSQL's own. The password is random, so that nobody can guess it at any speed."""


def verifier(password: str, salt: bytes) -> str:
    """As pg_authid.rolpassword has it. RFC 5802 has the keys, RFC 7677 the hash.

    :param password: of ASCII, which SASLprep leaves as it is.
    """
    salted = hashlib.pbkdf2_hmac("sha256", password.encode("ascii"), salt, ITERATIONS)
    stored = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    server = hmac.digest(salted, b"Server Key", "sha256")
    shown_salt, shown_stored, shown_server = (b64encode(part).decode() for part in (salt, stored, server))
    return f"SCRAM-SHA-256${ITERATIONS}:{shown_salt}${shown_stored}:{shown_server}"


def write(passfile: Path, line: str) -> None:
    """Whole or not at all, and for its owner alone from the beginning."""
    os.umask(0o077)
    passfile.parent.mkdir(parents=True, exist_ok=True)
    new = passfile.with_name(f"{passfile.name}.new")
    with open(new, "w") as file:
        file.write(line)
        file.flush()
        os.fsync(file.fileno())
    new.replace(passfile)


if __name__ == "__main__":
    password = secrets.token_hex(32)
    write(Path(sys.argv[1]), f"*:*:respawner:respawner:{password}\n")
    print(f"ALTER ROLE respawner PASSWORD '{verifier(password, secrets.token_bytes(16))}';")
