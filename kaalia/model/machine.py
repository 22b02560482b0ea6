"""What a machine is: the nouns of the capability report. Absent means not read; `missing` says why."""

from dataclasses import dataclass
from datetime import datetime

from kaalia.model.speed import MeasuredSpeed
from kaalia.model.volume import VolumeBackend


@dataclass(frozen=True, slots=True)
class Missing:
    """A field that could not be read, and the reason in words: never a guessed value."""

    field: str
    reason: str


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU as NVML sees it. `index` is NVML's order; identity is `uuid`."""

    uuid: str
    index: int
    name: str
    vram_mb: int
    """Frame buffer in MiB."""
    pci_address: str | None = None
    """Domain:bus:device.function in lower case, such as 0000:65:00.0."""
    pci_gen_max: int | None = None
    pci_gen_current: int | None = None
    pci_width_max: int | None = None
    pci_width_current: int | None = None
    power_limit_w: float | None = None
    power_draw_w: float | None = None
    temperature_c: int | None = None
    temperature_limit_c: int | None = None
    sm_clock_mhz: int | None = None
    sm_clock_max_mhz: int | None = None
    memory_clock_max_mhz: int | None = None
    compute_capability: tuple[int, int] | None = None
    utilization_percent: int | None = None
    vram_used_mb: int | None = None
    display_active: bool | None = None
    cores: int | None = None
    memory_bus_bits: int | None = None
    nvlinks: int | None = None
    """Links that are up."""
    nvlink_version: int | None = None


@dataclass(frozen=True, slots=True)
class GpuDriver:
    """The NVIDIA driver. `simulated` is true when the library is kaalia's own stand-in."""

    version: str
    cuda_version: str | None
    """Newest CUDA the driver supports, `major.minor`."""
    simulated: bool = False


@dataclass(frozen=True, slots=True)
class Cpu:
    model: str | None
    architecture: str
    """`amd64` or `arm64`, or what the kernel says."""
    logical_cores: int
    physical_cores: int | None
    max_ghz: float | None
    has_avx: bool | None
    flags: tuple[str, ...] = ()
    base_ghz: float | None = None


@dataclass(frozen=True, slots=True)
class Memory:
    total_bytes: int
    available_bytes: int


@dataclass(frozen=True, slots=True)
class Disk:
    """The file system that holds Docker's data root."""

    path: str
    total_bytes: int
    free_bytes: int
    filesystem: str | None = None
    device: str | None = None
    model: str | None = None
    volume_backend: VolumeBackend | None = None
    """How the size of a volume is, or would be, enforced; of instances `Engine.enforces_disk_size` says it."""
    others_bytes: int | None = None
    """Held by what no renter has: the system, images, the owner's files. None: not measured yet."""


@dataclass(frozen=True, slots=True)
class System:
    hostname: str
    os_name: str | None
    kernel: str
    board: str | None
    boot_id: str
    booted_at: datetime


@dataclass(frozen=True, slots=True)
class PortRange:
    """Inclusive range of host ports that reach this machine from outside."""

    first: int
    last: int

    def __len__(self) -> int:
        return self.last - self.first + 1

    def __contains__(self, port: object) -> bool:
        return isinstance(port, int) and self.first <= port <= self.last


@dataclass(frozen=True, slots=True)
class ProvenPorts:
    """How many ports of the range a prober reached from outside at `address`."""

    address: str
    tcp: int
    udp: int
    probed_at: datetime


@dataclass(frozen=True, slots=True)
class Network:
    public_ip: str | None
    local_ips: tuple[str, ...]
    port_range: PortRange
    proven: ProvenPorts | None = None
    """None: no prober has tried this range at this address yet."""
    speed: MeasuredSpeed | None = None
    """None: not measured yet."""

    @property
    def told_ip(self) -> str | None:
        """What instances are told of this machine's address: the public one, if it is known."""
        return self.public_ip or next(iter(self.local_ips), None)


@dataclass(frozen=True, slots=True)
class Engine:
    """The container engine."""

    version: str
    api_version: str
    storage_driver: str
    data_root: str
    cgroup_version: str
    live_restore: bool
    enforces_disk_size: bool
    gpu_mode: str
    """How GPUs reach containers: `cdi`, `device_request` or `none`."""
    default_runtime: str = ""
    """By which it starts containers that name none; "" where it was not told."""


@dataclass(frozen=True, slots=True)
class Benchmarks:
    """The newest of each measurement that offers show. None: not measured, and nothing stands in for it."""

    disk_read_mbps: float | None = None
    """Sequential, 10^6 bytes a second, as the next."""
    disk_write_mbps: float | None = None
    pcie_gbps: float | None = None
    """Between host and the GPU with the slowest link, the slower way; 10^9 bytes a second."""
    cpu_points: float | None = None
    """All cores."""
    cpu_ghz: float | None = None
    """Held with all cores at work."""


@dataclass(frozen=True, slots=True)
class MachineReport:
    """Everything the marketplace and the placement rules know of this machine."""

    collected_at: datetime
    agent_version: str
    system: System
    cpu: Cpu
    memory: Memory
    network: Network
    gpus: tuple[Gpu, ...] = ()
    driver: GpuDriver | None = None
    disk: Disk | None = None
    engine: Engine | None = None
    missing: tuple[Missing, ...] = ()
    benchmarks: Benchmarks | None = None
