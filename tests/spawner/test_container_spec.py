import dataclasses
from pathlib import Path

import pytest
from respawner_spawner import container_spec
from respawner_spawner.container_spec import Hold, Session, Share
from respawner_spawner.image_facts import ImageFacts, derive

IMAGE = ImageFacts(
    name="respawner/notebook:0.1.0",
    image_id="sha256:0123456789abcdef",
    uid=1000,
    gid=100,
    home="/home/jovyan",
    command=("jupyterhub-singleuser",),
    has_init=True,
    environment={"PATH": "/opt/bin:/bin"},
    environment_name="py3.11-torch2.13",
)


def session(**changes) -> Session:
    values = {
        "deployment": "respawner",
        "holder": "respawner/alice/",
        "user": "alice",
        "server": "",
        "image": IMAGE,
        "home_volume": "respawner-home-alice",
        "snapshot_volume": "respawner-snapshots-alice",
        "bundle": Path("/srv/bundle/1a2b"),
    }
    return Session(**{**values, **changes})


def test_a_session_without_gpus_sees_none_and_asks_for_none():
    assert container_spec.environment(session())["NVIDIA_VISIBLE_DEVICES"] == "void"
    assert "device_requests" not in container_spec.host_config(session())


def test_gpus_are_requested_by_uuid_never_by_count():
    (request,) = container_spec.host_config(session(gpus=["GPU-b", "GPU-d"]))["device_requests"]
    assert request["DeviceIDs"] == ["GPU-b", "GPU-d"]
    assert request["Count"] == 0
    assert request["Capabilities"] == [["gpu"]]
    assert "NVIDIA_VISIBLE_DEVICES" not in container_spec.environment(session(gpus=["GPU-b"]))


def test_leases_stand_in_the_labels():
    labels = container_spec.labels(session(gpus=["GPU-b", "GPU-d"]))
    assert labels["org.respawner.gpus"] == "GPU-b,GPU-d"
    assert labels["org.respawner.holder"] == "respawner/alice/"


def test_the_labels_prove_everything_that_a_lost_ledger_would_have_to_know():
    held = session(gpus=["GPU-b", "GPU-d"], fence=7, groups=["ml", "a, b"], preemptible=False)
    assert Hold.of(container_spec.labels(held)) == Hold(("GPU-b", "GPU-d"), 7, 0, ("ml", "a, b"), False)
    assert Hold.of({}) == Hold((), 0, 0, (), True), "containers of earlier versions"


def test_mig_devices_are_requested_by_uuid_like_gpus():
    (request,) = container_spec.host_config(session(gpus=["MIG-1"]))["device_requests"]
    assert request["DeviceIDs"] == ["MIG-1"]


def test_the_fence_stands_in_label_and_environment_with_the_file_of_the_newest_one():
    fenced = session(gpus=["GPU-b"], fence=7, fence_file="/var/lib/respawner/fence-two")
    assert container_spec.labels(fenced)["org.respawner.fence"] == "7"
    environment = container_spec.environment(fenced)
    assert environment["RESPAWNER_FENCE"] == "7"
    assert environment["RESPAWNER_FENCE_FILE"] == "/var/lib/respawner/fence-two"
    assert "RESPAWNER_FENCE" not in container_spec.environment(session())


def share(**changes) -> Session:
    return session(gpus=["GPU-b"], share=Share(10 << 30, 40 << 30), **changes)


def test_a_share_says_how_much_it_is_and_what_holds_programs_to_it():
    environment = container_spec.environment(share())
    assert environment["RESPAWNER_GPU_SHARE"] == "advisory"
    assert environment["RESPAWNER_GPU_MEMORY_BYTES"] == str(10 << 30)
    assert environment["RESPAWNER_GPU_MEMORY_FRACTION"] == "0.2500"
    assert environment["CUDA_MPS_PINNED_DEVICE_MEM_LIMIT"] == "0=10240M"
    assert environment["XLA_PYTHON_CLIENT_MEM_FRACTION"] == "0.2500"
    assert container_spec.labels(share())["org.respawner.share-bytes"] == str(10 << 30)
    assert "RESPAWNER_GPU_SHARE" not in container_spec.environment(session(gpus=["GPU-b"]))


@pytest.mark.parametrize(
    ("name", "limited"), [("py3.11-torch2.13", True), ("py3.11-torch2.4", False), ("x", False)]
)
def test_torch_is_limited_only_where_it_knows_the_option(name, limited):
    given = {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"}
    image = dataclasses.replace(IMAGE, environment_name=name)
    found = container_spec.environment(share(image=image, environment=given))["PYTORCH_CUDA_ALLOC_CONF"]
    wanted = "expandable_segments:True,per_process_memory_fraction:0.2500"
    assert found == (wanted if limited else given["PYTORCH_CUDA_ALLOC_CONF"])


def test_thirds_of_a_gpu_are_not_more_than_all_of_it():
    third = Share((40 << 30) // 3, 40 << 30)
    assert 3 * float(container_spec.share_environment(third, "x", {})["RESPAWNER_GPU_MEMORY_FRACTION"]) <= 1


def test_a_share_of_a_gpu_of_unknown_size_has_no_fraction():
    assert "RESPAWNER_GPU_MEMORY_FRACTION" not in container_spec.share_environment(Share(1 << 30, 0), "x", {})


def test_privileges_are_dropped_and_the_container_is_never_removed_by_docker():
    host = container_spec.host_config(session())
    assert host["cap_drop"] == ["ALL"]
    assert host["cap_add"] == []
    assert host["security_opt"] == ["no-new-privileges"]
    assert host["auto_remove"] is False


def test_no_docker_socket_is_mounted_and_code_of_ours_is_read_only():
    binds = container_spec.binds(session())
    assert not any("docker.sock" in source for source in binds)
    assert {bind["bind"]: bind["mode"] for bind in binds.values()} == {
        "/home/jovyan": "rw",
        "/var/lib/respawner": "rw",
        "/opt/respawner": "ro",
        "/etc/ipython/startup/00-respawner.py": "ro",
    }


def test_limits_become_dockers_and_swap_is_no_way_around_memory():
    host = container_spec.host_config(
        session(cpu_limit=1.5, mem_limit=4 << 30, pids_limit=512, shm_bytes=1 << 30)
    )
    assert host["cpu_quota"] == 1.5 * host["cpu_period"]
    assert host["mem_limit"] == host["memswap_limit"] == 4 << 30
    assert host["pids_limit"] == 512
    assert host["shm_size"] == 1 << 30


def test_no_limit_is_no_key():
    host = container_spec.host_config(session())
    assert not {"cpu_quota", "cpu_period", "mem_limit", "memswap_limit"} & set(host)


def test_user_packages_land_in_a_folder_of_this_environment_and_do_not_shadow_the_image():
    environment = container_spec.environment(session())
    base = "/home/jovyan/.local/respawner/py3.11-torch2.13"
    assert environment["PYTHONUSERBASE"] == base
    assert environment["PATH"] == f"/opt/bin:/bin:{base}/bin"


def test_jupyters_configuration_path_is_extended_not_replaced():
    given = session(environment={"JUPYTER_CONFIG_PATH": "/etc/ours", "JUPYTERHUB_API_TOKEN": "t"})
    environment = container_spec.environment(given)
    assert environment["JUPYTER_CONFIG_PATH"] == "/etc/ours:/opt/respawner/jupyter"
    assert environment["JUPYTERHUB_API_TOKEN"] == "t"


PASSWD = "root:x:0:0:root:/root:/bin/sh\njovyan:x:1000:100::/home/jovyan:/bin/sh\nme:x:1234:1234::/data/me:/bin/sh\n"
GROUP = "root:x:0:\nusers:x:100:\nstaff:x:50:\n"


def facts(name="img:1", **config) -> ImageFacts:
    return derive(name, {"Id": "sha256:" + "ab" * 32, "Config": config}, PASSWD, GROUP)


@pytest.mark.parametrize(
    ("user", "expected", "home"),
    [
        ("jovyan", "1000:100", "/home/jovyan"),
        ("1000", "1000:100", "/home/jovyan"),
        ("me", "1234:1234", "/data/me"),
        ("me:staff", "1234:50", "/data/me"),
        ("4321:50", "4321:50", "/home/jovyan"),
        ("", "1000:100", "/home/jovyan"),
        ("root", "1000:100", "/home/jovyan"),
        ("0:0", "1000:100", "/home/jovyan"),
    ],
)
def test_sessions_run_as_the_images_user_and_never_as_root(user, expected, home):
    found = facts(User=user)
    assert (found.user, found.home) == (expected, home)


@pytest.mark.parametrize(
    ("name", "labels", "expected"),
    [
        ("a/img:1.2", {"org.respawner.environment": "py3.11 torch2.13"}, "py3.11-torch2.13"),
        ("host:5000/a/img:1.2", {}, "img-1.2"),
        ("a/img:latest", {}, "img-abababababab"),
        ("a/img", {}, "img-abababababab"),
    ],
)
def test_environment_name_tells_images_apart_that_cannot_share_packages(name, labels, expected):
    assert facts(name, Labels=labels).environment_name == expected


def test_dockers_init_is_used_where_the_image_has_none():
    assert facts(Entrypoint=["tini", "-g", "--"]).has_init
    assert not facts(Entrypoint=["/start.sh"]).has_init
    assert container_spec.host_config(session(image=facts()))["init"] is True
    assert container_spec.host_config(session())["init"] is False
