"""`make bench-spawn`: from the login to the first kernel output, our spawner beside stock DockerSpawner.

Both hubs run at the same time and are visited in turns, in alternating order, so that whatever else the machine
does meets both. Every visit has a new container and, but for each hub's first one, which does not count, volumes
that exist. Needs what `make up` leaves behind: engine, image and proxy. REPETITIONS sets the counted visits (7).
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median

import docker
import docker.errors
import requests
from respawner_hub.settings import SettingsError, find_file, load

from . import hubs
from .hubs import BenchError, Hub
from .visit import PHASES, Visit

VISIT_LIMIT_SECONDS = int(os.environ.get("VISIT_LIMIT_SECONDS", "18"))
"""Allowed on the average, stop included. A machine that needs more is too busy for a result."""

Visits = Sequence[Mapping[str, float]]
"""Seconds by phase, in the order of the visits."""


def main() -> int:
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # in order, like Ctrl-C
    try:
        repetitions = _repetitions()
        settings = load(find_file())
        host = os.environ.get("DOCKER_HOST") or settings.engine.host
        visits = _measure(host, settings.image.name, repetitions)
    except (BenchError, SettingsError) as error:
        print(f"bench-spawn: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("bench-spawn: interrupted; what it started is stopped and removed", file=sys.stderr)
        return 130
    print(json.dumps(summary(visits["ours"], visits["stock"])))
    return 0


def summary(ours: Visits, stock: Visits) -> dict[str, object]:
    """The result: medians in seconds, and the median of the ratios of neighbouring visits."""
    totals = [(sum(a.values()), sum(b.values())) for a, b in zip(ours, stock, strict=True)]
    return {
        "ours_s": round(median(a for a, _ in totals), 3),
        "stock_s": round(median(b for _, b in totals), 3),
        "ratio": round(median(a / b for a, b in totals), 3),
        "ratio_is": "median of pairwise ours/stock",
        "repetitions": len(totals),
        "phases": {"ours": _phase_medians(ours), "stock": _phase_medians(stock)},
    }


def _phase_medians(visits: Visits) -> dict[str, float]:
    return {phase: round(median(visit[phase] for visit in visits), 3) for phase in PHASES}


def _repetitions() -> int:
    text = os.environ.get("REPETITIONS") or "7"
    if not text.isdigit() or int(text) < 1:
        raise BenchError(f"REPETITIONS={text!r}: must be a whole number from 1, for example 7.")
    return int(text)


def _measure(host: str, image: str, repetitions: int) -> Mapping[str, Visits]:
    """Run both hubs, visit them in turns, and leave nothing behind."""
    engine = _engine_with(host, image)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rbench-")))
        try:
            running = _both_hubs(stack, engine, host, image, folder)
            # Entered last, so done first: a second Ctrl-C does not cut the cleaning up.
            stack.callback(signal.signal, signal.SIGINT, signal.SIG_IGN)
            with _time_limit(2 * (repetitions + 1) * VISIT_LIMIT_SECONDS):
                return _visit_in_turns(running, repetitions)
        except (BenchError, AssertionError, requests.RequestException) as error:
            raise BenchError(f"{error}\n{hubs.log_ends(folder)}") from error


def _engine_with(host: str, image: str) -> docker.APIClient:
    if not host.startswith("unix://"):
        raise BenchError(f"{host} is not an engine of this machine: set DOCKER_HOST to a unix:// address.")
    try:
        engine = docker.APIClient(base_url=host, version="auto", timeout=240)
        engine.inspect_image(image)
    except docker.errors.ImageNotFound as error:
        raise BenchError(f"The image {image} is not on the engine at {host}. `make up` builds it.") from error
    except docker.errors.DockerException as error:
        raise BenchError(
            f"No Docker engine answers at {host} ({error}). `make up` starts it; DOCKER_HOST names another."
        ) from error
    return engine


def _both_hubs(
    stack: contextlib.ExitStack, engine: docker.APIClient, host: str, image: str, folder: Path
) -> dict[str, Hub]:
    run = f"rbench-{secrets.token_hex(3)}"
    print(f"{run}: {image} at {host}", file=sys.stderr, flush=True)
    names = {side: f"{run}-{side}" for side in ("ours", "stock")}
    spawners = {
        "ours": hubs.ours(host, names["ours"], image, folder),
        "stock": hubs.stock(host, names["stock"], image),
    }
    return {
        side: stack.enter_context(hubs.running_hub(engine, names[side], folder / side, spawners[side]))
        for side in names
    }


def _visit_in_turns(running: dict[str, Hub], repetitions: int) -> Mapping[str, Visits]:
    visits: dict[str, list[dict[str, float]]] = {side: [] for side in running}
    for turn in range(repetitions + 1):
        for side in list(running) if turn % 2 else list(reversed(running)):
            with Visit(running[side]) as visit:
                seconds = visit.timed()
                visit.stop_server()
            _progress(f"{turn} of {repetitions}" if turn else "warm-up", side, seconds)
            if turn:
                visits[side].append(seconds)
    return visits


def _progress(turn: str, side: str, seconds: Mapping[str, float]) -> None:
    phases = ", ".join(f"{phase.removesuffix('_s')} {value:.2f}" for phase, value in seconds.items())
    print(f"{turn:>9} {side:5} {sum(seconds.values()):6.2f} s ({phases})", file=sys.stderr, flush=True)


@contextlib.contextmanager
def _time_limit(seconds: int) -> Iterator[None]:
    def too_slow(*_: object) -> None:
        raise BenchError(
            f"Not finished in {seconds} s: the machine is too busy. Try again, or fewer REPETITIONS."
        )

    signal.signal(signal.SIGALRM, too_slow)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)


if __name__ == "__main__":
    sys.exit(main())
