"""Memory is filled and read back; a bit that flips is found; others are never left without."""

import re
import subprocess
from pathlib import Path
from typing import Any

from kaalia.model.selftest import Outcome
from kaalia.selftest.work import ram
from kaalia.selftest.work.host import settings
from tests.selftest.work.programs import argv, run, understood
from tests.support.public_client import code_of_progress
from tests.support.struck import flip_bits, own_mib, striking
from tests.support.sysfs import write_files
from tests.support.waiting import wait_until

MIB = 1 << 20
SMALL: dict[str, Any] = {"seconds": 2.0, "bytes_max": 192 * MIB, "threads": 2}
MEMINFO = "MemTotal:       {total} kB\nMemFree:        1 kB\nMemAvailable:   {free} kB"


def meminfo(root: Path, free_mib: int, total_mib: int = 65536) -> Path:
    return write_files(root, {"proc/meminfo": MEMINFO.format(total=total_mib << 10, free=free_mib << 10)})


def test_memory_holds_what_was_written() -> None:
    said = run("ram", **SMALL)

    assert said.end.outcome is Outcome.PASSED
    assert said.end.words.startswith("192 MiB held what was written")
    assert said.figures["ram_tested_mb"].value == 192
    assert said.figures["ram_passes"].value >= 1
    assert said.figures["ram_copy_gbps"].value > 0.1


def test_a_bit_that_flips_is_found() -> None:
    """The memory of the program itself is written to while it is tested: what a bad cell does."""
    arguments = {**SMALL, "seconds": 60.0, "seconds_min": 60.0, "bytes_max": 256 * MIB}
    with (
        subprocess.Popen(argv("ram", arguments), stdout=subprocess.PIPE, text=True) as program,
        striking(flip_bits, lambda: program.pid),
    ):
        text, _ = program.communicate(timeout=100)
    end = understood(text).end

    assert (end.outcome, end.code) == (Outcome.FAILED, "ram_wrong_bits")
    assert re.search(r"0x.. was read where 0x.. was written \(\d+ MiB and \d+ bytes into", end.words) or (
        "rightly at a second look" in end.words
    )
    assert "memtest86+" in end.remedy


def test_so_much_stays_free_for_others(tmp_path: Path) -> None:
    wanted = {"leave_bytes": 1 << 30, "leave_share": 0.05, "share": 0.9, "bytes_max": 0}

    assert ram.Room(meminfo(tmp_path, 40000), wanted).size_mib() == 36000
    assert ram.Room(meminfo(tmp_path, 10000), wanted).size_mib() == 10000 - 65536 * 5 // 100 - 1
    assert ram.Room(meminfo(tmp_path, 2000), wanted).size_mib() == 0
    assert ram.Room(meminfo(tmp_path, 40000), wanted | {"leave_bytes": 30000 * MIB}).size_mib() == 10000
    assert ram.Room(meminfo(tmp_path, 40000), wanted | {"bytes_max": 64 * MIB}).size_mib() == 64


def test_it_takes_as_long_as_there_is_memory() -> None:
    wanted, gib = settings("ram", {}), 1024

    assert ram.enough_s(wanted, 1 * gib) == wanted["seconds_min"] == 5
    assert ram.enough_s(wanted, 40 * gib) == 26
    assert ram.enough_s(wanted, 1024 * gib) == wanted["seconds"] == 60


def test_a_machine_without_room_is_not_filled(tmp_path: Path) -> None:
    end = run("ram", root=str(meminfo(tmp_path, 900)), **SMALL).end

    assert end.outcome is Outcome.SKIPPED
    assert end.words.startswith("900 MiB are free, and 3276 MiB stay so")


def test_the_limit_of_a_cgroup_above_counts(tmp_path: Path) -> None:
    group = "sys/fs/cgroup/system.slice"
    meminfo(tmp_path, 40000)
    write_files(tmp_path, {"proc/self/cgroup": "0::/system.slice/kaalia.service"})
    write_files(tmp_path, {f"{group}/kaalia.service/memory.max": "max", f"{group}/kaalia.service/memory.current": "5"})
    write_files(tmp_path, {f"{group}/memory.max": str(9000 * MIB), f"{group}/memory.current": str(1000 * MIB)})
    wanted = {"leave_bytes": 0, "leave_share": 0.0, "share": 1.0, "bytes_max": 0}

    assert ram.Room(tmp_path, wanted).size_mib() == 8000


def test_what_others_need_meanwhile_is_given_back(tmp_path: Path) -> None:
    """The kernel's word of what is free falls under the half of what was left for others, and comes back."""
    meminfo(tmp_path, 6000)
    arguments = {**SMALL, "root": str(tmp_path), "seconds": 60.0, "seconds_min": 60.0, "bytes_max": 512 * MIB}
    with subprocess.Popen(argv("ram", arguments), stdout=subprocess.PIPE, text=True) as program:
        wait_until("its memory", lambda: own_mib(program.pid) > 300, 60)
        meminfo(tmp_path, 1000)
        wait_until("it to be given back", lambda: program.poll() is not None or own_mib(program.pid) < 250, 60)
        text, _ = program.communicate(timeout=100)
    end = understood(text).end

    assert end.outcome is Outcome.PASSED
    assert "MiB were given back in between" in end.words


def test_errors_of_the_memory_controllers_count(tmp_path: Path) -> None:
    mc = "sys/devices/system/edac/mc"
    write_files(tmp_path, {f"{mc}/mc0/ce_count": "3", f"{mc}/mc0/ue_count": "0"})
    write_files(tmp_path, {f"{mc}/mc1/ce_count": "4", f"{mc}/mc1/ue_count": "2"})

    assert ram.edac(tmp_path) == (7, 2)
    assert ram.edac(tmp_path / "nowhere") == (0, 0)


def test_an_error_that_ecc_could_not_correct_fails(tmp_path: Path) -> None:
    count = "sys/devices/system/edac/mc/mc0/{}_count"
    meminfo(tmp_path, 8000)
    write_files(tmp_path, {count.format("ce"): "0", count.format("ue"): "0"})
    arguments = {**SMALL, "root": str(tmp_path)}
    with subprocess.Popen(argv("ram", arguments), stdout=subprocess.PIPE, text=True) as program:
        wait_until("its memory", lambda: own_mib(program.pid) > 100, 60)
        write_files(tmp_path, {count.format("ce"): "9", count.format("ue"): "1"})
        text, _ = program.communicate(timeout=100)
    said = understood(text)

    assert (said.end.outcome, said.end.code) == (Outcome.FAILED, "ram_ecc_uncorrected")
    told = ["Running stress-ng and gpu-burn...", f"ERROR: stress-ng: ram: {said.end.words}"]
    assert code_of_progress(told) == ["stress_gpu_burn_failed"], "it is no error of a GPU's memory"
    assert said.figures["ram_corrected_errors"].value == 9
