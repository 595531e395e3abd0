"""The stand-in accelerator (`accelerator.cpp`), built once: ``torch.device("standin", 0)`` and 1, as real ones would be.

`startup` is what a kernel's startup file runs to have it; STANDIN_DEVICES in its environment says how many there are
(2). What asked it for bytes and how it was waited for is counted: ``torch.standin.counts()``. Needs g++.
"""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import subprocess
from pathlib import Path

SOURCE = Path(__file__).with_suffix(".cpp")
_BUILT = Path(__file__).parents[2] / "var" / "standins"


class CannotBuildError(Exception):
    """Why there is no stand-in here."""


def library() -> Path:
    """The shared object for the torch that is imported, built where nobody has yet (a minute or two)."""
    import torch

    compiler = shutil.which("g++")
    if compiler is None:
        raise CannotBuildError("no g++ here to build the stand-in accelerator with")
    torch_folder = Path(torch.__file__).parent
    what = f"{torch.__version__}{torch_folder}".encode() + SOURCE.read_bytes()
    built = _BUILT / f"accelerator-{hashlib.sha256(what).hexdigest()[:16]}.so"
    _BUILT.mkdir(parents=True, exist_ok=True)
    with (_BUILT / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not built.exists():
            _build(compiler, torch_folder, built)
    return built


def _build(compiler: str, torch_folder: Path, built: Path) -> None:
    headers, libraries = torch_folder / "include", torch_folder / "lib"
    unfinished = built.with_suffix(".tmp")
    flags = ["-std=c++20", "-O1", "-fPIC", "-shared", f"-I{headers}", f"-I{headers}/torch/csrc/api/include"]
    linked = [f"-L{libraries}", "-lc10", "-ltorch_cpu", "-ltorch", f"-Wl,-rpath,{libraries}"]
    command = [compiler, *flags, str(SOURCE), "-o", str(unfinished), *linked]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CannotBuildError(f"the stand-in accelerator cannot be built: {done.stderr[-2000:]}")
    unfinished.replace(built)


_REGISTER = """\
import contextlib, torch

torch.ops.load_library({library!r})
ops = torch.ops.standin

class Stream:
    def __init__(self, device):
        self.device = device
    def wait_stream(self, other):
        standin.calls.append("wait for what runs")
    def wait_event(self, event):
        standin.calls.append("wait for the copies")

class Event:
    def record(self, stream):
        standin.calls.append("event")
    def synchronize(self):
        ops.check()
        standin.calls.append("wait for event")

class Standin:
    Stream, Event = Stream, Event
    def __init__(self):
        self.calls = []
        self.free_bytes = 0  # nothing can be put aside, where a test does not say so
        self.default_generators = tuple(torch.Generator() for _ in range(ops.device_count()))
    def is_available(self):
        return self.device_count() > 0
    def is_initialized(self):
        return True
    def _is_in_bad_fork(self):
        return False
    def manual_seed_all(self, seed):
        for generator in self.default_generators:
            generator.manual_seed(seed)
    def set_rng_state(self, state, index):
        self.default_generators[index].set_state(state)
    def device_count(self):
        return ops.device_count()
    def mem_get_info(self, index):
        return self.free_bytes, 1 << 40
    def current_device(self):
        return ops.current_device()
    def set_device(self, index):
        ops.set_device(index)
    def synchronize(self, device=None):
        ops.check()
        self.calls.append("synchronize")
    def current_stream(self, device=None):
        return Stream(device)
    @contextlib.contextmanager
    def stream(self, stream):
        yield
    def get_amp_supported_dtype(self):
        return []
    def counts(self):
        return {{"to_host": ops.to_host_bytes(), "to_device": ops.to_device_bytes()}}
    def break_device(self):
        ops.break_device(True)

standin = Standin()
torch.utils.rename_privateuse1_backend("standin")
torch._register_device_module("standin", standin)
torch.utils.generate_methods_for_privateuse1_backend(unsupported_dtype=[])
"""


def startup() -> str:
    """Statements that register the stand-in in a process that has not yet, and leave no name behind."""
    return f"exec({_REGISTER.format(library=str(library()))!r}, {{'__name__': 'standin'}})\n"
