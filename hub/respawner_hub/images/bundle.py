"""`ensure_bundle`: the kernel bundle, a read-only tree of pure Python that the spawner mounts into sessions.

    <state_dir>/bundle/<content hash>/
        lib/respawner/  lib/cloudpickle/     put at the end of sys.path by the startup hook
        lib/pynvml.py                        for `%gpu`, in whatever image
        jupyter/                             found through JUPYTER_CONFIG_PATH
        ipython_startup.py                   mounted as IPython's system-wide startup file

The hash names the content, so a folder never changes: running sessions keep the one that they mounted,
and a new version gets a folder beside it. Old ones are not removed here.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from importlib.util import find_spec
from pathlib import Path

from .checkout import project_root
from .errors import BundleError

PACKAGES = ("respawner", "cloudpickle")
MODULES = ("pynvml",)
"""Packages of one file."""
LEFT_OUT = ("__pycache__", "*.pyc", "*.pyo")
COMPILED = (".so", ".pyd", ".dylib")


def ensure_bundle(state_dir: Path) -> Path:
    """The bundle's folder for the code as it is installed now; written only if it is not there yet.

    Raises `BundleError` where a part is missing or holds compiled code.
    """
    parts = _parts(project_root() / "snapshot" / "inject")
    digest = content_hash(parts)
    bundles = state_dir / "bundle"
    bundles.mkdir(parents=True, exist_ok=True)
    target = bundles / digest
    if target.exists():
        if content_hash(_files_below(target)) == digest:
            return target
        # Changed by hand: sessions that mounted it keep it, by inode; new ones get the right one.
        target.rename(tempfile.mkdtemp(prefix=f"{digest}.changed-", dir=bundles))
    temporary = Path(tempfile.mkdtemp(prefix=".tmp-", dir=bundles))
    try:
        _write(parts, temporary)
        temporary.rename(target)
    except FileExistsError:  # another process was faster, with the same content
        pass
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target


def content_hash(files: dict[str, bytes]) -> str:
    """Hash over paths and contents, whatever the order, the clock and the owner."""
    digest = hashlib.sha256()
    for path in sorted(files):
        for part in (path.encode(), files[path]):
            digest.update(len(part).to_bytes(8, "little"))
            digest.update(part)
    return digest.hexdigest()[:16]


def _parts(inject: Path) -> dict[str, bytes]:
    """Content by path in the bundle."""
    parts = _files_below(inject)
    for needed in ("ipython_startup.py", "jupyter/jupyter_server_config.py"):
        if needed not in parts:
            raise BundleError(f"{inject / needed} is missing: is the checkout complete?")
    for package in PACKAGES:
        for path, content in _files_below(_package_folder(package)).items():
            if path.endswith(COMPILED):
                raise BundleError(
                    f"{package}/{path} is compiled code, and the bundle must work in any image's Python: "
                    f"install a pure Python {package}."
                )
            parts[f"lib/{package}/{path}"] = content
    for module in MODULES:
        parts[f"lib/{module}.py"] = _origin(module).read_bytes()
    return parts


def _package_folder(package: str) -> Path:
    return _origin(package).parent


def _origin(package: str) -> Path:
    """The package's first file, found without importing it."""
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise BundleError(
            f"The package {package} is not installed beside respawner-hub: pip install -e snapshot"
        )
    return Path(spec.origin)


def _files_below(folder: Path) -> dict[str, bytes]:
    skipped = shutil.ignore_patterns(*LEFT_OUT)
    files = {}
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(set(folders) - set(skipped(place, folders)))
        for name in sorted(set(names) - set(skipped(place, names))):
            path = Path(place) / name
            files[path.relative_to(folder).as_posix()] = path.read_bytes()
    return files


def _write(parts: dict[str, bytes], folder: Path) -> None:
    for path, content in parts.items():
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
        file.chmod(0o444)
        os.utime(file, (0, 0))
    for place, _, _ in os.walk(folder, topdown=False):
        os.utime(place, (0, 0))
        Path(place).chmod(0o555)
