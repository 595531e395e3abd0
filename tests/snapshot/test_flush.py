"""``python3 -m respawner.flush``: what the hub asks before it stops a session."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from respawner.contract import FLUSH_DURABLE, FLUSH_MODULE, FLUSH_NOT_DURABLE
from respawner.runtime import process_start

from tests.snapshot.notebook import PATIENCE_SECONDS, PYTHON, Notebook


def flush(runtime: Path, timeout: float) -> tuple[int, dict[str, object]]:
    done = subprocess.run(
        [PYTHON, "-m", FLUSH_MODULE, "--timeout", str(timeout)],
        capture_output=True,
        text=True,
        env={**os.environ, "RESPAWNER_RUNTIME": str(runtime)},
    )
    assert done.stderr == ""
    return done.returncode, json.loads(done.stdout)


def test_waits_for_a_running_cell_and_then_says_durable(notebook: Notebook) -> None:
    assert flush(notebook.runtime, 0)[0] == FLUSH_DURABLE, "nothing has run yet"
    notebook.client.execute("import time\nwhile not __import__('os').path.exists('go'): time.sleep(0.05)")
    _wait_for_state(notebook, "dirty")
    code, result = flush(notebook.runtime, 0.2)
    assert (code, result["durable"]) == (FLUSH_NOT_DURABLE, False)
    (notebook.folder / "go").touch()
    code, result = flush(notebook.runtime, PATIENCE_SECONDS)
    assert (code, result["durable"]) == (FLUSH_DURABLE, True)
    [kernel] = result["kernels"]  # type: ignore[misc]
    assert kernel["pid"] == notebook.pid  # type: ignore[index]
    assert kernel["snapshot"] == notebook.manifests()[0].id  # type: ignore[index]


def test_dead_kernels_do_not_count(notebook: Notebook) -> None:
    notebook.client.execute("import time; time.sleep(600)")
    _wait_for_state(notebook, "dirty")
    notebook.kill_at_once()
    assert flush(notebook.runtime, 0) == (FLUSH_DURABLE, {"durable": True, "kernels": []})


def test_reused_pid_does_not_count(tmp_path: Path) -> None:
    (tmp_path / "kernels").mkdir()
    stale = {"format": 1, "pid": os.getpid(), "start": "1", "state": "dirty"}
    (tmp_path / "kernels" / f"{os.getpid()}.json").write_text(json.dumps(stale))
    assert flush(tmp_path, 0)[0] == FLUSH_DURABLE
    living = {**stale, "start": process_start(os.getpid())}
    (tmp_path / "kernels" / f"{os.getpid()}.json").write_text(json.dumps(living))
    assert flush(tmp_path, 0)[0] == FLUSH_NOT_DURABLE


def test_failed_kernel_is_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / "kernels").mkdir()
    failed = {"format": 1, "pid": os.getpid(), "start": process_start(os.getpid()), "state": "failed"}
    (tmp_path / "kernels" / "1.json").write_text(json.dumps(failed))
    code, result = flush(tmp_path, 3600)
    assert (code, result["durable"]) == (FLUSH_NOT_DURABLE, False)


@pytest.mark.parametrize("content", ["", "[]", '{"pid": "x"}', "\x00"])
def test_unreadable_status_files_are_passed_over(tmp_path: Path, content: str) -> None:
    (tmp_path / "kernels").mkdir()
    (tmp_path / "kernels" / "1.json").write_text(content)
    assert flush(tmp_path, 0)[0] == FLUSH_DURABLE


@pytest.mark.skipif(os.getuid() != 0, reason="only root looks at other users' kernels")
def test_root_waits_for_the_kernels_of_every_user(tmp_path: Path) -> None:
    folder = tmp_path / "respawner-1000" / "kernels"
    folder.mkdir(parents=True)
    dirty = {"format": 1, "pid": os.getpid(), "start": process_start(os.getpid()), "state": "dirty"}
    (folder / "1.json").write_text(json.dumps(dirty))
    environment = {key: value for key, value in os.environ.items() if key != "RESPAWNER_RUNTIME"}
    done = subprocess.run(
        [PYTHON, "-m", FLUSH_MODULE, "--timeout", "0"],
        env={**environment, "TMPDIR": str(tmp_path)},
        check=False,
    )
    assert done.returncode == FLUSH_NOT_DURABLE


def test_needs_only_the_standard_library() -> None:
    source = Path(__file__).parents[2] / "snapshot"
    done = subprocess.run(
        [
            sys.executable,
            "-I",
            "-S",
            "-c",
            f"import sys; sys.path.append({str(source)!r}); import respawner.flush as f; sys.exit(f.main(['--timeout', '0', '--runtime', '/nonexistent']))",
        ],
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (FLUSH_DURABLE, "")


def _wait_for_state(notebook: Notebook, state: str) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not any(k["state"] == state for k in flush(notebook.runtime, 0)[1]["kernels"]):  # type: ignore[attr-defined]
        assert time.monotonic() < deadline, f"no kernel became {state}"
