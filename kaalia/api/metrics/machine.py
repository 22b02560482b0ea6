"""Metrics of the machine as its newest report has it, of what is promised of it, and of its marketplace."""

from collections.abc import Iterator

from kaalia.api.metrics.metric import Sample, gauge, info
from kaalia.api.metrics.reading import Reading
from kaalia.contracts import cordon
from kaalia.model.machine import MachineReport, Network
from kaalia.model.verification import State
from kaalia.store.amounts import AmountKind
from kaalia.store.claims import ClaimKind

MACHINE = info(
    "kaalia_machine_info",
    "What this machine is; `machine` is its number at the marketplace.",
    *("machine", "cpu", "architecture", "os", "kernel", "driver", "cuda", "docker"),
)
REPORTED = gauge("kaalia_report_timestamp_seconds", "When the machine was last read, since the epoch.")
MISSING = gauge("kaalia_report_missing_facts", "Facts that could not be read; `kaalia report` says why.")
BOOTED = gauge("kaalia_machine_boot_timestamp_seconds", "When the machine was booted, since the epoch.")
CORES = gauge("kaalia_machine_cpu_cores", "Logical CPU cores.")
CORES_CLAIMED = gauge("kaalia_machine_cpu_cores_claimed", "CPU cores promised to contracts.")
MEMORY = gauge("kaalia_machine_memory_bytes", "Main memory.")
MEMORY_FREE = gauge("kaalia_machine_memory_available_bytes", "Main memory available to new programs.")
MEMORY_CLAIMED = gauge("kaalia_machine_memory_claimed_bytes", "Main memory promised to contracts.")
DISK = gauge("kaalia_machine_disk_bytes", "Size of the file system that holds Docker's data.")
DISK_FREE = gauge("kaalia_machine_disk_free_bytes", "What is free of it.")
DISK_CLAIMED = gauge("kaalia_machine_disk_claimed_bytes", "Disk promised to contracts and volumes.")
DISK_OTHERS = gauge("kaalia_machine_disk_others_bytes", "Disk held by what no renter has: system, images, own files.")
GPUS = gauge("kaalia_machine_gpus", "GPUs that the driver shows.")
GPUS_CLAIMED = gauge("kaalia_machine_gpus_claimed", "GPUs that contracts have.")
PORTS = gauge("kaalia_machine_ports", "Ports in the configured range.")
PORTS_CLAIMED = gauge("kaalia_machine_ports_claimed", "Ports that contracts have.", "protocol")
PORTS_PROVEN = gauge(
    "kaalia_machine_ports_proven", "Ports of the range that a prober reached from outside.", "protocol"
)
SPEED = gauge(
    "kaalia_machine_line_speed_bytes_per_second",
    "Speed of the line in the newest speed test, by `down` and `up`.",
    "direction",
)
PRICE = gauge("kaalia_listing_gpu_price_dollars_per_hour", "What the listing asks for one GPU. Absent: not listed.")
DRAINED = gauge("kaalia_machine_drained", "1 while the owner's cordon is up: no new contract is admitted.")

ENROLLED = gauge("kaalia_marketplace_enrolled", "1 when this machine is enrolled at a marketplace.")
SYNCED = gauge(
    "kaalia_marketplace_snapshot_timestamp_seconds",
    "When the newest desired state came in, since the epoch; half-hourly at least.",
)
ADMITS = gauge(
    "kaalia_marketplace_admits_until_timestamp_seconds",
    "Until when the newest desired state lets new contracts in, since the epoch.",
)
VERIFIED = gauge(
    "kaalia_marketplace_verified",
    "1 while the marketplace holds this machine for verified, 0 while it does not. Absent: it has not said.",
)
REVISION = gauge("kaalia_marketplace_revision", "Revision of the newest desired state.")
OUTBOX = gauge("kaalia_outbox_messages", "Messages that the marketplace has not acknowledged yet.")
OUTBOX_OLDEST = gauge("kaalia_outbox_oldest_timestamp_seconds", "When the oldest of them was written, since the epoch.")

STATE_BYTES = gauge("kaalia_daemon_state_bytes", "Size of the state database, without its write-ahead log.")

METRICS = (
    *(MACHINE, REPORTED, MISSING, BOOTED, CORES, CORES_CLAIMED, MEMORY, MEMORY_FREE, MEMORY_CLAIMED),
    *(DISK, DISK_FREE, DISK_CLAIMED, DISK_OTHERS, GPUS, GPUS_CLAIMED, PORTS, PORTS_CLAIMED, PORTS_PROVEN, SPEED),
    *(PRICE, DRAINED, ENROLLED, SYNCED, ADMITS, VERIFIED, REVISION, OUTBOX, OUTBOX_OLDEST, STATE_BYTES),
)

_CLAIMED = {
    AmountKind.CPU: (CORES_CLAIMED, 1000),
    AmountKind.RAM: (MEMORY_CLAIMED, 1),
    AmountKind.DISK: (DISK_CLAIMED, 1),
}
_MEGABIT_BYTES = 125_000


def samples(reading: Reading) -> Iterator[Sample]:
    if reading.report is not None:
        yield from _reported(reading.report, str(reading.enrolled.machine_id) if reading.enrolled else "")
    yield from _promised(reading)
    placed = reading.cordon
    yield Sample(DRAINED, (), float(placed is not None and cordon.is_up(placed.cordon, reading.now)))
    if reading.listing is not None:
        yield Sample(PRICE, (), float(reading.listing.price_gpu_per_hour))
    yield from _marketplace(reading)


def _reported(report: MachineReport, machine: str) -> Iterator[Sample]:
    driver, engine, disk = report.driver, report.engine, report.disk
    words = (
        *(machine, report.cpu.model, report.cpu.architecture, report.system.os_name, report.system.kernel),
        *(driver.version if driver else None, driver.cuda_version if driver else None),
        engine.version if engine else None,
    )
    yield Sample(MACHINE, tuple(word or "" for word in words), 1)
    yield Sample(REPORTED, (), report.collected_at.timestamp())
    yield Sample(MISSING, (), len(report.missing))
    yield Sample(BOOTED, (), report.system.booted_at.timestamp())
    yield Sample(CORES, (), report.cpu.logical_cores)
    yield Sample(MEMORY, (), report.memory.total_bytes)
    yield Sample(MEMORY_FREE, (), report.memory.available_bytes)
    yield Sample(GPUS, (), len(report.gpus))
    if disk is not None:
        yield Sample(DISK, (), disk.total_bytes)
        yield Sample(DISK_FREE, (), disk.free_bytes)
        if disk.others_bytes is not None:
            yield Sample(DISK_OTHERS, (), disk.others_bytes)
    yield from _network(report.network)


def _network(network: Network) -> Iterator[Sample]:
    yield Sample(PORTS, (), len(network.port_range))
    if network.proven is not None:
        yield Sample(PORTS_PROVEN, ("tcp",), network.proven.tcp)
        yield Sample(PORTS_PROVEN, ("udp",), network.proven.udp)
    if network.speed is not None:
        yield Sample(SPEED, ("down",), network.speed.down.mbps * _MEGABIT_BYTES)
        yield Sample(SPEED, ("up",), network.speed.up.mbps * _MEGABIT_BYTES)


def _promised(reading: Reading) -> Iterator[Sample]:
    kinds = [claim.kind for claim, _ in reading.claims]
    yield Sample(GPUS_CLAIMED, (), kinds.count(ClaimKind.GPU))
    yield Sample(PORTS_CLAIMED, ("tcp",), kinds.count(ClaimKind.PORT_TCP))
    yield Sample(PORTS_CLAIMED, ("udp",), kinds.count(ClaimKind.PORT_UDP))
    for kind, (metric, unit) in _CLAIMED.items():
        yield Sample(metric, (), sum(one.amount for one in reading.amounts if one.kind is kind) / unit)


def _marketplace(reading: Reading) -> Iterator[Sample]:
    yield Sample(ENROLLED, (), float(reading.enrolled is not None))
    yield Sample(STATE_BYTES, (), reading.state_bytes)
    yield Sample(OUTBOX, (), reading.outbox_length)
    if reading.outbox_since is not None:
        yield Sample(OUTBOX_OLDEST, (), reading.outbox_since.timestamp())
    if reading.verification:
        yield Sample(VERIFIED, (), float(reading.verification == State.VERIFIED))
    if (known := reading.snapshot) is not None:
        yield Sample(SYNCED, (), known.received_at.timestamp())
        yield Sample(ADMITS, (), known.not_after.timestamp())
        yield Sample(REVISION, (), known.revision)
