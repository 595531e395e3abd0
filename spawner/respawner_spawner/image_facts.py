"""What an image says about the user that its containers run as. Read once an image, nothing is run."""

from __future__ import annotations

import io
import re
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import docker.errors

from .engine import Engine

DEFAULT_UID = 1000
DEFAULT_GID = 100
ENVIRONMENT_LABEL = "org.respawner.environment"


@dataclass(frozen=True)
class ImageFacts:
    """`user` is `uid:gid`, as the container is started; sessions never run as root."""

    name: str
    image_id: str
    uid: int
    gid: int
    home: str
    command: tuple[str, ...]
    has_init: bool
    environment: Mapping[str, str]
    environment_name: str

    @property
    def user(self) -> str:
        return f"{self.uid}:{self.gid}"


_known: dict[tuple[str, str, str], ImageFacts] = {}


async def image_facts(engine: Engine, image: str) -> ImageFacts:
    """Facts of an image that is on the engine; kept in memory by image id.

    :raises docker.errors.ImageNotFound: the engine does not have it.
    """
    inspection = await engine.call("inspect_image", image)
    key = (engine.host, image, inspection["Id"])
    if key not in _known:
        files = await engine.run(lambda: _account_files(engine, inspection["Id"]))
        _known[key] = derive(image, inspection, passwd=files["passwd"], group=files["group"])
    return _known[key]


def _account_files(engine: Engine, image_id: str) -> dict[str, str]:
    """/etc/passwd and /etc/group, by way of a container that is created and never started."""
    container = engine.client.create_container(image_id, command=["true"])
    try:
        return {name: _read_file(engine, container["Id"], f"/etc/{name}") for name in ("passwd", "group")}
    finally:
        engine.client.remove_container(container["Id"], v=True, force=True)


def _read_file(engine: Engine, container_id: str, path: str) -> str:
    try:
        chunks, _ = engine.client.get_archive(container_id, path)
    except docker.errors.NotFound:
        return ""
    with tarfile.open(fileobj=io.BytesIO(b"".join(chunks))) as archive:
        for member in archive:
            if content := archive.extractfile(member):
                return content.read().decode(errors="replace")
    return ""


def derive(image: str, inspection: Mapping[str, Any], passwd: str, group: str) -> ImageFacts:
    """Pure: the facts from Docker's inspection and the image's account files."""
    config = inspection["Config"]
    uid, gid, home = _account(config.get("User") or "", passwd, group)
    environment = dict(item.split("=", 1) for item in config.get("Env") or [] if "=" in item)
    entrypoint = " ".join(config.get("Entrypoint") or [])
    return ImageFacts(
        name=image,
        image_id=inspection["Id"],
        uid=uid,
        gid=gid,
        home=home,
        command=tuple(config.get("Cmd") or ()),
        has_init=bool(re.search(r"\b(tini|dumb-init)\b", entrypoint)),
        environment=environment,
        environment_name=_environment_name(image, inspection["Id"], config.get("Labels") or {}),
    )


def _account(user: str, passwd: str, group: str) -> tuple[int, int, str]:
    """uid, gid and home of an image's `USER`, which is a name or a number, with or without a group."""
    name, _, group_name = user.partition(":")
    rows = [row.split(":") for row in passwd.splitlines() if row.count(":") == 6]
    row = next((r for r in rows if name in (r[0], r[2])), None)
    uid = int(row[2]) if row else int(name) if name.isdigit() else DEFAULT_UID
    if uid == 0:
        uid = DEFAULT_UID
        row = next((r for r in rows if r[2] == str(uid)), None)
    gid = _group(group_name, group) or (int(row[3]) if row else 0) or DEFAULT_GID
    home = row[5] if row and row[5] not in ("", "/", "/nonexistent") else "/home/jovyan"
    return uid, gid, home


def _group(name: str, group: str) -> int:
    if name.isdigit():
        return int(name)
    rows = [row.split(":") for row in group.splitlines() if row.count(":") >= 2]
    return next((int(r[2]) for r in rows if name and r[0] == name), 0)


def _environment_name(image: str, image_id: str, labels: Mapping[str, str]) -> str:
    """Folder name for packages that users add: what compiled packages must match.

    The image's label says which Python and torch it has, so that a rebuild with the same ones keeps the users'
    packages. An image without the label is told apart by its tag, and `latest` by its id.
    """
    if label := labels.get(ENVIRONMENT_LABEL):
        return _slug(label)
    repository, _, tag = image.rpartition("/")[2].partition(":")
    return _slug(f"{repository}-{tag}" if tag and tag != "latest" else f"{repository}-{image_id[-12:]}")


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text)
