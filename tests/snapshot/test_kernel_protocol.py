"""jupyter-kernel-test's suite passes with the engine on, and also in a kernel that has just been restored.

The suite is what kernels are measured by: replies, outputs, errors, completion, inspection, history, clearing,
stdin. Whatever we do before, between and after cells must not show there.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

import jupyter_kernel_test
from jupyter_client.manager import start_new_kernel
from jupyter_kernel_test.msgspec_v5 import validate_message

from tests.snapshot.notebook import INJECTED, PATIENCE_SECONDS

KERNEL = "saving"
NAME = "/home/ada/protocol.ipynb"
TIMEOUT_SECONDS = jupyter_kernel_test.TIMEOUT = PATIENCE_SECONDS


class _Kernel:
    """What the suite asks for, answered for ipykernel. No test case itself: what inherits from one is run."""

    kernel_name = KERNEL
    language_name = "python"
    file_extension = ".py"
    code_hello_world = "print('hello, world')"
    code_stderr = "import sys; print('test', file=sys.stderr)"
    completion_samples = ({"text": "zi", "matches": {"zip"}}, {"text": "impo", "matches": {"import"}})
    complete_code_samples = ("1", "print('hello, world')", "def f(x):\n  return x*2\n\n\n")
    incomplete_code_samples = ("print('''hello", "def f(x):\n  x*2")
    invalid_code_samples = ("import = 7q",)
    code_page_something = "zip?"
    code_generate_error = "raise"
    code_execute_result = (
        {"code": "1+2+3", "result": "6"},
        {"code": "[n*n for n in range(1, 4)]", "result": "[1, 4, 9]"},
    )
    code_display_data = (
        {
            "code": "from IPython.display import HTML, display; display(HTML('<b>test</b>'))",
            "mime": "text/html",
        },
    )
    code_history_pattern = "1?2*"
    supported_history_operations = ("tail", "search")
    """Not ``range``: IPython calls the present session 0 in its answers, which the suite does not know."""
    code_inspect_sample = "zip"
    code_clear_output = "from IPython.display import clear_output; clear_output()"

    folder: Path
    environment_before: dict[str, str]

    @classmethod
    def setUpClass(cls) -> None:
        """A kernel spec whose kernel gets the injected startup file, in an environment that names a notebook."""
        cls.folder = Path(tempfile.mkdtemp())
        startup = cls.folder / "ipython" / "profile_default" / "startup"
        startup.mkdir(parents=True)
        shutil.copy(INJECTED, startup / "00-respawner.py")
        spec = cls.folder / "kernels" / KERNEL
        spec.mkdir(parents=True)
        argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        (spec / "kernel.json").write_text(
            json.dumps({"argv": argv, "display_name": KERNEL, "language": "python", "env": cls.kernel_env()})
        )
        cls.environment_before = dict(os.environ)
        os.environ["JUPYTER_PATH"] = str(cls.folder)
        cls.before_the_suite()
        super().setUpClass()  # type: ignore[misc]
        get = cls.kc.iopub_channel.get_msg  # type: ignore[attr-defined]
        # The suite gives an output a tenth of a second.
        cls.kc.iopub_channel.get_msg = lambda timeout: get(timeout=TIMEOUT_SECONDS)  # type: ignore[attr-defined]

    def flush_channels(self) -> None:
        """What came before a request of our own has come with its end, however late; the suite waits for a silence."""
        client: Any = self.kc  # type: ignore[attr-defined]
        request = client.kernel_info()
        for get, last in ((client.get_shell_msg, "kernel_info_reply"), (client.get_iopub_msg, "status")):
            while True:
                message = get(timeout=TIMEOUT_SECONDS)
                validate_message(message)
                is_ours = message["parent_header"].get("msg_id") == request
                if (
                    is_ours
                    and message["msg_type"] == last
                    and message["content"].get("execution_state", "idle") == "idle"
                ):
                    break

    @classmethod
    def kernel_env(cls) -> dict[str, str]:
        return {
            "IPYTHONDIR": str(cls.folder / "ipython"),
            "JPY_SESSION_NAME": NAME,
            "RESPAWNER_STORE": str(cls.folder / "store"),
            "RESPAWNER_RUNTIME": str(cls.folder / "runtime"),
        }

    @classmethod
    def before_the_suite(cls) -> None:
        pass

    @classmethod
    def tearDownClass(cls) -> None:
        super().tearDownClass()  # type: ignore[misc]
        os.environ.clear()
        os.environ.update(cls.environment_before)
        shutil.rmtree(cls.folder, ignore_errors=True)


class TestFreshKernel(_Kernel, jupyter_kernel_test.KernelTests):
    def test_the_engine_is_on(self) -> None:
        assert _value(self.kc, "__import__('respawner').status()['active']") == "True"


class TestRestoredKernel(_Kernel, jupyter_kernel_test.KernelTests):
    """The same after a SIGKILL, from the second cell on; the first one shows the report."""

    @classmethod
    def before_the_suite(cls) -> None:
        manager, client = start_new_kernel(kernel_name=KERNEL)
        client.execute_interactive("kept = [1, 2]\ntext = 'kept'", timeout=TIMEOUT_SECONDS)
        assert _value(client, "__import__('respawner').flush()") == "True"
        client.stop_channels()
        os.kill(manager.provisioner.pid, signal.SIGKILL)
        manager.provisioner.process.wait()
        manager.cleanup_resources()

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.kc.execute_interactive("first = True", timeout=TIMEOUT_SECONDS, output_hook=lambda message: None)

    def test_it_is_restored(self) -> None:
        assert (
            _value(self.kc, "(kept, text, __import__('respawner').report()['restored'])")
            == "([1, 2], 'kept', True)"
        )


def _value(client: Any, expression: str) -> str:
    reply = client.execute_interactive(
        "",
        silent=True,
        user_expressions={"it": expression},
        timeout=TIMEOUT_SECONDS,
        output_hook=lambda m: None,
    )
    return reply["content"]["user_expressions"]["it"]["data"]["text/plain"]
