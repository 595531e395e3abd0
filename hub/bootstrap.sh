#!/bin/sh
# First step of `make up`: a virtual environment with the project in it. Everything after this is Python
# (hub/respawner_hub). Run it again at any time: it goes on where it stopped.
set -eu

venv=$1
python=${PYTHON:-python3}
started=$(date +%s)

say() { printf '    %s\n' "$*"; }
fail() { printf '    %s\n' "$*" >&2; exit 1; }
as_root() {
    if [ "$(id -u)" -eq 0 ]; then "$@"
    elif command -v sudo >/dev/null; then say "sudo $*"; sudo "$@"
    else fail "This needs root and there is no sudo: run as root: $*"; fi
}

echo "▸ Virtual environment $venv with the project"
command -v "$python" >/dev/null || as_root apt-get install -y --no-install-recommends python3 python3-venv ||
    fail "Python 3.11 or newer is needed: install it, or name it with make PYTHON=…"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    fail "$("$python" --version) is too old, 3.11 or newer is needed (Debian 12, Ubuntu 24.04): name one with make PYTHON=…"

if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    say "installing python3-venv, which $python lacks"
    as_root apt-get update -q >/dev/null
    as_root apt-get install -y -q --no-install-recommends python3-venv >/dev/null
fi
# A venv without a working pip is what an interrupted earlier run leaves.
"$venv/bin/python" -m pip --version >/dev/null 2>&1 || "$python" -m venv --clear "$venv"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1' ||
    fail "pip could not install from the package index. No network, or a proxy? pip's own settings (pip config, PIP_* variables) are honoured."
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check -e snapshot -e spawner -e hub ||
    fail "The project could not be installed: see pip's message above."
say "done in $(($(date +%s) - started)) s"
