"""Which part of the machine a contract gets: its GPUs by UUID, of one model, and its share of everything else.

CPU is compressible, so none of it is held back: the share is a weight, and a workload may burst to all cores
while others are idle. Memory is not, so the machine keeps a reserve. Refuses nothing: too few GPUs is `None`.
"""

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from kaalia.model.machine import Gpu, MachineReport
from kaalia.units import GIB

PIDS_PER_CORE = 256
"""What healthy machines of the field give for each core of the share."""
PIDS_PER_VISIBLE_CORE = 16
"""Public images size thread pools by the cores they see, and cap themselves below this."""
PIDS_MIN = 1024
SHM_FRACTION = 0.5
"""Of the share's memory: what Linux gives a tmpfs by default. It counts against the memory limit."""
RESERVE_FRACTION = 0.05
RESERVE_MIN_BYTES = 2 * GIB
RESERVE_MAX_FRACTION = 0.25
"""A small machine keeps no more than a quarter for itself."""
_UNREAD = re.compile(r"gpus\.\d+")


@dataclass(frozen=True, slots=True)
class Share:
    """The part of the machine that a workload gets, in proportion to its GPUs."""

    cpu_cores: float
    """Baseline in logical cores (weight); the workload may burst above it while others are idle."""
    cpu_quota_cores: float
    """Hard ceiling in logical cores."""
    memory_bytes: int
    shm_bytes: int
    pids: int


def reserve_bytes(total_bytes: int) -> int:
    """Memory that the machine keeps for itself: 5 %, at least 2 GiB, at most a quarter."""
    wanted = max(RESERVE_MIN_BYTES, int(total_bytes * RESERVE_FRACTION))
    return min(wanted, int(total_bytes * RESERVE_MAX_FRACTION))


def share(report: MachineReport, gpu_count: int) -> Share:
    """The share of `gpu_count` GPUs. 0: a contract without GPUs, which has the whole machine less the reserve."""
    fraction = min(1.0, gpu_count / len(report.gpus)) if gpu_count and report.gpus else 1.0
    cores = report.cpu.logical_cores
    total_bytes = report.memory.total_bytes
    memory_bytes = int((total_bytes - reserve_bytes(total_bytes)) * fraction)
    return Share(
        cpu_cores=cores * fraction,
        cpu_quota_cores=float(cores),
        memory_bytes=memory_bytes,
        shm_bytes=int(memory_bytes * SHM_FRACTION),
        pids=max(PIDS_MIN, int(PIDS_PER_CORE * cores * fraction), PIDS_PER_VISIBLE_CORE * cores),
    )


def model_of(gpu: Gpu) -> str:
    """What is rented out together: one product with one size of memory, as in `GeForce RTX 3090 24 GiB`.

    Drivers before 470 leave the maker's name out, and count the memory a little differently.
    """
    return f"{gpu.name.removeprefix('NVIDIA ')} {round(gpu.vram_mb / 1024)} GiB"


def by_model(gpus: Iterable[Gpu]) -> dict[str, tuple[Gpu, ...]]:
    """The groups that offers are made of, the models in the order of their names."""
    groups: dict[str, list[Gpu]] = defaultdict(list)
    for gpu in gpus:
        groups[model_of(gpu)].append(gpu)
    return {model: tuple(groups[model]) for model in sorted(groups)}


def all_known(report: MachineReport) -> bool:
    """False: the driver does not answer, or shows a GPU that it cannot read, so that fewer are known than there are."""
    gaps = {gap.field for gap in report.missing}
    return "gpus" not in gaps and not any(_UNREAD.fullmatch(field) for field in gaps)


def choose_gpus(gpus: Sequence[Gpu], busy: Collection[str], count: int) -> tuple[str, ...] | None:
    """UUIDs of `count` free GPUs of one model, the closest neighbours; None while there are not enough.

    Among equals: the same PCI domain, then the smallest spread, then an aligned block (so that larger
    blocks stay whole), then the lowest place.
    """
    if count == 0:
        return ()
    models = by_model(sorted(gpus, key=_place))
    choices = [choice for siblings in models.values() for choice in _choices(siblings, busy, count)]
    return min(choices)[1] if choices else None


def largest_block(gpus: Sequence[Gpu], busy: Collection[str]) -> int:
    """How many free GPUs of one model are neighbours in one PCI domain, at most."""
    longest = 0
    for siblings in by_model(sorted(gpus, key=_place)).values():
        length, domain = 0, None
        for gpu in siblings:
            is_next = gpu.uuid not in busy and (length == 0 or _domain(gpu) == domain)
            length = length + 1 if is_next else int(gpu.uuid not in busy)
            domain, longest = _domain(gpu), max(longest, length)
    return longest


def _choices(
    siblings: Sequence[Gpu], busy: Collection[str], count: int
) -> list[tuple[tuple[int, ...], tuple[str, ...]]]:
    """Every run of neighbouring free GPUs with its cost, lower is better."""
    free = [(at, gpu) for at, gpu in enumerate(siblings) if gpu.uuid not in busy]
    runs = [free[start : start + count] for start in range(len(free) - count + 1)]
    return [
        (
            (
                len({_domain(gpu) for _, gpu in run}),
                run[-1][0] - run[0][0],
                run[0][0] % count,
                -len(siblings),
                run[0][0],
            ),
            tuple(gpu.uuid for _, gpu in run),
        )
        for run in runs
    ]


def _domain(gpu: Gpu) -> str:
    return gpu.pci_address.split(":")[0] if gpu.pci_address else ""


def _place(gpu: Gpu) -> tuple[str, int]:
    """Order along the PCI tree; without an address, NVML's own order."""
    return (gpu.pci_address or "", gpu.index)
