"""Measurements on order: real children, real copies; what cannot be measured has its reason."""

import asyncio
import json
import shutil
import signal
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kaalia.capability import fio, links
from kaalia.capability.benches import BenchService, cpu
from kaalia.host import outside
from kaalia.host.nvml import NvmlProbe
from kaalia.model.machine import Disk
from kaalia.model.measurement import Bench, Measurement
from kaalia.store import claims, machine, measurements
from kaalia.store.changes import Changes, Topic
from kaalia.store.claims import Claim, ClaimKind
from kaalia.store.database import Database
from kaalia.store.measurements import Order
from kaalia.units import GIB
from tests.capability.conftest import MakeProbe
from tests.support.builders import build_report
from tests.support.clock import START, FakeClock
from tests.support.fake_nvidia.build import build, build_cuda, environment
from tests.support.fake_nvidia.profiles import fault, setting
from tests.support.fake_nvidia.profiles import machine as machine_text
from tests.support.serving import running

NO_DRIVER = NvmlProbe(env={})


def by_name(found: tuple[Measurement, ...]) -> dict[str, Measurement]:
    return {one.name: one for one in found}


@pytest.fixture(scope="session")
def cuda(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a library that copies as CUDA would."""
    return build_cuda(build(tmp_path_factory.mktemp("cuda")))


async def test_the_cpu_has_a_score_of_one_core_and_of_all() -> None:
    found = by_name(await cpu(START, gentle=True))

    one, every = found["cpu_single_points"], found["cpu_points"]
    assert one.value is not None
    assert every.value is not None
    assert (one.unit, one.measured_at, one.gentle) == ("points", START, True)
    assert one.value > 1
    assert every.spread is not None
    assert every.duration_s > 0
    assert found["cpu_sustained_ghz"].value or found["cpu_sustained_ghz"].reason


async def test_links_are_measured_and_read_while_they_are_busy(simulated: MakeProbe, profile: Path, cuda: Path) -> None:
    probe = simulated(setting(0, "cuda_mb", 192) + setting(0, "pci_gen", 4) + machine_text("1xRTX_4090"))
    (gpu,) = (await probe.read()).gpus

    found = by_name(await links.pcie((gpu,), (), probe, START, environment(cuda, profile)))

    for name in ("pcie_up_gbps", "pcie_down_gbps", "memory_copy_gbps"):
        assert found[name].value, found[name].reason
        assert found[name].spread is not None
        assert found[name].subject == gpu.uuid
    assert (found["pcie_gen_under_load"].value, found["pcie_width_under_load"].value) == (4.0, 16.0)


@pytest.mark.parametrize(
    ("function", "verb", "why"),
    [
        ("cuInit", "error 803", "cuInit failed with CUDA error 803"),
        ("cuMemcpyDtoH_v2", "error 700", "cuMemcpyDtoH_v2 failed"),
    ],
)
async def test_a_link_that_fails_has_its_reason(
    simulated: MakeProbe, profile: Path, cuda: Path, function: str, verb: str, why: str
) -> None:
    probe = simulated(fault(function, verb) + setting(0, "cuda_mb", 192) + machine_text("1xT4"))
    (gpu,) = (await probe.read()).gpus

    found = await links.pcie((gpu,), (), probe, START, environment(cuda, profile))

    assert [one.value for one in found] == [None] * 5
    assert all(why in one.reason for one in found)


async def test_without_cuda_there_is_no_figure(simulated: MakeProbe) -> None:
    probe = simulated(machine_text("1xT4"))
    (gpu,) = (await probe.read()).gpus

    found = await links.pcie((gpu,), (), probe, START, {})

    assert all(one.value is None and "libcuda.so.1" in one.reason for one in found)


async def test_a_gpu_in_use_is_left_alone(store: Database, clock: FakeClock) -> None:
    report = build_report(gpus=1)
    await store.transaction(lambda tx: machine.put_report(tx, report))
    await store.transaction(
        lambda tx: claims.claim(tx, [Claim(ClaimKind.GPU, report.gpus[0].uuid, 51, 1)], clock.now())
    )

    order = Order(Bench.PCIE, clock.now())
    await store.transaction(lambda tx: measurements.order(tx, order))

    found = await BenchService(store, Changes(), clock, NO_DRIVER).measure(order)

    assert all("in use" in one.reason for one in found)


async def test_an_order_is_done_with_and_its_result_kept(store: Database, clock: FakeClock) -> None:
    service = BenchService(store, Changes(), clock, NO_DRIVER)
    await store.transaction(lambda tx: measurements.order(tx, Order(Bench.DISK, clock.now())))
    order = await store.read(measurements.next_order)
    assert order == Order(Bench.DISK, clock.now())

    found = await service.measure(order)

    assert await store.read(measurements.next_order) is None
    assert sorted(found, key=lambda one: one.name) == list(await store.read(measurements.every))
    assert {one.reason for one in found} == {"Docker's data root is not known"}
    assert await store.read(lambda tx: measurements.benchmarks(tx, ())) is None


async def test_offers_get_the_slowest_link_and_none_when_one_is_unknown(store: Database) -> None:
    def one(name: str, uuid: str, value: float) -> Measurement:
        return Measurement(name, uuid, value, "GB/s", "", START, 1.0)

    rates = [("a", 25.0, 26.0), ("b", 12.5, 13.0)]
    found = [
        one(name, uuid, v) for uuid, up, down in rates for name, v in (("pcie_up_gbps", up), ("pcie_down_gbps", down))
    ]
    await store.transaction(lambda tx: measurements.put(tx, found))

    both = await store.read(lambda tx: measurements.benchmarks(tx, ("a", "b")))
    new = await store.read(lambda tx: measurements.benchmarks(tx, ("a", "b", "c")))
    assert both is not None
    assert both.pcie_gbps == 12.5
    assert new is None


def job(name: str, kind: str, **changes: Any) -> dict[str, Any]:
    part = {
        "runtime": 2000,
        "bw_bytes": 3_100_500_000,
        "bw_mean": 3000.0,
        "bw_dev": 60.0,
        "bw_samples": 19,
        "iops": 75000.4,
        "iops_mean": 75000.0,
        "iops_stddev": 750.0,
        "iops_samples": 1,
        "clat_ns": {"N": 9000, "mean": 81_234.0, "stddev": 8123.4, "percentile": {"99.000000": 152_000}},
    }
    return {"jobname": name, kind: part | changes}


def test_what_fio_says_is_understood() -> None:
    jobs = [job("write", "write"), job("read", "read"), job("random_read", "read"), job("random_write", "write")]
    answer = "note: a warning\n" + json.dumps({"jobs": [*jobs, job("latency", "read")]})

    found = by_name(fio.understood(answer, START, gentle=False))

    assert {name: one.value for name, one in found.items()} == {
        "disk_read_mbps": 3100.5,
        "disk_write_mbps": 3100.5,
        "disk_random_read_iops": 75000.4,
        "disk_random_write_iops": 75000.4,
        "disk_read_latency_us": 81.2,
        "disk_read_latency_p99_us": 152.0,
    }
    assert (found["disk_read_mbps"].spread, found["disk_read_mbps"].duration_s) == (0.02, 2.0)
    assert found["disk_random_read_iops"].spread is None, "one sample"


async def test_a_full_disk_and_a_lack_of_fio_are_reasons(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Disk(path=str(tmp_path), total_bytes=100 * GIB, free_bytes=50 * GIB)
    monkeypatch.setitem(outside.ENVIRONMENT, "PATH", str(tmp_path))

    full = await fio.disk(replace(disk, free_bytes=GIB), START, gentle=False)
    without = await fio.disk(disk, START, gentle=False)

    assert "GiB are free" in full[0].reason
    assert all("apt install fio" in one.reason for one in without)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(shutil.which("fio") is None, reason="fio is not installed")
async def test_fio_measures_and_leaves_nothing(tmp_path: Path) -> None:
    disk = Disk(path=str(tmp_path), total_bytes=100 * GIB, free_bytes=50 * GIB)

    found = await fio.disk(disk, START, gentle=True)

    assert all(one.value or one.reason for one in found)
    assert list(tmp_path.iterdir()) == []


def bench_files(folder: Path) -> list[Path]:
    return list(folder.glob(".kaalia*"))


async def seen(what: Callable[[], object]) -> None:
    for _ in range(6000):
        if await asyncio.to_thread(what):
            return
        await asyncio.sleep(0.005)
    raise AssertionError("it did not come true")


@pytest.mark.skipif(shutil.which("fio") is None, reason="fio is not installed")
async def test_what_a_test_wanted_is_broken_off_with_it(
    store: Database, changes: Changes, clock: FakeClock, tmp_path: Path
) -> None:
    report = replace(build_report(clock.now()), disk=Disk(str(tmp_path), 1 << 40, 1 << 39))
    await store.transaction(lambda tx: machine.put_report(tx, report))
    async with running(BenchService(store, changes, clock, NO_DRIVER)):
        wanted = Order(Bench.DISK, clock.now(), purpose="selftest")
        await store.transaction(lambda tx: measurements.order(tx, wanted), Topic.MEASUREMENTS)
        await seen(lambda: bench_files(tmp_path))

        await store.transaction(measurements.withdraw, Topic.MEASUREMENTS)

        await seen(lambda: not bench_files(tmp_path))
        await seen(lambda: not fio.writers(tmp_path))
        assert await store.read(measurements.every) == ()


@pytest.mark.skipif(shutil.which("fio") is None, reason="fio is not installed")
async def test_what_a_daemon_that_was_killed_left_goes_at_once(
    store: Database, changes: Changes, clock: FakeClock, tmp_path: Path
) -> None:
    """fio goes on without it, and would make its file anew with each of its jobs."""
    disk = Disk(str(tmp_path), 1 << 40, 1 << 39)
    await store.transaction(lambda tx: machine.put_report(tx, replace(build_report(clock.now()), disk=disk)))
    orders = (Order(Bench.DISK, clock.now(), purpose="selftest"), Order(Bench.PCIE, clock.now()))
    for one in orders:
        await store.transaction(lambda tx, one=one: measurements.order(tx, one))  # type: ignore[misc]
    left = subprocess.Popen(fio.argv(tmp_path / fio.FILE, GIB, gentle=False), stdout=subprocess.DEVNULL)
    await seen(lambda: bench_files(tmp_path))

    async with running(BenchService(store, changes, clock, NO_DRIVER)):
        await seen(lambda: left.poll() is not None)
        await seen(lambda: not bench_files(tmp_path))
        await seen(lambda: not fio.writers(tmp_path))
        while await store.read(measurements.next_order) is not None:
            await asyncio.sleep(0.005)

    assert left.returncode == -signal.SIGKILL
    names = {one.name.partition("_")[0] for one in await store.read(measurements.every)}
    assert names == {"pcie", "memory"}, "the owner waits on, the test ended with its daemon"
