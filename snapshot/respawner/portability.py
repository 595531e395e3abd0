"""What a state that another Python, or other versions of libraries, have saved is told to be."""

from __future__ import annotations

import importlib.metadata
import platform
import sys

from .version import __version__

_NAMES = {"python": "Python", "respawner": "Respawner"}


def notes_on_versions(saved: dict[str, str]) -> list[str]:
    """One note where versions differ from those here, else none. ``saved`` is a manifest's ``versions``.

    Most states come over: code of the notebook is compiled again from its source. What does not is listed as
    lost, each with its reason; this says why there may be more of them than usual.
    """
    here = {name: _here(name) for name in saved}
    different = [name for name in saved if _compared(name, saved[name]) != _compared(name, here[name])]
    if not different:
        return []
    made, now = (
        ", ".join(f"{_NAMES.get(name, name)} {versions[name]}" for name in different)
        for versions in (saved, here)
    )
    outlook = "what other versions cannot read is listed as not restored"
    return [f"saved with {made}; here: {now}; {outlook}; with the versions of then it comes back"]


def _here(name: str) -> str:
    match name:
        case "python":
            return platform.python_version()
        case "respawner":
            return __version__
    loaded = getattr(sys.modules.get(name), "__version__", None)
    if loaded is not None:
        return str(loaded)
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "is not installed"


def _compared(name: str, version: str) -> str:
    """Python's patch releases read each other's code; a build's local part says nothing about the format."""
    public = version.partition("+")[0]
    return ".".join(public.split(".")[:2]) if name == "python" else public
