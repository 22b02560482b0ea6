"""Every core computes, and one that does it wrongly, dies, or slows down is told by its number."""

import math
import os
import struct
from fractions import Fraction
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from kaalia.model.selftest import Outcome
from kaalia.selftest.work import cpu
from kaalia.selftest.work.host import settings
from tests.selftest.work.programs import Said, run
from tests.support.fake_cpu import environment
from tests.support.sysfs import write_files

SECONDS = 0.5
CORE = min(os.sched_getaffinity(0))
LENIENT: dict[str, Any] = {"seconds": SECONDS, "rounds_min": 1, "held_share_min": 0.0, "steps_aside": False}
"""Others work on the test's machine, and caches are shared: how a core's pace changes is not the test's."""


@pytest.fixture(scope="module")
def bad_core(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("cpu")
    return environment(folder, folder / "control")


def strike(bad_core: dict[str, str], how: str, **arguments: object) -> Said:
    Path(bad_core["KAALIA_FAKE_CPU"]).write_text(how)
    return run("cpu", os.environ | bad_core, **{**LENIENT, **arguments})


def cpu_files(root: Path, **files: object) -> Path:
    """Of each core that there is, as the kernel writes them; `_` stands for the folder's end."""
    for number in os.sched_getaffinity(0):
        folder = f"sys/devices/system/cpu/cpu{number}"
        write_files(root, {f"{folder}/{name.replace('__', '/')}": str(value) for name, value in files.items()})
    return root


def test_every_core_computes_rightly_and_its_pace_is_told() -> None:
    said = run("cpu", **LENIENT)

    assert said.end.outcome is Outcome.PASSED
    assert "every answer right" in said.end.words
    assert said.figures["cpu_cores_tested"].value == len(os.sched_getaffinity(0))
    assert said.figures["cpu_pace"].value > 1
    assert said.progress


def test_a_core_that_computes_wrongly_is_told_by_its_number(bad_core: dict[str, str]) -> None:
    said = strike(bad_core, f"wrong {CORE}")

    assert (said.end.outcome, said.end.code) == (Outcome.FAILED, "cpu_computes_wrong")
    assert f"core {CORE} computed wrongly: hash" in said.end.words
    assert "memtest86+" in said.end.remedy


def test_a_core_whose_process_dies_is_told(bad_core: dict[str, str]) -> None:
    said = strike(bad_core, f"die {CORE}")

    assert (said.end.outcome, said.end.code) == (Outcome.FAILED, "cpu_core_died")
    assert f"core {CORE} died: SIGSEGV" in said.end.words


def test_a_core_that_loses_its_pace_is_told(bad_core: dict[str, str]) -> None:
    said = strike(bad_core, f"slow {CORE} {9 * 32}", rounds_min=18, held_share_min=0.5)

    assert (said.end.outcome, said.end.code) == (Outcome.FAILED, "cpu_throttled")
    assert f"core {CORE} holds" in said.end.words
    assert said.figures["cpu_held_share"].value < 0.5


def test_a_processor_that_is_well_stays_so_with_the_fake_in_place(bad_core: dict[str, str]) -> None:
    assert strike(bad_core, "").end.outcome is Outcome.PASSED


def test_a_low_clock_under_load_is_told(tmp_path: Path) -> None:
    root = cpu_files(tmp_path, cpufreq__scaling_cur_freq=800000, cpufreq__cpuinfo_max_freq=4000000)
    said = run("cpu", root=str(root), **LENIENT)

    assert (said.end.outcome, said.end.code) == (Outcome.FAILED, "cpu_throttled")
    assert "holds 0.80 GHz of 4.00 under load" in said.end.words
    assert said.figures["cpu_clock_share"].value == pytest.approx(0.2)


def test_the_base_clock_counts_where_the_kernel_tells_it(tmp_path: Path) -> None:
    files = {"cpufreq__scaling_cur_freq": 2000000, "cpufreq__cpuinfo_max_freq": 6000000}
    root = cpu_files(tmp_path, cpufreq__base_frequency=2100000, **files)

    assert run("cpu", root=str(root), **LENIENT).end.outcome is Outcome.PASSED


def test_the_time_that_heat_took_is_read_of_core_and_package(tmp_path: Path) -> None:
    root = cpu_files(
        tmp_path,
        thermal_throttle__core_throttle_total_time_ms=1500,
        thermal_throttle__package_throttle_total_time_ms=4000,
    )

    assert cpu.throttled_s(str(root), CORE) == 4.0
    assert cpu.throttled_s(str(tmp_path / "nowhere"), CORE) is None
    assert run("cpu", root=str(root), **LENIENT).figures["cpu_throttled_share"].value == 0


def test_it_takes_long_where_heat_would_show(tmp_path: Path) -> None:
    blind, tells = tmp_path / "blind", tmp_path / "tells"
    write_files(tells, {"sys/devices/system/cpu/cpu1/cpufreq/cpuinfo_max_freq": "3000000"})
    wanted = settings("cpu", {})

    assert cpu.enough_s(wanted, str(tells), [0, 1]) == wanted["seconds"] == 20
    assert cpu.enough_s(wanted, str(blind), [0, 1]) == wanted["blind_seconds"]
    assert cpu.enough_s(wanted | {"seconds": 4.0}, str(blind), [0, 1]) == 4


def test_a_clock_is_read_of_cpuinfo_where_there_is_no_cpufreq(tmp_path: Path) -> None:
    write_files(tmp_path, {"proc/cpuinfo": "processor\t: 0\ncpu MHz\t\t: 2500.0\nprocessor\t: 1\ncpu MHz\t\t: 1200.5"})

    assert cpu.clocks_ghz(str(tmp_path), [0, 1, 5]) == [2.5, 1.2005, None]


def test_the_known_answers_are_right_by_arithmetic_without_the_processors_own_fractions() -> None:
    x, total = Fraction(0.7), Fraction(0.0)
    values = []
    for step in range(1, 20000):
        x = _rounded(_rounded(Fraction(3.9) * x) * _rounded(1 - x))
        total = _rounded(total + _rounded(_root(x) / step))
        values.append(float(total))
    _, known = cpu.KNOWN["fractions"]

    assert sha256(struct.pack(f"<{len(values)}d", *values)).hexdigest() == known


def test_the_known_power_is_right_by_multiplying_step_by_step() -> None:
    exponent, power, square = cpu.PRIME >> 1000, 1, 3
    while exponent:
        if exponent & 1:
            power = power * square % cpu.PRIME
        square, exponent = square * square % cpu.PRIME, exponent >> 1
    _, known = cpu.KNOWN["integers"]

    assert sha256(str(power).encode()).hexdigest() == known


def _rounded(value: Fraction) -> Fraction:
    """To the nearest double, by integers alone."""
    return Fraction(value.numerator / value.denominator)


def _root(value: Fraction) -> Fraction:
    """The nearest double: the whole root of the number times 2 to the power of 240, which is more than enough bits."""
    return _rounded(Fraction(math.isqrt((value.numerator << 240) // value.denominator), 1 << 120))
