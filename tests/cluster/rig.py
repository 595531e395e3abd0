"""Hosts for the playbooks: containers with systemd, sshd and room for a Docker engine of their own. TEST STAND-INS.

    with Rig(hosts=2) as rig:
        rig.inventory(folder)   # a file for ansible-playbook -i

Real in them: systemd, sshd, apt with Debian's packages, Docker, Swarm, TLS. Not real: GPUs (the stand-ins of
`tests/standins` and of `host/`), the kernel, which all of them share, and the shared storage, a volume of the outer
engine where a cluster has NFS. What this kernel cannot do (IPsec, NFS, IPVS) is not shown by them.

Everything is called rig-CHECKOUT-* (RESPAWNER_RIG=name: name-*, for a second rig of the same checkout), and `close` removes it. The
image stays on the engine: it takes minutes to make.
"""

from __future__ import annotations

import contextlib
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

from .vendor import NOUVEAU, NVML_STATE, STATE_DIR, Vendor

HERE = Path(__file__).parent
STANDINS = HERE.parent / "standins"
SUITE = "trixie"
PREFIX = os.environ.get("RESPAWNER_RIG") or f"rig-{hashlib.sha256(bytes(HERE)).hexdigest()[:6]}"
"""Of all names. A checkout's own: runs of two checkouts on one engine would remove each other's hosts."""
CGROUPS = Path("/sys/fs/cgroup")
IMAGE = "respawner-rig/host"
PACKAGES = (
    "systemd,systemd-sysv,dbus,openssh-server,sudo,python3,python3-apt,iproute2,ca-certificates,kmod,udev"
)
"""What an installer of Debian leaves on a server: sshd, sudo and Python."""
MASKED = ("systemd-udevd", "systemd-resolved", "systemd-networkd", "getty@tty1", "systemd-logind")
"""Units that a container has no use for."""
CAPABILITIES = ("SYS_ADMIN", "NET_ADMIN", "SYS_PTRACE", "SYS_NICE", "IPC_LOCK", "SYSLOG")
"""On top of Docker's usual ones: what systemd and an engine need that run in a container."""
DPKG = "force-unsafe-io\n" + "".join(
    f"path-exclude=/usr/share/{part}/*\n" for part in ("doc", "man", "locale")
)
SHARED_DIR = "/srv/respawner"
INIT = "/sbin/respawner-rig-init"
READY_SECONDS = 240


class RigError(AssertionError):
    """The rig does not work; the message has what the failed command said."""


def run(*command: str, stdin: bytes | None = None, check: bool = True, timeout: float = 600) -> str:
    """Output of a command of this machine; its error in the exception."""
    done = subprocess.run(command, input=stdin, capture_output=True, timeout=timeout, check=False)
    if check and done.returncode:
        raise RigError(f"{' '.join(command)}: {(done.stderr + done.stdout).decode(errors='replace')[-2000:]}")
    return done.stdout.decode(errors="replace")


class Host:
    """One stand-in host.

    :param vendor: where driver and toolkit come from; without, an admin has installed stand-ins of both by hand.
    :param nouveau: whether that driver is in the kernel, so that the vendor's needs a reboot.
    """

    def __init__(self, number: int, gpus: int, vendor: Vendor | None = None, nouveau: bool = False) -> None:
        self.name = f"{PREFIX}-{number}"
        self.vendor = vendor
        self.nouveau = nouveau
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
            f"--volume={HERE / 'host' / 'init.sh'}:{INIT}:ro",
        ]
        run("docker", "create", f"--name={self.name}", f"--hostname={self.name}", "--restart=unless-stopped",
            f"--network={PREFIX}", "--cgroupns=private", *self._own_group(), "--device-cgroup-rule=a *:* rwm",
            "--stop-signal=SIGRTMIN+3", "--stop-timeout=20", *capabilities, *security, *tmpfs, *volumes, image)  # fmt: skip
        if self.gpus:
            self._put_gpus()
        run("docker", "start", self.name)
        inspection = json.loads(run("docker", "inspect", self.name))[0]
        self.address = inspection["NetworkSettings"]["Networks"][PREFIX]["IPAddress"]
        self.write("~root/.ssh/authorized_keys", key.with_suffix(".pub").read_bytes(), "0600")
        self._make_trusting()
        # Nobody reads manuals here, and what is lost with the host need not be on its disk.
        self.write("/etc/dpkg/dpkg.cfg.d/rig", DPKG.encode())
        if self.gpus and not self.vendor:
            self._put_driver()
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
        if self.vendor:
            authority = self.vendor.authority.read_bytes()
            self.write("/etc/ssl/certs/ca-certificates.crt", bundle + authority)
            self.write("/etc/ssl/certs/standin.pem", authority)
            self.shell("openssl rehash /etc/ssl/certs")
            self.write("/etc/apt/keyrings/standin.asc", self.vendor.key)
            self.write("/etc/apt/sources.list.d/standin.list", self.vendor.source().encode())

    def _put_gpus(self) -> None:
        """What is there before any program: the devices, and what drives their stand-ins. The container is not started yet."""
        with tempfile.TemporaryDirectory() as folder:
            state = Path(folder) / Path(STATE_DIR).name
            pci = state / "pci"
            for number in range(len(self.gpus)):
                device = pci / f"0000:{number + 1:02x}:00.0"
                device.mkdir(parents=True)
                (device / "vendor").write_text("0x10de\n")
                (device / "class").write_text("0x030200\n")
            (state / "gpus").write_text("\n".join(self.gpus) + "\n")
            if self.nouveau:
                (state / NOUVEAU).touch()
            State(gpus=[Gpu(uuid) for uuid in self.gpus]).write(state / "nvml")
            shutil.copy(STANDINS / "nvidia_hook.py", state)
            where = NVML_STATE if self.vendor else f"{STATE_DIR}/nvml"
            settings = Path(folder) / "system.conf.d"
            settings.mkdir()
            (settings / "standin.conf").write_text(f"[Manager]\nDefaultEnvironment=FAKE_NVML_STATE={where}\n")
            run("docker", "cp", str(state), f"{self.name}:/etc/")
            run("docker", "cp", str(settings), f"{self.name}:/etc/systemd/")

    def _put_driver(self) -> None:
        """As on a host where an admin has installed driver and toolkit by hand; every part is a stand-in."""
        with tempfile.TemporaryDirectory() as folder:
            library = Path(folder) / "libnvidia-ml.so.1"
            run("gcc", "-shared", "-fPIC", "-pthread", "-o", str(library), str(STANDINS / "fake_nvml.c"))
            self.write("/usr/lib/x86_64-linux-gnu/libnvidia-ml.so.1", library.read_bytes(), "0755")
        for program in ("nvidia-smi", "nvidia-ctk"):
            self.write(f"/usr/bin/{program}", (HERE / "host" / program).read_bytes(), "0755")
        hook = f'#!/bin/sh\nexec python3 {STATE_DIR}/nvidia_hook.py {STATE_DIR} "$@"\n'
        self.write("/usr/bin/nvidia-container-runtime-hook", hook.encode(), "0755")

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
    """Several hosts on a network of their own, and the key that opens them.

    :param bare: GPUs without a driver, and packages of stand-ins of driver and toolkit where the roles look for them.
    :param nouveau: of the hosts, see `Host`.
    :param image: of the hosts; by default a system made for them with debootstrap.
    """

    def __init__(
        self, hosts: int, gpus: int = 2, *, bare: bool = False, nouveau: bool = False, image: str = ""
    ) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}-"))
        self.vendor = Vendor(self.folder / "vendor") if bare else None
        self.image = image
        self.nouveau = nouveau
        self.hosts = [Host(number + 1, gpus, self.vendor, nouveau) for number in range(hosts)]
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
        self.image = self.image or ensure_image()
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.key))
        # Docker's own bridge has 1500; a nested overlay on it fits into less.
        run("docker", "network", "create", "--opt=com.docker.network.driver.mtu=1400", PREFIX)
        if self.vendor:
            self.vendor.prepare()
            self.vendor.publish(driver="570.86.15", toolkit="1.17.8-1")
            self.vendor.serve(self.image, PREFIX, f"{PREFIX}-vendor")
        for host in self.hosts:
            host.start(self.image, self.key)

    def add(self, gpus: int = 2) -> Host:
        """One more host, as an admin plugs it in."""
        host = Host(len(self.hosts) + 1, gpus, self.vendor, self.nouveau)
        self.hosts.append(host)
        host.start(self.image, self.key)
        return host

    def replace(self, host: Host) -> None:
        """A host is lost with its disk; a new and bare one has its name and its address."""
        lost = host.address
        run("docker", "rm", "--force", "--volumes", host.name)
        run("docker", "volume", "rm", f"{host.name}-docker")
        host.start(self.image, self.key)
        if host.address != lost:
            raise RigError(f"{host.name} had the address {lost}, and the new one has {host.address}")

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
        self._remove_groups()

    def _remove_groups(self) -> None:
        """The engine removes a container's cgroup, and leaves those above it (`Host._own_group`)."""
        of_both_versions = [*CGROUPS.glob(f"{PREFIX}-*"), *CGROUPS.glob(f"*/{PREFIX}-*")]
        for group in {group.resolve() for group in of_both_versions}:
            for folder in sorted([group, *group.rglob("*/")], reverse=True):
                with contextlib.suppress(
                    OSError
                ):  # one that a process is still leaving stays, and harms nobody
                    folder.rmdir()


def ensure_image() -> str:
    """The hosts' image; made with debootstrap, since no registry answers everywhere (about 2 min)."""
    digest = hashlib.sha256(f"{SUITE} {PACKAGES}".encode())
    image = f"{IMAGE}:{digest.hexdigest()[:12]}"
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


def image_on(base: str) -> str:
    """The hosts' image made of a Debian image that is there, with whatever is in that: faster, for a shorter test."""
    image = f"{IMAGE}:on-{base.replace('/', '-').replace(':', '-')}"
    if run("docker", "images", "--quiet", image).strip():
        return image
    name = f"{PREFIX}-image"
    run("docker", "rm", "--force", name, check=False)
    links = "; ".join(f"ln -sf /dev/null /etc/systemd/system/{unit}.service" for unit in MASKED)
    script = (
        "apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq --yes --no-install-recommends install "
        f"{PACKAGES.replace(',', ' ')} && rm -f /etc/ssh/ssh_host_* && : >/etc/machine-id && {links}"
    )
    try:
        run("docker", "run", f"--name={name}", "--user=root", "--entrypoint=sh", base, "-c", script)
        changes = [f"--change=ENTRYPOINT {json.dumps([INIT])}", "--change=CMD []", "--change=USER root"]
        run("docker", "commit", *changes, "--change=ENV container=docker", name, image)
    finally:
        run("docker", "rm", "--force", name, check=False)
    return image


def import_tree(tree: Path, image: str) -> None:
    """A root file system becomes the hosts' image."""
    (tree / "etc" / "machine-id").write_text("")  # every host makes its own
    for key in (tree / "etc" / "ssh").glob("ssh_host_*"):
        key.unlink()
    for unit in MASKED:
        masked = tree / "etc" / "systemd" / "system" / f"{unit}.service"
        masked.unlink(missing_ok=True)
        masked.symlink_to("/dev/null")
    with subprocess.Popen(
        ["tar", "--numeric-owner", "-C", str(tree), "-c", "."], stdout=subprocess.PIPE
    ) as tar:
        changes = [f"--change=ENTRYPOINT {json.dumps([INIT])}", "--change=ENV container=docker"]
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


if __name__ == "__main__":  # by hand: python -m tests.cluster.rig up 2 [bare] | down
    chosen: Sequence[str] = sys.argv[1:]
    rig = Rig(int(chosen[1]) if len(chosen) > 1 else 1, bare="bare" in chosen)
    if chosen[0] == "down":
        rig.close()
    else:
        rig.open()
        print(rig.inventory(storage_kind="mounted", swarm_encrypted=False))
