"""A processor, a memory and a disk that go wrong, and a road of tenants that is blocked."""

import itertools
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread

from kaalia.model.selftest import StepName as Step
from kaalia.selftest import notebook
from tests.proofs.deficiency import Deficiency, World, at_once, of_step
from tests.support.btrfs import clear_away
from tests.support.struck import flip_bits, process_of, spoil_file, striking

PACE = 32
"""Digests of a round of the work program `cpu`."""
LITTLE = 16 * 1024**2
"""Bytes that a full disk still has."""


def _core(name: str, code: str, how: str) -> Deficiency:
    @contextmanager
    def strike(world: World) -> Iterator[None]:
        world.cpu_control.write_text(how)
        try:
            yield
        finally:
            world.cpu_control.write_text("")

    return of_step(name, Step.CPU, code, strike, before=at_once)


@contextmanager
def _low_clock(world: World) -> Iterator[None]:
    names = {"cpufreq__scaling_cur_freq": 800000, "cpufreq__base_frequency": 3000000}
    world.host.each_core(**names)
    try:
        yield
    finally:
        world.host.each_core(**dict.fromkeys(names))


@contextmanager
def _hot_cores(world: World) -> Iterator[None]:
    """Half of the time."""
    name, stop = "thermal_throttle__core_throttle_total_time_ms", Event()

    def grow() -> None:
        total = 1000
        while not stop.wait(0.2):
            total += 100
            world.host.each_core(**{name: total})

    world.host.each_core(**{name: 1000})
    beside = Thread(target=grow, daemon=True)
    beside.start()
    try:
        yield
    finally:
        stop.set()
        beside.join()
        world.host.each_core(**{name: None})


@contextmanager
def _bad_memory(_: World) -> Iterator[None]:
    with striking(flip_bits, lambda: process_of("ram")):
        yield


@contextmanager
def _uncorrected(world: World) -> Iterator[None]:
    """The memory's controller counts some while the memory is tested."""
    numbers = itertools.count(1)

    def count(_: int) -> None:
        world.host.ecc(uncorrected=next(numbers))

    with striking(count, lambda: process_of("ram")):
        yield
    world.host.ecc()


@contextmanager
def _bad_disk(world: World) -> Iterator[None]:
    with striking(spoil_file(world.docker.data_root), lambda: process_of("disk")):
        yield


@contextmanager
def full_disk(world: World) -> Iterator[None]:
    """What is reserved in a file without holes counts as used; the disk's own image has them nevertheless."""
    path = world.docker.data_root / "full"
    clear_away(world.docker.data_root)  # what the test before had there
    free = _free(world.docker.data_root)
    subprocess.run(["fallocate", "-l", str(free - LITTLE), path], check=True)
    try:
        yield
    finally:
        path.unlink()


def _free(folder: Path) -> int:
    done = subprocess.run(["stat", "-f", "-c", "%a %S", folder], check=True, capture_output=True, text=True)
    blocks, size = done.stdout.split()
    return int(blocks) * int(size)


@contextmanager
def _no_launch(world: World) -> Iterator[None]:
    world.hook.fail("nvidia-container-cli: device error: GPU-0: unknown device: unknown")
    try:
        yield
    finally:
        world.hook.behave()


def _blocked(protocol: str) -> Deficiency:
    @contextmanager
    def strike(_: World) -> Iterator[None]:
        with dropped(protocol, "21000:21099"):
            yield

    name = f"{protocol.upper()} ports that a firewall closes"
    return of_step(name, Step.PORTS, "canary_ports_failed", strike, before=at_once)


@contextmanager
def _no_notebook(_: World) -> Iterator[None]:
    """Behind the doors to containers."""
    with dropped("tcp", str(notebook.PORT), table="filter"):
        yield


@contextmanager
def dropped(protocol: str, ports: str, table: str = "raw") -> Iterator[None]:
    """By a rule that kaalia knows nothing of, before any other."""
    rule = ["OUTPUT", "-p", protocol, "--dport", ports, "-j", "DROP"]
    subprocess.run(["iptables", "-w", "-t", table, "-I", *rule], check=True)
    try:
        yield
    finally:
        subprocess.run(["iptables", "-w", "-t", table, "-D", *rule], check=True)


ALL: tuple[Deficiency, ...] = (
    _core("a core that computes wrongly", "cpu_computes_wrong", "wrong 1"),
    _core("a core on which programs die", "cpu_core_died", "die 0"),
    _core("a core that loses its pace", "cpu_throttled", f"slow 0 {12 * PACE}"),
    of_step("a low clock under load", Step.CPU, "cpu_throttled", _low_clock, before=at_once),
    of_step("a processor that heat slows down", Step.CPU, "cpu_throttled", _hot_cores, before=at_once),
    of_step("memory whose bits flip", Step.RAM, "ram_wrong_bits", _bad_memory, before=at_once),
    of_step(
        "memory with an error that ECC cannot correct", Step.RAM, "ram_ecc_uncorrected", _uncorrected, before=at_once
    ),
    of_step("a disk that gives back something else", Step.DISK, "disk_wrong_data", _bad_disk, before=at_once),
    of_step("a disk that is full", Step.DISK, "disk_full", full_disk, before=at_once),
    of_step("a container toolkit that fails", Step.LAUNCH, "gpu_hook_failed", _no_launch, before=at_once),
    of_step(
        "a firewall that closes Jupyter's port",
        Step.LAUNCH,
        "selftest_jupyter_failed",
        _no_notebook,
        before=at_once,
        quick=False,
    ),
    _blocked("udp"),
    _blocked("tcp"),
)
