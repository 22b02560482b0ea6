"""The capability report: everything this machine can tell of itself, gathered from all parts.

Refuses to fail: a part that cannot be read is absent with its reason in `missing`, and the rest is reported.
"""

import asyncio
import hashlib
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from kaalia import __version__
from kaalia.capability import disk, gpu, network, samples, system
from kaalia.capability.gaps import Gaps
from kaalia.errors import KaaliaError
from kaalia.host.nvml import NvmlProbe, NvmlReading
from kaalia.host.nvml_parts import PartsReading
from kaalia.model.gpu_health import GpuReading
from kaalia.model.gpu_use import GpuUse
from kaalia.model.machine import Cpu, Engine, Gpu, MachineReport, Memory, Network, PortRange, System
from kaalia.wire import document

ENGINE_TIMEOUT_S = 20.0
"""`docker info` takes 10-20 ms; a daemon under heavy load seconds; beyond this it counts as not answering."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Inputs:
    """Where a report comes from. `root` holds /proc, /sys and /etc; tests give their own."""

    probe: NvmlProbe
    engine: Callable[[], Awaitable[Engine]]
    """Facts of the container engine; a KaaliaError is the reason why they are absent."""
    port_range: PortRange
    public_ip: str | None = None
    root: Path = Path("/")
    volume_backend: disk.VolumeBackendAt | None = None
    """None: nobody asks for it, and it is not told."""


async def collect(inputs: Inputs, now: datetime) -> MachineReport:
    """One report, in about 0.1 s; at worst as long as the probe's deadline. Raises nothing of kaalia's."""
    return (await survey(inputs, now)).report


@dataclass(frozen=True, slots=True)
class Surveyed:
    """Of one reading of the driver. Only the report leaves the machine.

    `use`: which processes use the GPUs, None: not told; `gpus`: how they are; `parts`: what stays of them, None: not
    asked for.
    """

    report: MachineReport
    use: GpuUse | None
    gpus: GpuReading
    parts: PartsReading | None


async def survey(inputs: Inputs, now: datetime, *, with_parts: bool = False) -> Surveyed:
    gaps = Gaps()
    ((gpus, driver, processes), reading, parts), engine, local = await asyncio.gather(
        _gpus(inputs, gaps, with_parts=with_parts),
        _engine(inputs.engine, gaps),
        asyncio.to_thread(_local, inputs, gaps),
    )
    space = await disk.collect(engine.data_root if engine else None, inputs.root, gaps, inputs.volume_backend)
    cpu_facts, memory, network_facts, system_facts = local
    report = MachineReport(
        collected_at=now,
        agent_version=__version__,
        system=system_facts,
        cpu=cpu_facts,
        memory=memory,
        network=network_facts,
        gpus=gpus,
        driver=driver,
        disk=space,
        engine=engine,
        missing=tuple(sorted(gaps.missing, key=lambda entry: (entry.field, entry.reason))),
    )
    on_bus = await asyncio.to_thread(samples.on_bus, inputs.root)
    use = None if processes is None else GpuUse(now, processes)
    return Surveyed(report, use, samples.of_reading(reading, on_bus, system_facts.boot_id, now), parts)


async def _gpus(inputs: Inputs, gaps: Gaps, *, with_parts: bool) -> tuple[gpu.Found, NvmlReading, PartsReading | None]:
    parts: PartsReading | None = None
    if with_parts:
        reading, parts = await inputs.probe.survey()
    else:
        reading = await inputs.probe.read()
    return await gpu.understand(reading, inputs.root, gaps), reading, parts


def digest(report: MachineReport) -> str:
    """Changes only when something that stays has changed: not with time, load, temperature, clocks or free space."""
    stable = replace(
        report,
        collected_at=_EPOCH,
        system=replace(report.system, booted_at=_EPOCH),  # drifts with the wall clock; boot_id tells a reboot
        memory=replace(report.memory, available_bytes=0),
        disk=replace(report.disk, free_bytes=0, others_bytes=None) if report.disk else None,
        gpus=tuple(_steady(entry) for entry in report.gpus),
    )
    return hashlib.sha256(document.encode(stable).encode()).hexdigest()


def fingerprint(report: MachineReport) -> str:
    """SHA-256 hex of board, CPU and GPU identities: the same after a new disk or system, another after new hardware."""
    identity = {
        "board": report.system.board,
        "cpu": [report.cpu.model, report.cpu.architecture, report.cpu.logical_cores],
        "gpus": sorted(entry.uuid for entry in report.gpus),
    }
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def _steady(entry: Gpu) -> Gpu:
    """Without what moves. The link generation falls when a GPU idles; its width stays, and a narrower one is news."""
    return replace(
        entry,
        pci_gen_current=None,
        power_draw_w=None,
        temperature_c=None,
        sm_clock_mhz=None,
        utilization_percent=None,
        vram_used_mb=None,
    )


def _local(inputs: Inputs, gaps: Gaps) -> tuple[Cpu, Memory, Network, System]:
    """What procfs and sysfs tell; on a thread, since a machine with hundreds of cores takes its time."""
    root = inputs.root
    return (
        system.cpu(root, gaps),
        system.memory(),
        network.collect(inputs.public_ip, inputs.port_range, root, gaps),
        system.operating_system(root, gaps),
    )


async def _engine(engine: Callable[[], Awaitable[Engine]], gaps: Gaps) -> Engine | None:
    try:
        async with asyncio.timeout(ENGINE_TIMEOUT_S):
            return await engine()
    except KaaliaError as error:
        gaps.note("engine", error)
    except TimeoutError:
        gaps.note("engine", f"the container engine did not answer within {ENGINE_TIMEOUT_S:g} s")
    return None
