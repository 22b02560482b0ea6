"""What the marketplace does by itself, every few seconds: ends that roll on daily, prices that come to hold,
default jobs that come back after maintenance.

Each job looks for what is due by the clock, so one that was missed is done late, and doing it twice changes nothing.
Requests that renters scheduled, which may wait for their machines, have a loop of their own: `scheduled_runs`.
"""

import asyncio

from kaalia.marketplace import away, default_jobs, extensions, increases
from kaalia.marketplace.context import Context
from kaalia.service import run_forever

EVERY_S = 10.0


async def run(context: Context) -> None:
    """Until cancelled."""

    async def turn() -> None:
        await once(context)
        await asyncio.sleep(EVERY_S)

    await run_forever("jobs", turn)


async def once(context: Context) -> None:
    """Everything that is due now."""
    await away.look(context)
    await increases.apply_all(context)
    await extensions.roll(context)
    await default_jobs.resume(context)
