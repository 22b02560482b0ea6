"""The kernel's log is followed over restarts and reboots: each fault is told once, and cleared by what is seen."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest

from kaalia.health.kernel_log import KernelLogService
from kaalia.host.kmsg import KernelLog
from kaalia.model.health import OpenCondition
from kaalia.store import conditions, kernel_log
from kaalia.store.changes import Changes
from kaalia.store.database import Database
from tests.support.clock import FakeClock
from tests.support.kmsg import FALLEN, FakeKernelLog
from tests.support.serving import running


@pytest.fixture
def kernel(tmp_path: Path) -> Iterator[FakeKernelLog]:
    made = FakeKernelLog(tmp_path)
    yield made
    made.close()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@asynccontextmanager
async def followed(store: Database, clock: FakeClock, root: Path) -> AsyncIterator[None]:
    service = KernelLogService(store, Changes(), clock, partial(KernelLog, root), settle_s=0.01)
    async with running(service):
        yield


async def open_now(store: Database) -> dict[str, OpenCondition]:
    return {one.condition.problem.code: one for one in await store.read(conditions.all_open)}


async def until_open(store: Database, *codes: str) -> dict[str, OpenCondition]:
    async with asyncio.timeout(30):
        while set(found := await open_now(store)) != set(codes):
            await asyncio.sleep(0.01)
    return found


async def test_what_the_kernel_said_before_and_says_now_is_told(
    store: Database, clock: FakeClock, kernel: FakeKernelLog
) -> None:
    kernel.say("EDAC MC0: 1 UE memory read error", at_s=990.0)
    async with followed(store, clock, kernel.root):
        await until_open(store, "memory_uncorrected")
        kernel.say(FALLEN, at_s=1000.0)
        found = await until_open(store, "memory_uncorrected", "gpu_xid_79")

    assert found["gpu_xid_79"].source == "kernel"
    (first, second) = await store.read(partial(kernel_log.faults, boot_id=clock.boot_id()))
    assert (clock.now() - first.first_at).total_seconds() == pytest.approx(10)
    assert second.first_at == clock.now()


async def test_a_restart_counts_nothing_twice_and_misses_nothing(
    store: Database, clock: FakeClock, kernel: FakeKernelLog
) -> None:
    for _ in range(3):
        kernel.say(FALLEN)
    async with followed(store, clock, kernel.root):
        await until_open(store, "gpu_xid_79")
    position = await store.read(kernel_log.position)
    assert position is not None

    # The kernel shows its whole log again to whoever opens it anew.
    kernel.number = 0
    for _ in range(4):
        kernel.say(FALLEN)
    async with followed(store, clock, kernel.root), asyncio.timeout(30):
        while (await store.read(kernel_log.position)) == position:
            await asyncio.sleep(0.01)

    (fault,) = await store.read(partial(kernel_log.faults, boot_id=clock.boot_id()))
    assert (fault.count, fault.last_number) == (4, 4)


async def test_a_reboot_ends_it_and_numbers_begin_anew(
    store: Database, clock: FakeClock, kernel: FakeKernelLog
) -> None:
    before = clock.boot_id()
    for _ in range(5):
        kernel.say(FALLEN)
    async with followed(store, clock, kernel.root):
        await until_open(store, "gpu_xid_79")

    clock.reboot(off_s=60)
    kernel.number = 0
    kernel.say("Linux version 6.1.0")
    kernel.say("EDAC MC1: 1 UE memory read error")
    async with followed(store, clock, kernel.root):
        await until_open(store, "memory_uncorrected")

    assert len(await store.read(partial(kernel_log.faults, boot_id=before))) == 1, "kept as history"


async def test_the_drivers_word_clears_it(store: Database, clock: FakeClock, kernel: FakeKernelLog) -> None:
    step = "NVRM: Xid (PCI:0000:65:00): 154, GPU recovery action changed from {} to {}"
    kernel.say("NVRM: Xid (PCI:0000:65:00): 119, pid=1, Timeout after 6s of waiting for RPC response")
    kernel.say(step.format("0x0 (None)", "0x1 (GPU Reset Required)"))
    async with followed(store, clock, kernel.root):
        await until_open(store, "gpu_xid_119", "gpu_recovery_reset")
        kernel.say(step.format("0x1 (GPU Reset Required)", "0x0 (None)"))
        await until_open(store)


async def test_in_a_flood_of_lines_the_fault_is_seen(store: Database, clock: FakeClock, kernel: FakeKernelLog) -> None:
    async with followed(store, clock, kernel.root):
        for number in range(10_000):
            text = FALLEN if number == 5_000 else f"usb 1-1: reset high-speed USB device number {number}"
            while not said(kernel, text):
                await asyncio.sleep(0.001)
        await until_open(store, "gpu_xid_79")

    (fault,) = await store.read(partial(kernel_log.faults, boot_id=clock.boot_id()))
    assert (fault.count, fault.last_number) == (1, 5_001)


async def test_a_flood_that_does_not_end_hides_nothing(
    store: Database, clock: FakeClock, kernel: FakeKernelLog
) -> None:
    async def pour() -> None:
        while True:
            for _ in range(100):
                said(kernel, "usb 1-1: reset high-speed USB device")
            await asyncio.sleep(0)

    async with followed(store, clock, kernel.root):
        flood = asyncio.create_task(pour())
        await asyncio.sleep(0.1)
        while not said(kernel, FALLEN):
            await asyncio.sleep(0)
        await until_open(store, "gpu_xid_79")
        flood.cancel()


def said(kernel: FakeKernelLog, text: str) -> bool:
    """False: the pipe is full, as the kernel's buffer would be."""
    try:
        kernel.say(text)
    except BlockingIOError:
        kernel.number -= 1
        return False
    return True


async def test_a_log_that_cannot_be_read_is_unknown_not_well(store: Database, clock: FakeClock, tmp_path: Path) -> None:
    async with followed(store, clock, tmp_path / "elsewhere"):
        found = await until_open(store, "kernel_log_unreadable")

    one = found["kernel_log_unreadable"].condition
    assert one.severity == "unknown"
    assert "dev/kmsg" in one.problem.message


async def test_what_is_known_stays_known_when_the_log_cannot_be_read_any_more(
    store: Database, clock: FakeClock, kernel: FakeKernelLog, tmp_path: Path
) -> None:
    kernel.say(FALLEN)
    async with followed(store, clock, kernel.root):
        await until_open(store, "gpu_xid_79")

    async with followed(store, clock, tmp_path / "elsewhere"):
        await until_open(store, "gpu_xid_79", "kernel_log_unreadable")
