"""What a machine makes of its own outages: pure, by the clocks that leases go by. docs/health.md tells the story."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from kaalia.contracts import cordon as cordons
from kaalia.contracts import maintenance
from kaalia.contracts.cordon import Cordon
from kaalia.contracts.lease import Anchor, Reading
from kaalia.contracts.maintenance import Window
from kaalia.model.availability import Cause

SLEPT = timedelta(seconds=30)
"""Less than this a busy machine's timers may be late."""


@dataclass(frozen=True, slots=True)
class Absence:
    """The daemon did not run: from `begin_at`, at the age `begin_s` of that boot, until now."""

    cause: Cause
    begin_at: datetime
    boot_id: str
    begin_s: float
    detail: str


@dataclass(frozen=True, slots=True)
class Pending:
    """An absence whose length is not known yet: the daemon was back at the age `back_s` of the boot `boot_id`."""

    absence: Absence
    boot_id: str
    back_s: float


@dataclass(frozen=True, slots=True)
class Owner:
    """What the owner announced."""

    windows: tuple[Window, ...] = ()
    cordon: Cordon | None = None

    def plans(self, at: datetime) -> bool:
        placed = self.cordon if self.cordon and self.cordon.placed_at <= at else None
        return maintenance.current(self.windows, at) is not None or cordons.is_up(placed, at)


def absence(before: Anchor | None, stop: tuple[str, float] | None, reading: Reading, owner: Owner) -> Absence | None:
    """Where the daemon was until this start. `before`: the last that was known of time; `stop`: the boot in which it
    was told to stop, and its age then. None: it never ran before.
    """
    if before is None:
        return None
    is_ordered = stop is not None and stop[0] == before.boot_id and stop[1] >= before.seen_s
    begin_s = stop[1] if stop is not None and is_ordered else before.seen_s
    begin_at = before.at + timedelta(seconds=begin_s - before.boottime_s)
    if before.boot_id == reading.boot_id:
        cause, detail = Cause.DAEMON, "the daemon was stopped" if is_ordered else "the daemon ended without being told"
    elif is_ordered:
        cause, detail = Cause.PLANNED, "the machine was shut down in order"
    else:
        cause, detail = Cause.POWER, "the machine went down without shutting down: power, reset or a crash"
    if cause is not Cause.PLANNED and owner.plans(begin_at):
        cause, detail = Cause.PLANNED, f"{detail}, in maintenance"
    return Absence(cause, begin_at, before.boot_id, begin_s, detail)


def begun_at(over: Pending, back_at: datetime) -> datetime:
    """When it began, by the age of the boot where it is the same one: no wall clock is asked."""
    absent = over.absence
    if absent.boot_id == over.boot_id:
        return back_at - timedelta(seconds=max(0.0, over.back_s - absent.begin_s))
    return min(absent.begin_at, back_at)


def has_slept(boottime_s: float, monotonic_s: float) -> bool:
    """The machine was suspended: so much the boot grew older, and so long the timers ran."""
    return boottime_s - monotonic_s >= SLEPT.total_seconds()


def causes(open_codes: Iterable[str], by_code: dict[str, Cause]) -> dict[Cause, str]:
    """Which parts are down by the conditions that are open: cause -> the code that says so."""
    found: dict[Cause, str] = {}
    for code in sorted(open_codes):
        if (cause := by_code.get(code)) is not None:
            found.setdefault(cause, code)
    return found
