"""The first stage's judgement, and what it reads of the kernel."""

from pathlib import Path

import pytest

from verification import system
from verification.settings import Limits
from verification.system import Gpu

LIMITS = Limits(vram_free_share=0.98, ram_share=0.95, ram_cap_mib=2_000_000, cores_per_gpu=1)
GIB = 1 << 30
GOOD = Gpu("RTX 4090", 24 * GIB, 24 * GIB - 1)


def test_a_machine_at_the_limits_is_good() -> None:
    assert system.judge((GOOD, GOOD), 46_695, 2, LIMITS) == ("", "")


def test_a_very_large_machine_needs_no_more_than_the_cap() -> None:
    large = Gpu("B300", 288 * GIB, 288 * GIB)

    assert system.judge((large,) * 8, 2_000_000, 64, LIMITS) == ("", "")
    assert "required 2000000 MiB" in system.judge((large,) * 8, 1_999_999, 64, LIMITS)[0]


@pytest.mark.parametrize(
    ("gpus", "ram_mib", "cores", "why"),
    [
        ((), 46_695, 2, "NVML: the instance sees no GPU"),
        ((GOOD, Gpu("RTX 4090", 24 * GIB, 23 * GIB)), 46_695, 2, "system: GPU 1 has 95.8% of its memory free"),
        ((GOOD, GOOD), 46_690, 2, "system: the machine has 46690 MiB of memory, required 46694 MiB"),
        ((GOOD, GOOD), 46_695, 1, "system: 1 physical cores, required 2"),
    ],
)
def test_what_is_missing_is_named_with_both_numbers(gpus: tuple[Gpu, ...], ram_mib: int, cores: int, why: str) -> None:
    problem, remedy = system.judge(gpus, ram_mib, cores, LIMITS)

    assert why in problem
    assert remedy


def test_threads_of_a_core_count_once_and_processors_without_cores_each(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    cores = tmp_path / "proc" / "cpuinfo"
    cores.write_text("".join(f"processor\t: {one}\nphysical id\t: 0\ncore id\t\t: {one // 2}\n\n" for one in range(8)))
    assert system.physical_cores(tmp_path) == 4

    cores.write_text("processor\t: 0\nBogoMIPS\t: 50.00\n\nprocessor\t: 1\nBogoMIPS\t: 50.00\n\nHardware\t: board\n")
    assert system.physical_cores(tmp_path) == 2


def test_memory_is_the_machine_s(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc" / "meminfo").write_text("MemTotal:       65536000 kB\nMemFree:        1 kB\n")

    assert system.memory_bytes(tmp_path) == 65_536_000 * 1024
