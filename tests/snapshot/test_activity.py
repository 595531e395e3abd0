"""What runs beside the cells is told after a restart; warnings that are errors do not disturb a capture."""

from __future__ import annotations

from tests.snapshot.notebook import Notebook


def test_what_runs_beside_the_cells_is_told_after_a_restart(notebook: Notebook) -> None:
    notebook.run(
        "import threading, signal, asyncio, time\n"
        "def work(): time.sleep(600)\n"
        "def ring(number, frame): pass\n"
        "async def watch(): await asyncio.sleep(600)\n"
        "threading.Thread(target=work, name='worker', daemon=True).start()\n"
        "signal.signal(signal.SIGUSR1, ring); asyncio.get_running_loop().create_task(watch(), name='watcher')"
    )
    notebook.restart_after_kill()
    text = notebook.run("pass").text
    assert "note: thread worker was running; it is not started again" in text
    assert "note: task watcher (watch) was running; it is not started again" in text
    assert "note: the handler of SIGUSR1 is not set again" in text
    notebook.restart_after_kill()
    assert "was running" not in notebook.run("pass").text


def test_warnings_as_errors_cost_no_object(notebook: Notebook) -> None:
    notebook.run(
        "import warnings; warnings.simplefilter('error')\n"
        "class Old:\n"
        "    def __reduce__(self):\n"
        "        warnings.warn('old way', DeprecationWarning); return Old, ()\n"
        "    def __init__(self): warnings.warn('old way', DeprecationWarning)\n"
        "old = Old.__new__(Old)"
    )
    notebook.restart_after_kill()
    ran = notebook.run("print(type(old) is Old)\nOld()")
    assert "not restored" not in ran.text
    assert ran.text.endswith("True\n")
    assert "DeprecationWarning: old way" in (ran.error or "")
