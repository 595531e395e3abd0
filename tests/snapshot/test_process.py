"""Settings of the process that no variable holds come back with the state."""

from __future__ import annotations

from .notebook import Notebook


def comes_back(notebook: Notebook, setting: str, expression: str, expected: str) -> str:
    """Run ``setting`` as a cell, restart, and find ``expression``'s text; returns what the restore said."""
    assert notebook.run(setting).error is None
    notebook.restart_after_kill()
    ran = notebook.run(f"print('->', {expression})")
    assert ran.error is None, ran.error
    assert ran.text.splitlines()[-1] == f"-> {expected}", ran.text
    return ran.text


def test_settings_of_python_come_back(notebook: Notebook) -> None:
    comes_back(
        notebook,
        "import decimal, sys, gc, logging, warnings, locale\n"
        "decimal.getcontext().prec = 50; decimal.getcontext().traps[decimal.Inexact] = True\n"
        "sys.setrecursionlimit(4321); gc.disable()\n"
        "class Mine(Warning): pass\n"
        "warnings.filterwarnings('error', 'such.*', Mine); warnings.simplefilter('ignore', FutureWarning)\n"
        "logging.basicConfig(level=logging.DEBUG, format='%(levelname)s!%(message)s', stream=sys.stdout)\n"
        "logging.getLogger('mine').setLevel(logging.ERROR)",
        "decimal.getcontext().prec, decimal.getcontext().traps[decimal.Inexact], sys.getrecursionlimit(), gc.isenabled(),"
        " logging.root.level, len(logging.root.handlers), logging.getLogger('mine').level, logging.root.handlers[0].formatter._fmt",
        "50 True 4321 False 10 1 40 %(levelname)s!%(message)s",
    )
    assert "Mine" in (notebook.run("warnings.warn('such and such', Mine)").error or "")
    assert "FutureWarning" not in notebook.run("warnings.warn('quiet', FutureWarning)").text
    assert notebook.run("logging.info('told')").text == "INFO!told\n"


def test_settings_of_warnings_are_not_doubled_by_restarts(notebook: Notebook) -> None:
    notebook.run("import warnings; warnings.simplefilter('ignore', FutureWarning)")
    count = notebook.value("len(warnings.filters)")
    for _ in range(2):
        notebook.restart_after_kill().run("pass")
    assert notebook.value("len(warnings.filters)") == count


def test_options_of_numpy_pandas_and_matplotlib_come_back(notebook: Notebook) -> None:
    comes_back(
        notebook,
        "import numpy as np, pandas as pd, matplotlib as mpl\n"
        "np.set_printoptions(precision=3, suppress=True); np.seterr(divide='raise')\n"
        "pd.set_option('display.max_rows', 7); pd.options.display.float_format = lambda x: f'<{x}>'\n"
        "mpl.rcParams['font.size'] = 17.0; mpl.rcParams['axes.grid'] = True",
        "np.get_printoptions()['precision'], np.geterr()['divide'], pd.get_option('display.max_rows'),"
        " mpl.rcParams['font.size'], mpl.rcParams['axes.grid'], pd.options.display.float_format(2)",
        "3 raise 7 17.0 True <2>",
    )


def test_modes_of_torch_come_back(notebook: Notebook) -> None:
    comes_back(
        notebook,
        "import torch\n"
        "torch.set_default_dtype(torch.float64); torch.set_num_threads(2); torch.set_num_interop_threads(3)\n"
        "torch.use_deterministic_algorithms(True, warn_only=True); torch.set_grad_enabled(False)\n"
        "torch.set_float32_matmul_precision('high'); torch.backends.cudnn.benchmark = True\n"
        "torch.set_printoptions(precision=2); torch.set_default_device('meta')",
        "torch.get_default_dtype(), torch.get_num_threads(), torch.get_num_interop_threads(),"
        " torch.are_deterministic_algorithms_enabled(), torch.is_grad_enabled(), torch.get_float32_matmul_precision(),"
        " torch.backends.cudnn.benchmark, torch._tensor_str.PRINT_OPTS.precision, torch.get_default_device()",
        "torch.float64 2 3 True False high True 2 meta",
    )


def test_changes_of_ipython_come_back(notebook: Notebook) -> None:
    comes_back(
        notebook,
        "%load_ext autoreload\n%autoreload 2\n%alias greet echo hello\n%precision 3\n"
        "from IPython.core.magic import register_line_magic, Magics, magics_class, line_magic\n"
        "shell = get_ipython()\n"
        "shell.ast_node_interactivity = 'all'\n"
        "class Temperature:\n    pass\n"
        "shell.display_formatter.formatters['text/html'].for_type(Temperature, lambda t: '<b>warm</b>')\n"
        "@register_line_magic\n"
        "def shout(line): return line.upper()\n"
        "@magics_class\nclass More(Magics):\n    @line_magic\n    def twice(self, line): return line * 2\n"
        "shell.register_magics(More)\n"
        "ran = []\n"
        "def note(*args): ran.append(1)\n"
        "shell.events.register('post_run_cell', note)\n",
        "shell.ast_node_interactivity, shell.run_line_magic('shout', 'a'), shell.run_line_magic('twice', 'b'),"
        " shell.display_formatter.format(Temperature())[0]['text/html'], note in shell.events.callbacks['post_run_cell'],"
        " any('autoreload' in name for name in shell.extension_manager.loaded),"
        " shell.magics_manager.registry['AutoreloadMagics']._reloader.check_all",
        "all A bb <b>warm</b> True True True",
    )
    assert "hello" in notebook.run("%greet").text


def test_setting_that_this_process_does_not_take_is_a_note(notebook: Notebook) -> None:
    told = comes_back(
        notebook,
        "import sys, types; module = types.ModuleType('passing'); sys.modules['passing'] = module\n"
        "module.load_ipython_extension = lambda shell: None\n"
        "%load_ext passing\nx = 1; del module",
        "x",
        "1",
    )
    assert "note: ipython setting extensions could not be set: not loaded: passing" in told


def test_unchanged_settings_are_not_saved_and_load_no_library(notebook: Notebook) -> None:
    notebook.run("x = 1")
    code = "__import__('respawner.settings').settings.changed_settings(get_ipython(), __import__('respawner').startup.active_engine().recorder._baseline.settings)"
    assert notebook.value(code) == "{}"
    assert (
        notebook.value(
            "[m for m in ('numpy', 'pandas', 'torch', 'matplotlib') if m in __import__('sys').modules]"
        )
        == "[]"
    )
