"""A stand-in for the user image: 70 MB, up in a tenth of a second, so that fifty spawns fit on two cores.

It is this Python and a shell, and plays `jupyterhub-singleuser` (`server.py`). It has no kernels: for what
happens to variables the tests use the real image.
"""

from __future__ import annotations

import io
import re
import subprocess
import sys
import sysconfig
import tarfile
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path

import docker

IMAGE = "respawner-tests/stub-session:1"
PYTHON = f"python{sys.version_info.major}.{sys.version_info.minor}"
LEFT_OUT = re.compile(
    r"/(site-packages|dist-packages|test|tests|idlelib|tkinter|turtledemo|ensurepip|lib2to3|pydoc_data|config-[^/]*)(/|$)"
    r"|_tkinter|\.a$|\.opt-\d\.pyc$|_test"
)
PROGRAMS = ("/bin/sh", "/bin/cat", "/bin/ls", "/bin/sleep", "/bin/true", "/bin/echo", "/usr/bin/env")
LOGIN = {"passwd": "jovyan:x:1000:100::/home/jovyan:/bin/sh\n", "group": "users:x:100:\n"}


def build(client: docker.APIClient) -> str:
    """Make the image on this engine, unless it is there; returns its name."""
    if not client.images(IMAGE):
        changes = [
            "USER 1000:100",
            "ENV PATH=/usr/local/bin:/usr/bin:/bin LD_LIBRARY_PATH=/usr/lib PYTHONDONTWRITEBYTECODE=1",
            f"ENV STUB_VERSION={version('jupyterhub')}",
            'CMD ["python3", "/opt/server.py"]',
        ]
        repository, tag = IMAGE.split(":")
        client.import_image_from_data(root_file_system(), repository=repository, tag=tag, changes=changes)
    return IMAGE


def root_file_system() -> bytes:
    """A tar archive of everything that the image has."""
    interpreter = Path(sys._base_executable).resolve()
    library = Path(sysconfig.get_path("stdlib"))
    programs = {path: Path(path).resolve() for path in PROGRAMS}
    modules = [path for path in library.rglob("*.so") if not LEFT_OUT.search(str(path))]
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.add(interpreter, "usr/local/bin/python3")
        archive.add(library, f"usr/local/lib/{PYTHON}", filter=_filtered)
        archive.add(Path(__file__).with_name("server.py"), "opt/server.py")
        for path, program in programs.items():
            archive.add(program, path.strip("/"))
        for place, path in shared_libraries([interpreter, *programs.values(), *modules]).items():
            archive.add(path, place)
        for name, content in LOGIN.items():
            entry = tarfile.TarInfo(f"etc/{name}")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content.encode()))
        for folder, mode in (("tmp", 0o1777), ("home/jovyan", 0o755)):
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, mode
            archive.addfile(entry)
    return buffer.getvalue()


def _filtered(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    return None if LEFT_OUT.search(f"/{entry.name}") else entry


def shared_libraries(files: Iterable[Path]) -> dict[str, Path]:
    """Where in the image → the file here, of everything that the dynamic loader would look for."""
    output = subprocess.run(["ldd", *map(str, files)], capture_output=True, text=True, check=False).stdout
    found = {f"usr/lib/{name}": Path(path).resolve() for name, path in re.findall(r"(\S+) => (/\S+)", output)}
    loader = re.search(r"(/lib\S*/ld-linux\S*)", output)
    assert loader, output
    return {**found, loader.group(1).strip("/"): Path(loader.group(1)).resolve()}
