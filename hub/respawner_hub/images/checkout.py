"""Where the project's own files (`images/`, `ansible/`) lie."""

from __future__ import annotations

import os
from pathlib import Path

from .errors import NotACheckoutError

ROOT_ENV = "RESPAWNER_ROOT"


def project_root() -> Path:
    """The checkout: `RESPAWNER_ROOT`, or the folder around the editable installation of this package."""
    from_environment = os.environ.get(ROOT_ENV)
    root = Path(from_environment) if from_environment else Path(__file__).parents[3]
    if (root / "images" / "notebook" / "Dockerfile").is_file():
        return root.resolve()
    origin = f"{ROOT_ENV} names it" if from_environment else "respawner-hub is installed there"
    raise NotACheckoutError(
        f"{root} is not a checkout of Respawner ({origin}): it has no images/notebook/Dockerfile. "
        f"Install the hub from a checkout (pip install -e hub) or set {ROOT_ENV} to one."
    )
