"""Many scheduled jobs at once: each is read once, accounts take turns, and nothing else waits for them."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from kaalia.marketplace import jobs, scheduled_requests, scheduled_runs
from kaalia.marketplace.context import Context
from kaalia.marketplace.db.schedule_tables import scheduled_jobs
from kaalia.marketplace.routing import Caller
from kaalia.marketplace.scheduled_runs import ACCOUNT_SHARE, AT_ONCE
from kaalia.wire.schedule import Wanted
from tests.marketplace.renting import rent, rented_market
from tests.marketplace.scheduling import HOUR_S, job, reboots, schedule
from tests.marketplace.support import Market, statements


async def due_jobs(market: Market, instance_id: int, count: int) -> None:
    for number in range(count):
        await schedule(market, job(instance_id, "command", {"command": f"ls /{number}"}))
    market.clock.advance(HOUR_S)


async def still_due(market: Market) -> int:
    due = scheduled_jobs.c.next_at <= market.clock.now().timestamp()
    async with market.context.engine.begin() as tx:
        return int((await tx.execute(sa.select(sa.func.count()).where(due))).scalar_one())


async def no_answer(*_: Any) -> dict[str, Any]:
    return {"msg": "done"}


async def test_an_account_has_its_share_of_a_round(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with rented_market(tmp_path) as market:
        monkeypatch.setattr(scheduled_requests, "send", no_answer)
        await due_jobs(market, await rent(market), ACCOUNT_SHARE + 5)

        await scheduled_runs.run_due(market.context)
        assert await still_due(market) == 5
        await scheduled_runs.run_due(market.context)
        assert await still_due(market) == 0


async def test_a_claim_reads_one_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with rented_market(tmp_path) as market:
        monkeypatch.setattr(scheduled_requests, "send", no_answer)
        await due_jobs(market, await rent(market), 12)

        with statements(market.context) as seen:
            await scheduled_runs.run_due(market.context)

        reads = [one for one in seen if "request_body" in one and one.startswith("SELECT")]
        assert len(reads) == 12 + AT_ONCE
        assert all("LIMIT" in one for one in reads)


async def test_other_duties_do_not_wait_for_a_slow_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with rented_market(tmp_path) as market:
        has_begun = asyncio.Event()

        async def never(*_: Any) -> None:
            has_begun.set()
            await asyncio.Event().wait()

        monkeypatch.setattr(scheduled_requests, "send", never)
        await due_jobs(market, await rent(market), 1)

        running = asyncio.create_task(scheduled_runs.run(market.context))
        await asyncio.wait_for(has_begun.wait(), 30)
        await asyncio.wait_for(jobs.once(market.context), 30)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_no_worker_outlives_its_round(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with rented_market(tmp_path) as market:
        slow, other = await rent(market), await rent(market)
        for one in (slow, other):
            await schedule(market, job(one))
        market.clock.advance(HOUR_S)
        has_begun, is_gone = asyncio.Event(), asyncio.Event()

        class Killed(BaseException):
            """As what ends a process."""

        async def send(context: Context, caller: Caller, wanted: Wanted) -> None:
            if wanted.instance_id == other:
                await has_begun.wait()
                raise Killed
            has_begun.set()
            try:
                await asyncio.Event().wait()
            finally:
                is_gone.set()

        monkeypatch.setattr(scheduled_requests, "send", send)
        with pytest.raises(Killed):
            await scheduled_runs.run_due(market.context)

        assert is_gone.is_set()
        assert await reboots(market, slow) == 0
