"""What was written comes back, or it is told; nothing of the file stays."""

import signal
import subprocess
from pathlib import Path
from typing import Any

from kaalia.model.selftest import Outcome
from tests.selftest.work.programs import argv, run, understood
from tests.support.struck import open_file, spoil_file, striking
from tests.support.waiting import wait_until

MIB = 1 << 20
SMALL: dict[str, Any] = {"bytes": 32 * MIB, "seconds": 0.5}


def test_what_was_written_comes_back_and_nothing_stays(tmp_path: Path) -> None:
    said = run("disk", folder=str(tmp_path), **SMALL)

    assert said.end.outcome is Outcome.PASSED
    assert f"on {tmp_path} came back as they were written" in said.end.words
    assert said.figures["disk_verified_mb"].value >= 1
    assert not list(tmp_path.iterdir())


def test_its_speed_is_measured_on_demand(tmp_path: Path) -> None:
    said = run("disk", folder=str(tmp_path), rates=True, **SMALL)

    assert said.end.outcome is Outcome.PASSED
    if "no way past the page cache" in said.end.words:
        return
    names = {"disk_write_mbps", "disk_read_mbps", "disk_random_read_iops", "disk_read_latency_us"}
    assert all(said.figures[name].value > 0 for name in names)
    assert said.figures["disk_read_latency_p99_us"].value >= said.figures["disk_read_latency_us"].value / 100


def test_a_byte_that_changes_on_the_disk_is_found(tmp_path: Path) -> None:
    """Somebody else writes into the file, from when it is made until the program ends."""
    arguments = {**SMALL, "folder": str(tmp_path), "bytes": 256 * MIB, "seconds": 60.0}
    with (
        subprocess.Popen(argv("disk", arguments), stdout=subprocess.PIPE, text=True) as program,
        striking(spoil_file(tmp_path), lambda: program.pid),
    ):
        text, _ = program.communicate(timeout=100)
    end = understood(text).end

    assert (end.outcome, end.code) == (Outcome.FAILED, "disk_wrong_data")
    assert f"MiB 5 of 256 on {tmp_path} is not what was written" in end.words


def test_a_full_disk_is_told_and_not_filled() -> None:
    end = run("disk", folder="/proc", **SMALL).end

    assert (end.outcome, end.code) == (Outcome.FAILED, "disk_full")
    assert end.words == "cannot test /proc: 0 MiB are free, and it needs 160"


def test_a_disk_that_fails_is_told(tmp_path: Path) -> None:
    """A write past the limit of this process is refused in the middle."""
    command = ["prlimit", f"--fsize={8 * MIB}", *argv("disk", {**SMALL, "seconds": 60.0, "folder": str(tmp_path)})]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=True)
    end = understood(done.stdout).end

    assert (end.outcome, end.code) == (Outcome.FAILED, "disk_io_error")
    assert "File too large" in end.words
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    end = run("disk", folder=str(tmp_path / "nowhere"), **SMALL).end

    assert (end.outcome, end.code) == (Outcome.FAILED, "disk_io_error")


def test_nothing_stays_of_one_that_is_killed(tmp_path: Path) -> None:
    arguments = {**SMALL, "folder": str(tmp_path), "bytes": 256 * MIB, "seconds": 60.0}
    with subprocess.Popen(argv("disk", arguments), stdout=subprocess.PIPE, text=True) as program:
        wait_until("its file", lambda: open_file(program.pid, tmp_path), 30, 0.001)
        program.send_signal(signal.SIGKILL)
        program.wait(30)

    assert not list(tmp_path.iterdir())
