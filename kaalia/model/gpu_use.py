"""Which processes use the GPUs: the driver names them, the kernel says in which containers they are."""

from dataclasses import dataclass
from datetime import datetime

SYSTEM_PROGRAMS = frozenset(
    {
        # The display server, which an X configuration for clocks and fans starts without a screen, too.
        *("Xorg", "Xwayland"),
        # NVIDIA's own services and tools, which hold a GPU open or look at it.
        *("nvidia-persiste", "nv-fabricmanage", "nv-hostengine", "dcgm-exporter", "nvidia-smi", "nvtop"),
    }
)
"""Names, cut to 15 letters as the kernel does, of the machine's own programs that may use a GPU beside its renter."""


@dataclass(frozen=True, slots=True)
class GpuProcess:
    """One process on one GPU. `name` is the kernel's short one, "" when it cannot be read."""

    gpu_uuid: str
    pid: int
    name: str = ""
    container_ids: tuple[str, ...] = ()
    """Of the container engine, the outermost first. Empty: a process of the machine itself."""

    @property
    def is_system(self) -> bool:
        """It belongs to the machine. What runs in a container does not, whatever it calls itself."""
        return not self.container_ids and self.name in SYSTEM_PROGRAMS


@dataclass(frozen=True, slots=True)
class GpuUse:
    """One reading of the driver. What a GPU did not tell stands in the report's `missing`."""

    read_at: datetime
    processes: tuple[GpuProcess, ...] = ()
