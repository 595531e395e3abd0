"""Real wheels of a few bytes, and a checkout whose image is made of them."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType
from zipfile import ZipFile, ZipInfo

ROOT = Path(__file__).parents[2]

VERSIONS = """
["respawner/notebook:0.1.0"]
torch = "2.0.0"

["respawner/pytorch-cuda:2"]
torch = "2.0.0"
build = "cuda"
layers = ["torch", "scientific", "jupyter", "tools"]

["respawner/pytorch-cuda:3-devel"]
torch = "3.0.0"
build = "cuda"
cuda = "13.0"
layers = ["torch", "jupyter", "devel"]
"""


def make_wheel(
    folder: Path,
    name: str,
    version: str,
    requires: Iterable[str] = (),
    tag: str = "py3-none-any",
    files: Mapping[str, str] = MappingProxyType({}),
) -> Path:
    """A pure Python wheel with one module of the package's name. `files`: text by path, of executable files."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{version}-{tag}.whl"
    info = f"{name}-{version}.dist-info"
    metadata = [f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}"]
    metadata += [f"Requires-Dist: {requirement}" for requirement in requires]
    with ZipFile(path, "w") as archive:
        archive.writestr(f"{name}.py", f"VERSION = {version!r}\n")
        for file, text in files.items():
            entry = ZipInfo(file)
            entry.external_attr = 0o100755 << 16
            archive.writestr(entry, text)
        archive.writestr(f"{info}/METADATA", "\n".join(metadata) + "\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return path


def make_checkout(root: Path) -> Path:
    """A copy of `images/` whose requirements the wheels of `make_index` serve."""
    shutil.copytree(ROOT / "images", root / "images")
    requirements = root / "images" / "notebook" / "requirements"
    shutil.rmtree(root / "images" / "locks", ignore_errors=True)
    (root / "images" / "versions.toml").write_text(VERSIONS)
    (requirements / "tools.txt").write_text("dashboard\n")
    (requirements / "tools.source.txt").unlink()
    (requirements / "scientific.txt").write_text("frames>=1\n")
    (requirements / "jupyter.txt").write_text("lab>=1\n")
    (requirements / "devel.txt").write_text("cuda-toolkit[nvcc]\nninja\n")
    return root


def make_index(folder: Path) -> Path:
    """A folder for pip's find-links: torch in two builds, and two packages that share what torch needs."""
    make_wheel(folder, "torch", "2.0.0", ["shared", "nvidia-blas"])
    make_wheel(folder, "nvidia_blas", "12.6")
    make_wheel(folder, "dashboard", "1.0", ["shared", "lab"])
    make_wheel(folder, "torch", "2.0.0+cpu", ["shared"])
    make_wheel(folder, "shared", "1.0")
    make_wheel(folder, "frames", "1.0", ["shared", "arrays"])
    make_wheel(folder, "arrays", "1.0")
    make_wheel(folder, "lab", "1.0", ["shared", "kernel"])
    make_wheel(folder, "lab", "2.0", ["shared", "kernel"])
    make_wheel(folder, "kernel", "1.0")
    make_wheel(folder, "jupyterhub", version("jupyterhub"), ["shared"])
    make_wheel(folder, "torch", "3.0.0", ["shared", "cuda-toolkit[cudart]==13.0.3"])
    for release in ("13.0.3", "13.5.0"):
        parts = [f'nvidia-cuda-nvcc=={release}; extra == "nvcc"', f'cudart=={release}; extra == "cudart"']
        make_wheel(folder, "cuda_toolkit", release, parts)
        make_wheel(folder, "cudart", release, files={"nvidia/cu13/lib/libcudart.so.13": ""})
        nvcc = f"#!/bin/sh\necho release {release}\n"
        make_wheel(folder, "nvidia_cuda_nvcc", release, files={"nvidia/cu13/bin/nvcc": nvcc})
    make_wheel(folder, "ninja", "1.13")
    return folder
