"""Looks at GPUs from outside of containers: does everybody who lists them list the same, and does it fit together?"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml
from respawner_spawner.agent.wire import Answer
from respawner_spawner.devices import Inventory

from ..images import project_root
from ..images.versions import read_versions
from .verdict import Absent, Failed, NotChecked

CDI_FOLDERS = (Path("/etc/cdi"), Path("/var/run/cdi"))
PCI = Path("/sys/bus/pci/devices")
NVIDIA, DISPLAY = "0x10de", ("0x0300", "0x0302")
"""PCI's numbers for the vendor, and for the classes VGA and 3D controller."""
PROVISION = "`respawner-hub provision` installs it, and says whether a reboot is needed."
DESCRIBE = (
    "`nvidia-ctk cdi generate --output={file}`, or `respawner-hub provision`, describes the devices anew."
)


def on_the_bus(devices: Path = PCI) -> int:
    """NVIDIA's GPUs as the PCI bus counts them, whatever drivers say."""
    return sum(
        (device / "vendor").read_text().strip() == NVIDIA
        and (device / "class").read_text().startswith(DISPLAY)
        for device in devices.glob("*")
        if (device / "vendor").exists()
    )


def listed_by_nvidia_smi() -> set[str] | str | None:
    """UUIDs of GPUs and MIG devices in `nvidia-smi -L`; the reason where it gives none; None: it is not installed."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    try:
        done = subprocess.run([program, "-L"], capture_output=True, text=True, timeout=30, check=False)
    except subprocess.TimeoutExpired:
        return "nvidia-smi -L has not answered within 30 s"
    except OSError as error:
        return f"{program} cannot be run: {error.strerror}"
    if done.returncode:
        return f"nvidia-smi -L ended with {done.returncode}: {(done.stderr or done.stdout).strip()}"
    return set(re.findall(r"UUID: ([^)\s]+)\)", done.stdout))


def driver(
    here: Inventory,
    listed: set[str] | str | None,
    told: Inventory | None,
    known: Collection[str] | None,
    bus: int,
) -> str:
    """The driver, and whether NVML, nvidia-smi, the agent and the ledger list the same devices.

    :param listed: as `listed_by_nvidia_smi` gives it.
    :param told: by this machine's agent; None: it has not answered.
    :param known: UUIDs in the ledger for this machine; None: not known.
    :param bus: GPUs on the PCI bus.
    """
    if not here.found:
        if bus:
            raise Failed(
                f"{bus} NVIDIA GPUs on the PCI bus, but {here.cause or 'NVML lists none'}", PROVISION
            )
        if told and told.found:
            raise Failed(
                f"the agent tells of {len(told.found)} GPUs, and NVML of none: {here.cause}",
                "The driver was removed or broke since the agent asked: `nvidia-smi`, `dmesg | grep -i nvrm`.",
            )
        raise NotChecked(
            f"there is no NVIDIA GPU on this machine's PCI bus ({here.cause or 'NVML lists none'})"
        )
    if here.cause:
        raise Failed(here.cause, "`dmesg | grep -i -e nvrm -e xid`, then a reset of the GPU or a reboot.")
    everything = {gpu.uuid for gpu in here.found}
    if isinstance(listed, str):
        raise Failed(
            f"{listed}; NVML lists {len(everything)}",
            "Its version may not be the driver's, or a GPU hangs: `dmesg | grep -i -e nvrm -e xid`.",
        )
    if listed is not None and listed != everything:
        raise Failed(
            _differ("nvidia-smi -L", listed, "NVML", everything),
            "Two drivers may be installed: `ldconfig -p | grep libnvidia-ml`.",
        )
    if told is not None and {gpu.uuid for gpu in told.found} != everything:
        agents = {gpu.uuid for gpu in told.found}
        raise Failed(
            _differ("the agent", agents, "NVML", everything),
            "Wait for its next list ([agent] processes_seconds), then restart it.",
        )
    grantable = {gpu.uuid for gpu in here.gpus}
    if known is not None and not grantable <= set(known):
        raise Failed(
            _differ("the ledger", set(known), "NVML", grantable),
            "The hub hears of them from the agent within seconds: `respawner-hub status`, and hub.log.",
        )
    says = f"driver {here.driver_version}, CUDA up to {here.cuda_version}, {len(here.gpus)} GPUs"
    if listed is None:
        raise Absent(
            f"{says} by NVML; there is no nvidia-smi on PATH",
            "Sessions will lack nvidia-smi as well: install the driver's utilities.",
        )
    return (
        f"{says}; "
        + ", ".join(
            ["NVML, nvidia-smi", *(["agent"] if told else []), *(["ledger"] if known is not None else [])]
        )
        + " agree"
    )


def toolkit(here: Inventory, folders: Iterable[Path]) -> str:
    """The devices' description for containers (CDI), or the hook: there, of this driver, and with every GPU in it.

    https://github.com/cncf-tags/container-device-interface/blob/main/SPEC.md; whether a container really gets its GPU is the check "devices".
    """
    if not here.found:
        raise NotChecked("no GPU here that a container could get")
    files = sorted(
        file for folder in folders for file in folder.glob("*") if file.suffix in (".yaml", ".json")
    )
    described = {file: spec for file in files if (spec := _nvidia_spec(file))}
    hook = shutil.which("nvidia-container-runtime-hook")
    if not described:
        if hook is None:
            raise Absent(
                f"neither a description of the devices (CDI) in {', '.join(map(str, folders))} nor NVIDIA's hook on PATH",
                PROVISION,
            )
        return f"{hook}, no description of the devices (CDI)"
    unseen = []
    for file, spec in described.items():
        text = file.read_text()
        versions = set(re.findall(r"lib(?:cuda|nvidia-ml)\.so\.(\d+\.\d[\d.]*)\b", text))
        if here.driver_version and versions and versions != {here.driver_version}:
            raise Failed(
                f"{file} is stale: it names the libraries of driver {', '.join(sorted(versions))}, and {here.driver_version} runs",
                DESCRIBE.format(file=file),
            )
        if not (here.driver_version and versions):
            unseen.append(f"{file} names no library whose version could be compared with the driver's")
        named = {str(device["name"]) for device in spec["devices"]}
        if problem := _not_described(here, named):
            raise Failed(f"{file} is stale: {problem}", DESCRIBE.format(file=file))
        if named <= {"all"}:
            unseen.append(f"{file} does not name the devices one by one")
    if unseen:
        raise NotChecked("; ".join(unseen))
    return f"{', '.join(map(str, described))} describes {len(here.gpus)} GPUs of driver {here.driver_version}"


def _not_described(here: Inventory, named: set[str]) -> str:
    """Which devices have none of these names, which are UUIDs, indexes ("0", of MIG devices "0:1"), or both."""
    if any(name.startswith(("GPU-", "MIG-")) for name in named):
        missing = sorted({gpu.uuid for gpu in here.gpus} - named)
        return f"it does not know {', '.join(missing)}" if missing else ""
    for pattern, what, count in (
        (r"\d+", "GPUs", sum(not gpu.parent and not gpu.mig_mode for gpu in here.found)),
        (r"\d+:\d+", "MIG devices", sum(bool(gpu.parent) for gpu in here.found)),
    ):
        indexes = sum(bool(re.fullmatch(pattern, name)) for name in named)
        if named - {"all"} and indexes < count:
            return f"it knows {indexes} {what}, and there are {count}"
    return ""


def _nvidia_spec(file: Path) -> dict[str, Any] | None:
    try:
        spec = yaml.safe_load(file.read_text())
        return spec if str(spec["kind"]).startswith("nvidia.com/") and spec["devices"] is not None else None
    except (yaml.YAMLError, OSError, TypeError, KeyError):
        return None


def versions(here: Inventory, image: str) -> str:
    """The driver knows the CUDA that the image's torch is built with.

    Of one major version any driver will do (CUDA's minor version compatibility).
    """
    if not here.cuda_version:
        raise NotChecked("no driver here whose version could be compared")
    row = read_versions(project_root() / "images").get(image)
    if row is None or not row.cuda:
        raise NotChecked(f"images/versions.toml names no CUDA for {image}; the check of each GPU meets it")
    if int(here.cuda_version.split(".")[0]) < int(row.cuda.split(".")[0]):
        raise Failed(
            f"driver {here.driver_version} knows CUDA up to {here.cuda_version}, and {image} is built with {row.cuda}",
            "A newer driver, or an image that is built with an older CUDA (images/versions.toml).",
        )
    return f"driver {here.driver_version} (CUDA up to {here.cuda_version}) runs {image} (CUDA {row.cuda})"


def health(answers: Sequence[Answer]) -> str:
    """What the agents have noticed: faults, and sessions that may not open their GPU any more."""
    reports = [answer.report for answer in answers]
    if not any(report.inventory.found for report in reports):
        raise NotChecked("no agent tells of a GPU")
    wrong = [
        f"{one.uuid}: {'; '.join(one.words)}" for report in reports for one in report.health if not one.ok
    ]
    if wrong:
        raise Failed(
            ", ".join(wrong),
            "docs/gpus.md says what each means; `respawner-hub gpu uncordon` when it is mended.",
        )
    access = [one for report in reports for one in report.access]
    if blocked := [f"{one.holder}: {one.words}" for one in access if one.verdict == "blocked"]:
        raise Failed(", ".join(blocked), "Restart the session; its variables come back.")
    usable = sum(one.verdict == "usable" for one in access)
    xids = sum(sum(counts.values()) for report in reports for counts in report.xid_counts.values())
    gpus = sum(len(report.inventory.gpus) for report in reports)
    return f"{gpus} GPUs without a fault, {xids} Xids since the agents started, {usable} of {len(access)} sessions seen to reach theirs"


def _differ(one: str, ones: set[str], other: str, others: set[str]) -> str:
    only_one, only_other = sorted(ones - others), sorted(others - ones)
    parts = [f"only {one} lists {', '.join(only_one)}"] if only_one else []
    parts += [f"only {other} lists {', '.join(only_other)}"] if only_other else []
    return "; ".join(parts)
