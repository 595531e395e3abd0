"""`make pythons`: the kernel component's own tests on every Python from 3.10 to 3.14 that can be had.

Pythons come from PATH, from pyenv, and, for root where debootstrap is installed, from Debian's archive (a small
system under ``var/pythons``, entered with chroot). Each gets two environments: one with nothing but ipykernel and
cloudpickle, one with the libraries that have wheels for it. torch only where a CPU build can be had. A test that
needs a library that is not there is skipped and counted.

ONLY=3.10 tries one version, ONLY=3.10-bare one environment, TESTS="test_store.py test_cells.py" those files. Prints
a table and the names of what failed; exits 1 where something did. In the end each Python restores what every other
one has saved (ONLY=crossing does nothing else).
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .crossing import AFTER, BEFORE

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "var" / "pythons"
VERSIONS = ("3.10", "3.11", "3.12", "3.13", "3.14")
DEBIAN = "sid"
MIRROR = "http://deb.debian.org/debian"

BARE = ["ipykernel>=7", "cloudpickle>=3", "pytest", "pytest-timeout", "hypothesis"]
LIBRARIES = ["numpy", "pandas", "xxhash", "zstandard", "scikit-learn", "matplotlib"]
TORCH = "torch==2.13.0+cpu"
"""The local version keeps pip from the CUDA build of several GB."""
MAY_LACK = (
    "torch,numpy,pandas,xxhash,zstandard,sklearn,matplotlib,scipy,polars,pyarrow,PIL,pydantic,attrs,"
    "jupyter_server,jupyter_kernel_test,nbformat,docker,requests"
)
SETTINGS = """\
[pytest]
addopts = --strict-markers --import-mode=importlib -p no:cacheprovider -q
pythonpath = {root} {root}/snapshot
timeout = 600
markers =
    docker: not here
    gpu: not here
"""


@dataclass(frozen=True)
class Python:
    """An interpreter. ``system``: the folder of the small Debian that it lives in, None for this machine's own."""

    version: str
    path: str
    system: Path | None = None

    def command(self, *arguments: str) -> list[str]:
        if self.system is None:
            return list(arguments)
        inside = self.system
        # Mounts live and die with the command's own mount namespace.
        script = (
            f"mount --bind {ROOT} {inside}{ROOT} && mount -t proc proc {inside}/proc && mount --rbind /dev {inside}/dev"
            f' && exec chroot {inside} sh -c \'cd {ROOT} && exec "$@"\' sh "$@"'
        )
        return ["unshare", "--mount", "sh", "-ec", script, "sh", *arguments]


@dataclass
class Result:
    name: str
    libraries: str
    summary: str
    failed: list[str]


def main() -> int:
    only = os.environ.get("ONLY", "")
    pythons = list(_pythons(only))
    results = [
        _test(python, variant)
        for python in pythons
        for variant in ("bare", "libraries")
        if only in ("", python.version, f"{python.version}-{variant}")
    ]
    if len(pythons) > 1:
        results.append(_cross(pythons))
    for result in results:
        print(f"| {result.name} | {result.libraries} | {result.summary} |")
    for result in results:
        for failed in result.failed:
            print(f"{result.name}: {failed}")
    absent = [
        v
        for v in VERSIONS
        if only.startswith(v) or not only
        if not any(r.name.startswith(v + "-") for r in results)
    ]
    print(
        json.dumps(
            {
                "tried": [r.name for r in results],
                "failed": {r.name: len(r.failed) for r in results if r.failed},
                "not_to_be_had": absent,
            }
        )
    )
    return 1 if any(r.failed for r in results) else 0


# Finding Pythons ------------------------------------------------------------------------------------------


def _pythons(only: str) -> Iterator[Python]:
    for version in VERSIONS:
        if only not in ("", "crossing") and not only.startswith(version):
            continue
        found = _installed(version) or _lent(version)
        if found:
            yield found
        else:
            _say(
                f"Python {version} cannot be had here: not on PATH, not in pyenv, and no debootstrap (or not root)"
            )


def _installed(version: str) -> Python | None:
    versions = Path(os.environ.get("PYENV_ROOT", "~/.pyenv")).expanduser() / "versions"
    candidates = [
        *sorted(versions.glob(f"{version}.*/bin/python{version}"), reverse=True),
        f"python{version}",
    ]
    for candidate in map(str, candidates):
        done = _quietly([candidate, "-c", "import sys, venv; print('%d.%d' % sys.version_info[:2])"])
        if done is not None and done.strip() == version:
            return Python(version, candidate)
    return None


def _lent(version: str) -> Python | None:
    """From Debian's archive: `debootstrap` unpacks a system of about 300 MB."""
    if os.getuid() != 0 or not shutil.which("debootstrap"):
        return None
    system = FOLDER / f"debian-{version}"
    if not (system / "made").exists():
        _say(f"Python {version}: unpacking a small Debian {DEBIAN}")
        shutil.rmtree(system, ignore_errors=True)
        system.mkdir(parents=True)
        packages = f"python{version},python{version}-venv,ca-certificates"
        command = ["debootstrap", "--variant=minbase", f"--include={packages}", DEBIAN, str(system), MIRROR]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            _say("\n".join(done.stdout.splitlines()[-3:]))
            return None
        (system / str(ROOT).lstrip("/")).mkdir(parents=True)
        (system / "made").touch()
    shutil.copy("/etc/resolv.conf", system / "etc" / "resolv.conf")
    for variable in ("PIP_CERT", "SSL_CERT_FILE"):
        if (named := os.environ.get(variable)) and Path(named).is_file():
            (system / named.lstrip("/")).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(named, system / named.lstrip("/"))
    return Python(version, f"/usr/bin/python{version}", system)


# Testing --------------------------------------------------------------------------------------------------


def _test(python: Python, variant: str) -> Result:
    name = f"{python.version}-{variant}"
    environment = FOLDER / name
    _make(python, environment, variant)
    (FOLDER / "pytest.ini").write_text(SETTINGS.format(root=ROOT))
    _say(f"{name}: testing")
    arguments = [
        "-m",
        "pytest",
        "-c",
        str(FOLDER / "pytest.ini"),
        "--rootdir",
        str(ROOT),
        "--confcutdir",
        str(ROOT / "tests" / "snapshot"),
    ]
    tests = [str(ROOT / "tests" / "snapshot" / name) for name in os.environ.get("TESTS", "").split()]
    tests = tests or [str(ROOT / "tests" / "snapshot")]
    done = subprocess.run(
        python.command(str(environment / "bin" / "python"), *arguments, *tests),
        env={**_environment(), "RESPAWNER_TEST_LACKING": MAY_LACK, "PYTHONPATH": f"{ROOT}/snapshot"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    (FOLDER / f"{name}.log").write_text(done.stdout + done.stderr)
    failed = re.findall(r"^(?:FAILED|ERROR|SUBFAILED\S*) (.*)$", done.stdout, re.MULTILINE)
    summary = (
        done.stdout.strip().splitlines()
        or [f"pytest ended with {done.returncode}: {done.stderr.strip()[-300:]}"]
    )[-1]
    if done.returncode not in (0, 1) and not failed:
        failed = [summary]
    _say(f"{name}: {summary}")
    return Result(name, _versions(python, environment), summary, failed)


def _cross(pythons: list[Python]) -> Result:
    """Each Python saves a state, and every other one restores it."""
    failed: list[str] = []
    for writer in pythons:
        store = FOLDER / f"crossing-{writer.version}"
        shutil.rmtree(store, ignore_errors=True)
        saved = _bare_shell(writer, "save", store, BEFORE)
        if saved.get("outcome") != {"cell": None}:
            failed.append(f"saving by {writer.version}: {saved}")
            continue
        for reader in pythons:
            loaded = _bare_shell(reader, "load", store, AFTER)
            lost = [item["respawner_path"] for item in loaded.get("lost", ())]
            told = any("saved with" in note for note in loaded.get("notes", ()))
            if loaded.get("outcome") != {"cell": None} or lost != ["lock"] or told != (writer != reader):
                failed.append(f"{writer.version} to {reader.version}: {loaded}")
    pairs = len(pythons) ** 2
    summary = f"{pairs - len(failed)} of {pairs} pairs"
    _say(f"crossing: {summary}")
    return Result("crossing", ", ".join(python.version for python in pythons), summary, failed)


def _bare_shell(python: Python, action: str, store: Path, cell: str) -> dict[str, Any]:
    _make(python, environment := FOLDER / f"{python.version}-bare", "bare")
    shell = str(ROOT / "tests" / "snapshot" / "bare_shell.py")
    done = subprocess.run(
        python.command(str(environment / "bin" / "python"), shell, action, str(store)),
        input=json.dumps({"cell": cell}),
        env={**_environment(), "PYTHONPATH": f"{ROOT}/snapshot"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    try:
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        return {"ended": done.returncode, "said": done.stderr.strip()[-300:]}
    return found


def _make(python: Python, environment: Path, variant: str) -> None:
    """Raises CalledProcessError where not even the bare environment can be made."""
    if (environment / "made").exists():
        return
    _say(f"{python.version}: making {environment.name}")
    pip = [
        str(environment / "bin" / "python"),
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
    ]
    for command in ([python.path, "-m", "venv", "--clear", str(environment)], [*pip, *BARE]):
        subprocess.run(
            python.command(*command), env=_environment(), cwd="/", check=True, capture_output=True, text=True
        )
    if variant == "libraries":
        for library in [*LIBRARIES, TORCH]:  # one by one: what has no wheel is left out
            subprocess.run(
                python.command(*pip, "--only-binary=:all:", library),
                env=_environment(),
                cwd="/",
                check=False,
                stderr=subprocess.DEVNULL,
            )
    (environment / "made").touch()


def _versions(python: Python, environment: Path) -> str:
    code = (
        "import importlib.metadata as m, platform\n"
        "def v(n):\n    try: return n + ' ' + m.version(n)\n    except m.PackageNotFoundError: return ''\n"
        f"print(', '.join(filter(None, ['Python ' + platform.python_version(), *map(v, {['ipykernel', *LIBRARIES, 'torch']!r})])))"
    )
    return (_quietly(python.command(str(environment / "bin" / "python"), "-c", code)) or "?").strip()


def _environment() -> dict[str, str]:
    """Without what would lead the other Python to this one's modules."""
    return {
        k: v
        for k, v in os.environ.items()
        if not k.startswith(("PYTHON", "VIRTUAL_ENV", "RESPAWNER", "JPY_"))
    }


def _quietly(command: list[str]) -> str | None:
    try:
        done = subprocess.run(command, env=_environment(), capture_output=True, text=True, check=False)
    except OSError:
        return None
    return done.stdout if done.returncode == 0 else None


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
