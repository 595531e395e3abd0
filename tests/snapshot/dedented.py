"""Cases whose cells are written as indented blocks."""

from __future__ import annotations

import textwrap
from dataclasses import replace

from tests.snapshot.fidelity import Case


def dedented(cases: list[Case]) -> list[Case]:
    return [
        replace(case, before=textwrap.dedent(case.before), after=textwrap.dedent(case.after))
        for case in cases
    ]
