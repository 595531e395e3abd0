"""How the command line shows the checks of images and deployments."""

from __future__ import annotations

from ..images.fitness import Check

MARKS = {"ok": "✓", "failed": "✗", "absent": "–", "skipped": "–"}


def print_check(check: Check, width: int = 10) -> None:
    """One line, and the next step below it. `width`: of the names' column."""
    print(f"{MARKS[check.state]} {check.name:<{width}} {check.says} ({check.seconds:.1f} s)", flush=True)
    if check.next:
        print(f"  {'':<{width}} → {check.next}", flush=True)
