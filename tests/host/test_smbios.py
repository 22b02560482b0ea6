"""The firmware's table of memory modules, made by hand as DSP0134 describes it; and torn ones."""

import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kaalia.errors import HostError
from kaalia.host import smbios
from kaalia.model.inventory import MemoryModule
from tests.support.sysfs import write_files


def structure(kind: int, body: bytes, *texts: str) -> bytes:
    """`body`: what follows the four bytes of the head."""
    strings = b"\0".join(text.encode() for text in texts) + b"\0\0" if texts else b"\0\0"
    return bytes([kind, len(body) + 4, 0, 0]) + body + strings


def module(size: int, kind: int = 34, speed: int = 4800, extended: int = 0) -> bytes:
    body = bytearray(0x5C - 4)

    def put(at: int, value: int, length: int) -> None:
        body[at - 4 : at - 4 + length] = value.to_bytes(length, "little")

    for at, value, length in ((0x0C, size, 2), (0x10, 1, 1), (0x12, kind, 1), (0x15, 5600, 2), (0x17, 2, 1)):
        put(at, value, length)
    put(0x1C, extended, 4)
    put(0x20, speed, 2)
    return structure(17, bytes(body), "DIMM_A1", "Samsung")


ARRAY = structure(16, bytes([3, 3, 6]) + bytes(6) + (8).to_bytes(2, "little"))
"""System memory, on the board, multi-bit ECC, eight slots."""


def firmware(root: Path, *structures: bytes) -> Path:
    path = root / smbios.TABLE
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(structures) + structure(127, b""))
    return root


def test_modules_and_slots_are_read(tmp_path: Path) -> None:
    large = module(0x7FFF, extended=64 * 1024)
    found = smbios.memory(firmware(tmp_path, ARRAY, module(16384), large, module(0)))

    assert (found.slots, found.error_correction, found.kind, found.speed_mts) == (8, "multi-bit", "DDR5", 4800)
    assert found.modules == (
        MemoryModule("DIMM_A1", 16 << 30, "DDR5", 4800, "Samsung"),
        MemoryModule("DIMM_A1", 64 << 30, "DDR5", 4800, "Samsung"),
    )


def test_a_module_that_does_not_run_yet_tells_its_own_speed(tmp_path: Path) -> None:
    assert smbios.memory(firmware(tmp_path, module(8192, speed=0))).speed_mts == 5600


def test_no_table_is_a_reason(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="the firmware shows no table"):
        smbios.memory(tmp_path)
    with pytest.raises(HostError, match="lists none"):
        smbios.memory(firmware(tmp_path, ARRAY))


@given(table=st.binary(max_size=300), cut=st.integers(min_value=0, max_value=200))
def test_a_torn_or_hostile_table_ends_the_reading(
    table: bytes, cut: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = tmp_path_factory.mktemp("dmi")
    for text in (table, (ARRAY + module(16384) + module(16384))[:cut], module(16384)[:cut] + table):
        firmware(root, text)
        with contextlib.suppress(HostError):
            assert all(one.total_bytes > 0 for one in smbios.memory(root).modules)


def test_swap_is_of_all_areas(tmp_path: Path) -> None:
    write_files(tmp_path, {"proc/meminfo": "MemTotal:  10 kB\nSwapTotal:  8388604 kB"})

    assert smbios.swap_bytes(tmp_path) == 8388604 * 1024
