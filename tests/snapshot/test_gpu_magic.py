"""`%gpu` in a real kernel, on the stand-in for NVML (`tests/standins`): what a person is told in each case."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.snapshot.notebook import Notebook
from tests.standins import build_empty_libcuda, build_fake_nvml, nvml_environment
from tests.standins.nvml_state import GIB, Gpu, Mig, Process, State

SESSION = {"NVIDIA_VISIBLE_DEVICES": "GPU-a", "JUPYTERHUB_USER": "ada", "JUPYTERHUB_BASE_URL": "/"}


@pytest.fixture(scope="session")
def nvidia(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the stand-ins for NVIDIA's libraries."""
    return build_empty_libcuda(build_fake_nvml(tmp_path_factory.mktemp("nvidia")))


@pytest.fixture
def cpu_build() -> None:
    torch = pytest.importorskip("torch")
    if torch.version.cuda:
        pytest.skip(f"torch {torch.__version__} is no CPU build")


@pytest.fixture
def cuda_build(tmp_path: Path) -> Path:
    """For PYTHONPATH: a CUDA build of torch, as far as one can see without importing it."""
    package = tmp_path / "cuda-build" / "torch"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise ImportError('nobody may import it')")
    (package / "version.py").write_text("__version__ = '2.7.1+cu126'\ncuda = '12.6'\nhip = None\n")
    return package.parent


@pytest.fixture
def session(
    open_notebook: Callable[..., Notebook], nvidia: Path, cuda_build: Path, tmp_path: Path
) -> Callable[..., Notebook]:
    """Open a notebook whose kernel sees that state of NVML, and the CUDA build unless told otherwise."""

    def start(state: State, *, build: Path | None = cuda_build, **environment: str) -> Notebook:
        seen = nvml_environment(nvidia, state.write(tmp_path / "nvml"))
        if build:
            seen["PYTHONPATH"] = os.pathsep.join(filter(None, (str(build), os.environ.get("PYTHONPATH"))))
        return open_notebook(**{**SESSION, **seen, **environment}).start()

    return start


def test_a_leased_gpu_is_shown_with_its_limits_and_the_others_are_not(
    session: Callable[..., Notebook],
) -> None:
    state = State([Gpu("GPU-a", memory_used=5 * GIB, utilization=37), Gpu("GPU-b", "STAND-IN L4")])
    share = {"RESPAWNER_GPU_SHARE": "advisory", "RESPAWNER_GPU_MEMORY_BYTES": str(20 * GIB)}
    ran = session(state, **share).run("%gpu")
    assert "nothing stands in CUDA's way" in ran.text
    assert "STAND-IN A100 (GPU-a): 5.0 GiB of 80.0 GiB in use, 37 % busy" in ran.text
    assert "limit: a share of 20.0 GiB, held to by: advisory" in ran.text
    assert "STAND-IN L4" not in ran.text
    assert "STAND-IN A100 (GPU-a): 5.0 GiB" in ran.html


@pytest.mark.parametrize(
    ("state", "environment", "said"),
    [
        (State([]), {"NVIDIA_VISIBLE_DEVICES": "void"}, "started without a lease"),
        (
            State([], init_error=12),
            {"NVIDIA_VISIBLE_DEVICES": "all"},
            "no NVIDIA driver on this session's machine",
        ),
        (State([], init_error=9), {}, "kernel module is not loaded"),
        (State([], init_error=18), {}, "have different versions"),
        (State([Gpu("GPU-a")], cuda_version=11040), {}, "knows CUDA up to 11.4"),
        (State([Gpu("GPU-a", lost=True)]), {}, "fell off the bus"),
        (State([Gpu("GPU-b")]), {}, "names GPU-a, and the driver does not know it"),
        (State([Gpu("GPU-a", mig_mode=1)]), {}, "has no MIG device of it"),
        (State([Gpu("GPU-a", compute_mode=2)]), {}, "PROHIBITED"),
        (State([Gpu("GPU-a", compute_mode=3, processes=[Process(1)])]), {}, "another process has it"),
        (State([Gpu("GPU-a")]), {"CUDA_VISIBLE_DEVICES": "7"}, "CUDA_VISIBLE_DEVICES='7' hides"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_each_cause_is_told_with_a_next_step(
    session: Callable[..., Notebook], state: State, environment: dict[str, str], said: str
) -> None:
    ran = session(state, **environment).run("%gpu")
    [line] = [line for line in ran.text.splitlines() if said in line]
    after = ran.text.splitlines()[ran.text.splitlines().index(line) + 1]
    assert after.strip().startswith("→ ")
    assert ran.text.startswith("GPU: torch cannot use CUDA here")


def test_driver_that_hangs_does_not_hang_the_cell(session: Callable[..., Notebook]) -> None:
    notebook = session(State([Gpu("GPU-a")], hang="nvmlDeviceGetCount_v2"))
    assert "did not return in time" in notebook.run("%gpu").text
    assert notebook.run("1 + 1").text == "2\n"


def test_mig_device_of_the_lease_is_shown(session: Callable[..., Notebook]) -> None:
    state = State([Gpu("GPU-a", migs=[Mig("MIG-1", memory_used=GIB), Mig("MIG-2", gpu_instance=2)])])
    ran = session(state, NVIDIA_VISIBLE_DEVICES="MIG-1").run("%gpu")
    assert "nothing stands in CUDA's way" in ran.text
    assert "STAND-IN A100 MIG 1g.10gb (MIG-1): 1.0 GiB of 10.0 GiB in use" in ran.text
    assert "MIG-2" not in ran.text


def test_nothing_is_imported_and_no_thread_stays(session: Callable[..., Notebook]) -> None:
    notebook = session(State([Gpu("GPU-a")]))
    modules = "import sys; print([name in sys.modules for name in ('torch', 'pynvml', 'respawner.gpu.look')])"
    assert notebook.run(modules).text == "[False, False, False]\n"
    notebook.run("%gpu")
    assert notebook.run(modules).text == "[False, True, True]\n"
    threads = "import threading; print('respawner-nvml' in [one.name for one in threading.enumerate()])"
    assert notebook.run(threads).text == "False\n"


@pytest.mark.usefixtures("cpu_build")
def test_cpu_build_that_the_notebook_has_imported_and_its_variables(session: Callable[..., Notebook]) -> None:
    notebook = session(State([]), build=None, NVIDIA_VISIBLE_DEVICES="void")
    notebook.run("import torch\nlayer = torch.nn.Linear(1000, 1000)\n'<b>'; torch.ones(3)")
    assert (
        notebook.value("setattr(__import__('respawner.gpu.tensors').gpu.tensors, 'SECONDS', 600)") == "None"
    )
    ran = notebook.run("%gpu")
    assert "is a CPU build" in ran.text
    assert "3.82 MiB  cpu    Linear, 2 tensors" in ran.text
    assert "Out[1]" in ran.text
    assert notebook.run("print(torch.cuda.is_initialized())").text == "False\n"
    inside = notebook.run("%gpu layer").text
    assert "layer.weight  3.81 MiB  cpu    Parameter float32 [1000, 1000]" in inside
    assert "there is no variable 'layers'" in notebook.run("%gpu layers").text


@pytest.mark.usefixtures("cpu_build")
def test_probe_gives_cudas_own_words(session: Callable[..., Notebook]) -> None:
    notebook = session(State([]), build=None)
    assert (
        "CUDA says: AssertionError: Torch not compiled with CUDA enabled" in notebook.run("%gpu --probe").text
    )
    assert notebook.run("import sys; print('torch' in sys.modules)").text == "False\n"


def test_measured_cell_behaves_like_any_cell(notebook: Notebook) -> None:
    ran = notebook.run("%%gpu\nx = 41\nx + 1")
    assert ran.text.startswith("42\n")
    assert "GPU memory of this cell: the cell did not use CUDA" in ran.text
    failed = notebook.run("%%gpu\ndef f():\n    raise ValueError(x)\nf()")
    assert failed.error == "ValueError: 41"
    assert "GPU memory of this cell" in failed.text
    assert "top-level await" in notebook.run("%%gpu\nimport asyncio\nawait asyncio.sleep(0)").text
    assert "takes no arguments" in notebook.run("%%gpu x\npass").text
    assert notebook.restart_after_kill().run("print(x)").text.endswith("41\n")


def test_it_works_where_nothing_can_be_saved(open_notebook: Callable[..., Notebook], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    notebook = open_notebook(RESPAWNER_STORE=str(tmp_path / "file" / "store")).start()
    assert "Respawner is off" in notebook.run("pass").text
    assert notebook.run("%gpu").text.startswith("GPU: ")
