"""What the marketplace does by itself, every few seconds: ends that roll on daily, prices that come to hold,
default jobs that come back after maintenance, requests that renters scheduled.

Each job looks for what is due by the clock, so one that was missed is done late, and doing it twice changes nothing.
Of scheduled requests, where twice would be once too often, each run is written down before it is sent.
"""

import asyncio

from kaalia.marketplace import default_jobs, extensions, increases, scheduled_runs
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
    await increases.apply_all(context)
    await extensions.roll(context)
    await default_jobs.resume(context)
    await scheduled_runs.run_due(context)
