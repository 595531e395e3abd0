"""`make dockerspawner-suite`: dockerspawner's own tests against this spawner class, and against the stock one beside it.

The tests come from dockerspawner's sdist on PyPI, of the version that is installed. The engine is a private one, with
local images under the names that the tests use. The result is a table (SUITE_WRITE=FILE also writes it), and a
non-zero exit status where a test fails that `EXPLAINED` does not explain.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import tempfile
import xml.etree.ElementTree as ElementTree
from importlib.metadata import version
from pathlib import Path

from respawner_hub.images import ensure_bundle

from tests.standins import gpu_engine, stub_session

MODULES = ("test_dockerspawner.py", "test_deprecations.py")
"""The others of the sdist are about SystemUserSpawner and SwarmSpawner, which are other classes."""
TAGS = ("quay.io/jupyterhub/singleuser:4", "quay.io/jupyterhub/singleuser:4.0", "busybox:1.29.1")
TEST_SECONDS = 90
ROOT = Path(__file__).parents[2]

EXPLAINED = {
    "test_image_pull_policy": "pulls from docker.io: passes only where that answers",
    "test_start_stop[False]": "`remove = False` keeps a stopped container for the next start; ours is removed as soon as "
    "its exit code and log are read, and a start never goes on with an old one",
    "test_post_start": "its container runs `sleep`, and the address is a made-up one: our `start` returns when the "
    "session's server listens, or says how the container ended, so it waits here until the test's time is over",
    "test_deprecated_config": "the warning names the class: `GPUDockerSpawner.image_whitelist` instead of "
    "`DockerSpawner.image_whitelist`",
}
"""Why tests fail with our class."""


class SuiteMissing(Exception):
    """The tests cannot be had; the message says why."""


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="dss-") as name:
        folder = Path(name)
        try:
            tests = fetch(folder)
        except SuiteMissing as error:
            print(f"dockerspawner-suite: {error}", file=sys.stderr)
            return 2
        results = run_both(folder, tests)
    text = report(results)
    print(text)
    if target := os.environ.get("SUITE_WRITE"):
        (ROOT / target).write_text(text)
    surprises = unexplained(results["ours"])
    print(json.dumps({**{who: counts(found) for who, found in results.items()}, "unexplained": surprises}))
    return 1 if surprises else 0


def fetch(folder: Path) -> Path:
    """The folder of the tests of the installed dockerspawner.

    :raises SuiteMissing: PyPI does not answer, or does not have them.
    """
    wanted = f"dockerspawner=={version('dockerspawner')}"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:"]
    done = subprocess.run(
        [*command, "--no-build-isolation", "--dest", str(folder), wanted],
        capture_output=True,
        text=True,
        check=False,
    )
    found = list(folder.glob("dockerspawner-*.tar.gz"))
    if done.returncode or not found:
        raise SuiteMissing(f"the sdist of {wanted} cannot be downloaded: {done.stderr.strip()[-300:]}")
    with tarfile.open(found[0]) as archive:
        archive.extractall(folder, filter="data")
    return found[0].with_name(found[0].name.removesuffix(".tar.gz")) / "tests"


def run_both(folder: Path, tests: Path) -> dict[str, dict[str, tuple[str, str]]]:
    """Spawner → test → (outcome, its last line), on one engine."""
    # The package's own settings stop at the first failure.
    (tests.parent / "pyproject.toml").write_text(
        '[tool.pytest.ini_options]\nasyncio_mode = "auto"\nasyncio_default_fixture_loop_scope = "module"\n'
        'markers = ["role", "user", "slow", "group", "services"]\n'
    )
    results = {}
    for who in ("stock", "ours"):
        with gpu_engine.running([]) as engine:
            client = engine.client
            stub_session.build(client)
            image = f"quay.io/jupyterhub/singleuser:{'.'.join(version('jupyterhub').split('.')[:2])}"
            for tag in (*TAGS, image):
                client.tag(stub_session.IMAGE, *tag.rsplit(":", 1))
            environment = {
                **os.environ,
                "DOCKER_HOST": engine.url,
                "HUB_CONNECT_IP": engine.address,
                "PYTHONPATH": str(ROOT),
                "SUITE_SPAWNER": who,
                "SUITE_FOLDER": str(folder),
                "SUITE_BUNDLE": str(ensure_bundle(folder)),
            }
            outcome = folder / f"{who}.xml"
            command = [sys.executable, "-m", "pytest", "-p", "tests.dockerspawner_suite.fixtures", "-q"]
            command += [f"--timeout={TEST_SECONDS}", f"--junitxml={outcome}", "-p", "no:cacheprovider"]
            print(f"▸ {who}", file=sys.stderr)
            subprocess.run([*command, *MODULES], cwd=tests, env=environment, stdout=sys.stderr, check=False)
            results[who] = read(outcome)
    return results


def read(outcome: Path) -> dict[str, tuple[str, str]]:
    found = {}
    for case in ElementTree.parse(outcome).iter("testcase"):
        bad = next((child for child in case if child.tag in ("failure", "error", "skipped")), None)
        message = "" if bad is None else " ".join((bad.get("message") or bad.text or "").split())[:200]
        found[case.get("name", "")] = ("passed" if bad is None else bad.tag, message)
    return found


def counts(found: dict[str, tuple[str, str]]) -> dict[str, int]:
    passed = sum(outcome == "passed" for outcome, _ in found.values())
    return {"passed": passed, "failed": len(found) - passed}


def unexplained(found: dict[str, tuple[str, str]]) -> list[str]:
    """Failures without an explanation."""
    return sorted(
        name for name, (outcome, _) in found.items() if outcome != "passed" and name not in EXPLAINED
    )


def report(results: dict[str, dict[str, tuple[str, str]]]) -> str:
    ours, stock = results["ours"], results["stock"]
    versions = f"dockerspawner {version('dockerspawner')} from PyPI, JupyterHub {version('jupyterhub')}"
    lines = [
        "# dockerspawner's own tests, run against this spawner",
        "",
        f"{versions}: {' and '.join(MODULES)}. Images are local stand-ins that answer as jupyterhub-singleuser does.",
        "JupyterHub 6 does not make a named server's record when a test looks it up any more; the fixtures do, for both.",
        "Written by `SUITE_WRITE=docs/dockerspawner_suite.md make dockerspawner-suite`.",
        "",
        "| | passed | failed |",
        "|---|---|---|",
        *(
            f"| `{name}` | {counts(found)['passed']} | {counts(found)['failed']} |"
            for name, found in (("GPUDockerSpawner", ours), ("DockerSpawner", stock))
        ),
        "",
        "## What fails, and why",
        "",
        "| test | `GPUDockerSpawner` | `DockerSpawner` | why |",
        "|---|---|---|---|",
    ]
    for name in ours:
        if "passed" == ours[name][0] == stock[name][0]:
            continue
        why = EXPLAINED.get(name) or f"not explained: {ours[name][1] or stock[name][1]}"
        lines.append(f"| `{name}` | {_shown(ours[name])} | {_shown(stock[name])} | {why} |")
    return "\n".join(lines) + "\n"


def _shown(result: tuple[str, str]) -> str:
    return "passes" if result[0] == "passed" else "fails"


if __name__ == "__main__":
    sys.exit(main())
