"""The kernel's log is read record by record; what is torn, hostile or of a program is no record."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kaalia.errors import HostError
from kaalia.host.kmsg import BATCH_RECORDS, KernelLog, KernelRecord, parse
from tests.support.kmsg import FALLEN, FakeKernelLog


@pytest.fixture
def kernel(tmp_path: Path) -> Iterator[FakeKernelLog]:
    made = FakeKernelLog(tmp_path)
    yield made
    made.close()


@pytest.fixture
async def opened(kernel: FakeKernelLog) -> KernelLog:
    return KernelLog(kernel.root)


def test_a_record_is_read_as_the_kernel_prints_it() -> None:
    assert parse(b"6,339,5140900,-;NVRM: loading") == KernelRecord(339, 5.1409, "NVRM: loading")
    assert parse(b"3,4000000000,5140900,c,caller=T123;x;y") == KernelRecord(4_000_000_000, 5.1409, "x;y")


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b" SUBSYSTEM=pci",
        b"6,339,5140900,-",
        b"6,339;text",
        b"six,339,5140900,-;text",
        b"6,,5140900,-;text",
        b"6,-1,5140900,-;text",
        b"6," + b"9" * 30 + b",5140900,-;text",
    ],
)
def test_what_is_no_record_is_left_out(line: bytes) -> None:
    assert parse(line) is None


@pytest.mark.parametrize("priority", [8, 14, 30, 191])
def test_what_programs_write_there_is_left_out(priority: int) -> None:
    assert parse(f"{priority},339,5140900,-;{FALLEN}".encode()) is None


@given(st.binary(max_size=300))
def test_no_line_is_too_hostile(line: bytes) -> None:
    found = parse(line)

    assert found is None or (len(found.text) <= 4000 and found.text.isascii())


async def test_records_come_once_and_in_order(kernel: FakeKernelLog, opened: KernelLog) -> None:
    kernel.say("one")
    kernel.raw(b" SUBSYSTEM=pci\n DEVICE=+pci:0000:65:00.0\n")
    kernel.say("two")

    batch = opened.read()

    assert [(one.number, one.text) for one in batch.records] == [(1, "one"), (2, "two")]
    assert batch.is_last
    assert opened.read().records == ()
    opened.close()


async def test_a_torn_record_is_read_when_the_rest_has_come(kernel: FakeKernelLog, opened: KernelLog) -> None:
    kernel.raw(b"3,1,100,-;NVRM: half")
    assert opened.read().records == ()

    kernel.raw(b" and half\n")

    assert [one.text for one in opened.read().records] == ["NVRM: half and half"]
    opened.close()


async def test_a_line_without_end_takes_no_memory(kernel: FakeKernelLog, opened: KernelLog) -> None:
    for _ in range(20):
        kernel.raw(b"x" * 16_000)
        assert opened.read().records == ()
    kernel.raw(b"\n")
    kernel.say("well again")

    assert [one.text for one in opened.read().records] == ["well again"]
    opened.close()


async def test_it_wakes_whoever_waits_once(kernel: FakeKernelLog, opened: KernelLog) -> None:
    bell = asyncio.Event()
    opened.wake(bell)
    await asyncio.sleep(0)
    assert not bell.is_set()

    kernel.say("one")
    await asyncio.wait_for(bell.wait(), 30)
    bell.clear()
    await asyncio.sleep(0.02)

    assert not bell.is_set(), "it must be asked again"
    assert len(opened.read().records) == 1
    opened.close()


async def test_a_flood_comes_in_portions(kernel: FakeKernelLog, opened: KernelLog) -> None:
    for number in range(800):
        kernel.say(f"line {number}")

    batch = opened.read()

    assert len(batch.records) == 800 or not batch.is_last
    assert BATCH_RECORDS < 1000
    opened.close()


async def test_a_log_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="dev/kmsg") as caught:
        KernelLog(tmp_path)

    assert caught.value.code == "unreadable"
