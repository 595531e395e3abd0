"""What a kernel does when it starts: restore, start clean, stay off."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import cloudpickle
import respawner
from respawner.contract import BUNDLE_DIR

from tests.snapshot.notebook import INJECTED, Notebook

OpenNotebook = Callable[..., Notebook]


def test_variables_come_back_after_sigkill(notebook: Notebook) -> None:
    notebook.run("x = {'a': [1, 2]}; y = x['a']")
    notebook.restart_after_kill()
    assert "True" in notebook.run("x['a'] is y").text


def test_sigkill_inside_a_cell_keeps_the_state_before_it(notebook: Notebook) -> None:
    notebook.run("x = 1")
    notebook.settle()
    notebook.client.execute("x = 2; import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    notebook.manager.provisioner.process.wait()
    notebook.start()
    assert notebook.run("print(x)").text.endswith("1\n")


def test_variables_set_before_an_error_come_back(notebook: Notebook) -> None:
    notebook.run("x = 5\nraise ValueError('after')")
    notebook.restart_after_kill()
    ran = notebook.run("print(x)")
    assert ran.text.endswith("5\n")
    assert "after cell [1], which failed" in ran.text


def test_deleted_variables_stay_deleted(notebook: Notebook) -> None:
    notebook.run("x = 1; y = 2")
    notebook.run("del x")
    notebook.restart_after_kill()
    assert notebook.run("print(y, 'x' in globals())").text.endswith("2 False\n")


def test_names_with_an_underscore_come_back(notebook: Notebook) -> None:
    notebook.run("_cache = {'k': 1}\ndef look(k): return _cache[k]")
    notebook.restart_after_kill()
    assert notebook.run("print(look('k'))").text.endswith("1\n")


def test_restored_names_win_over_startup_files_and_say_so(open_notebook: OpenNotebook) -> None:
    notebook = open_notebook()
    (notebook.startup_folder / "50-mine.py").write_text("settings = 'from the file'\nkept = 'file'\n")
    notebook.start().run("settings = 'mine'")
    notebook.restart_after_kill()
    ran = notebook.run("print(settings, kept)")
    assert ran.text.endswith("mine file\n")
    assert "replaced what the startup files had set: settings" in ran.text


def test_cwd_environment_path_and_submodules_come_back(notebook: Notebook) -> None:
    (notebook.folder / "lib").mkdir()
    (notebook.folder / "lib" / "my_tools.py").write_text("def double(x): return 2 * x\n")
    notebook.run(
        "import os, sys, xml.dom.minidom; os.mkdir('work'); sys.path.insert(0, os.path.abspath('lib'))"
    )
    notebook.run("%cd -q work\nimport my_tools; os.environ['MY_SETTING'] = 'on'")
    notebook.restart_after_kill()
    ran = notebook.run(
        "print(os.path.basename(os.getcwd()), os.environ['MY_SETTING'], my_tools.double(4), xml.dom.minidom.Node.ELEMENT_NODE)"
    )
    assert ran.text.endswith("work on 8 1\n")


def test_secrets_in_the_environment_never_go_to_the_disk(notebook: Notebook) -> None:
    notebook.run(
        "import os; os.environ.update(MY_TOKEN='t0p', AWS_SECRET_ACCESS_KEY='s3c', DB_PASSWORD='pw', PLAIN='kept')"
    )
    notebook.restart_after_kill()
    ran = notebook.run(
        "print([os.environ.get(n) for n in ('MY_TOKEN', 'AWS_SECRET_ACCESS_KEY', 'DB_PASSWORD', 'PLAIN')])"
    )
    assert ran.text.endswith("[None, None, None, 'kept']\n")


def test_excluded_names_are_left_out_also_after_a_restart(notebook: Notebook) -> None:
    notebook.run("import respawner; respawner.exclude('huge'); huge = 1; small = 2")
    notebook.restart_after_kill()
    assert notebook.run("print('huge' in globals(), small)").text.endswith("False 2\n")
    notebook.run("huge = 3")
    notebook.restart_after_kill()
    assert notebook.run("print('huge' in globals())").text.endswith("False\n")


# Restoring in place ---------------------------------------------------------------------------------------


def test_restore_in_place_replaces_the_namespace_and_can_be_undone(notebook: Notebook) -> None:
    notebook.run("model = [1]; alias = model")
    notebook.run("%snapshot before")
    notebook.run("model.append(2); extra = 'new'")
    assert "restored" in notebook.run("%restore before").text
    assert notebook.run("print(model, alias is model, 'extra' in globals())").text == "[1] True False\n"
    notebook.run(f"%restore {notebook.last_undo()}")
    assert notebook.run("print(model, alias is model, extra)").text == "[1, 2] True new\n"


def test_class_in_place_is_the_snapshots_class(notebook: Notebook) -> None:
    notebook.run("class C:\n    def answer(self): return 1\nc = C()")
    notebook.run("%snapshot first")
    notebook.run("old = C; C.answer = lambda self: 2; C.added = True")
    notebook.run("%restore first")
    assert notebook.run("print(c.answer(), type(c) is C, hasattr(C, 'added'))").text == "1 True False\n"


def test_restore_of_an_unknown_label_changes_nothing(notebook: Notebook) -> None:
    notebook.run("x = 1")
    assert "there is no snapshot 'nowhere'" in notebook.run("%restore nowhere").text
    assert notebook.run("print(x)").text == "1\n"


def test_loading_the_extension_by_hand_restores(open_notebook: OpenNotebook) -> None:
    notebook = open_notebook()
    (notebook.startup_folder / "00-respawner.py").unlink()
    notebook.start()
    notebook.run("%load_ext respawner")
    notebook.run("x = 1")
    notebook.restart_after_kill()
    assert "restored 1 variable" in notebook.run("%load_ext respawner").text
    assert notebook.run("print(x)").text == "1\n"


def test_loading_the_extension_late_spares_existing_variables(open_notebook: OpenNotebook) -> None:
    notebook = open_notebook().start()
    notebook.run("x = 'saved'")
    notebook.kill()
    (notebook.startup_folder / "00-respawner.py").unlink()
    notebook.start()
    notebook.run("x = 'newer'")
    assert "there are variables already" in notebook.run("%load_ext respawner").text
    assert notebook.run("print(x)").text == "newer\n"
    notebook.run("%restore")
    assert notebook.run("%restore\nprint(x)").error is None


# Starting clean, staying off ------------------------------------------------------------------------------


def test_clean_next_start_restores_nothing_and_keeps_the_snapshots(notebook: Notebook) -> None:
    notebook.run("import respawner; x = 1; respawner.clean_next_start()")
    notebook.restart_after_kill()
    first = notebook.run("print('x' in globals())")
    assert first.prompt == 1
    assert "started clean, as asked" in first.text
    assert first.text.endswith("False\n")
    [pinned] = notebook.timeline.pins()
    assert f"`%restore {pinned}` brings back the last state" in first.text
    notebook.run(f"%restore {pinned}")
    assert notebook.run("print(x)").text == "1\n"


def test_clean_start_that_dies_at_once_is_still_clean_the_next_time(notebook: Notebook) -> None:
    notebook.run("import respawner; x = 1; respawner.clean_next_start()")
    notebook.kill()
    notebook.start()
    notebook.kill_at_once()
    notebook.start()
    assert notebook.run("print('x' in globals())").text.endswith("False\n")
    notebook.restart_after_kill()
    assert "restored" in notebook.run("pass").text


def test_switched_off_by_the_environment(open_notebook: OpenNotebook) -> None:
    notebook = open_notebook(RESPAWNER="off").start()
    notebook.run("x = 1; import respawner")
    assert notebook.run("print(respawner.status())").text == "Respawner: off: RESPAWNER=off is set\n"
    assert "NotActiveError" in (notebook.run("respawner.save()").error or "")
    assert not notebook.store.exists()


def test_without_a_name_nothing_is_saved(open_notebook: OpenNotebook) -> None:
    notebook = open_notebook(JPY_SESSION_NAME="").start()
    notebook.run("x = 1")
    assert not notebook.store.exists()


def test_third_start_is_clean_after_two_that_died_before_a_cell_ended(notebook: Notebook) -> None:
    notebook.run("x = 'precious'")
    notebook.kill()
    for _ in range(2):
        notebook.start()
        notebook.client.execute("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
        notebook.manager.provisioner.process.wait()
    notebook.start()
    third = notebook.run("print('x' in globals())")
    assert "died 2 times in a row" in third.text
    assert third.text.endswith("False\n")
    assert "restored" in notebook.run(f"%restore {next(iter(notebook.timeline.pins()))}").text
    assert notebook.run("print(x)").text == "precious\n"


def test_a_start_whose_first_cell_ends_resets_the_guard(notebook: Notebook) -> None:
    notebook.run("x = 1")
    for _ in range(3):
        notebook.restart_after_kill()
        assert "restored 1 variable" in notebook.run("print(x)").text


# Other processes --------------------------------------------------------------------------------------------


def test_nested_kernel_leaves_the_timeline_alone(notebook: Notebook) -> None:
    notebook.run("x = 'outer'")
    nested = notebook.run(
        "from jupyter_client.manager import start_new_kernel\n"
        "manager, client = start_new_kernel()\n"
        "shown = []\n"
        "client.execute_interactive('import respawner; x = 0; print(respawner.status())',"
        " output_hook=lambda m: shown.append(m['content'].get('text', '')))\n"
        "manager.shutdown_kernel(now=True); print(''.join(shown))\n"
        "del manager, client"
    )
    assert "started from the notebook of process" in nested.text
    assert notebook.settle()["durable"]
    assert len(notebook.cells()) == 2
    assert len(list((notebook.store / "timelines").iterdir())) == 1


def test_forked_child_leaves_the_timeline_alone(notebook: Notebook) -> None:
    notebook.run("x = 'parent'")
    notebook.run(
        "import os, respawner\n"
        "pid = os.fork()\n"
        "if pid == 0:\n"
        "    ip = get_ipython(); ip.run_cell('x = 1', store_history=True)\n"
        "    os._exit(0 if not respawner.status()['active'] else 1)\n"
        "print(os.waitpid(pid, 0)[1])"
    )
    assert notebook.settle()["durable"]
    assert len(notebook.manifests()) == 2
    notebook.restart_after_kill()
    assert notebook.run("print(x)").text.endswith("parent\n")


def test_orphan_worker_does_not_hold_the_lock(notebook: Notebook) -> None:
    """A forked daemon outlives its killed kernel; the next one is not locked out.

    It leaves the kernel's process group, which jupyter_client kills, and its sockets: their ports are the next kernel's.
    """
    notebook.run(
        "import os, time; x = 1; child = os.fork()\n"
        "if child == 0:\n"
        "    os.setsid()\n"
        "    for fd in map(int, os.listdir('/proc/self/fd')):\n"
        "        try:\n"
        "            if os.readlink(f'/proc/self/fd/{fd}').startswith('socket:'): os.close(fd)\n"
        "        except OSError: pass\n"
        "    time.sleep(600); os._exit(0)"
    )
    child = int(notebook.value("child"))
    try:
        notebook.restart_after_kill()
        assert "restored" in notebook.run("pass").text
        assert len(list((notebook.store / "timelines").iterdir())) == 1
        os.kill(child, 0)  # it was there all the time
    finally:
        os.kill(child, signal.SIGKILL)


def test_pools_of_processes_leave_the_timeline_alone(notebook: Notebook) -> None:
    """Their processes are forks of the kernel, and run functions of the notebook that try all they can."""
    notebook.run(
        "import multiprocessing, respawner\n"
        "def work(number):\n"
        "    get_ipython().run_cell(f'x = {number}', store_history=True)\n"
        "    try: respawner.save('from a worker')\n"
        "    except respawner.errors.NotActiveError as error: return number * 2\n"
        "import respawner.errors; x = 'parent'"
    )
    ran = notebook.run(
        "with multiprocessing.get_context('fork').Pool(2) as pool: print(pool.map(work, range(6)))"
    )
    assert ran.text.endswith("[0, 2, 4, 6, 8, 10]\n")
    assert notebook.settle()["durable"]
    assert [m.labels for m in notebook.manifests()] == [[], []]
    assert len(list((notebook.store / "timelines").iterdir())) == 1
    assert notebook.restart_after_kill().run("print(x, work.__name__)").text.endswith("parent work\n")


def test_workers_of_a_data_loader_leave_the_timeline_whole(notebook: Notebook) -> None:
    """Killed in the middle of an epoch: the workers are orphans when the next kernel takes the lock."""
    notebook.run(
        "import os, torch\n"
        "class Numbers(torch.utils.data.Dataset):\n"
        "    def __len__(self): return 400\n"
        "    def __getitem__(self, index): return index * scale, os.getpid()\n"
        "scale = 2; loader = torch.utils.data.DataLoader(Numbers(), batch_size=2, num_workers=2)\n"
        "batches = iter(loader)"
    )
    notebook.run(
        "values, processes = next(batches); seen = values.tolist(); workers = set(processes.tolist())"
    )
    assert notebook.settle()["durable"]
    assert notebook.value("os.getpid() in workers") == "False"
    ran = notebook.restart_after_kill().run("print(seen, sum(int(values.sum()) for values, _ in loader))")
    assert "batches (torch" in ran.text
    assert ran.text.endswith(f"[0, 2] {2 * sum(range(400))}\n")
    assert notebook.settle()["durable"]
    assert len(list((notebook.store / "timelines").iterdir())) == 1
    assert [m.cell["execution_count"] for m in notebook.manifests()] == [3, 2, 1]


def test_second_kernel_of_a_notebook_forks_the_timeline(open_notebook: OpenNotebook) -> None:
    first = open_notebook().start()
    first.run("x = 'common'")
    assert first.settle()["durable"]
    second = open_notebook().start()
    ran = second.run("print(x); x = 'second'")
    assert "another kernel (process" in ran.text
    assert ran.text.endswith("common\n")
    first.run("x = 'first'")
    assert second.settle()["durable"]
    slugs = sorted(path.name for path in (first.store / "timelines").iterdir())
    assert slugs == [first.timeline.slug, first.timeline.slug + "~2"]
    # Each comes back to its own state, also when the other one is gone by then.
    first.kill()
    second.kill()
    second.start()
    assert second.run("print(x)").text.endswith("second\n")
    first.start()
    assert first.run("print(x)").text.endswith("first\n")


def test_failure_of_the_startup_file_costs_one_line(open_notebook: OpenNotebook) -> None:
    notebook = open_notebook(PYTHONPATH="")
    (notebook.folder / "respawner.py").write_text("raise RuntimeError('a broken installation')\n")
    notebook = open_notebook(PYTHONPATH=str(notebook.folder)).start()
    ran = notebook.run("print('works')")
    assert ran.error is None
    assert ran.text.splitlines()[-1] == "works"
    assert "Respawner could not be switched on" in ran.text
    assert notebook.run("print('again')").text == "again\n"


def test_terminal_ipython_in_the_session_stays_off(notebook: Notebook) -> None:
    ran = notebook.run(
        f"!{sys.executable} -m IPython -c 'import respawner; print(respawner.status()[\"why\"])'"
    )
    assert "this is not a Jupyter kernel" in ran.text
    assert notebook.settle()["durable"]
    assert len(notebook.manifests()) == 1


def test_renamed_notebook_keeps_its_state_when_its_kernel_restarts(notebook: Notebook) -> None:
    notebook.run("x = 'before the rename'")
    notebook.kill()
    notebook.environment["JPY_SESSION_NAME"] = notebook.name = "/home/ada/renamed.ipynb"
    notebook.start()
    ran = notebook.run("print(x)")
    assert "this notebook was /home/ada/training.ipynb before" in ran.text
    assert ran.text.endswith("before the rename\n")
    notebook.restart_after_kill()
    ran = notebook.run("print(x)")
    assert "before\n" not in ran.text.replace("before the rename\n", "")
    assert ran.text.endswith("before the rename\n")


def test_new_kernel_of_another_notebook_starts_empty(open_notebook: OpenNotebook) -> None:
    open_notebook("/home/ada/a.ipynb").start().run("x = 1")
    assert open_notebook("/home/ada/b.ipynb").start().run("print('x' in globals())").text == "False\n"


def test_bundle_is_used_where_respawner_is_not_installed(open_notebook: OpenNotebook) -> None:
    notebook = open_notebook()
    bundle, site = notebook.folder / "bundle" / "lib", notebook.folder / "site"
    shutil.copytree(Path(respawner.__file__).parent, bundle / "respawner")
    shutil.copytree(Path(cloudpickle.__file__).parent, bundle / "cloudpickle")
    site.mkdir()
    # An environment without them: this file runs after the installed packages are on the path.
    (site / "sitecustomize.py").write_text(
        f"import sys; sys.path.remove({str(Path(respawner.__file__).parents[1])!r})\n"
        "class Without:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name in ('xxhash', 'xxhash._xxhash'): raise ModuleNotFoundError(name)\n"
        "        if name == 'cloudpickle':\n"
        "            from importlib.machinery import PathFinder\n"
        f"            return PathFinder.find_spec(name, [{str(bundle)!r}])\n"
        "sys.meta_path.insert(0, Without())\n"
    )
    notebook = open_notebook(PYTHONPATH=str(site), RESPAWNER_BUNDLE=str(bundle.parent)).start()
    ran = notebook.run(
        "import respawner, sys; print(respawner.__file__, respawner.status()['active'], sys.path[-1])"
    )
    assert ran.text.split() == [str(bundle / "respawner" / "__init__.py"), "True", str(bundle)]
    notebook.restart_after_kill()
    assert "restored 2 variables" in notebook.run("pass").text
    assert BUNDLE_DIR in INJECTED.read_text()
