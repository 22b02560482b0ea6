"""A machine that seems to have more memory and processors than it has: the kernel's files that tell it are covered.

Popen([*around(folder), *command])      for one program, and what it starts; as root
files(folder)                           for a container, by their paths in it
"""

import re
import shlex
from pathlib import Path

MEMORY_MIB = 65536
FREE_MIB = 4608
"""What is filled to be tried is truly filled, and this machine has less than it seems."""
CORES = 16
_ONLINE = "/sys/devices/system/cpu/online"
_MEMORY, _PROCESSORS = "/proc/meminfo", "/proc/cpuinfo"


def files(folder: Path, memory_mib: int = MEMORY_MIB, cores: int = CORES) -> dict[str, str]:
    """Made in `folder`: which file to show in the place of which."""
    folder.mkdir(parents=True, exist_ok=True)
    memory = Path(_MEMORY).read_text()
    for field, mib in {"MemTotal": memory_mib, "MemFree": FREE_MIB, "MemAvailable": FREE_MIB}.items():
        memory = re.sub(rf"^({field}:\s+)\d+", rf"\g<1>{mib * 1024}", memory, flags=re.MULTILINE)
    first = Path(_PROCESSORS).read_text().split("\n\n")[0]
    fields = "\n".join(
        line for line in first.splitlines() if not re.match(r"(processor|physical id|core id)\s*:", line)
    )
    blocks = [f"processor\t: {one}\nphysical id\t: 0\ncore id\t\t: {one}\n{fields}\n\n" for one in range(cores)]
    shown = {_MEMORY: memory, _PROCESSORS: "".join(blocks), _ONLINE: f"0-{cores - 1}\n"}
    paths = {}
    for path, text in shown.items():
        made = folder / Path(path).name
        made.write_text(text)
        paths[path] = str(made)
    return paths


def around(folder: Path, memory_mib: int = MEMORY_MIB, cores: int = CORES) -> tuple[str, ...]:
    """Words to put before a command: it, and what it starts, sees such a machine, and nobody else does."""
    shown = files(folder, memory_mib, cores)
    covered = "".join(f"mount --bind {shlex.quote(made)} {path} && " for path, made in shown.items())
    return ("unshare", "--mount", "sh", "-c", f'{covered}exec "$@"', "roomy")
