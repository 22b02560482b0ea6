"""How much of the machine's memory lies in swap, and how much goes there and back. `root` holds /proc."""

from dataclasses import dataclass
from pathlib import Path

from kaalia.host.kernel import read_text, unreadable

ROOT = Path("/")


@dataclass(frozen=True, slots=True)
class Swap:
    """`pages`: moved in and out since the boot."""

    total_bytes: int
    used_bytes: int
    pages: int


def swap(root: Path = ROOT) -> Swap:
    """Raises HostError `unreadable`."""
    memory = dict(line.split(":", 1) for line in read_text(root / "proc/meminfo").splitlines() if ":" in line)
    counts = dict(line.split(" ", 1) for line in read_text(root / "proc/vmstat").splitlines() if " " in line)
    try:
        total, free = (int(memory[name].split()[0]) * 1024 for name in ("SwapTotal", "SwapFree"))
        return Swap(total, total - free, int(counts["pswpin"]) + int(counts["pswpout"]))
    except (KeyError, ValueError, IndexError) as error:
        raise unreadable("the use of swap", f"the kernel does not tell {error}") from error
