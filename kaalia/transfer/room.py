"""Whether a holder may be given more bytes, by what was measured. For disks on which no file system holds to the size.

Where one does, it refuses the bytes itself.
"""

from kaalia.contracts.disk import limit_bytes
from kaalia.errors import Problem
from kaalia.model.copying import Holder, HolderKind
from kaalia.store import conditions, disk, machine, volumes
from kaalia.store.database import Transaction
from kaalia.units import format_bytes

_DISK_LOW = "disk_low"
"""Told by the disk watch: the engine's disk is below its low-water mark, and no image is left to remove."""
_UNSURE = "disk_limits_unsure"
"""Told by the disk watch: btrfs counts anew, and holds to no size meanwhile."""


def problem(tx: Transaction, holder: Holder) -> Problem | None:
    """Why nothing may be copied to it now."""
    if holder.kind is HolderKind.INSTANCE:
        over = disk.overruns(tx).get(holder.number)
        if over is not None and over.is_exceeded and not over.engine_file:
            return _exceeded(holder, over.size_bytes, over.promised_bytes)
    else:
        stored = volumes.get(tx, holder.number)
        used = stored.status.used_bytes if stored is not None and stored.status is not None else None
        if stored is not None and used is not None and used > limit_bytes(stored.volume.size_bytes):
            return _exceeded(holder, used, stored.volume.size_bytes)
    told = {one.condition.problem.code for one in conditions.all_open(tx)}
    if _DISK_LOW in told and not (_is_enforced(tx, holder) and _UNSURE not in told):
        return Problem(
            "copy_disk_low",
            f"cannot copy to {holder}: the disk of this machine is nearly full",
            remedy="copy to an instance of another machine, or again later",
        )
    return None


def _is_enforced(tx: Transaction, holder: Holder) -> bool:
    """Whether the file system holds it to its size; of a volume it always does (`model.volume.VolumeBackend`)."""
    if holder.kind is HolderKind.VOLUME:
        return True
    report = machine.get_report(tx)
    return report is None or report.engine is None or report.engine.enforces_disk_size


def _exceeded(holder: Holder, size_bytes: int, rented_bytes: int) -> Problem:
    return Problem(
        "copy_disk_exceeded",
        f"cannot copy to {holder}: it holds {format_bytes(size_bytes)}, "
        f"more than the {format_bytes(rented_bytes)} rented and the margin",
        remedy="copy what you need from it, which still works, and delete files, or recycle or destroy it",
    )
