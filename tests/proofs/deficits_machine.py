"""What a machine must have to be verified, one thing less at a time; and a driver that tells of faults."""

import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from threading import Event, Thread

from kaalia.clock import SystemClock
from kaalia.contracts import reliability
from kaalia.model.machine import MachineReport
from kaalia.model.selftest import StepName as Step
from kaalia.units import GB, GIB
from tests.proofs.deficiency import SEEN_S, Deficiency, Strike, World, at_once, of_gpus, of_step
from tests.proofs.deficits_host import dropped
from tests.support.fake_nvidia.build import unmarked
from tests.support.fake_nvidia.profiles import fault, setting
from tests.support.struck import process_of
from tests.support.waiting import wait_until

TINY, LONG = ("--burn", "0.02"), ("--burn", "0.2")
SMALL_DISK = "200G"
SLOW = "90mbit"
FEW_PORTS = "21003:21099"
LANE_MBPS = 250
LEAST = 0.9
"""Of reliability."""
OF_GPUS = (
    *("memory: ", "compute: ", "matrix: ", "device_bandwidth: ", "host_bandwidth: ", "peer_bandwidth: "),
    *("collective: ", "burn: ", "pcie.bandwidth"),
)


def _both(key: str, value: object) -> str:
    return setting(0, key, value) + setting(1, key, value)


def _host(
    name: str,
    requirement: str,
    change: Callable[[World], None],
    look: Callable[[MachineReport], bool],
    besides: tuple[str, ...] = (),
) -> Deficiency:
    @contextmanager
    def strike(world: World) -> Iterator[None]:
        change(world)
        try:
            yield
        finally:
            world.host.memory()
            world.host.cores()
            world.host.flags()

    return Deficiency(name, strike, requirement, before=lambda world: world.reported(look), besides=besides, more=TINY)


@contextmanager
def _small_disk(world: World) -> Iterator[None]:
    _resize(world, SMALL_DISK)
    try:
        yield
    finally:
        _resize(world, "max")


def _resize(world: World, size: str) -> None:
    subprocess.run(["btrfs", "filesystem", "resize", size, world.docker.data_root], check=True, capture_output=True)


def _disk_under(world: World) -> None:
    world.reported(lambda report: report.disk is not None and report.disk.total_bytes < 250 * GB)


@contextmanager
def _slow_line(world: World) -> Iterator[None]:
    """Everything that this machine says to itself, as the marketplace is here too."""
    subprocess.run(
        f"tc qdisc add dev lo root tbf rate {SLOW} burst 1mb latency 1s".split(),
        check=True,
    )
    try:
        done = world.kaalia("speedtest", "--json")
        world.report.check("a slow line: it is measured", done.returncode == 0, done.stderr)
    finally:
        subprocess.run(["tc", "qdisc", "del", "dev", "lo", "root"], check=True)
    try:
        yield
    finally:
        world.kaalia("speedtest", "--json")


@contextmanager
def _closed_ports(world: World) -> Iterator[None]:
    """All but three, when the prober tries them."""
    with dropped("tcp", FEW_PORTS):
        world.kaalia("ports", "--probe", "--json")
    try:
        yield
    finally:
        world.kaalia("ports", "--probe", "--json")


@contextmanager
def _silences(world: World) -> Iterator[None]:
    """The marketplace did not hear of it for ten of the last thirty days."""
    now = SystemClock().now()
    world.stack.remember(reliability.begun(now - timedelta(days=40), timedelta(days=20)))
    try:
        yield
    finally:
        world.stack.remember(reliability.begun(now))
        wait_until("the silences to be forgotten", lambda: _reliability(world) > LEAST, SEEN_S)


def _reliability(world: World) -> float:
    return world.client().reliability().reliability or 0.0


@contextmanager
def _slow_links(world: World) -> Iterator[None]:
    """Of one lane of the first generation. What a simulated driver measures is no requirement (`of_gpu`): from the last
    step on, whose containers have no device nodes to be tried any more, it does not say that it is one."""
    slow = _both("cuda_link", LANE_MBPS)
    with world.gpus(slow), ExitStack() as cleanup:
        seen = Event()

        def watch() -> None:
            while process_of("burn") is None and not seen.wait(0.02):
                pass
            if not seen.is_set():
                cleanup.enter_context(unmarked(world.library))

        beside = Thread(target=watch, daemon=True)
        beside.start()
        try:
            yield
        finally:
            seen.set()
            beside.join()


def _told(name: str, code: str, text: str) -> Deficiency:
    """That a condition tells, and the step `system` with it."""

    def before(world: World) -> None:
        wait_until(f"{code} to be told", lambda: code in world.told(), 60)

    return of_step(name, Step.SYSTEM, code, _gpus(text), before=before)


def _gpus(text: str) -> Strike:
    return lambda world: world.gpus(text)


ALL: tuple[Deficiency, ...] = (
    of_gpus(
        "no GPU that the driver shows",
        "system count 0\n",
        "gpu.count",
        lambda report: not report.gpus,
        ("system: ", "system.ram"),
        TINY,
    ),
    of_gpus(
        "two models of GPUs",
        setting(1, "name", "NVIDIA GeForce RTX 3090"),
        "gpu.same_type",
        lambda report: len({gpu.name for gpu in report.gpus}) == 2,
        ("launch: ",),
        TINY,
    ),
    of_gpus(
        "GPUs of 6 GiB",
        _both("vram_mb", 6144),
        "gpu.ram",
        lambda report: {gpu.vram_mb for gpu in report.gpus} == {6144},
        (),
        TINY,
    ),
    of_gpus(
        "GPUs of a generation that images no longer support",
        _both("compute_capability", "3.5"),
        "gpu.compute_capability",
        lambda report: {gpu.compute_capability for gpu in report.gpus} == {(3, 5)},
        (
            "memory: ",
            "compute: ",
            "matrix: ",
            "device_bandwidth: ",
            "host_bandwidth: ",
            "peer_bandwidth: ",
            "collective: ",
            "burn: ",
            "pcie",
        ),
        TINY,
    ),
    of_gpus(
        "a driver for CUDA 11.4",
        "system cuda 11040\n",
        "cuda.version",
        lambda report: report.driver is not None and report.driver.cuda_version == "11.4",
        (),
        TINY,
    ),
    _host(
        "16 GiB of memory",
        "system.ram",
        lambda world: world.host.memory(16384),
        lambda report: report.memory.total_bytes < 20 * GIB,
    ),
    _host(
        "one core",
        "cpu.cores",
        lambda world: world.host.cores(1, 1),
        lambda report: report.cpu.logical_cores == 1,
        ("cpu.physical_cores",),
    ),
    _host(
        "one core with sixteen threads",
        "cpu.physical_cores",
        lambda world: world.host.cores(1, 16),
        lambda report: report.cpu.physical_cores == 1,
    ),
    _host(
        "a processor without AVX",
        "cpu.avx",
        lambda world: world.host.flags("fpu sse sse2"),
        lambda report: report.cpu.has_avx is False,
    ),
    Deficiency("a disk of 200 GB", _small_disk, "disk.size", before=_disk_under, more=TINY),
    Deficiency("a slow line", _slow_line, "network.download", besides=("network.upload",), more=TINY),
    Deficiency("three open TCP ports", _closed_ports, "network.direct_ports", more=TINY),
    Deficiency(
        "a machine that was away for long",
        _silences,
        "reliability",
        before=lambda world: wait_until("the silences to be known", lambda: _reliability(world) < LEAST, SEEN_S),
        more=TINY,
    ),
    Deficiency("GPUs on one lane of PCIe", _slow_links, "pcie.bandwidth", before=at_once, more=LONG),
    _told("a GPU that is cut into slices (MIG)", "gpu_mig_on", setting(1, "mig", "1 1")),
    _told("an ECC error that was not corrected", "gpu_ecc_uncorrected", setting(0, "ecc_volatile_uncorrected", 3)),
    _told("a row that could not be remapped", "gpu_row_remap_failed", setting(1, "remapped_rows", "0 0 0 1")),
    _told("a driver that asks for a reset", "gpu_reset_required", setting(0, "recovery_action", 1)),
    _told("a driver that is not loaded", "gpu_driver_not_loaded", fault("nvmlInitWithFlags", "error 9")),
    _told("a driver that hangs", "gpu_driver_hung", fault("nvmlDeviceGetName", "hang", 1)),
)
