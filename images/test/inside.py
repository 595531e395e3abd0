"""Proves an image fit for sessions, from within a container of it that is made like a session's.

`respawner-hub image test NAME` puts this file into the container and runs it with the image's own python3 (3.10 or
newer; standard library, until a check needs what it checks). Prints a JSON object a line, one for each check:
``{"name", "state": "ok" | "failed" | "absent" | "skipped", "says", "next", "seconds"}``. Not for use by hand.
"""

from __future__ import annotations

import importlib.util
import json
import os
import pwd
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

AUTOSAVE_SECONDS = 60
PATIENCE_SECONDS = 180
COMPILE_SECONDS = 600


class Unfit(Exception):
    """What is wrong, and what to do about it."""

    def __init__(self, says: str, next_step: str) -> None:
        super().__init__(says)
        self.next_step = next_step


class Absent(Unfit):
    """Something that an image may do without."""


class Skipped(Exception):
    """There is nothing to check here."""


def check_user(wanted: dict) -> str:
    uid = os.getuid()
    if uid == 0:
        raise Unfit("the container runs as root", "End the Dockerfile with `USER` and a user that it made.")
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        raise Unfit(
            f"uid {uid} has no entry in /etc/passwd: ssh, git and getpass fail",
            f"Make the user in the Dockerfile: useradd --uid {uid} --gid 100 --create-home NAME",
        ) from None
    return f"runs as {name} ({uid}:{os.getgid()}), home {Path.home()}"


def check_volumes(wanted: dict) -> str:
    for what, folder in (("home", os.environ["HOME"]), ("snapshot", wanted["state_dir"])):
        try:
            with tempfile.NamedTemporaryFile(dir=folder) as file:
                file.write(b"x" * 4096)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise Unfit(
                f"the user cannot write to the {what} volume {folder}: {error}",
                f"Do not declare VOLUME for it, and have {folder} belong to the image's user.",
            ) from error
    return f"home and {wanted['state_dir']} can be written"


def check_hub(wanted: dict) -> str:
    program = shutil.which("jupyterhub-singleuser")
    hub = wanted["hub"]
    step = f"Install it in the image: pip install jupyterhub=={hub}"
    if program is None:
        raise Unfit("there is no jupyterhub-singleuser on PATH: no session can start", step)
    done = run([program, "--version"])
    found = done.stdout.strip()
    if done.returncode != 0:
        raise Unfit(f"jupyterhub-singleuser does not run: {last_line(done.stderr)}", step)
    if found.split(".")[:2] != hub.split(".")[:2]:
        raise Unfit(f"jupyterhub {found} in the image does not fit the hub, which is {hub}", step)
    return f"jupyterhub {found}, the hub has {hub}"


def check_kernel(wanted: dict) -> str:
    if importlib.util.find_spec("ipykernel") is None:
        raise Unfit(
            "ipykernel is missing: there is no Python kernel",
            "Install it in the image: pip install ipykernel",
        )
    kernel = Kernel()
    try:
        answer = kernel.run("import sys; print('.'.join(map(str, sys.version_info[:3])), 6 * 7)")
    finally:
        kernel.end()
    version, _, product = answer.partition(" ")
    if product != "42":
        raise Unfit(
            f"the kernel computes 6 * 7 = {answer!r}", "Look at the kernel's output with `docker run`."
        )
    return f"a kernel starts and computes, Python {version}"


def check_snapshots(wanted: dict) -> str:
    kernel = Kernel(JPY_SESSION_NAME="/image-test.ipynb")
    try:
        kernel.run("x = {'kept': list(range(5))}")
        said = kernel.run("import respawner; respawner.flush(60); print(respawner.status()['active'])")
        if said != "True":
            raise Unfit(
                f"the kernel component is not active: {said}",
                "Its startup file must be read: do not set IPYTHONDIR or ipython's `ignore_cwd`/`--no-startup` in the image.",
            )
        kernel.kill()
        kernel.start()
        said = kernel.run("print(x['kept'])").splitlines()[-1]
        if said != "[0, 1, 2, 3, 4]":
            raise Unfit(
                f"after kill -9 the variable is {said!r}", "Look at the report that the kernel shows."
            )
    finally:
        kernel.end()
    return "a variable is there again after kill -9 of the kernel"


def check_torch(wanted: dict) -> str:
    code = "import torch; assert (torch.zeros(2) + 1).tolist() == [1.0, 1.0]; print(torch.__version__, torch.version.cuda)"
    if importlib.util.find_spec("torch") is None:
        raise Unfit("PyTorch is missing", "Install it in the image: pip install torch (several GB for CUDA)")
    done = run([sys.executable, "-c", code])
    if done.returncode != 0:
        raise Unfit(
            f"torch cannot be imported or computes wrong: {last_line(done.stderr)}",
            "Install it again in the image; its nvidia-… wheels must be those that it names.",
        )
    version, cuda = done.stdout.split()
    if wanted.get("torch") and version.partition("+")[0] != wanted["torch"]:
        raise Unfit(f"torch is {version}, and versions.toml says {wanted['torch']}", "Build the image again.")
    if wanted.get("cuda") and cuda != wanted["cuda"]:
        raise Unfit(
            f"torch {version} is built with CUDA {cuda}, and versions.toml says {wanted['cuda']}",
            "Correct the row, or the index that pip takes torch from.",
        )
    return f"torch {version} adds two tensors, " + (f"CUDA {cuda}" if cuda != "None" else "a CPU build")


def check_autosave(wanted: dict) -> str:
    step = (
        'Put {"@jupyterlab/docmanager-extension:plugin": {"autosave": true, "autosaveInterval": 60}} into '
        "…/share/jupyter/lab/settings/overrides.json of the image."
    )
    if importlib.util.find_spec("jupyterlab") is None:
        raise Unfit("JupyterLab is missing", "Install it in the image: pip install jupyterlab")
    from jupyterlab.commands import get_app_dir
    from jupyterlab_server.settings_utils import get_settings

    app = Path(get_app_dir())
    file = app / "settings" / "overrides.json"
    overrides = json.loads(file.read_text()) if file.exists() else {}
    plugin = "@jupyterlab/docmanager-extension:plugin"
    found, _ = get_settings(
        str(app), str(app / "schemas"), "/nowhere", schema_name=plugin, overrides=overrides
    )
    known = found["schema"]["properties"]
    if not known["autosave"]["default"]:
        raise Unfit("JupyterLab does not save notebooks by itself", step)
    seconds = known["autosaveInterval"]["default"]
    if seconds > AUTOSAVE_SECONDS:
        raise Unfit(f"JupyterLab saves notebooks every {seconds} s; {AUTOSAVE_SECONDS} s is expected", step)
    return f"JupyterLab saves notebooks every {seconds} s"


def check_ssh(wanted: dict) -> str:
    kind = Unfit if wanted["ssh"] else Absent
    sshd = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin")
    if sshd is None:
        raise kind(
            "there is no sshd: no SSH, scp and remote editors", "apt-get install openssh-server in the image."
        )
    if importlib.util.find_spec("jupyter_sshd_proxy") is None:
        raise kind(
            "jupyter-sshd-proxy is missing: SSH is not reached through the hub",
            "pip install jupyter-sshd-proxy",
        )
    with tempfile.TemporaryDirectory() as folder:
        key = f"{folder}/key"
        run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key])
        options = ["-o", "UsePAM=no", "-o", "StrictModes=no", "-h", key]
        done = run([sshd, "-i", "-e", "-f", "none", *options])
    if not done.stdout.startswith("SSH-2.0-"):
        raise Unfit(
            f"sshd does not run as this user: {last_line(done.stderr)}", "Look at `sshd -t` in the image."
        )
    baked_in = sorted(str(path) for path in Path("/etc/ssh").glob("ssh_host_*_key"))
    if baked_in:
        raise Unfit(
            f"the image holds an SSH host key ({baked_in[0]}), the same for everybody who has the image",
            "Remove it in the layer that installs openssh-server: rm -f /etc/ssh/ssh_host_*",
        )
    return f"sshd answers {done.stdout.split()[0]}"


def check_nvcc(wanted: dict) -> str:
    kind = Unfit if wanted["devel"] else Absent
    again = "Build the image again; its layer `devel` has all that this needs."
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        raise kind(
            "there is no nvcc on PATH: no CUDA can be compiled",
            again if wanted["devel"] else "Images whose row in versions.toml has the layer `devel` have it.",
        )
    version = run([nvcc, "--version"])
    release = re.search(r"release (\d+\.\d+)", version.stdout)
    if release is None:
        raise kind(f"nvcc does not run: {last_line(version.stderr or version.stdout)}", again)
    if wanted["cuda"] and release[1] != wanted["cuda"]:
        raise kind(f"nvcc is of CUDA {release[1]}, and versions.toml says {wanted['cuda']}", again)
    for what, code in (("a shared library", LIBRARY), ("an extension of torch", EXTENSION)):
        with tempfile.TemporaryDirectory() as folder:
            try:
                done = run([sys.executable, "-c", code, folder, *wanted["gpus"]], COMPILE_SECONDS)
            except subprocess.TimeoutExpired:
                raise kind(
                    f"{what} takes nvcc longer than {COMPILE_SECONDS} s",
                    "Test again when the machine is less busy.",
                ) from None
        if done.returncode != 0:
            raise kind(f"{what} is not to be had from nvcc: {compilers_reason(done.stderr)}", again)
    ran = (
        "both compute on the GPU" if wanted["gpus"] else "both load; without a GPU their kernels did not run"
    )
    return f"nvcc {release[1]} makes a shared library and an extension of torch, {ran}"


# Both double numbers on the GPU where one was given (sys.argv[2:]). Without one CUDA's runtime in the library must say that
# the driver is none or too old (35) or that there is no device (100), and the extension must be one that can be loaded.
LIBRARY = """
import ctypes, pathlib, subprocess, sys
source = pathlib.Path(sys.argv[1], "twice.cu")
source.write_text('''
__global__ void twice(float *x) { x[threadIdx.x] *= 2; }
extern "C" int run(float *x, int n) {
    float *on_device;
    if (cudaError_t error = cudaMalloc(&on_device, n * sizeof(float))) return error;
    cudaMemcpy(on_device, x, n * sizeof(float), cudaMemcpyHostToDevice);
    twice<<<1, n>>>(on_device);
    cudaMemcpy(x, on_device, n * sizeof(float), cudaMemcpyDeviceToHost);
    cudaFree(on_device);
    return cudaGetLastError();
}
''')
library = source.with_suffix(".so")
command = ["nvcc", "-shared", "-Xcompiler", "-fPIC", source, "-o", library]
made = subprocess.run(command, capture_output=True, text=True)
if made.returncode != 0:
    sys.exit(made.stderr + made.stdout)
x = (ctypes.c_float * 4)(1, 2, 3, 4)
error = ctypes.CDLL(str(library)).run(x, 4)
if sys.argv[2:]:
    assert error == 0 and list(x) == [2, 4, 6, 8], f"CUDA's error {error}, {list(x)} of [1, 2, 3, 4] doubled"
else:
    assert error in (35, 100), f"CUDA's error is {error} where there is no GPU"
"""

EXTENSION = """
import os, pathlib, sys
if not sys.argv[2:]:
    os.environ["TORCH_CUDA_ARCH_LIST"] = "8.0"
import torch
from torch.utils.cpp_extension import load
source = pathlib.Path(sys.argv[1], "twice.cu")
# not torch/extension.h, with which the compilers take twice as long
source.write_text('''
#include <ATen/core/Tensor.h>
#include <torch/library.h>
__global__ void twice_kernel(float *x) { x[threadIdx.x] *= 2; }
at::Tensor twice(at::Tensor x) {
    twice_kernel<<<1, x.numel()>>>(x.data_ptr<float>());
    return x;
}
TORCH_LIBRARY(image_test, library) { library.def("twice", &twice); }
''')
load("image_test_twice", [source], build_directory=sys.argv[1], is_python_module=False)
twice = torch.ops.image_test.twice
if sys.argv[2:]:
    doubled = twice(torch.arange(4.0, device="cuda")).tolist()
    assert doubled == [0, 2, 4, 6], f"{doubled} of [0, 1, 2, 3] doubled"
"""


def compilers_reason(text: str) -> str:
    """The first line in which a compiler or linker says what is wrong; the last one where none does."""
    said = (line.strip() for line in text.splitlines() if re.search(r"error:|cannot find|not found", line))
    return next(said, last_line(text))


def check_devices(wanted: dict) -> str:
    smi = shutil.which("nvidia-smi")
    done = run([smi, "-L"]) if smi else None
    seen = devices_in(done.stdout) if done and done.returncode == 0 else set()
    asked = set(wanted["gpus"])
    if not asked and not seen:
        raise Skipped("no GPU was given, and none is seen")
    if not asked:
        raise Unfit(
            f"a container that was given no GPU sees {', '.join(sorted(seen))}",
            "NVIDIA_VISIBLE_DEVICES of the image must not win: do not run it with the runtime `nvidia` by default.",
        )
    if done is None or done.returncode != 0:
        said = last_line(done.stderr or done.stdout) if done else "there is no nvidia-smi in the container"
        raise Unfit(
            f"the container was given {', '.join(sorted(asked))}, and sees no driver: {said}",
            "NVIDIA's container toolkit did not do its work: `nvidia-ctk cdi list`, `respawner-hub provision`.",
        )
    if seen != asked:
        raise Unfit(
            f"the container was given {', '.join(sorted(asked))} and sees {', '.join(sorted(seen)) or 'none'}",
            "`nvidia-smi -L` on the host; describe the devices anew: `respawner-hub provision`.",
        )
    return f"sees {', '.join(sorted(seen))} and no other"


def devices_in(listing: str) -> set[str]:
    """UUIDs in `nvidia-smi -L` that can be computed on: a GPU that is listed for its MIG devices cannot."""
    found: list[str] = []
    for line in listing.splitlines():
        uuid = re.search(r"UUID: ([^)\s]+)\)", line)
        if uuid and line.lstrip().startswith("MIG"):
            found = (
                [*found[:-1], uuid[1]] if found and not found[-1].startswith("MIG-") else [*found, uuid[1]]
            )
        elif uuid:
            found.append(uuid[1])
    return set(found)


def check_gpu(wanted: dict) -> str:
    if not wanted["gpus"]:
        raise Skipped("no GPU was given (`--gpu UUID`): cuda, a matrix product and memory are not checked")
    code = """
import torch
torch.cuda.init()
a = torch.rand(512, 512, dtype=torch.float64)
error = ((a.cuda() @ a.cuda()).cpu() - a @ a).abs().max().item()
assert error < 1e-6, f"a matrix product is wrong by {error}"
torch.cuda.empty_cache()
free, total = torch.cuda.mem_get_info()
room = torch.empty(int(free * 0.9), dtype=torch.uint8, device="cuda")
took = room.numel()
del room
torch.cuda.empty_cache()
back, _ = torch.cuda.mem_get_info()
assert back > free - 2**28, f"of {took} bytes that were given back {free - back} are still in use"
gib = lambda size: f"{size / 2**30:.1f}"
print(f"{torch.cuda.get_device_name()}: matrix product as on the CPU, {gib(took)} of {gib(total)} GiB allocated; free before {gib(free)}, after {gib(back)}")
"""
    done = run([sys.executable, "-c", code])
    if done.returncode == 0:
        return done.stdout.strip()
    why = run([sys.executable, "-c", WHY.format(bundle=wanted["bundle"])]).stdout.strip()
    says, _, step = why.partition("\n")
    raise Unfit(
        says or f"CUDA does not work: {last_line(done.stderr)}",
        step or "Run `%gpu --probe` in a session of the image.",
    )


WHY = """
import sys
sys.path.append({bundle!r} + "/lib")
from respawner.gpu.diagnosis import diagnose
from respawner.gpu.look import look
for found in diagnose(look()).findings[:1]:
    print(found.what, found.next_step, sep="\\n")
"""


class Kernel:
    """A kernel as Jupyter Server starts one."""

    def __init__(self, **environment: str) -> None:
        from jupyter_client import KernelManager

        self._manager = KernelManager()
        self._environment = {**os.environ, **environment}
        self._client = None
        self.start()

    def start(self) -> None:
        if self._client is None:
            self._manager.start_kernel(env=self._environment)
        else:
            self._client.stop_channels()
            self._manager.restart_kernel(now=True, env=self._environment)
        self._client = self._manager.client()
        self._client.start_channels()
        try:
            self._client.wait_for_ready(timeout=PATIENCE_SECONDS)
        except RuntimeError as error:
            raise Unfit(
                f"the kernel does not start: {error}", "Run `python3 -m ipykernel_launcher` in the image."
            ) from error

    def run(self, code: str) -> str:
        """What the cell prints; the error instead where it fails."""
        said: list[str] = []

        def take(message: dict) -> None:
            content = message["content"]
            if message["msg_type"] == "stream":
                said.append(content["text"])
            elif message["msg_type"] == "error":
                said.append(f"{content['ename']}: {content['evalue']}")

        self._client.execute_interactive(code, output_hook=take, timeout=PATIENCE_SECONDS)
        return "".join(said).strip()

    def kill(self) -> None:
        self._manager.signal_kernel(signal.SIGKILL)
        time.sleep(0.5)

    def end(self) -> None:
        if self._client is not None:
            self._client.stop_channels()
        if self._manager.has_kernel:
            self._manager.shutdown_kernel(now=True)


def run(command: list[str], seconds: int = PATIENCE_SECONDS) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )


def last_line(text: str) -> str:
    return (text.strip().splitlines() or ["it says nothing"])[-1]


CHECKS = {
    "user": check_user,
    "volumes": check_volumes,
    "hub": check_hub,
    "kernel": check_kernel,
    "snapshots": check_snapshots,
    "torch": check_torch,
    "autosave": check_autosave,
    "ssh": check_ssh,
    "nvcc": check_nvcc,
    "devices": check_devices,
    "gpu": check_gpu,
}


def main() -> None:
    wanted = json.loads(sys.argv[1])
    for name in wanted["only"] or CHECKS:
        check = CHECKS[name]
        started = time.monotonic()
        step = ""
        try:
            state, says = "ok", check(wanted)
        except Skipped as reason:
            state, says = "skipped", str(reason)
        except Absent as error:
            state, says, step = "absent", str(error), error.next_step
        except Unfit as error:
            state, says, step = "failed", str(error), error.next_step
        except Exception as error:
            state, says = "failed", f"the check itself met {type(error).__name__}: {error}"
            step = "Something that it needs is broken in the image; what it does is in images/test/inside.py."
        seconds = round(time.monotonic() - started, 1)
        print(
            json.dumps({"name": name, "state": state, "says": says, "next": step, "seconds": seconds}),
            flush=True,
        )


if __name__ == "__main__":
    main()
