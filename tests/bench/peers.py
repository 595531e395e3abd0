"""The peers' own virtual environment: made on first use under ``var/``, thrown away with it.

It sees the libraries of the environment that runs the benchmark (torch above all), and puts the peers' own
requirements before them. A peer that cannot be had costs its column and says why.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import sysconfig
import venv
from dataclasses import dataclass
from pathlib import Path

from .kernel import ROOT

FOLDER = ROOT / "var" / "bench-peers"

PEERS = {
    # No dependencies resolved: kishu asks for the backports `typing` and `dataclasses`, elastic-kernel for all of
    # Jupyter. What they really import is listed instead.
    "kishu": (
        "kishu==0.3.4 dataclasses-json==0.6.7 marshmallow<4 typing-inspect mypy_extensions ipylab ipywidgets "
        "widgetsnbextension jupyterlab_widgets jupyter-ui-poll<=1.0.0 loguru flask<4 flask-cors werkzeug "
        "itsdangerous blinker typer<1 shellingham shortuuid dill==0.4.1 networkx nbconvert rich click "
        "annotated-doc markdown-it-py mdurl pygments"
    ),
    "elastic-kernel": "elastic-kernel==0.2.3 dill==0.4.1 networkx",
    "dill": "dill==0.4.1",
}
IMPORTS = {"kishu": "kishu.jupyterint", "elastic-kernel": "elastic_kernel.kernel", "dill": "dill"}


@dataclass(frozen=True)
class Peers:
    """Which peers there are. ``missing``: the reason for each that is not."""

    python: str
    missing: dict[str, str]


def ensure_peers() -> Peers:
    """Make the environment, or use the one that was made before from the same list."""
    python = FOLDER / "bin" / "python"
    made = FOLDER / f"made-{_fingerprint()}.json"
    if not made.exists():
        venv.create(FOLDER, with_pip=False, clear=True)
        _see_our_libraries()
        for requirements in PEERS.values():
            _install(python, requirements.split())  # what fails shows in the import below
        made.write_text(json.dumps({name: why for name in PEERS if (why := _why_missing(python, name))}))
    missing = json.loads(made.read_text())
    for name, why in missing.items():
        print(f"peer {name} is left out: {why} (rm -r {FOLDER} tries again)", file=sys.stderr, flush=True)
    return Peers(str(python), missing)


def _fingerprint() -> str:
    return hashlib.sha256(repr((PEERS, sys.prefix, sys.version)).encode()).hexdigest()[:12]


def _see_our_libraries() -> None:
    """Append this environment's libraries, editable ones too: a path file may run one import line."""
    [packages] = FOLDER.glob("lib/python*/site-packages")
    ours = sysconfig.get_path("purelib")
    (packages / "workspace.pth").write_text(f"import site; site.addsitedir({ours!r})\n")


def _install(python: Path, requirements: list[str]) -> None:
    command = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps"]
    done = subprocess.run([*command, *requirements], capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"pip: {done.stderr.strip().splitlines()[-1:]}", file=sys.stderr)


def _why_missing(python: Path, name: str) -> str | None:
    code = f"import torch, {IMPORTS[name]}"
    done = subprocess.run([str(python), "-c", code], capture_output=True, text=True, check=False)
    return (done.stderr.strip().splitlines() or ["it ended without a word"])[-1] if done.returncode else None


if __name__ == "__main__":
    sys.exit(bool(ensure_peers().missing))
