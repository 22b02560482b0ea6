"""Whether running containers may still use their GPUs, by a process of its own (`gpu_access_child`) for all of them.

`systemctl daemon-reload` takes the right away again that NVIDIA's hook had given behind systemd's back: programs inside
then fail with "Failed to initialize NVML: Unknown Error", and nothing else tells it.
"""

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from kaalia.host.process import run

CHILD = Path(__file__).with_name("gpu_access_child.py")
BASE = Path("/sys/fs/cgroup")
DEADLINE_S = 20.0


@dataclass(frozen=True, slots=True)
class GpuAccess:
    """Of one container: device nodes of GPUs, by what using them comes to (errno, 0: it may be used)."""

    nodes: Mapping[str, int]

    @property
    def lost(self) -> list[str]:
        return [name for name, problem in self.nodes.items() if problem]


async def look(container_ids: Iterable[str], base: Path = BASE) -> dict[str, GpuAccess]:
    """By container id; those that could not be looked at are left out. Raises HostError."""
    asked = "".join(f"{container_id}\n" for container_id in container_ids)
    argv = (sys.executable, "-I", "-S", "-X", "utf8", str(CHILD), str(base))
    done = await run(argv, DEADLINE_S, stdin=asked.encode(), check=True)
    return read(done.stdout)


def read(text: str) -> dict[str, GpuAccess]:
    """What was told to its end."""
    nodes: dict[str, dict[str, int]] = {}
    found = {}
    for line in text.splitlines():
        match line.split():
            case [container_id, "end"]:
                found[container_id] = GpuAccess(nodes.pop(container_id, {}))
            case [container_id, name, number] if number.isdecimal() and name != "unseen":
                nodes.setdefault(container_id, {})[name] = int(number)
    return found
