"""Hosts for the playbooks: containers with systemd, sshd and room for a Docker engine of their own. TEST STAND-INS.

    with Rig(hosts=2) as rig:
        rig.inventory(folder)   # a file for ansible-playbook -i

Real in them: systemd, sshd, apt with Debian's packages, Docker, Swarm, TLS. Not real: GPUs (the stand-ins of
`tests/standins` and of `host/`), the kernel, which all of them share, and the shared storage, a volume of the outer
engine where a cluster has NFS. What this kernel cannot do (IPsec, NFS, IPVS) is not shown by them.

Everything is called respawner-rig-*, and `close` removes it. The image stays: it takes minutes to make.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType

from respawner_hub.images.base import _apt_targets, debian_mirrors

from tests.standins.nvml_state import Gpu, State

HERE = Path(__file__).parent
STANDINS = HERE.parent / "standins"
SUITE = "trixie"
PREFIX = "respawner-rig"
PACKAGES = (
    "systemd,systemd-sysv,dbus,openssh-server,sudo,python3,python3-apt,iproute2,ca-certificates,kmod,udev"
)
"""What an installer of Debian leaves on a server: sshd, sudo and Python."""
CAPABILITIES = ("SYS_ADMIN", "NET_ADMIN", "SYS_PTRACE", "SYS_NICE", "IPC_LOCK", "SYSLOG")
"""On top of Docker's usual ones: what systemd and an engine need that run in a container."""
STATE_DIR = "/etc/respawner-standin"
DPKG = "force-unsafe-io\n" + "".join(
    f"path-exclude=/usr/share/{part}/*\n" for part in ("doc", "man", "locale")
)
SHARED_DIR = "/srv/respawner"
READY_SECONDS = 60


class RigError(AssertionError):
    """The rig does not work; the message has what the failed command said."""


def run(*command: str, stdin: bytes | None = None, check: bool = True, timeout: float = 600) -> str:
    """Output of a command of this machine; its error in the exception."""
    done = subprocess.run(command, input=stdin, capture_output=True, timeout=timeout, check=False)
    if check and done.returncode:
        raise RigError(f"{' '.join(command)}: {(done.stderr + done.stdout).decode(errors='replace')[-2000:]}")
    return done.stdout.decode(errors="replace")


class Host:
    """One stand-in host."""

    def __init__(self, number: int, gpus: int) -> None:
        self.name = f"{PREFIX}-{number}"
        self.gpus = [f"GPU-rig{number}-{index}" for index in range(gpus)]
        self.address = ""
        self.paused = False

    def start(self, image: str, key: Path) -> None:
        capabilities = [f"--cap-add={name}" for name in CAPABILITIES]
        security = [f"--security-opt={what}=unconfined" for what in ("seccomp", "apparmor", "systempaths")]
        tmpfs = [f"--tmpfs={folder}" for folder in ("/run", "/run/lock", "/tmp:exec")]
        volumes = [
            f"--volume={self.name}-docker:/var/lib/docker",
            f"--volume={PREFIX}-shared:{SHARED_DIR}",
        ]
        run("docker", "run", "--detach", f"--name={self.name}", f"--hostname={self.name}",
            f"--network={PREFIX}", "--cgroupns=private", *self._own_group(), "--device-cgroup-rule=a *:* rwm",
            "--stop-signal=SIGRTMIN+3", "--stop-timeout=20", *capabilities, *security, *tmpfs, *volumes, image)  # fmt: skip
        inspection = json.loads(run("docker", "inspect", self.name))[0]
        self.address = inspection["NetworkSettings"]["Networks"][PREFIX]["IPAddress"]
        self.write("/root/.ssh/authorized_keys", key.with_suffix(".pub").read_bytes(), "0600")
        self._make_trusting()
        # Nobody reads manuals here, and what is lost with the host need not be on its disk.
        self.write("/etc/dpkg/dpkg.cfg.d/rig", DPKG.encode())
        if self.gpus:
            self._put_gpus()
        self._wait_until_ready()

    def _own_group(self) -> list[str]:
        """A host counts as one among the machine's processes. In Docker's group all hosts together would, and on a busy
        machine a task that takes a moment takes ten seconds. systemd, where it has the groups, weighs otherwise."""
        ours = run("docker", "info", "--format={{.CgroupDriver}}").strip() == "cgroupfs"
        return [f"--cgroup-parent=/{self.name}"] if ours else []

    def shell(self, script: str, *, stdin: bytes | None = None, check: bool = True) -> str:
        """Run a script as root in the host, not by SSH: for looking and for breaking things."""
        return run("docker", "exec", "-i", self.name, "sh", "-c", script, stdin=stdin, check=check)

    def write(self, path: str, content: bytes, mode: str = "0644") -> None:
        folder = path.rpartition("/")[0]
        self.shell(f"mkdir -p {folder} && cat > {path} && chmod {mode} {path}", stdin=content)

    def docker(self, *arguments: str) -> str:
        """Docker's client in the host."""
        return run("docker", "exec", self.name, "docker", *arguments)

    def pause(self) -> None:
        """Nothing of it answers any more, as where power or network are gone; connections are not even refused."""
        run("docker", "pause", self.name)
        self.paused = True

    def unpause(self) -> None:
        if self.paused:
            run("docker", "unpause", self.name)
        self.paused = False

    def restart(self) -> None:
        run("docker", "restart", self.name)
        self._wait_until_ready()

    def _make_trusting(self) -> None:
        """Packages come from where this machine gets them: its authorities, and its pip's settings."""
        bundle = Path("/etc/ssl/certs/ca-certificates.crt").read_bytes()
        self.write("/etc/ssl/certs/ca-certificates.crt", bundle)
        self.write("/etc/pip.conf", b"[global]\ncert = /etc/ssl/certs/ca-certificates.crt\ntimeout = 180\n")

    def _put_gpus(self) -> None:
        """As on a host where an admin has installed driver and toolkit by hand; every part is a stand-in."""
        self.write(f"{STATE_DIR}/gpus", ("\n".join(self.gpus) + "\n").encode())
        with tempfile.TemporaryDirectory() as folder:
            state = State(gpus=[Gpu(uuid) for uuid in self.gpus]).write(Path(folder) / "state")
            self.write(f"{STATE_DIR}/nvml", state.read_bytes())
            library = Path(folder) / "libnvidia-ml.so.1"
            run("gcc", "-shared", "-fPIC", "-pthread", "-o", str(library), str(STANDINS / "fake_nvml.c"))
            self.write("/usr/lib/x86_64-linux-gnu/libnvidia-ml.so.1", library.read_bytes(), "0755")
        for program in ("nvidia-smi", "nvidia-ctk"):
            self.write(f"/usr/bin/{program}", (HERE / "host" / program).read_bytes(), "0755")
        self.write(f"{STATE_DIR}/nvidia_hook.py", (STANDINS / "nvidia_hook.py").read_bytes())
        hook = f'#!/bin/sh\nexec python3 {STATE_DIR}/nvidia_hook.py {STATE_DIR} "$@"\n'
        self.write("/usr/bin/nvidia-container-runtime-hook", hook.encode(), "0755")
        environment = f"[Manager]\nDefaultEnvironment=FAKE_NVML_STATE={STATE_DIR}/nvml\n"
        self.write("/etc/systemd/system.conf.d/standin.conf", environment.encode())
        self.shell("for i in $(seq 60); do systemctl daemon-reexec && break; sleep 0.5; done", check=False)

    def grants(self) -> list[dict[str, object]]:
        """What the stand-in hook gave to containers of this host."""
        lines = self.shell(f"cat {STATE_DIR}/grants.jsonl 2>/dev/null", check=False).splitlines()
        return [json.loads(line) for line in lines]

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + READY_SECONDS
        while self.shell("systemctl is-active ssh.service", check=False).strip() != "active":
            if time.monotonic() > deadline:
                raise RigError(f"{self.name} is not up: {run('docker', 'logs', '--tail=20', self.name)}")
            time.sleep(0.3)


class Rig:
    """Several hosts on a network of their own, and the key that opens them."""

    def __init__(self, hosts: int, gpus: int = 2) -> None:
        self.hosts = [Host(number + 1, gpus) for number in range(hosts)]
        self.folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}-"))
        self.key = self.folder / "key"

    def __enter__(self) -> Rig:
        try:
            self.open()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:  # fmt: skip
        self.close()

    def open(self) -> None:
        self._remove_containers()
        image = ensure_image()
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.key))
        # Docker's own bridge has 1500; a nested overlay on it fits into less.
        run("docker", "network", "create", "--opt=com.docker.network.driver.mtu=1400", PREFIX)
        for host in self.hosts:
            host.start(image, self.key)

    def add(self, gpus: int = 2) -> Host:
        """One more host, as an admin plugs it in."""
        host = Host(len(self.hosts) + 1, gpus)
        self.hosts.append(host)
        host.start(ensure_image(), self.key)
        return host

    def close(self) -> None:
        self._remove_containers()
        shutil.rmtree(self.folder, ignore_errors=True)

    def inventory(self, hosts: Iterable[Host] | None = None, **variables: object) -> Path:
        """An inventory file as docs/cluster.md has it: the first host is also the hub."""
        chosen = list(hosts or self.hosts)
        known = {
            "ansible_user": "root",
            "ansible_ssh_private_key_file": str(self.key),
            "ansible_ssh_common_args": "-o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null",
            "ansible_python_interpreter": "/usr/bin/python3",
        }
        members = {host.name: {"ansible_host": host.address} for host in chosen}
        tree = {
            "all": {
                "vars": {**known, **variables},
                "children": {
                    "hub": {"hosts": {chosen[0].name: None}},
                    "gpu_hosts": {"hosts": members},
                },
            }
        }
        path = self.folder / "hosts.yml"
        path.write_text(json.dumps(tree, indent=2))  # JSON is YAML
        return path

    def _remove_containers(self) -> None:
        """By name, also what a run that was killed left behind."""
        ours = run("docker", "ps", "--all", "--format={{.Names}}").split()
        for name in sorted(name for name in ours if name.startswith(f"{PREFIX}-")):
            run("docker", "rm", "--force", "--volumes", name)
        volumes = run("docker", "volume", "ls", "--format={{.Name}}").split()
        for name in volumes:
            if name.startswith(f"{PREFIX}-"):
                run("docker", "volume", "rm", name)
        if PREFIX in run("docker", "network", "ls", "--format={{.Name}}").split():
            run("docker", "network", "rm", PREFIX)


def ensure_image() -> str:
    """The hosts' image; made with debootstrap, since no registry answers everywhere (about 2 min)."""
    digest = hashlib.sha256(f"{SUITE} {PACKAGES}".encode() + (HERE / "host" / "init.sh").read_bytes())
    image = f"{PREFIX}/host:{digest.hexdigest()[:12]}"
    if run("docker", "images", "--quiet", image).strip():
        return image
    mirror = debian_mirrors(_apt_targets())[0] or "http://deb.debian.org/debian"
    tree = Path(tempfile.mkdtemp(prefix=f"{PREFIX}-"))
    try:
        run("unshare", "--mount", "--pid", "--fork", "--kill-child", "debootstrap", "--variant=minbase",
            f"--include={PACKAGES}", SUITE, str(tree), mirror, timeout=900)  # fmt: skip
        import_tree(tree, image)
    finally:
        shutil.rmtree(tree, ignore_errors=True)
    return image


def import_tree(tree: Path, image: str) -> None:
    """A root file system becomes the hosts' image."""
    shutil.copy(HERE / "host" / "init.sh", tree / "sbin" / "respawner-rig-init")
    (tree / "sbin" / "respawner-rig-init").chmod(0o755)
    (tree / "etc" / "machine-id").write_text("")  # every host makes its own
    for key in (tree / "etc" / "ssh").glob("ssh_host_*"):
        key.unlink()
    for unit in ("systemd-udevd", "systemd-resolved", "systemd-networkd", "getty@tty1", "systemd-logind"):
        masked = tree / "etc" / "systemd" / "system" / f"{unit}.service"
        masked.unlink(missing_ok=True)
        masked.symlink_to("/dev/null")
    with subprocess.Popen(
        ["tar", "--numeric-owner", "-C", str(tree), "-c", "."], stdout=subprocess.PIPE
    ) as tar:
        changes = ['--change=ENTRYPOINT ["/sbin/respawner-rig-init"]', "--change=ENV container=docker"]
        done = subprocess.run(
            ["docker", "import", *changes, "-", image], stdin=tar.stdout, capture_output=True
        )
    if tar.returncode or done.returncode:
        raise RigError(f"the hosts' image could not be imported: {done.stderr.decode()}")


def playbook(inventory: Path, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run one playbook as an admin does by hand."""
    tools = Path(sys.executable).parent
    return subprocess.run(
        [str(tools / "ansible-playbook"), "-i", str(inventory), name, *arguments],
        cwd=HERE.parents[1] / "ansible",
        env={**os.environ, "PATH": f"{tools}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )


def counts(output: str) -> dict[str, dict[str, int]]:
    """Host → ok, changed, unreachable, failed …, from the recap at the end."""
    recap = output.rpartition("PLAY RECAP")[2].splitlines()[1:]
    rows = [line.split(":", 1) for line in recap if " : " in line]
    return {
        name.strip(): {key: int(value) for key, value in (pair.split("=") for pair in row.split())}
        for name, row in rows
    }


if __name__ == "__main__":  # by hand: python -m tests.cluster.rig up 2 | down
    chosen: Sequence[str] = sys.argv[1:]
    rig = Rig(int(chosen[1]) if len(chosen) > 1 else 1)
    if chosen[0] == "down":
        rig.close()
    else:
        rig.open()
        print(rig.inventory(storage_kind="mounted", swarm_encrypted=False))
