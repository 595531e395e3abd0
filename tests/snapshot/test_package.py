"""What importing the package does, and that its names do not get in each other's way."""

from __future__ import annotations

import subprocess

from tests.snapshot.notebook import PYTHON, Notebook


def test_import_alone_changes_nothing_and_loads_nothing() -> None:
    code = (
        "import sys; before = set(sys.modules)\n"
        "import respawner\n"
        "new = {name.partition('.')[0] for name in set(sys.modules) - before}\n"
        "print(sorted(new - set(sys.stdlib_module_names)))\n"
        "print(sorted(name for name in sys.modules if name.startswith('respawner')))"
    )
    done = subprocess.run([PYTHON, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["['respawner']", "['respawner', 'respawner.version']"]


def test_kernel_does_not_import_libraries_that_the_user_has_not(notebook: Notebook) -> None:
    notebook.run("x = 1")
    notebook.restart_after_kill()
    ran = notebook.run("import sys; print({'torch', 'numpy', 'pandas'} & set(sys.modules))")
    assert ran.text.endswith("set()\n")


def test_public_functions_are_functions_in_a_running_kernel(notebook: Notebook) -> None:
    notebook.run("x = 1")
    notebook.restart_after_kill()
    ran = notebook.run(
        "import respawner\nprint([n for n in respawner.__all__ if not n.startswith('_') and not callable(getattr(respawner, n))])"
    )
    assert ran.text.endswith("[]\n")
    assert notebook.run("print(respawner.flush(), respawner.status()['error'])").text == "True None\n"
