"""``%gpu`` and ``%%gpu``. What they need is imported when they are used."""

from __future__ import annotations

from IPython.core.error import UsageError
from IPython.core.magic import Magics, line_cell_magic, magics_class
from IPython.display import display

PROBE = "--probe"


@magics_class
class GpuMagics(Magics):
    @line_cell_magic
    def gpu(self, line: str, cell: str | None = None) -> None:
        """``%gpu [--probe] [variable]``: this session's GPUs and limits, why CUDA does not work, who holds the memory.

        With a variable its tensors are listed one by one. Nothing is imported and CUDA is not started; ``--probe``
        asks CUDA itself, in a process of its own that takes a few hundred MB of each GPU for some seconds.

        ``%%gpu`` runs the cell and shows GPU memory before it, after it and at its peak. For that PyTorch's own
        counter of the peak begins anew (``torch.cuda.reset_peak_memory_stats``).
        """
        __tracebackhide__ = True
        words = line.split()
        if cell is None:
            self._show(probe=PROBE in words, names=[word for word in words if word != PROBE])
        elif words:
            raise UsageError(f"%%gpu takes no arguments, got {line!r}")
        else:
            self._measure(cell)

    def _show(self, *, probe: bool, names: list[str]) -> None:
        from . import look
        from . import probe as probing
        from .diagnosis import diagnose
        from .tensors import held
        from .view import shown

        assert self.shell is not None
        if len(names) > 1 or (names and names[0] not in self.shell.user_ns):
            raise UsageError(f"%gpu: there is no variable {' '.join(names)!r}")
        facts = look.look()
        variables = held(self.shell.user_ns, self.shell.user_ns_hidden, *names)
        display(shown(facts, diagnose(facts), variables, probing.ask_cuda() if probe else ""), raw=True)

    def _measure(self, cell: str) -> None:
        from . import cell as cells

        __tracebackhide__ = True
        meter = cells.Meter()
        try:
            cells.run(self.shell, cell)
        finally:
            display(cells.report(meter.read()), raw=True)
