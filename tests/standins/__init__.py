"""Stand-ins for hardware that is missing. A result that one of them gave says so."""

import subprocess
from pathlib import Path


def build_fake_nvml(folder: Path) -> Path:
    """Compile the stand-in libnvidia-ml.so.1 into `folder`, for LD_LIBRARY_PATH. Its state: `nvml_state`."""
    source = Path(__file__).parent / "fake_nvml.c"
    command = ["gcc", "-shared", "-fPIC", "-pthread", "-Wall", "-Wextra", "-Werror"]
    subprocess.run([*command, "-o", folder / "libnvidia-ml.so.1", source], check=True)
    return folder


def build_empty_libcuda(folder: Path) -> Path:
    """A libcuda.so.1 that can be loaded and does nothing, beside the stand-in for NVML in `folder`."""
    command = ["gcc", "-shared", "-fPIC", "-x", "c", "-o", folder / "libcuda.so.1", "/dev/null"]
    subprocess.run(command, check=True)
    return folder


def nvml_environment(library: Path, state: Path) -> dict[str, str]:
    """Variables of a process that shall see the stand-in's devices."""
    return {"LD_LIBRARY_PATH": str(library), "FAKE_NVML_STATE": str(state)}
