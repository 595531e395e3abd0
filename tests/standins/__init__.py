"""Stand-ins for hardware that is missing. A result that one of them gave says so."""

import subprocess
from pathlib import Path


def build_fake_nvml(folder: Path) -> Path:
    """Compile the stand-in libnvidia-ml.so.1 into `folder`, for LD_LIBRARY_PATH. State: FAKE_NVML_STATE."""
    source = Path(__file__).parent / "fake_nvml.c"
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", folder / "libnvidia-ml.so.1", source], check=True)
    return folder
