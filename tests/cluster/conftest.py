"""The cluster's tests take longer than the rest together: of them `make test` runs the shortest, `make test-cluster` and
`make test-roles` the others."""

import os

import pytest

collect_ignore_glob = [] if os.environ.get("RESPAWNER_CLUSTER") else ["test_[!o]*.py"]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What every role took and changed, at the end of the run."""
    if not os.environ.get("RESPAWNER_CLUSTER"):
        return
    from .deployed import ARTIFACTS

    for summary in sorted(ARTIFACTS.glob("*/summary.md")):
        terminalreporter.section(f"provision, a role: {summary.parent.name}")
        terminalreporter.write(summary.read_text())
