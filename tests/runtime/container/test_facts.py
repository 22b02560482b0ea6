"""What `/version` and `/info` of several Docker generations mean for us."""

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from kaalia.errors import WorkloadError
from kaalia.runtime.container.facts import agreed_api, cdi_devices, engine_facts, has_gpu_hook, ulimits

XFS = ["/dev/vda1 / ext4 rw 0 0", "/dev/nvme0n1 /var/lib/docker xfs rw,relatime,prjquota 0 0"]


def facts_of(api: str, info: dict[str, Any], **changes: Any) -> Any:
    arguments: dict[str, Any] = {"mounts": XFS, "cdi_devices": [], "has_gpu_hook": False, **changes}
    return engine_facts({"Version": "1", "ApiVersion": api}, {"DockerRootDir": "/var/lib/docker", **info}, **arguments)


@pytest.mark.parametrize(
    ("info", "mounts", "enforces"),
    [
        ({"Driver": "btrfs"}, XFS, True),
        ({"Driver": "overlay2", "DriverStatus": [["Backing Filesystem", "xfs"]]}, XFS, True),
        ({"Driver": "overlay2", "DriverStatus": [["Backing Filesystem", "xfs"]]}, XFS[:1], False),
        ({"Driver": "overlay2", "DriverStatus": [["Backing Filesystem", "extfs"]]}, XFS, False),
        ({"Driver": "overlayfs"}, XFS, False),
    ],
)
def test_disk_size_is_enforced_only_where_docker_can(info: dict[str, Any], mounts: list[str], enforces: bool) -> None:
    assert facts_of("1.41", info, mounts=mounts).enforces_disk_size is enforces


@pytest.mark.parametrize(
    ("api", "info", "devices", "hook", "mode"),
    [
        ("1.41", {}, [], True, "device_request"),
        ("1.41", {}, [], False, "none"),
        ("1.43", {"CDISpecDirs": ["/etc/cdi"]}, ["nvidia.com/gpu=GPU-1"], True, "device_request"),
        ("1.50", {"CDISpecDirs": ["/etc/cdi"]}, ["nvidia.com/gpu=GPU-1"], True, "cdi"),
        ("1.50", {"CDISpecDirs": ["/etc/cdi"]}, ["nvidia.com/gpu=0"], True, "device_request"),
        ("1.50", {"CDISpecDirs": []}, ["nvidia.com/gpu=GPU-1"], False, "none"),
    ],
)
def test_gpu_mode_is_probed(api: str, info: dict[str, Any], devices: list[str], hook: bool, mode: str) -> None:
    assert facts_of(api, info, cdi_devices=devices, has_gpu_hook=hook).gpu_mode == mode


def test_cdi_devices_are_read_from_the_spec_folders_of_older_engines(tmp_path: Path) -> None:
    (tmp_path / "nvidia.yaml").write_text(
        'cdiVersion: 0.5.0\nkind: nvidia.com/gpu\ndevices:\n- name: "0"\n- name: GPU-0a1b\n- name: all\n'
    )
    (tmp_path / "other.json").write_text('{"kind": "vendor.com/net", "devices": [{"name": "GPU-ffff"}]}')

    assert cdi_devices({"CDISpecDirs": [str(tmp_path), "/nowhere"]}) == ["nvidia.com/gpu=GPU-0a1b"]
    assert cdi_devices({"DiscoveredDevices": [{"Source": "cdi", "ID": "nvidia.com/gpu=GPU-9"}]}) == [
        "nvidia.com/gpu=GPU-9"
    ]


@pytest.mark.parametrize(
    ("newest", "least", "agreed"), [("1.41", "1.12", "1.41"), ("1.47", "1.24", "1.47"), ("1.52", "1.44", "1.47")]
)
def test_api_version_is_the_newest_that_both_know(newest: str, least: str, agreed: str) -> None:
    assert agreed_api({"ApiVersion": newest, "MinAPIVersion": least}) == agreed


def test_engine_that_is_too_old_is_refused() -> None:
    with pytest.raises(WorkloadError) as raised:
        agreed_api({"Version": "19.03.1", "ApiVersion": "1.40"})

    assert raised.value.code == "engine_too_old"


def test_hook_is_not_found_for_a_process_that_is_no_engine() -> None:
    assert has_gpu_hook(0) is has_gpu_hook(1)


def test_limits_stay_within_what_the_engine_may_hand_out() -> None:
    """A child of this process stands for the container: it can take on every limit."""
    for limit in ulimits(os.getpid()):
        word = f"--{limit['Name']}={limit['Soft']}:{limit['Hard']}".replace("-1", "unlimited")

        assert subprocess.run(["prlimit", word, "true"], check=False).returncode == 0, word
