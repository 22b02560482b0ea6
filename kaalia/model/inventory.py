"""What the machine is made of: facts that stay for as long as its parts do. None: not told, and `missing` says why.

Read seldom, shown by `kaalia report --json`, kept on the machine: the marketplace gets a `MachineReport`.
"""

from dataclasses import dataclass
from datetime import datetime

from kaalia.model.machine import Missing


@dataclass(frozen=True, slots=True)
class Cache:
    """All caches of one level and kind. `bytes_each`: of one; `count`: how many there are."""

    level: int
    kind: str
    """`data`, `instruction` or `unified`."""
    bytes_each: int
    count: int


@dataclass(frozen=True, slots=True)
class NumaNode:
    number: int
    cpus: str
    """As the kernel lists them: `0-15,32-47`."""
    memory_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class CpuParts:
    """The processors. Frequencies in GHz, as the kernel tells them."""

    vendor: str | None = None
    family: int | None = None
    model_number: int | None = None
    stepping: int | None = None
    microcode: str | None = None
    sockets: int | None = None
    threads_per_core: int | None = None
    min_ghz: float | None = None
    current_ghz: float | None = None
    governor: str | None = None
    numa_nodes: tuple[NumaNode, ...] = ()
    caches: tuple[Cache, ...] = ()


@dataclass(frozen=True, slots=True)
class MemoryModule:
    """A slot of the board that is filled. `speed_mts`: as it runs, in millions of transfers a second."""

    slot: str
    total_bytes: int
    kind: str | None = None
    """`DDR4`, `DDR5` ..."""
    speed_mts: int | None = None
    maker: str | None = None


@dataclass(frozen=True, slots=True)
class MemoryParts:
    swap_bytes: int | None = None
    slots: int | None = None
    error_correction: str | None = None
    """`none`, `parity`, `single-bit`, `multi-bit` or `crc`."""
    modules: tuple[MemoryModule, ...] = ()

    @property
    def speed_mts(self) -> int | None:
        """Of the slowest module: all run at its speed."""
        return min((one.speed_mts for one in self.modules if one.speed_mts), default=None)

    @property
    def kind(self) -> str | None:
        return ", ".join(sorted({one.kind for one in self.modules if one.kind})) or None


@dataclass(frozen=True, slots=True)
class Drive:
    """A local disk, whole. Health is what smartctl says of it."""

    name: str
    kind: str
    """`nvme`, `ssd` or `hdd`."""
    total_bytes: int
    model: str | None = None
    firmware: str | None = None
    holds_docker: bool = False
    passed: bool | None = None
    """The drive's own verdict."""
    wear_percent: int | None = None
    """Of the endurance that its maker names; may be beyond 100."""
    temperature_c: int | None = None
    power_on_hours: int | None = None
    media_errors: int | None = None


@dataclass(frozen=True, slots=True)
class Nic:
    """A network card of the machine. `speed_mbps`: of the link that is up."""

    name: str
    driver: str | None = None
    speed_mbps: int | None = None
    mtu: int | None = None
    pci_address: str | None = None


@dataclass(frozen=True, slots=True)
class GpuParts:
    """What stays of one GPU, and how it is set up. `uuid` is its identity in the report."""

    uuid: str
    index: int
    serial_sha256: str | None = None
    """The board's number itself never leaves the process that reads it."""
    minor_number: int | None = None
    brand: str | None = None
    architecture: str | None = None
    board_part_number: str | None = None
    pci_device_id: str | None = None
    """`DDDD:VVVV` of the chip, in hex: device, vendor."""
    pci_subsystem_id: str | None = None
    vbios_version: str | None = None
    inforom_version: str | None = None
    gsp_firmware: str | None = None
    cores: int | None = None
    memory_bus_bits: int | None = None
    bar1_total_mb: int | None = None
    pci_gen_device_max: int | None = None
    """What the GPU could do in another slot."""
    power_min_w: float | None = None
    power_max_w: float | None = None
    power_default_w: float | None = None
    power_enforced_w: float | None = None
    graphics_clock_max_mhz: int | None = None
    video_clock_max_mhz: int | None = None
    temperature_slowdown_c: int | None = None
    temperature_shutdown_c: int | None = None
    fans: int | None = None
    ecc_mode: bool | None = None
    ecc_mode_pending: bool | None = None
    mig_mode: bool | None = None
    mig_mode_pending: bool | None = None
    persistence_mode: bool | None = None
    compute_mode: str | None = None
    virtualization_mode: str | None = None
    fabric_state: str | None = None
    nvlinks: int | None = None
    """Links that are up."""
    nvlinks_max: int | None = None
    nvlink_version: int | None = None
    numa_node: int | None = None
    cpus_near: str | None = None
    iommu_group: int | None = None
    iommu_group_alone: bool | None = None
    """Nothing but functions of this card and bridges is in its group."""


@dataclass(frozen=True, slots=True)
class GpuPair:
    """How two GPUs reach each other. `path`: as nvidia-smi topo names it, of the PCI bus."""

    first: int
    second: int
    path: str | None = None
    """`PIX`, `PXB`, `PHB`, `NODE` or `SYS`; one board: `INT`."""
    read: str | None = None
    """`ok`, or why one cannot read the other's memory."""
    write: str | None = None
    nvlinks: int | None = None
    """Links that go straight from one to the other, without a switch."""


@dataclass(frozen=True, slots=True)
class IommuParts:
    """Whether GPUs could be given to virtual machines: what the kernel and its modules say, nothing tried."""

    enabled: bool | None = None
    groups: int | None = None
    kind: str | None = None
    kernel_arguments: str | None = None
    """Those that concern it."""
    cpu_virtualization: str | None = None
    """`svm`, `vmx`, or `none`."""
    kvm: bool | None = None
    hypervisor: bool | None = None
    """This machine is itself a virtual one."""
    vfio_loaded: bool | None = None
    drm_modeset: bool | None = None
    """The NVIDIA driver holds the console, which hinders giving GPUs away."""
    secure_boot: bool | None = None


@dataclass(frozen=True, slots=True)
class SoftwareParts:
    kernel_module: str | None = None
    """The NVIDIA driver's version as the kernel has it loaded."""
    kernel_module_open: bool | None = None
    container_toolkit: str | None = None
    fabric_manager: str | None = None
    libc: str | None = None
    python: str | None = None
    cgroup_mode: str | None = None
    """`unified`, `hybrid` or `legacy`."""
    init: str | None = None


@dataclass(frozen=True, slots=True)
class Inventory:
    """One reading of all that stays."""

    read_at: datetime
    boot_id: str
    cpu: CpuParts = CpuParts()
    memory: MemoryParts = MemoryParts()
    drives: tuple[Drive, ...] = ()
    nics: tuple[Nic, ...] = ()
    gpus: tuple[GpuParts, ...] = ()
    gpu_pairs: tuple[GpuPair, ...] = ()
    iommu: IommuParts = IommuParts()
    software: SoftwareParts = SoftwareParts()
    missing: tuple[Missing, ...] = ()
