"""What a container uses now, as the kernel counts it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ContainerUsage:
    """Of the container's cgroup. `memory_bytes`: cached files included. None: the kernel does not tell."""

    cpu_s: float | None = None
    """CPU time since its start."""
    memory_bytes: int | None = None
    oom_kills: int | None = None
    """Processes that were ended at its own limit of memory, since its start."""
