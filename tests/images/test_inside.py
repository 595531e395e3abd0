"""What `image test` makes of an image with nvcc, a broken one and none; a real nvcc is tried by `image test` itself."""

from importlib.util import module_from_spec, spec_from_file_location
from subprocess import CompletedProcess, TimeoutExpired

import pytest

from .tiny_wheels import ROOT


@pytest.fixture
def inside():
    spec = spec_from_file_location("inside", ROOT / "images" / "test" / "inside.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def check(inside, monkeypatch):
    """Call the check where nvcc prints `version`, and the programs that compile end so."""

    def check(version="", returncode=0, stderr="", error=None, **wanted):
        ran = []

        def run(command, seconds=0):
            if command[1:] == ["--version"]:
                return CompletedProcess(command, 0, version, "")
            ran.append(command[4:])
            if error:
                raise error
            return CompletedProcess(command, returncode, "", stderr)

        monkeypatch.setattr(inside.shutil, "which", lambda name: f"/bin/{name}" if version else None)
        monkeypatch.setattr(inside, "run", run)
        says = inside.check_nvcc({"devel": True, "cuda": "13.0", "gpus": [], **wanted})
        return says, ran

    return check


RELEASE = "Cuda compilation tools, release 13.0, V13.0.88"


def test_image_without_nvcc_is_fit_unless_it_promises_one(inside, check):
    with pytest.raises(inside.Absent, match="no nvcc on PATH"):
        check(devel=False)
    with pytest.raises(inside.Unfit, match="no nvcc on PATH") as error:
        check()
    assert not isinstance(error.value, inside.Absent)


def test_nvcc_of_another_cuda_is_told_with_both(inside, check):
    with pytest.raises(inside.Unfit, match=r"nvcc is of CUDA 13\.0, and versions\.toml says 13\.1"):
        check(RELEASE, cuda="13.1")


def test_nvcc_that_only_fails_is_told(inside, check):
    with pytest.raises(inside.Unfit, match="nvcc does not run: Segmentation fault"):
        check("Segmentation fault")


def test_compilers_own_reason_is_told_and_not_the_last_line(inside, check):
    said = "[1/3] nvcc …\nmath.h:1: fatal error: crt/host_config.h: No such file\nninja: build stopped\n"
    with pytest.raises(
        inside.Unfit, match=r"a shared library .*: math\.h:1: fatal error: crt/host_config\.h"
    ):
        check(RELEASE, returncode=1, stderr=said)


def test_machine_that_is_too_busy_is_told_and_not_the_image(inside, check):
    with pytest.raises(inside.Unfit, match="longer than 600 s") as error:
        check(RELEASE, error=TimeoutExpired("python3", 600))
    assert "less busy" in error.value.next_step


def test_kernels_run_on_the_gpu_that_was_given_and_else_it_is_said_that_they_did_not(check):
    says, ran = check(RELEASE)
    assert says.endswith("both load; without a GPU their kernels did not run")
    assert ran == [[], []]
    says, ran = check(RELEASE, gpus=["GPU-a"])
    assert says.endswith("both compute on the GPU")
    assert ran == [["GPU-a"], ["GPU-a"]]
