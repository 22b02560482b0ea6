"""Metrics of each contract and volume, by its number. Never of what is in it: no image, no name, no variable."""

from collections.abc import Iterator, Mapping
from datetime import datetime
from functools import partial

from kaalia.api.metrics.metric import Metric, Sample, counter, gauge, info
from kaalia.api.metrics.reading import Reading
from kaalia.model.usage import ContainerUsage
from kaalia.model.workload import WorkloadState, WorkloadStatus
from kaalia.store.amounts import AmountKind, OwnerKind
from kaalia.store.contracts import StoredContract
from kaalia.wire.local import ByteOwner

_gauge = partial(gauge, is_tenants=True)

CONTRACT = info(
    "kaalia_contract_info",
    "A contract: its kind, how it is launched, and what its renter wants: running, stopped or ended.",
    *("contract", "kind", "mode", "wanted"),
    is_tenants=True,
)
STATE = _gauge("kaalia_contract_state", "1 for the state in which the contract's workload is.", "contract", "state")
GPUS = _gauge("kaalia_contract_gpus", "GPUs that were rented.", "contract")
PRICE = gauge("kaalia_contract_price_dollars_per_hour", "Price of all its GPUs, while it runs.", "contract")
ENDS = _gauge("kaalia_contract_end_timestamp_seconds", "Its end, since the epoch; absent: it has none.", "contract")
STARTED = _gauge("kaalia_contract_start_timestamp_seconds", "Start of its container, since the epoch.", "contract")
CORES = _gauge("kaalia_contract_cpu_cores", "CPU cores promised to it.", "contract")
MEMORY = _gauge("kaalia_contract_memory_limit_bytes", "Main memory promised to it.", "contract")
DISK = _gauge("kaalia_contract_disk_limit_bytes", "Disk rented.", "contract")
DISK_USED = _gauge(
    "kaalia_contract_disk_used_bytes", "What its container holds of the disk, by the newest count.", "contract"
)
TRAFFIC = counter(
    "kaalia_contract_internet_bytes_total",
    "Bytes to (`up`) and from (`down`) the internet since it began.",
    *("contract", "direction"),
    is_tenants=True,
)
ENERGY = counter("kaalia_contract_energy_joules_total", "Energy that its GPUs used since it began.", "contract")
PROBLEM = _gauge(
    "kaalia_contract_problem",
    "1 while the machine cannot do what was agreed, else absent; `kaalia contracts` says why.",
    "contract",
)
CPU = counter(
    "kaalia_contract_cpu_seconds_total", "CPU time of its container since that started.", "contract", is_tenants=True
)
MEMORY_USED = _gauge(
    "kaalia_contract_memory_bytes", "Main memory that its container uses, cached files included.", "contract"
)
OOM_KILLS = counter(
    "kaalia_contract_oom_kills_total",
    "Its processes that were ended at its own limit of memory.",
    "contract",
    is_tenants=True,
)
VOLUME = gauge("kaalia_volume_bytes", "Size of a rented volume.", "volume")
VOLUME_USED = gauge("kaalia_volume_used_bytes", "What is in it, by the newest count.", "volume")

METRICS = (
    *(CONTRACT, STATE, GPUS, PRICE, ENDS, STARTED, CORES, MEMORY, DISK, DISK_USED, TRAFFIC, ENERGY, PROBLEM),
    *(CPU, MEMORY_USED, OOM_KILLS),
    *(VOLUME, VOLUME_USED),
)

_AMOUNTS: dict[AmountKind, tuple[Metric, int]] = {AmountKind.CPU: (CORES, 1000), AmountKind.RAM: (MEMORY, 1)}


def samples(reading: Reading, usages: Mapping[str, ContainerUsage]) -> Iterator[Sample]:
    """`usages`: by container id."""
    for stored in reading.contracts:
        yield from _contract(stored, reading.workloads.get(stored.contract.contract_id))
    for one in reading.amounts:
        if one.owner is OwnerKind.CONTRACT and (found := _AMOUNTS.get(one.kind)) is not None:
            yield Sample(found[0], (str(one.owner_id),), one.amount / found[1])
    for contract_id, tally in reading.tallies.items():
        yield Sample(TRAFFIC, (str(contract_id), "up"), tally.total.up)
        yield Sample(TRAFFIC, (str(contract_id), "down"), tally.total.down)
    for contract_id, joules in reading.energies.items():
        yield Sample(ENERGY, (str(contract_id),), joules)
    yield from _disk(reading)
    for contract_id, status in reading.workloads.items():
        if (used := usages.get(status.container_id or "")) is not None:
            yield from _usage(str(contract_id), used)


def _usage(number: str, used: ContainerUsage) -> Iterator[Sample]:
    for metric, value in ((CPU, used.cpu_s), (MEMORY_USED, used.memory_bytes), (OOM_KILLS, used.oom_kills)):
        if value is not None:
            yield Sample(metric, (number,), value)


def _contract(stored: StoredContract, status: WorkloadStatus | None) -> Iterator[Sample]:
    contract = stored.contract
    number = str(contract.contract_id)
    state = status.state if status else WorkloadState.WAITING
    yield Sample(CONTRACT, (number, contract.kind, contract.spec.launch_mode, contract.desired), 1)
    yield Sample(STATE, (number, state), 1)
    yield Sample(GPUS, (number,), contract.spec.gpu_count)
    yield Sample(PRICE, (number,), float(contract.price_usd_per_hour))
    yield Sample(DISK, (number,), contract.spec.disk_bytes)
    if status is not None and status.problem is not None:
        yield Sample(PROBLEM, (number,), 1)
    yield from _time(ENDS, number, contract.end_at)
    if state is WorkloadState.RUNNING and status is not None:
        yield from _time(STARTED, number, status.started_at)


def _time(metric: Metric, number: str, at: datetime | None) -> Iterator[Sample]:
    if at is not None:
        yield Sample(metric, (number,), at.timestamp())


def _disk(reading: Reading) -> Iterator[Sample]:
    """`reading.disk` is counted seldom, and may name what is gone by now."""
    known = {stored.contract.contract_id for stored in reading.contracts}
    for entry in reading.disk.entries if reading.disk else ():
        number = entry.name.removeprefix("C.")
        if entry.owner is ByteOwner.INSTANCE and number.isdecimal() and int(number) in known:
            yield Sample(DISK_USED, (number,), entry.size_bytes)
    for stored in reading.volumes:
        number = str(stored.volume.volume_id)
        yield Sample(VOLUME, (number,), stored.volume.size_bytes)
        if stored.status is not None and stored.status.used_bytes is not None:
            yield Sample(VOLUME_USED, (number,), stored.status.used_bytes)
