import re
from pathlib import Path

import pytest
from respawner_hub.example import example
from respawner_hub.settings import Settings, SettingsError, find_file, load, size_bytes

ROOT = Path(__file__).parents[2]


def write(folder: Path, text: str) -> Path:
    file = folder / "respawner.toml"
    file.write_text(text)
    return file


def test_an_empty_file_gives_the_defaults(tmp_path):
    settings = load(write(tmp_path, ""))
    assert settings.hub.port == 8000
    assert settings.state_dir == tmp_path / "var"
    assert not settings.hub.is_open


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[hub]\nport = 99999\n", r":2: hub\.port = 99999: choose 1 to 65535$"),
        ("[gpus]\nslice_minutes = 0\n", r":2: gpus\.slice_minutes = 0: choose more than 0$"),
        ("[gpus]\nmin_run_minutes = -1\n", r":2: gpus\.min_run_minutes = -1: choose at least 0$"),
        ("[gpus]\nidle_minutes = inf\n", r":2: gpus\.idle_minutes = inf: choose at least 0$"),
        ("[gpus]\nsuspend_cost_seconds = nan\n", r":2: gpus\.suspend_cost_seconds = nan: choose 0 to 3600$"),
        ("[gpus]\npatience_minutes = -5\n", r":2: gpus\.patience_minutes = -5: choose 0 to 43200$"),
        ("[gpus]\npass_minutes = 90000\n", r":2: gpus\.pass_minutes = 90000: choose 0 to 86400$"),
        ("[gpus]\nbooking_lead_minutes = -1\n", r":2: gpus\.booking_lead_minutes = -1: choose 0 to 43200$"),
        ("[gpus]\npass_minutes = 60\n", r"gpus: pass_minutes = 60 is less than patience_minutes = 240$"),
        ('[gpus]\nnon_preemptible = ["ml"]\n', r":2: .*'ml' is not user:NAME, group:NAME or everyone$"),
        ("[hub]\n\nprot = 8000\n", r":3: hub\.prot: no such setting \(value 8000\)\. Known: .*port"),
        ("[nonsense]\nx = 1\n", r":1: nonsense: no such setting .*Known: hub, tls, auth"),
        ('[session]\nmem_limit = "lots"\n', r":2: session\.mem_limit = 'lots': 'lots' is not a size"),
        ('[session]\nmem_limit = "120%"\n', r"1% to 100%"),
        ("[session]\ngpus = 3\n", r"session.*gpus = 3 is more than max_gpus = 1"),
        ('[hub]\nbind = "everywhere"\n', r":2: hub\.bind = 'everywhere': must be an IP address"),
        ('[auth]\nmethod = "oidc"\n', r"needs a section \[auth\.oidc\]"),
        ('[tls]\ncertificate = "a.pem"\n', r"certificate and key belong together"),
        ("[hub]\nport = 8001\n", r"must differ"),
        ("[agent]\nport = 8081\n", r"must differ: .*'agent.port': 8081"),
        ("[agent]\ninterval_seconds = 0\n", r":2: agent\.interval_seconds = 0"),
        ("[hub\n", r"not valid TOML.*line 1"),
        ('folder = "/tmp"\n', r"folder: not a setting"),
        ('[engine]\nhost = "docker"\n', r":2: engine\.host = 'docker'"),
        ("[auth]\nadmins = []\n", r"at least one admin"),
    ],
)
def test_a_wrong_setting_is_named_with_line_key_and_value(tmp_path, text, message):
    file = write(tmp_path, text)
    with pytest.raises(SettingsError, match=message) as caught:
        load(file)
    assert str(file) in str(caught.value)


def test_all_wrong_settings_are_named_at_once(tmp_path):
    with pytest.raises(SettingsError) as caught:
        load(write(tmp_path, "[hub]\nport = 0\nproxy_api_port = 0\n[session]\npids_limit = 1\n"))
    assert len(str(caught.value).splitlines()) == 3


def test_a_missing_named_file_is_an_error_and_a_missing_default_is_not(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RESPAWNER_SETTINGS", raising=False)
    assert find_file() is None
    with pytest.raises(SettingsError, match="no such settings file"):
        find_file("nowhere.toml")


def test_every_setting_is_documented_in_the_example():
    """The committed example is the one that the descriptions make; a missing description fails `example`."""
    assert (ROOT / "respawner.example.toml").read_text() == example()


def test_the_example_with_every_default_uncommented_is_valid(tmp_path):
    text = example()
    lines = re.sub(r"^#(?=[a-z])", "", text, flags=re.MULTILINE).splitlines()
    kept, optional = [], False
    for line in lines:
        if line.startswith(("[", "#[")):
            optional = line.startswith("#[")
        if not optional and "# not set" not in line:
            kept.append(line)
    settings = load(write(tmp_path, "\n".join(kept)))
    assert settings == load(write(tmp_path, ""))


@pytest.mark.parametrize(
    ("text", "expected"),
    [("512M", 512 << 20), ("16G", 16 << 30), ("1.5g", 3 << 29), ("1048576", 1 << 20), ("2GB", 2 << 30)],
)
def test_sizes_are_binary_like_dockers(text, expected):
    assert size_bytes(text) == expected


def test_a_share_of_memory_is_of_this_machine():
    session = Settings().session
    assert session.mem_limit_bytes(100 << 30) == 80 << 30


def test_opening_the_hub_means_https():
    settings = Settings.model_validate({"hub": {"bind": "0.0.0.0"}})
    assert settings.hub.is_open
    assert settings.url == "https://127.0.0.1:8000/"


def test_commands_mean_the_same_deployment_in_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load(None).state_dir == ROOT / "var"
