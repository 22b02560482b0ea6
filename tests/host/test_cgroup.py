"""What containers use, in both forms of the kernel's cgroups and of Docker's drivers."""

from pathlib import Path

import pytest

from kaalia.host.cgroup import usages
from kaalia.model.usage import ContainerUsage
from tests.support.sysfs import write_files

ONE, OTHER, GONE = "a" * 64, "b" * 64, "c" * 64
WANTED = ContainerUsage(cpu_s=12.5, memory_bytes=104857600, oom_kills=2)


@pytest.mark.parametrize("place", ["docker/{}", "system.slice/docker-{}.scope"])
def test_version_2(tmp_path: Path, place: str) -> None:
    folder = f"sys/fs/cgroup/{place.format(ONE)}"
    files = {
        "sys/fs/cgroup/cgroup.controllers": "cpu memory",
        f"{folder}/cpu.stat": "usage_usec 12500000\nuser_usec 1\nsystem_usec 2",
        f"{folder}/memory.current": "104857600",
        f"{folder}/memory.events": "low 0\nhigh 0\nmax 9\noom 3\noom_kill 2",
    }

    assert usages([ONE, GONE], write_files(tmp_path, files)) == {ONE: WANTED}


@pytest.mark.parametrize("place", ["docker/{}", "system.slice/docker-{}.scope"])
def test_version_1(tmp_path: Path, place: str) -> None:
    files = {
        f"sys/fs/cgroup/cpuacct/{place.format(ONE)}/cpuacct.usage": "12500000000",
        f"sys/fs/cgroup/memory/{place.format(ONE)}/memory.usage_in_bytes": "104857600",
        f"sys/fs/cgroup/memory/{place.format(ONE)}/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 2",
    }

    assert usages([ONE, GONE], write_files(tmp_path, files)) == {ONE: WANTED}


def test_what_the_kernel_does_not_tell_is_none(tmp_path: Path) -> None:
    files = {
        "sys/fs/cgroup/cgroup.controllers": "cpu memory",
        f"sys/fs/cgroup/docker/{ONE}/cpu.stat": "usage_usec many",
        f"sys/fs/cgroup/docker/{ONE}/memory.current": "7",
        f"sys/fs/cgroup/docker/{OTHER}/cpu.stat": "",
    }

    assert usages([ONE, OTHER], write_files(tmp_path, files)) == {ONE: ContainerUsage(memory_bytes=7)}


def test_without_cgroups_nothing_is_told(tmp_path: Path) -> None:
    assert usages([ONE], tmp_path) == {}
