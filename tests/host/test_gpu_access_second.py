"""By cgroups of the second version, whose rules are a program: the kernel is asked from within. No device is opened."""

import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from kaalia.host import gpu_access
from kaalia.host.gpu_access import GpuAccess
from tests.support.device_program import forbid_devices
from tests.support.images import BUSYBOX

pytestmark = pytest.mark.docker

BASES = (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/unified"))
ID = "c" * 64


@dataclass(frozen=True)
class Inside:
    """A process with a root, a GPU's device node and a cgroup of its own, as a container's."""

    base: Path
    cgroup: Path
    process: "subprocess.Popen[bytes]"


@pytest.fixture
def inside(tmp_path: Path) -> Iterator[Inside]:
    base = next((one for one in BASES if (one / "cgroup.controllers").exists()), None)
    if base is None:
        pytest.skip("this kernel has no cgroups of the second version")
    root, cgroup = tmp_path / "root", base / "docker" / ID
    (root / "dev").mkdir(parents=True)
    os.mknod(root / "dev" / "nvidia0", stat.S_IFCHR | 0o666, os.makedev(195, 0))
    shutil.copy(BUSYBOX, root / "busybox")
    cgroup.mkdir(parents=True)
    process = subprocess.Popen(["chroot", root, "/busybox", "sleep", "600"])
    (cgroup / "cgroup.procs").write_text(str(process.pid))
    yield Inside(base, cgroup, process)
    process.kill()
    process.wait()
    cgroup.rmdir()


async def test_a_device_program_that_forbids_it_is_seen(inside: Inside) -> None:
    assert await gpu_access.look([ID], inside.base) == {ID: GpuAccess({"nvidia0": 0})}
    try:
        forbid_devices(inside.cgroup)
    except OSError as error:
        pytest.skip(f"this kernel takes no device programs: {error}")

    assert await gpu_access.look([ID], inside.base) == {ID: GpuAccess({"nvidia0": 1})}

    assert (inside.cgroup / "cgroup.procs").read_text().split() == [str(inside.process.pid)]
    assert inside.process.poll() is None


async def test_a_paused_container_is_left_alone(inside: Inside) -> None:
    (inside.cgroup / "cgroup.freeze").write_text("1")
    try:
        assert await gpu_access.look([ID], inside.base) == {}
    finally:
        (inside.cgroup / "cgroup.freeze").write_text("0")


def test_nothing_but_the_interpreter_is_loaded_for_it() -> None:
    """A look is cheap because it is small."""
    head = gpu_access.CHILD.read_text().partition("if __name__")[0]
    code = f"{head}\nprint(len(sys.modules))"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True)

    assert int(done.stdout) < 60
