"""The launch script in a real shell, and what is put into a container."""

import io
import os
import shutil
import signal
import subprocess
import tarfile
import time
from pathlib import Path

import pytest

from kaalia.model.workload import LaunchMode
from kaalia.runtime.container.access import LAUNCH, archive
from tests.support.placements import build_spec
from tests.support.waiting import wait_until

SHELLS = [[path] for name in ("dash", "bash") if (path := shutil.which(name))] + [["/usr/bin/busybox", "sh"]]


def test_args_mode_adds_nothing() -> None:
    assert archive(build_spec(onstart="x"), 51) is None


def test_access_modes_add_script_onstart_and_label() -> None:
    packed = archive(build_spec(launch_mode=LaunchMode.SSH, onstart="echo a\r\necho b"), 51)

    assert packed is not None
    with tarfile.open(fileobj=io.BytesIO(packed)) as tar:
        members = {member.name: member for member in tar.getmembers()}
        onstart = tar.extractfile("root/onstart.sh")
        label = tar.extractfile("root/.vast_containerlabel")
        assert onstart is not None
        assert label is not None
        assert onstart.read() == b"echo a\necho b\n"
        assert label.read() == b"C.51\n"
    assert members[".launch"].mode == members["root/onstart.sh"].mode == 0o755
    assert members["root"].mode == 0o700


@pytest.mark.parametrize("shell", SHELLS, ids=lambda shell: Path(shell[0]).name)
def test_launch_script_runs_onstart_and_ends_promptly_when_told(shell: list[str], tmp_path: Path) -> None:
    """As process 1 of a namespace of its own, the way a container runs it."""
    (tmp_path / "onstart.sh").write_text("trap 'echo tidied; exit' TERM\necho started\nsleep 100 &\nwait\n")
    (tmp_path / "launch").write_text(LAUNCH.replace("/root/", f"{tmp_path}/"))
    log = tmp_path / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", *shell, str(tmp_path / "launch")],
            stdout=output,
        )
    wait_until("onstart to run", lambda: "started" in log.read_text(), 5)

    began = time.monotonic()
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(children[0]), signal.SIGTERM)

    assert process.wait(5) == 0
    assert time.monotonic() - began < 1
    assert log.read_text() == "started\ntidied\n"


@pytest.mark.parametrize("shell", SHELLS, ids=lambda shell: Path(shell[0]).name)
def test_launch_script_reaps_orphans(shell: list[str], tmp_path: Path) -> None:
    (tmp_path / "onstart.sh").write_text(
        "for i in 1 2 3 4 5; do (sleep 0.1 &) ; done\nsleep 0.5\nps ax -o stat,comm\necho end\n"
    )
    (tmp_path / "launch").write_text(LAUNCH.replace("/root/", f"{tmp_path}/"))
    log = tmp_path / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", *shell, str(tmp_path / "launch")],
            stdout=output,
        )

    wait_until("onstart to end", lambda: "end" in log.read_text(), 5)
    process.kill()
    process.wait()

    assert "Z" not in {line.split()[0][0] for line in log.read_text().splitlines()[:-1]}
