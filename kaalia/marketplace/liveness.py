"""Is a machine online, and how reliable was it: seconds heard of over seconds observed, starting from a prior.

A silence is known only when it ends, or by looking at `now`; nothing here runs on a timer.
"""

from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from kaalia.marketplace.context import Settings
from kaalia.marketplace.db.tables import machines
from kaalia.marketplace.machines import MachineRecord

OFFLINE_AFTER_S = 180.0
"""The default of Settings.offline_after_s."""
PRIOR_RELIABILITY = 0.95
PRIOR_WEIGHT_S = 7 * 86400.0
"""A new machine begins as if it had been watched for a week and heard of 95 % of the time: above the 0.90 that the
public self-test asks for, and a week of its own record outweighs the guess."""


async def seen(tx: AsyncConnection, machine_id: int, now: datetime, offline_after_s: float = OFFLINE_AFTER_S) -> None:
    """The machine was heard of. A gap of at most `offline_after_s` counts as online time, a longer one as silence."""
    gap_s = sa.func.coalesce(now.timestamp() - machines.c.last_seen_at, 0.0)
    forward = sa.case((gap_s > 0, gap_s), else_=0.0)
    heard = sa.case((gap_s <= offline_after_s, forward), else_=0.0)
    await tx.execute(
        sa.update(machines)
        .where(machines.c.id == machine_id)
        .values(
            observed_s=machines.c.observed_s + forward,
            online_s=machines.c.online_s + heard,
            last_seen_at=sa.case(
                (forward > 0, now.timestamp()), else_=sa.func.coalesce(machines.c.last_seen_at, now.timestamp())
            ),
        )
    )


def is_online(machine: MachineRecord, now: datetime, settings: Settings) -> bool:
    return machine.last_seen_at is not None and silence_s(machine, now) <= settings.offline_after_s


def silence_s(machine: MachineRecord, now: datetime) -> float:
    """Seconds since the machine was last heard of; 0 when never, and when the clock went back."""
    return 0.0 if machine.last_seen_at is None else max(0.0, (now - machine.last_seen_at).total_seconds())


def reliability(machine: MachineRecord, now: datetime | None = None, offline_after_s: float = OFFLINE_AFTER_S) -> float:
    """0 to 1. With `now`, a silence that is going on counts already."""
    silence = silence_s(machine, now) if now else 0.0
    missed_s = silence if silence > offline_after_s else 0.0
    return (machine.online_s + PRIOR_RELIABILITY * PRIOR_WEIGHT_S) / (machine.observed_s + missed_s + PRIOR_WEIGHT_S)
