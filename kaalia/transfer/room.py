"""Whether a holder may be given more bytes, by what was measured. For disks on which no file system holds to the size.

Where one does, it refuses the bytes itself.
"""

from kaalia.errors import Problem
from kaalia.model.copying import Holder, HolderKind
from kaalia.store import conditions, disk, machine
from kaalia.store.database import Transaction
from kaalia.units import format_bytes

_DISK_LOW = "disk_low"
"""Told by the disk watch: the engine's disk is below its low-water mark, and no image is left to remove."""


def problem(tx: Transaction, holder: Holder) -> Problem | None:
    """Why nothing may be copied to it now."""
    if holder.kind is not HolderKind.INSTANCE:
        return None
    over = disk.overruns(tx).get(holder.number)
    if over is not None and over.is_exceeded and not over.engine_file:
        return Problem(
            "copy_disk_exceeded",
            f"cannot copy to {holder}: it holds {format_bytes(over.size_bytes)}, "
            f"more than the {format_bytes(over.promised_bytes)} rented and the margin",
            remedy="copy what you need from it to another instance, then recycle or destroy it",
        )
    report = machine.get_report(tx)
    is_held = report is None or report.engine is None or report.engine.enforces_disk_size
    if not is_held and any(one.condition.problem.code == _DISK_LOW for one in conditions.all_open(tx)):
        return Problem(
            "copy_disk_low",
            f"cannot copy to {holder}: the disk of this machine is nearly full",
            remedy="copy to an instance of another machine, or again later",
        )
    return None
