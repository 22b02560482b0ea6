"""Whether containers may still use their GPUs: rules of devices.list, and what a process of its own tells of them."""

import os
from pathlib import Path

import pytest

from kaalia.host import gpu_access
from kaalia.host.gpu_access import GpuAccess
from kaalia.host.gpu_access_child import is_allowed, nodes

GPU = os.makedev(195, 0)
ONE, TWO = "a" * 64, "b" * 64


@pytest.mark.parametrize(
    ("rules", "allowed"),
    [
        ("a *:* rwm", True),
        ("c 195:* rwm", True),
        ("c 195:0 rw", True),
        ("c *:* rw", True),
        ("c 195:1 rwm", False),
        ("c *:* m", False),
        ("b 195:* rwm", False),
        ("c 1:3 rwm\nc 195:255 rw", False),
        ("c 1:3 rwm\nc 195:0 rwm", True),
        ("", False),
        ("strange", False),
    ],
)
def test_the_rules_of_a_cgroup(rules: str, allowed: bool) -> None:
    assert is_allowed([line.split() for line in rules.splitlines()], GPU) is allowed


def test_only_device_nodes_count(tmp_path: Path) -> None:
    for name in ("nvidia0", "nvidia1x", "nvidiactl", "null"):
        (tmp_path / name).write_text("a tenant's file")
    (tmp_path / "nvidia7").symlink_to("/dev/null")

    assert nodes(str(tmp_path)) == []


def test_what_was_not_told_to_its_end_is_left_out() -> None:
    text = f"{ONE} nvidia0 0\n{ONE} nvidia1 1\n{ONE} end\n{TWO} nvidia0 0\n"

    found = gpu_access.read(text)

    assert found == {ONE: GpuAccess({"nvidia0": 0, "nvidia1": 1})}
    assert found[ONE].lost == ["nvidia1"]
    assert gpu_access.read(f"{ONE} unseen 2\n") == {}


async def test_a_container_whose_cgroup_is_elsewhere_is_not_judged(tmp_path: Path) -> None:
    """The process itself stands for a container: it has no GPU."""
    here = tmp_path / "devices" / "docker" / ONE
    here.mkdir(parents=True)
    (here / "cgroup.procs").write_text(f"{os.getpid()}\n")
    (here / "devices.list").write_text("a *:* rwm\n")

    found = await gpu_access.look([TWO, ONE], tmp_path)

    known = {path.name for path in Path("/dev").glob("nvidia[0-9]*")}
    assert found == {ONE: GpuAccess(dict.fromkeys(known, 0))}
