"""What people would lose if the hub began to use another database than now: a line for each find, and nothing where there is none.

    left_behind.py SETTINGS STATE_DIR OURS

SETTINGS is the hub's respawner.toml as it stands on its host, so what the hub uses now, whatever the inventory says by now; STATE_DIR
counts where that file is missing. OURS is the database_url to which the hub is to move: who uses it already loses nothing.

Needs Python 3.11 and its standard library alone: it runs before there is anything of ours on the host.
"""

import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import tomllib

PEOPLE = {"jupyterhub.sqlite": "users", "respawner.sqlite": "respawner_accounts"}
"""File of the hub's state_dir → its table with a row a person."""


def left_behind(settings: Path, state_dir: Path, ours: str) -> list[str]:
    """:raises OSError, tomllib.TOMLDecodeError: the settings cannot be read."""
    if settings.exists():
        hub = tomllib.loads(settings.read_text()).get("hub", {})
        url = hub.get("database_url", "")
        if without_passfile(url) == without_passfile(ours):
            return []
        if url:
            return [f"the database {without_password(url)}, which {settings} names"]
        state_dir = settings.parent / hub.get("state_dir", "var")
    return [found for file, table in PEOPLE.items() if (found := people(state_dir / file, table))]


def people(file: Path, table: str) -> str:
    """Who is in it, in words; a file that cannot be read counts."""
    if not file.exists():
        return ""
    try:
        with closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True)) as database:
            if not database.execute("SELECT 1 FROM sqlite_master WHERE name = ?", [table]).fetchone():
                return ""
            (count,) = database.execute(f"SELECT count(*) FROM {table}").fetchone()  # noqa: S608  # one of ours
    except sqlite3.Error as error:
        return f"{file}, which cannot be read ({error})"
    return f"{file} with {count} in its table {table}" if count else ""


def without_passfile(url: str) -> object:
    """To compare: another state_dir moves the file, and not the database."""
    parts = urlsplit(url)
    return parts[:3], [pair for pair in parse_qsl(parts.query) if pair[0] != "passfile"]


def without_password(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


if __name__ == "__main__":
    try:
        print("\n".join(left_behind(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])))
    except (OSError, ValueError) as error:
        print(f"what {sys.argv[1]} names, which cannot be read ({error})")
