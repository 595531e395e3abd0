"""The kernel bundle: same content, same bytes; pure Python; usable at the end of `sys.path`."""

import os
import shutil
import stat
import subprocess
import sys

import pytest
from respawner_hub.images import BundleError, ensure_bundle
from respawner_hub.images import bundle as bundle_module

from .tiny_wheels import ROOT


@pytest.fixture
def inject(checkout):
    """The injected files of a checkout of our own, where tests may change them."""
    folder = checkout / "snapshot" / "inject"
    shutil.copytree(ROOT / "snapshot" / "inject", folder)
    return folder


def tree(folder):
    """Everything that a session could see: path, mode, time and content."""
    return {
        str(path.relative_to(folder)): (
            stat.S_IMODE(path.stat().st_mode),
            path.stat().st_mtime,
            path.read_bytes() if path.is_file() else None,
        )
        for path in [folder, *folder.rglob("*")]
    }


def test_same_content_gives_the_same_bytes_in_another_place(inject, tmp_path):
    first, second = ensure_bundle(tmp_path / "a"), ensure_bundle(tmp_path / "b")
    assert first.name == second.name
    assert tree(first) == tree(second)


def test_second_call_writes_nothing(inject, tmp_path):
    first = ensure_bundle(tmp_path)
    inode = first.stat().st_ino
    assert ensure_bundle(tmp_path).stat().st_ino == inode
    assert [path.name for path in (tmp_path / "bundle").iterdir()] == [first.name]


def test_changed_code_gets_a_folder_of_its_own_and_the_old_one_stays(inject, tmp_path):
    old = ensure_bundle(tmp_path)
    before = tree(old)
    startup = inject / "ipython_startup.py"
    startup.write_text(startup.read_text() + "# changed\n")
    new = ensure_bundle(tmp_path)
    assert new != old
    assert tree(old) == before


def test_bundle_is_read_only_for_everyone_readable_and_pure_python(inject, tmp_path):
    bundle = ensure_bundle(tmp_path)
    assert stat.S_IMODE(bundle.stat().st_mode) == 0o555
    for path in bundle.rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o555 if path.is_dir() else 0o444), path
        assert path.name != "__pycache__"
        assert path.suffix not in (".pyc", ".so"), path
    assert (bundle / "ipython_startup.py").is_file()
    assert (bundle / "jupyter" / "jupyter_server_config.py").is_file()


def test_packages_load_from_the_end_of_the_path_in_a_fresh_process(inject, tmp_path):
    bundle = ensure_bundle(tmp_path)
    code = (
        "import sys; sys.path.append(sys.argv[1])\n"
        "import respawner, cloudpickle, pynvml, respawner.contract\n"
        "print(respawner.__file__); print(cloudpickle.__file__); print(pynvml.__file__)"
    )
    # -S: without site-packages nothing but the bundle can serve the three
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-B", "-c", code, str(bundle / "lib")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert all(line.startswith(str(bundle)) for line in done.stdout.split())


def test_bundle_changed_by_hand_is_set_aside_and_made_again(inject, tmp_path):
    bundle = ensure_bundle(tmp_path)
    whole = tree(bundle)
    startup = bundle / "ipython_startup.py"
    startup.chmod(0o644)
    startup.write_text("raise SystemExit\n")
    mounted = os.open(bundle, os.O_RDONLY)  # as a running session holds it
    try:
        assert ensure_bundle(tmp_path) == bundle
        assert tree(bundle) == whole
        with os.scandir(mounted) as entries:
            assert sorted(entry.name for entry in entries) == ["ipython_startup.py", "jupyter", "lib"]
    finally:
        os.close(mounted)


def test_missing_injected_file_is_named(inject, tmp_path):
    (inject / "ipython_startup.py").unlink()
    with pytest.raises(BundleError, match=r"ipython_startup\.py is missing"):
        ensure_bundle(tmp_path)


def test_compiled_code_is_refused(inject, tmp_path, monkeypatch):
    package = tmp_path / "site" / "fast_thing"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "_core.cpython-311-x86_64-linux-gnu.so").write_bytes(b"\x7fELF")
    monkeypatch.syspath_prepend(str(package.parent))
    monkeypatch.setattr(bundle_module, "PACKAGES", ("fast_thing",))
    with pytest.raises(BundleError, match="compiled code"):
        ensure_bundle(tmp_path)
