"""The documents of the local API, shared by the daemon and its clients. What a tenant keeps secret is not in them:
of environment variables the names only, of scripts and arguments nothing."""

from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from enum import StrEnum

from kaalia.contracts.contract import Contract, ContractKind, Desired
from kaalia.contracts.cordon import Cordon
from kaalia.contracts.maintenance import Window
from kaalia.contracts.traffic import Rate, Tally, rate
from kaalia.errors import Problem
from kaalia.model.inventory import Inventory
from kaalia.model.machine import PortRange
from kaalia.model.measurement import Bench, Measurement
from kaalia.model.reach import PortMap, ProbeProgress
from kaalia.model.speed import MeasuredSpeed, SpeedFailure, SpeedProgress
from kaalia.model.traffic import Bytes
from kaalia.model.volume import VolumeBackend
from kaalia.model.workload import LaunchMode, PortBinding, WorkloadState, WorkloadStatus


@dataclass(frozen=True, slots=True)
class ReportDetails:
    """What `kaalia report --json` has beyond the report. `inventory` None: not read yet."""

    inventory: Inventory | None
    measurements: tuple[Measurement, ...]
    ordered: tuple[Bench, ...]
    """Not done yet."""


@dataclass(frozen=True, slots=True)
class MeasureWish:
    """`force`: though tenants run and would notice."""

    benches: tuple[Bench, ...]
    force: bool = False


@dataclass(frozen=True, slots=True)
class MarketplaceLink:
    """Where the machine is enrolled. `admits_until` is None before the first snapshot."""

    url: str
    machine_id: int
    enrolled_at: datetime
    revision: int | None
    snapshot_at: datetime | None
    admits_until: datetime | None
    unsent_messages: int


@dataclass(frozen=True, slots=True)
class GpuGroup:
    """Equal GPUs, counted."""

    name: str
    count: int
    vram_mb: int
    in_use: int


@dataclass(frozen=True, slots=True)
class DaemonStatus:
    """One screen about the daemon. `problems` is empty when all is well; `warnings` may stay for ever."""

    version: str
    pid: int
    started_at: datetime
    as_of: datetime
    safe_mode: bool
    marketplace: MarketplaceLink | None
    price_gpu_per_hour: Decimal | None
    """None: the machine is not listed."""
    gpus: tuple[GpuGroup, ...]
    simulated: bool
    driver_version: str | None
    engine_version: str | None
    reported_at: datetime | None
    contracts: dict[WorkloadState, int]
    """How many contracts are in which state."""
    problems: tuple[Problem, ...]
    warnings: tuple[Problem, ...] = ()
    """Conditions of severity `warn`: worth knowing, and no reason to call the machine unwell."""
    cordon: Cordon | None = None
    """Set while the owner drains the machine."""
    maintenances: tuple[Window, ...] = ()
    """Those that are not over."""
    verification: str = ""
    """As the marketplace said it last; "": it has not."""


@dataclass(frozen=True, slots=True)
class TrafficView:
    """To and from the internet: bytes since the contract began, and per second now; None: not known now."""

    total: Bytes
    rate: Rate | None
    read_at: datetime


@dataclass(frozen=True, slots=True)
class ContractView:
    """A contract with the workload that serves it, as the owner of the machine may see it."""

    contract_id: int
    generation: int
    kind: ContractKind
    desired: Desired
    state: WorkloadState
    status_msg: str
    image: str
    launch_mode: LaunchMode
    gpu_count: int
    gpu_uuids: tuple[str, ...]
    disk_bytes: int
    ports: tuple[PortBinding, ...]
    env_names: tuple[str, ...]
    price_usd_per_hour: Decimal
    start_at: datetime
    end_at: datetime | None
    container_id: str | None
    started_at: datetime | None
    finished_at: datetime | None
    exit_code: int | None
    missing_since: datetime | None
    """Set while the marketplace no longer mentions the contract."""
    problem: Problem | None
    traffic: TrafficView | None = None
    """None: nothing was counted yet."""
    public_ipaddr: str | None = None
    """The variable PUBLIC_IPADDR inside, as the container was made with it."""
    energy_j: float | None = None
    """What its GPUs used since it began, as they count it themselves. None: they do not, or it has none."""


def traffic_view(tally: Tally | None, now: datetime) -> TrafficView | None:
    return None if tally is None else TrafficView(tally.total, rate(tally, now), tally.read_at)


def contract_view(
    contract: Contract,
    status: WorkloadStatus | None,
    missing_since: datetime | None,
    traffic: TrafficView | None = None,
    energy_j: float | None = None,
) -> ContractView:
    """Join both sides. Without a status the workload waits: nothing has been done for it yet."""
    spec = contract.spec
    return ContractView(
        contract_id=contract.contract_id,
        generation=contract.generation,
        kind=contract.kind,
        desired=contract.desired,
        state=status.state if status else WorkloadState.WAITING,
        status_msg=status.status_msg if status else "",
        image=spec.image,
        launch_mode=spec.launch_mode,
        gpu_count=spec.gpu_count,
        gpu_uuids=status.gpu_uuids if status else (),
        disk_bytes=spec.disk_bytes,
        ports=status.ports if status else (),
        env_names=tuple(name for name, _ in spec.env),
        price_usd_per_hour=contract.price_usd_per_hour,
        start_at=contract.start_at,
        end_at=contract.end_at,
        container_id=status.container_id if status else None,
        started_at=status.started_at if status else None,
        finished_at=status.finished_at if status else None,
        exit_code=status.exit_code if status else None,
        missing_since=missing_since,
        problem=status.problem if status else None,
        traffic=traffic,
        public_ipaddr=status.public_ipaddr if status else None,
        energy_j=energy_j,
    )


@dataclass(frozen=True, slots=True)
class DrainOrder:
    """The owner's wish. `until_at`: the cordon lifts by itself then; None: only by his hand."""

    until_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Holder:
    """A contract that keeps the machine from being vacant. `shown`: what its renter reads as `actual_status`."""

    contract_id: int
    kind: ContractKind
    state: WorkloadState
    shown: str | None
    desired: Desired
    end_at: datetime | None


@dataclass(frozen=True, slots=True)
class DrainStatus:
    """`cordon` None: new contracts are admitted. Without a cordon a vacant machine may be rented at any moment.

    `is_in_force`: the cordon is up and nothing that was begun before it is still on its way.
    """

    as_of: datetime
    cordon: Cordon | None
    is_in_force: bool
    is_vacant: bool
    holders: tuple[Holder, ...]


class ByteOwner(StrEnum):
    """Whose bytes of the disk."""

    IMAGE = "image"
    CACHE = "cache"
    INSTANCE = "instance"
    VOLUME = "volume"
    ORPHAN = "orphan"
    """Of nobody that the books know."""
    FOREIGN = "foreign"
    """Containers that are not kaalia's."""


class DiskOrder(StrEnum):
    """What the owner may ask of the disk."""

    MEASURE = "measure"
    REMOVE_ORPHANS = "remove_orphans"


@dataclass(frozen=True, slots=True)
class DiskEntry:
    """`size_bytes`: what it holds; `promised_bytes`: what its renter may fill, None for what nobody rents.

    `used_at`: of an image that kaalia pulled, the last time it was pulled or had a container.
    """

    owner: ByteOwner
    name: str
    size_bytes: int
    promised_bytes: int | None = None
    used_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class DiskLedger:
    """Who has which bytes of the file system that holds Docker's data root."""

    measured_at: datetime
    total_bytes: int | None
    free_bytes: int | None
    volume_backend: VolumeBackend
    volume_folder: str
    enforces_instance_size: bool | None
    entries: tuple[DiskEntry, ...]
    others_bytes: int | None = None
    """Held by what no renter has: the system, images, orphans, the owner's files. None: not known."""


@dataclass(frozen=True, slots=True)
class PortsDocument:
    """`found`: the newest map; `progress`: a probe that is ordered or under way; `failure`: why the last one failed.

    `port_range` and `public_ip` as the newest report has them.
    """

    port_range: PortRange | None
    public_ip: str | None
    found: PortMap | None
    progress: ProbeProgress | None
    failure: Problem | None


@dataclass(frozen=True, slots=True)
class SpeedWish:
    """An order of a speed test. `peer`: HOST:PORT, None: the configured one; `secret`: shared with it.

    `force`: though tenants run.
    """

    peer: str | None = None
    secret: str = field(default="", repr=False)
    force: bool = False


@dataclass(frozen=True, slots=True)
class SpeedDocument:
    """`found`: the newest result; `is_under_way`: a test is ordered or runs; `failure`: why the last one failed."""

    found: MeasuredSpeed | None
    is_under_way: bool
    progress: SpeedProgress | None
    failure: SpeedFailure | None
