"""Packages of driver and container toolkit where the roles look for them. TEST STAND-INS: each installs a stand-in.

The roles run with their own settings: apt takes the driver from the distribution, where a repository of this module has
newer versions of the same names, and the toolkit from NVIDIA's address, which leads to a container here. Real in it: apt,
the names of the packages, their dependencies on each other, signatures, TLS, holds. Not real: what is in the packages.

The module of the kernel is "loaded" by the installation, unless the host has NOUVEAU in its kernel: then, and after an upgrade,
nvidia-smi fails until the host has been restarted.
"""

from __future__ import annotations

import gzip
import hashlib
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from email.utils import formatdate
from pathlib import Path

HERE = Path(__file__).parent
STANDINS = HERE.parent / "standins"
STATE_DIR = "/etc/respawner-standin"
DEBIAN, NVIDIA = "packages.example.org", "nvidia.github.io"
NVML_STATE = "/run/respawner-standin/nvml"
NOUVEAU = "nouveau"
"""Name of a file in STATE_DIR, on hosts whose kernel has that driver loaded."""
TOOLKIT = "libnvidia-container/stable/deb/amd64"
UNIT = f"""[Unit]
Description=TEST STAND-IN: the kernel loads the module of the driver
[Service]
Type=oneshot
RemainAfterExit=true
ExecStart=/bin/sh -c 'cd /run && mkdir -p respawner-standin && cp /usr/lib/respawner-standin/module respawner-standin/ && \
    sed "s/^driver_version.*/driver_version = $(cat respawner-standin/module)/" {STATE_DIR}/nvml >{NVML_STATE}'
[Install]
WantedBy=sysinit.target
"""
MISMATCH = f"""cd /run/respawner-standin 2>/dev/null || exit 0
if ! cmp --quiet module /usr/lib/respawner-standin/version; then
    # LIB_RM_VERSION_MISMATCH, until the module is loaded anew
    sed -i 's/^init_error.*/init_error = 18/' {NVML_STATE}
fi
"""
SEEN = f"{STATE_DIR}/seen-by-upgrades"
WITNESS = f"""[ "$1" = upgrade ] || exit 0
echo {{version}} "$(docker ps --quiet --filter=label=org.respawner.holder 2>&1)" >>{SEEN}
"""
"""Of the toolkit: a line in SEEN with the sessions that are on the host when a newer one is unpacked."""
PERSISTENCE = """[Unit]
Description=TEST STAND-IN of NVIDIA's persistence daemon
[Service]
ExecStart=sleep infinity
"""


class Vendor:
    """Repositories in a folder, their keys, and the container that serves them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.pages = folder / "pages"
        self.gnupg = folder / "gnupg"
        self.authority = folder / "ca.crt"
        """Certificate that hosts have to trust."""

    def prepare(self) -> None:
        """Make keys and certificates; nothing is published yet."""
        self.gnupg.mkdir(parents=True, mode=0o700)
        who = "TEST STAND-IN <nobody@example.org>"
        self._gpg("--passphrase", "", "--quick-generate-key", who, "ed25519", "sign", "1d")
        (self.pages / "libnvidia-container").mkdir(parents=True)
        self._gpg("--armor", "--output", str(self.pages / "libnvidia-container" / "gpgkey"), "--export")
        # Without openssl's own settings, whose certificates Python 3.13 finds too lax.
        (self.folder / "req.cnf").write_text("[req]\ndistinguished_name = dn\n[dn]\n")
        self._certificate("ca", "TEST STAND-IN authority", "basicConstraints=critical,CA:TRUE",
                          "keyUsage=critical,keyCertSign,cRLSign", "subjectKeyIdentifier=hash")  # fmt: skip
        self._certificate("server", NVIDIA, "basicConstraints=critical,CA:FALSE", "authorityKeyIdentifier=keyid",
                          f"subjectAltName=DNS:{NVIDIA},DNS:{DEBIAN}", signed=["-CA", "ca.crt", "-CAkey", "ca.key"])  # fmt: skip
        shutil.copy(HERE / "host" / "serve.py", self.folder)

    def serve(self, image: str, network: str, name: str) -> None:
        aliases = [f"--network-alias={alias}" for alias in (DEBIAN, NVIDIA)]
        command = ["docker", "run", "--detach", f"--name={name}", f"--network={network}", *aliases,
                   f"--volume={self.folder}:/vendor:ro", "--entrypoint=python3", image, "/vendor/serve.py"]  # fmt: skip
        subprocess.run(command, check=True, capture_output=True)

    @property
    def key(self) -> bytes:
        return (self.pages / "libnvidia-container" / "gpgkey").read_bytes()

    def source(self) -> str:
        """A line for the hosts' sources: newer versions of the distribution's packages, as a mirror of an admin's."""
        return f"deb [signed-by=/etc/apt/keyrings/standin.asc] https://{DEBIAN}/driver /\n"

    def publish(
        self, driver: str, toolkit: str, *, others: Iterable[Path] = (), toolkit_fails: bool = False
    ) -> None:
        """Packages of these versions, instead of what was published before.

        :param others: packages as files, newer ones of the distribution's.
        :param toolkit_fails: whether the toolkit's postinst does, so that dpkg leaves it half configured.
        """
        repository = self._emptied("driver")
        self._driver(repository, driver)
        for file in others:
            shutil.copy(file, repository)
        self._index(repository)
        repository = self._emptied(TOOLKIT)
        self._toolkit(repository, toolkit, fails=toolkit_fails)
        self._index(repository)

    def _emptied(self, name: str) -> Path:
        repository = self.pages / name
        shutil.rmtree(repository, ignore_errors=True)
        repository.mkdir(parents=True)
        return repository

    def _driver(self, repository: Path, version: str) -> None:
        with tempfile.TemporaryDirectory() as scratch:
            library = Path(scratch) / "libnvidia-ml.so.1"
            command = [
                "gcc",
                "-shared",
                "-fPIC",
                "-pthread",
                "-o",
                str(library),
                str(STANDINS / "fake_nvml.c"),
            ]
            subprocess.run(command, check=True, capture_output=True)
            nvml = library.read_bytes()
        number = version.encode() + b"\n"
        module = {
            "/usr/lib/respawner-standin/module": number,
            "/lib/systemd/system/respawner-standin-module.service": UNIT.encode(),
        }
        unit = "respawner-standin-module.service"
        load = f"systemctl enable --quiet {unit}\n[ -e {STATE_DIR}/{NOUVEAU} ] || systemctl start {unit}\n"
        build = {"source": "nvidia-graphics-drivers", "version": f"999:{version}-1"}
        package(repository, "linux-headers-amd64", {}, source="linux-signed-amd64", version="999-1")
        package(repository, "nvidia-open-kernel-dkms", module, load, **build)
        libraries = {
            "/usr/lib/x86_64-linux-gnu/libnvidia-ml.so.1": nvml,
            "/usr/lib/respawner-standin/version": number,
        }
        package(repository, "libnvidia-ml1", libraries, MISMATCH, **build)
        package(repository, "libcuda1", {}, depends=f"libnvidia-ml1 (= {build['version']})", **build)
        smi = {"/usr/bin/nvidia-smi": (HERE / "host" / "nvidia-smi").read_bytes()}
        package(
            repository, "nvidia-smi", smi, depends=f"python3, libnvidia-ml1 (= {build['version']})", **build
        )
        daemon = {"/lib/systemd/system/nvidia-persistenced.service": PERSISTENCE.encode()}
        package(
            repository, "nvidia-persistenced", daemon, source="nvidia-persistenced", version=build["version"]
        )

    def _toolkit(self, repository: Path, version: str, *, fails: bool) -> None:
        hook = f'#!/bin/sh\nexec python3 {STATE_DIR}/nvidia_hook.py {STATE_DIR} "$@"\n'
        programs = {
            "/usr/bin/nvidia-ctk": (HERE / "host" / "nvidia-ctk").read_bytes(),
            "/usr/bin/nvidia-container-runtime-hook": hook.encode(),
        }
        package(
            repository,
            "nvidia-container-toolkit",
            programs,
            f"echo 'TEST STAND-IN: {version} cannot be configured' >&2\nexit 1\n" if fails else "",
            WITNESS.format(version=version),
            source="nvidia-container-toolkit",
            version=version,
        )

    def _index(self, repository: Path) -> None:
        """What apt reads of a flat repository: Packages, and a signed Release that names its digest."""
        entries = []
        for file in sorted(repository.glob("*.deb")):
            control = subprocess.run(
                ["dpkg-deb", "--field", str(file)], check=True, capture_output=True, text=True
            ).stdout
            content = file.read_bytes()
            digest = hashlib.sha256(content).hexdigest()
            entries.append(f"{control}Filename: ./{file.name}\nSize: {len(content)}\nSHA256: {digest}\n")
        packages = "\n".join(entries).encode()
        lines = []
        for name, content in (("Packages", packages), ("Packages.gz", gzip.compress(packages))):
            (repository / name).write_bytes(content)
            lines.append(f" {hashlib.sha256(content).hexdigest()} {len(content)} {name}\n")
        release = f"Origin: TEST STAND-IN\nLabel: TEST STAND-IN\nDate: {formatdate(usegmt=True)}\nSHA256:\n{''.join(lines)}"
        (repository / "Release").write_text(release)
        self._gpg(
            "--yes", "--clear-sign", "--output", str(repository / "InRelease"), str(repository / "Release")
        )

    def _gpg(self, *arguments: str) -> None:
        command = [
            "gpg",
            "--homedir",
            str(self.gnupg),
            "--batch",
            "--quiet",
            "--pinentry-mode=loopback",
            *arguments,
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command}: {done.stderr}"

    def _certificate(self, name: str, subject: str, *extensions: str, signed: Sequence[str] = ()) -> None:
        key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", f"{name}.key"]
        asked = [part for extension in extensions for part in ("-addext", extension)]
        command = ["openssl", "req", "-config", "req.cnf", "-x509", "-days", "2", "-subj", f"/CN={subject}", *key, *asked,
                   *signed, "-out", f"{name}.crt"]  # fmt: skip
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command}: {done.stderr}"


def package(
    repository: Path,
    name: str,
    files: Mapping[str, bytes],
    after: str = "",
    before: str = "",
    *,
    source: str,
    version: str,
    depends: str = "",
) -> None:
    """Build one package of files; those below bin folders can be run.

    :param after: lines of sh for its postinst.
    :param before: the same for its preinst.
    """
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        control = tree / "DEBIAN"
        control.mkdir(parents=True)
        fields = {
            "Package": name,
            "Source": source,
            "Version": version,
            "Architecture": "amd64",
            "Maintainer": "TEST STAND-IN <nobody@example.org>",
            "Depends": depends,
            "Description": f"TEST STAND-IN of {name}",
        }
        (control / "control").write_text(
            "".join(f"{key}: {value}\n" for key, value in fields.items() if value)
        )
        for script, lines in (("preinst", before), ("postinst", after)):
            if lines:
                (control / script).write_text(f"#!/bin/sh\nset -e\n{lines}")
                (control / script).chmod(0o755)
        for path, content in files.items():
            target = tree / path.lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
            target.chmod(0o755 if target.parent.name == "bin" else 0o644)
        command = ["dpkg-deb", "--root-owner-group", "--build", str(tree), str(repository)]
        subprocess.run(command, check=True, capture_output=True)


def newer(package: Path, folder: Path) -> Path:
    """The same package with a higher version: its content and its maintainer scripts are what they were."""
    tree = folder / package.stem
    subprocess.run(["dpkg-deb", "--raw-extract", str(package), str(tree)], check=True, capture_output=True)
    control = tree / "DEBIAN" / "control"
    control.write_text(re.sub(r"(?m)^(Version: .*)$", r"\1+standin1", control.read_text()))
    file = folder / f"{package.stem}-newer.deb"
    command = ["dpkg-deb", "--root-owner-group", "-Zgzip", "-z1", "--build", str(tree), str(file)]
    subprocess.run(command, check=True, capture_output=True)
    shutil.rmtree(tree)
    return file
