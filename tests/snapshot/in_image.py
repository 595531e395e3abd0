"""`make image-suite IMAGE=…`: the kernel component's own tests inside an image of sessions, on the image's own Python.

The checkout is mounted read-only at its own path; what the tests need and the image lacks (pytest and some libraries) is
installed by this machine's pip into a folder beside it, so nothing is built into the image. No network, an ordinary user,
and the CPU: a GPU is not asked for. A test that needs a library that is not there, or that the image's release of torch
does not know, is skipped with its reason and counted.

TESTS="test_store.py test_cells.py" runs those files. Prints pytest's output as it comes and a JSON object as its last
line; exits 1 where something failed, 2 where nothing could be tried.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from .pythons import MAY_LACK, ROOT, SETTINGS

ADDED = [
    "pytest",
    "pytest-timeout",
    "hypothesis",
    "jupyter-kernel-test",
    "nbformat",
    "attrs",
    "pillow",
    "polars",
    "pyarrow",
    "pydantic",
    "scipy",
    "tqdm",
]
"""What `pyproject.toml` gives the tests beside what an image has; of what the image has, its own release is taken."""
FACTS = """
import json, platform, sys
from importlib import metadata
found = {d.metadata["Name"]: d.version for d in metadata.distributions()}
try:
    import torch; torch_version = torch.__version__
except ImportError:
    torch_version = ""
print(json.dumps({"python": platform.python_version(), "glibc": platform.libc_ver()[1], "torch": torch_version, "has": found}))
"""
PARTS = ("passed", "failed", "skipped", "error", "errors", "xfailed", "xpassed", "deselected")


def main() -> int:
    image = os.environ.get("IMAGE", "")
    if not image:
        print("Name an image: make image-suite IMAGE=respawner/pytorch-cuda:2.7", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="respawner-image-suite-") as folder:
        try:
            facts = json.loads(
                _docker("run", "--rm", "--network=none", "--entrypoint=python3", image, "-c", FACTS)
            )
            _install(facts, Path(folder) / "added")
        except subprocess.CalledProcessError as error:
            print(f"{image}: {error.stderr.strip()}", file=sys.stderr)
            return 2
        (Path(folder) / "pytest.ini").write_text(SETTINGS.format(root=ROOT))
        Path(folder).chmod(0o755)
        output, status = _test(image, Path(folder))
    counts = counted(output)
    about = {"image": image, "python": facts["python"], "torch": facts["torch"]}
    failed = re.findall(r"^(?:FAILED|ERROR|SUBFAILED\S*) (\S+)", output, re.MULTILINE)
    print(json.dumps({**about, **counts, "which_failed": failed}))
    return 2 if status not in (0, 1) else status


def counted(output: str) -> dict[str, int]:
    """pytest's last line as numbers: "3 failed, 812 passed, 20 skipped in 90.1s"."""
    last = (output.strip().splitlines() or [""])[-1]
    return {word: int(number) for number, word in re.findall(r"(\d+) (\w+)", last) if word in PARTS}


def _install(facts: dict[str, object], target: Path) -> None:
    """Wheels for the image's Python and glibc, whatever this machine has."""
    python = ".".join(str(facts["python"]).split(".")[:2])
    constraints = target.with_suffix(".constraints")
    has: dict[str, str] = facts["has"]  # type: ignore[assignment]
    constraints.write_text("".join(f"{name}=={version}\n" for name, version in has.items()))
    newest = int(str(facts["glibc"]).split(".")[1])
    machine = os.uname().machine
    platforms = [f"--platform=manylinux_2_{minor}_{machine}" for minor in range(newest, 4, -1)]
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(target)]
    command += ["--only-binary=:all:", f"--python-version={python}", "--implementation=cp", *platforms]
    command += [f"--platform=manylinux2014_{machine}", f"--constraint={constraints}"]
    missing = [name for name in ADDED if name not in {known.lower().replace("_", "-") for known in has}]
    subprocess.run([*command, *missing], check=True, capture_output=True, text=True)


def _test(image: str, folder: Path) -> tuple[str, int]:
    """pytest's output and exit status; the output is printed while it comes."""
    names = os.environ.get("TESTS", "").split()
    tests = [str(ROOT / "tests" / "snapshot" / name) for name in names] or [str(ROOT / "tests" / "snapshot")]
    environment = {
        "RESPAWNER_TEST_LACKING": MAY_LACK,
        "PYTHONPATH": f"{ROOT / 'snapshot'}:{folder / 'added'}",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONUNBUFFERED": "1",
        "HOME": "/home/suite",
    }
    command = ["docker", "run", "--rm", "--init", "--network=none", "--cap-drop=ALL", "--shm-size=2g"]
    # Tests write where they run, and build the stand-in accelerator where a checkout keeps it.
    for place in ("/home/suite", ROOT / "var"):
        command += ["--tmpfs", f"{place}:exec,mode=777"]
    command += ["--workdir", "/home/suite", "--entrypoint", "nice"]
    command += [f"--volume={mount}:{mount}:ro" for mount in (ROOT / "snapshot", ROOT / "tests", folder)]
    command += [f"--volume={ROOT / 'docs'}:{ROOT / 'docs'}:ro"]
    command += [f"--env={name}={value}" for name, value in environment.items()]
    pytest = ["python3", "-m", "pytest", "-c", str(folder / "pytest.ini"), "--rootdir", str(ROOT), "-rfEs"]
    pytest += ["--confcutdir", str(ROOT / "tests" / "snapshot"), *tests]
    said = b""
    with subprocess.Popen(
        [*command, image, "-n", "10", *pytest], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        assert process.stdout is not None
        while piece := os.read(process.stdout.fileno(), 4096):  # a dot at a time, and not a line of them
            said += piece
            sys.stdout.buffer.write(piece)
            sys.stdout.buffer.flush()
    return said.decode(errors="replace"), process.returncode


def _docker(*arguments: str) -> str:
    return subprocess.run(["docker", *arguments], check=True, capture_output=True, text=True).stdout


if __name__ == "__main__":
    sys.exit(main())
