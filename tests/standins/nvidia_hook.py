"""A stand-in for `nvidia-container-runtime-hook`: what a container would get of the GPUs, without any.

Docker finds a program of that name on its PATH, then accepts `DeviceRequest(driver="nvidia")` and has runc call
it before each such container starts, with `NVIDIA_VISIBLE_DEVICES` as the request says. This one refuses a
device that the stand-in machine does not have, with the words of the real one; puts an `nvidia-smi` into the
container that lists what it was given; and writes each grant down, with the containers that still live with
the same device. That last thing is asked of the processes, not of the engine or of any ledger.

Called as ``nvidia_hook.py FOLDER prestart`` with the OCI state on stdin. `FOLDER/gpus` holds a UUID a line.
"""

import fcntl
import json
import sys
import time
from pathlib import Path

SMI = "usr/local/bin/nvidia-smi"


def main() -> int:
    folder = Path(sys.argv[1])
    state = json.load(sys.stdin)
    spec = json.loads((Path(state["bundle"]) / "config.json").read_text())
    environment = dict(item.split("=", 1) for item in spec["process"]["env"] if "=" in item)
    asked = environment.get("NVIDIA_VISIBLE_DEVICES", "")
    known = (folder / "gpus").read_text().split()
    granted = known if asked == "all" else [] if asked in ("", "none", "void") else asked.split(",")
    record = {
        "time": time.time(),
        "container": state["id"],
        "pid": state["pid"],
        "start": process_start(state["pid"]),
        "asked": asked,
    }
    unknown = [uuid for uuid in granted if uuid not in known]
    if unknown:
        write_down(folder, {**record, "granted": [], "refused": unknown})
        print(f"nvidia-container-cli: device error: {unknown[0]}: unknown device", file=sys.stderr)
        return 1
    write_down(folder, {**record, "granted": granted})
    put_nvidia_smi(Path(state["bundle"]) / spec["root"]["path"], granted)
    return 0


def process_start(pid: int) -> str:
    """With the pid it names one process for good; "" where it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]


def write_down(folder: Path, record: dict) -> None:
    """Append to the log; `alive` are the containers that live with one of the same devices at this moment."""
    with open(folder / "grants.jsonl", "a+") as log:
        fcntl.flock(log, fcntl.LOCK_EX)
        log.seek(0)
        earlier = [json.loads(line) for line in log]
        record["alive"] = sorted(
            {
                one["container"]
                for one in earlier
                if one["container"] != record["container"]
                and set(one["granted"]) & set(record["granted"])
                and one["start"]
                and process_start(one["pid"]) == one["start"]
            }
        )
        log.write(json.dumps(record) + "\n")


def put_nvidia_smi(root: Path, granted: list[str]) -> None:
    lines = [f"echo 'GPU {index}: STAND-IN (UUID: {uuid})'" for index, uuid in enumerate(granted)]
    program = root / SMI
    program.parent.mkdir(parents=True, exist_ok=True)
    program.write_text("\n".join(["#!/bin/sh", *lines, ""]))
    program.chmod(0o755)


if __name__ == "__main__":
    sys.exit(main())
