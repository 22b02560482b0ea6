"""Which processes use the GPUs: the driver names them, the kernel says in which containers they are."""

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class GpuProcess:
    """One process on one GPU. `name` is the kernel's short one, "" when it cannot be read."""

    gpu_uuid: str
    pid: int
    name: str = ""
    container_ids: tuple[str, ...] = ()
    """Of the container engine, the outermost first. Empty: a process of the machine itself."""


@dataclass(frozen=True, slots=True)
class GpuUse:
    """One reading of the driver. What a GPU did not tell stands in the report's `missing`."""

    read_at: datetime
    processes: tuple[GpuProcess, ...] = ()
