"""A machine with all its GPUs rented and many contracts, in a store: everything that metrics can tell is there."""

from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal

from kaalia.contracts.cordon import Cordon
from kaalia.contracts.offer import Listing
from kaalia.contracts.traffic import Tally
from kaalia.errors import Problem
from kaalia.model.availability import Cause, Outage, Record, Silence
from kaalia.model.gpu_health import GpuReading, GpuSample, NvmlState
from kaalia.model.gpu_use import GpuProcess, GpuUse
from kaalia.model.health import Condition, Severity
from kaalia.model.kernel_log import KernelFault, KernelPosition
from kaalia.model.machine import Gpu, MachineReport, Missing, ProvenPorts
from kaalia.model.standing import Standing
from kaalia.model.traffic import Bytes, Counter
from kaalia.model.volume import VolumeBackend, VolumeState, VolumeStatus
from kaalia.model.workload import WorkloadState
from kaalia.store import (
    amounts,
    availability,
    claims,
    conditions,
    contracts,
    disk,
    energy,
    enrolment,
    gpu_health,
    gpu_use,
    kernel_log,
    machine,
    maintenance,
    outbox,
    standing,
    traffic,
    volumes,
    workloads,
)
from kaalia.store.amounts import Amount, AmountKind, OwnerKind
from kaalia.store.claims import Claim, ClaimKind
from kaalia.store.database import Transaction
from kaalia.units import GB, GIB
from kaalia.wire.local import ByteOwner, DiskEntry, DiskLedger
from tests.support.builders import build_contract, build_report, build_speed, build_status, build_volume

FIRST = 51
"""The number of the first contract; those that follow count on. As many as there are GPUs run."""


def crowd(tx: Transaction, at: datetime, gpus: int = 8, count: int = 50, *, all_run: bool = False) -> None:
    """`count` contracts, of which the first `gpus` run with a GPU each. The report is a minute younger.

    `all_run`: the others run too, without a GPU.
    """
    report = build_crowded_report(at + timedelta(minutes=1), gpus)
    machine.put_report(tx, report)
    machine.put_listing(tx, Listing(Decimal("0.40")))
    maintenance.put_cordon(tx, Cordon(at, None))
    enrolment.put(tx, enrolment.Enrolment("https://m.example", 12, {"k": "x"}, at))
    enrolment.put_snapshot(tx, enrolment.AcceptedSnapshot(1, 5, at + timedelta(minutes=30), "{}", at))
    standing.put(tx, Standing("verified"), at)
    gpu_use.put(tx, GpuUse(at, tuple(GpuProcess(gpu.uuid, 4000 + gpu.index, "python") for gpu in report.gpus)))
    outbox.add(tx, "workload", "{}", at)
    for number in range(FIRST, FIRST + count):
        _contract(tx, number, report.gpus[number - FIRST] if number - FIRST < gpus else None, at, runs=all_run)
    gpu_health.put(tx, _counted(report))
    for minute in range(2):
        counters = {gpu.uuid: 1_000_000 + minute * 4_000_000 for gpu in report.gpus}
        energy.count(tx, counters, at + timedelta(minutes=minute))
    _outages(tx, at)
    _things(tx, at, [FIRST + index for index in range(count)])
    _faults(tx, at, report)


def container_id(number: int) -> str:
    return f"{number:064x}"


def build_crowded_report(at: datetime, gpus: int) -> MachineReport:
    """With every fact that there is."""
    report = build_report(at, gpus)
    full = tuple(_full(gpu) for gpu in report.gpus)
    network = replace(report.network, proven=ProvenPorts("203.0.113.7", 800, 799, at), speed=build_speed(at))
    assert report.disk is not None
    found = replace(report.disk, others_bytes=40 * GIB)
    return replace(report, gpus=full, network=network, disk=found, missing=(Missing("cpu.max_ghz", "virtual"),))


def _full(gpu: Gpu) -> Gpu:
    return replace(
        gpu,
        pci_gen_max=4,
        pci_gen_current=1,
        pci_width_max=16,
        pci_width_current=8,
        power_draw_w=312.5,
        temperature_limit_c=83,
        sm_clock_mhz=2520,
        sm_clock_max_mhz=3105,
        memory_clock_max_mhz=10501,
        utilization_percent=97,
        vram_used_mb=20480,
    )


def _outages(tx: Transaction, at: datetime) -> None:
    """One of ten minutes a day ago, one that goes on, and a record of the marketplace with the first."""
    ago = at - timedelta(days=1)
    availability.begin(tx, Outage(ago, ago + timedelta(minutes=10), Cause.NET, is_rented=True), "boot-1", 60.0)
    availability.begin(tx, Outage(at - timedelta(minutes=2), None, Cause.DOCKER, is_rented=True), "boot-1", 600.0)
    silence = Silence(ago, ago + timedelta(minutes=10), is_rented=True)
    availability.heard(tx, at, 0.97, Record(at - timedelta(days=40), silences=(silence,)), ())


def _counted(report: MachineReport) -> GpuReading:
    """Every counter that the probe reads, with its place in the list as its value."""
    names = (
        *(
            "ecc_volatile_uncorrected",
            "ecc_aggregate_uncorrected",
            "rows_corrected",
            "rows_uncorrected",
            "rows_pending",
        ),
        *(
            "rows_failed",
            "retired_pages",
            "power_slowed_s",
            "thermal_slowed_s",
            "pcie_replays",
            "nvlinks_count",
            "nvlinks_up",
        ),
        *("nvlink_crc", "nvlink_replays", "nvlink_recoveries", "energy_mj", "memory_c"),
    )
    facts = {name: float(number) for number, name in enumerate(names)}
    gpus = tuple(GpuSample(gpu.index, gpu.uuid, gpu.name, gpu.pci_address, facts) for gpu in report.gpus)
    return GpuReading(report.collected_at, report.system.boot_id, NvmlState.OK, gpus=gpus)


def _contract(tx: Transaction, number: int, gpu: Gpu | None, at: datetime, *, runs: bool) -> None:
    contracts.upsert(tx, build_contract(number, at), at)
    runs = runs or gpu is not None
    state = WorkloadState.RUNNING if runs else WorkloadState.STOPPED
    problem = None if runs else Problem("gpu_busy", "cannot start: its GPU is rented")
    held = (gpu.uuid,) if gpu else ()
    container = container_id(number)
    workloads.put(tx, build_status(number, at, state=state, gpu_uuids=held, problem=problem, container_id=container))
    taken = [
        Claim(ClaimKind.PORT_TCP, str(40000 + number), number, 1),
        Claim(ClaimKind.PORT_UDP, str(40000 + number), number, 1),
    ]
    if gpu is not None:
        taken.append(Claim(ClaimKind.GPU, gpu.uuid, number, 1))
    claims.claim(tx, taken, at)
    sizes = {AmountKind.CPU: 6000, AmountKind.RAM: 32 * GIB, AmountKind.DISK: 16 * GIB}
    amounts.claim(tx, [Amount(kind, OwnerKind.CONTRACT, number, 1, size) for kind, size in sizes.items()], at)
    counter = Counter(number, f"10.214.{number}.0/28", "one")
    sums = Bytes(number * 1000, number * 5000)
    traffic.put(tx, Tally(counter, 1, sums, sums, at, Bytes(), at, Bytes(), at))


def _things(tx: Transaction, at: datetime, numbers: list[int]) -> None:
    volumes.upsert(tx, build_volume(901))
    volumes.put_status(tx, VolumeStatus(901, VolumeState.READY, at, VolumeBackend.BTRFS, 3 * GB), at)
    entries = [DiskEntry(ByteOwner.INSTANCE, f"C.{number}", 2 * GB, 16 * GB) for number in numbers]
    entries.append(DiskEntry(ByteOwner.IMAGE, "ghcr.io/secretive/model:latest", 9 * GB))
    disk.put_ledger(tx, DiskLedger(at, 1000 * GB, 500 * GB, VolumeBackend.BTRFS, "/v", True, tuple(entries)))


def _faults(tx: Transaction, at: datetime, report: MachineReport) -> None:
    problem = Problem("gpu_xid_48", "cannot trust it")
    conditions.replace(tx, "passing", [Condition(Problem("gone", "cannot"), Severity.WARN, "it goes")], at)
    conditions.replace(tx, "passing", [], at)
    found = [
        Condition(Problem("mount_absent", "cannot see the disk"), Severity.UNKNOWN, "it is back"),
        Condition(Problem("disk_overrun", "cannot"), Severity.WARN, "it is smaller", scope=f"C.{FIRST + 1}"),
        *(Condition(problem, Severity.CRITICAL, "a reset", scope=gpu.uuid) for gpu in report.gpus[:2]),
    ]
    conditions.replace(tx, "kernel", found, at)
    fault = KernelFault("gpu_xid_48", "0000:01:00", at, at, 7, 3, "NVRM: Xid")
    kernel_log.record(tx, KernelPosition(report.system.boot_id, 7), [fault])
