"""`make image-suite`: the kernel component's own tests run inside an image, and what fails there fails here."""

import json
import subprocess
import sys

import pytest

from tests.snapshot.in_image import counted
from tests.snapshot.pythons import ROOT

FILE = "test_gpu_diagnosis.py"


def test_pytests_last_line_is_read_as_numbers():
    text = "....\nFAILED tests/a.py::test_b\n== 2 failed, 812 passed, 20 skipped, 1 warning in 90.1s (0:01:30) ==\n"
    assert counted(text) == {"failed": 2, "passed": 812, "skipped": 20}
    assert counted("") == {}


@pytest.mark.docker
def test_a_file_of_tests_runs_inside_the_user_image(user_image):
    command = [sys.executable, "-m", "tests.snapshot.in_image"]
    environment = {"IMAGE": user_image, "TESTS": FILE}
    done = subprocess.run(
        ["env", *(f"{name}={value}" for name, value in environment.items()), *command],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    said = json.loads(done.stdout.splitlines()[-1])
    assert done.returncode == 0, done.stdout + done.stderr
    assert said["image"] == user_image
    assert said["torch"].startswith("2.")
    assert said["passed"] > 10
    assert said["which_failed"] == []


def test_an_image_that_nobody_has_is_said_and_is_no_success():
    command = [sys.executable, "-m", "tests.snapshot.in_image"]
    done = subprocess.run(["env", "IMAGE=", *command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "make image-suite IMAGE=" in done.stderr
