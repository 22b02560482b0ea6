"""When the machine itself ended containers: the last boot, and the times in which the engine was away."""

from collections import deque
from datetime import datetime, timedelta

from kaalia.model.machine import MachineReport
from kaalia.reconciler.seen import Interruption

BOOT_SLACK = timedelta(minutes=10)
"""A machine that goes down ends containers a while before it boots again."""
OUTAGE_SLACK = timedelta(seconds=20)
"""An engine that is told to stop first ends its containers; Docker gives them 15 s."""
KEPT = 8


class Outages:
    """Remembers the newest outages of the engine, from `lost` to `back`."""

    def __init__(self) -> None:
        self._past: deque[Interruption] = deque(maxlen=KEPT)
        self._lost_at: datetime | None = None
        self._ends_all = False

    @property
    def is_lost(self) -> bool:
        return self._lost_at is not None

    def lost(self, now: datetime, report: MachineReport | None = None) -> None:
        """`report`: the last one; an engine without live-restore takes every workload with it."""
        self._lost_at = self._lost_at or now
        engine = report.engine if report else None
        self._ends_all |= engine is not None and not engine.live_restore

    def back(self, now: datetime) -> None:
        if self._lost_at is not None:
            self._past.append(Interruption(self._lost_at - OUTAGE_SLACK, now, self._ends_all))
        self._lost_at = None
        self._ends_all = False

    def interruptions(self, booted_at: datetime | None) -> tuple[Interruption, ...]:
        """What ran before the last boot cannot have run through it, whenever the engine noticed."""
        boots = () if booted_at is None else (Interruption(booted_at - BOOT_SLACK, booted_at),)
        return (*boots, *self._past)
