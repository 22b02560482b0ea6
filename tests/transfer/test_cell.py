"""Cells as programs: what one may take of the machine, and when it ends."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from kaalia.transfer import cell, plan, sshd
from kaalia.transfer.plan import Bind, Cell
from tests.support import own_network
from tests.support.kits import KITS

pytestmark = [
    pytest.mark.skipif(not own_network.is_possible(), reason="needs scripts/sandbox: namespaces and ports of its own"),
    pytest.mark.timeout(60),
]


def started(folder: Path, command: str) -> subprocess.Popen[str]:
    """A cell with the kit's shell in it."""
    kit = Bind(str((KITS / "current").resolve()), sshd.KIT, runs_programs=True)
    proc = Bind("/proc", "/proc")
    argv = (f"{sshd.KIT}/sbin/busybox", "sh", "-c", command)
    spec = folder / "cell.json"
    spec.write_text(plan.encode(Cell((kit, proc), {}, (), argv, {}, watched=(os.getpid(),))))
    words = [sys.executable, "-P", "-m", plan.PROGRAM, str(spec)]
    return subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def said(folder: Path, command: str) -> tuple[str, str]:
    with started(folder, command) as running:
        return running.communicate(timeout=20)


def test_no_process_of_a_cell_takes_all_memory(tmp_path: Path) -> None:
    busybox = f"{sshd.KIT}/sbin/busybox"
    takes = f"{busybox} dd if=/dev/zero of=/dev/null count=0 bs="
    assert said(tmp_path, f"{takes}{cell.MEMORY_BYTES // 2} && echo taken")[0] == "taken\n"
    out, err = said(tmp_path, f"{takes}{cell.MEMORY_BYTES} && echo taken")
    assert (out, "out of memory" in err) == ("", True)


def test_a_cell_stands_behind_all_tenants(tmp_path: Path) -> None:
    script = "read score < /proc/self/oom_score_adj; read line < /proc/self/stat; set -- $line; echo $score ${19}"
    assert said(tmp_path, script) == ("1000 10\n", "")


def test_a_cell_ends_with_who_reads_its_words(tmp_path: Path) -> None:
    """Where systemd runs it that is all it shares with its client, whose end is else not noticed."""
    with started(tmp_path, f"echo ready; {sshd.KIT}/sbin/busybox sleep 60") as running:
        assert running.stdout is not None
        assert running.stderr is not None
        try:
            assert running.stdout.readline() == "ready\n"
            running.stderr.close()
            assert running.wait(15) == 256 - signal.SIGKILL
        finally:
            running.kill()
