"""How the marketplace sees a machine reaches its daemon: verification, and what renters report."""

from pathlib import Path

import sqlalchemy as sa

from kaalia.marketplace import machines
from kaalia.marketplace.db import tables
from kaalia.store import standing
from tests.marketplace.support import Market
from tests.sync.support import Machine, open_pair
from tests.sync.test_pull import pull_of


async def change(market: Market, host: Machine, statement: sa.UpdateBase) -> None:
    async with market.context.engine.begin() as tx:
        await tx.execute(statement)
        await machines.bump(tx, host.member.machine_id)
    await pull_of(host).once(0)


async def test_a_change_is_kept_with_what_was_before(tmp_path: Path) -> None:
    async with open_pair(tmp_path) as (market, host):
        await pull_of(host).once(0)
        first = await host.database.read(standing.get)
        for verification in ("verified", "deverified"):
            host.clock.advance(5)
            row = sa.update(tables.machines).values(verification=verification)
            await change(market, host, row)
        second = await host.database.read(standing.get)
        report = {"machine_id": host.member.machine_id, "user_id": 1, "problem": "slow", "message": "very"}
        await change(market, host, sa.insert(tables.machine_reports).values(**report, created_at=1.0))
        third = await host.database.read(standing.get)

    assert first is not None
    assert second is not None
    assert third is not None
    assert (first.standing.verification, first.previous) == ("unverified", None)
    assert (second.standing.verification, second.previous) == ("deverified", "verified")
    assert [one.problem for one in third.standing.reports] == ["slow"]
    assert third.changed_at == second.changed_at == host.clock.now()
