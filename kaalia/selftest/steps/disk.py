"""Docker's disk: what is written there comes back, and how fast it is.

The first by a work program, whose file has no name; the second by the measurement of `kaalia report --measure disk`, so
that there is one figure and not two. A quick test measures by the program itself, a second for each part.
"""

from dataclasses import replace
from datetime import datetime

from kaalia.host import outside
from kaalia.model.measurement import Bench, Measurement
from kaalia.model.selftest import Figure, Outcome, StepName, StepResult
from kaalia.selftest.step import Here, found_by, skipped
from kaalia.selftest.waiting import until
from kaalia.store import measurements, selftest
from kaalia.store.changes import Topic
from kaalia.store.database import Transaction
from kaalia.store.measurements import Order

PROGRAM_S, FIO_S = 90.0, 120.0
_LIMITS = (
    "TasksMax=64",
    "MemoryMax=512M",
    "NoNewPrivileges=yes",
    "PrivateNetwork=yes",
    f"RuntimeMaxSec={PROGRAM_S:.0f}",
)
"""The daemon itself may not write there."""


async def run(here: Here) -> StepResult:
    disk = here.report.disk
    if disk is None:
        return skipped(StepName.DISK, "Docker's data root is not known")
    is_quick = here.order.is_quick
    wanted = {"folder": disk.path, "quick": is_quick, "rates": is_quick}
    first = await outside.prefix(*_LIMITS)
    end, figures = await here.programs.run("disk", wanted, PROGRAM_S, here.ears, first=first)
    found = found_by(StepName.DISK, end, figures)
    if end.outcome is not Outcome.PASSED or is_quick:
        return found
    measured, why = await _measured(here)
    return replace(found, words=f"{end.words}; {why}" if why else end.words, figures=(*figures, *measured))


async def _measured(here: Here) -> tuple[tuple[Figure, ...], str]:
    """By fio, and why there is nothing of it."""
    now = here.clock.now()
    since = await here.database.transaction(lambda tx: _order(tx, now), Topic.MEASUREMENTS)
    here.tell(None, "its speed is measured")
    is_over = False
    try:
        is_over = await until(here.changes, (Topic.MEASUREMENTS,), here.database, _is_over, FIO_S)
    finally:
        if not is_over:
            await here.database.transaction(measurements.withdraw, Topic.MEASUREMENTS)
    if not is_over:
        return (), "the measurement of its speed has not ended"
    found = [one for one in await here.database.read(measurements.every) if _is_new(one, since)]
    figures = tuple(Figure(one.name, one.value, one.unit, spread=one.spread) for one in found if one.value is not None)
    why = next((one.reason for one in found if one.reason), "")
    return figures, f"its speed is not known: {why}" if why else ""


def _order(tx: Transaction, now: datetime) -> datetime:
    """Since when it is wanted: what the owner ordered a moment ago serves this too, and stays his."""
    known = measurements.get_order(tx, Bench.DISK)
    if known is None:
        measurements.order(tx, Order(Bench.DISK, now, purpose=selftest.PURPOSE))
    return known.ordered_at if known else now


def _is_over(tx: Transaction) -> bool:
    return Bench.DISK not in measurements.ordered(tx)


def _is_new(one: Measurement, since: datetime) -> bool:
    return one.name.startswith("disk_") and one.measured_at >= since
