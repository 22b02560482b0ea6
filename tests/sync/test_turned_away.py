"""A refusal that trying again does not heal is told to who looks at the machine, until it is over."""

from pathlib import Path

import pytest
import sqlalchemy as sa

from kaalia.errors import UnauthorizedError
from kaalia.marketplace import removal
from kaalia.marketplace.db import tables
from kaalia.store import conditions, enrolment
from kaalia.wire.protocol import StatusPost
from tests.marketplace.support import Market
from tests.sync.support import Machine, open_pair
from tests.sync.test_pull import pull_of


async def told(host: Machine) -> list[tuple[str, str]]:
    found = await host.database.read(conditions.all_open)
    return [(one.source, one.condition.problem.code) for one in found]


async def heartbeat(host: Machine) -> None:
    """The machine says which revision it has."""
    known = await host.database.read(enrolment.get_snapshot)
    assert known is not None
    await host.client.post_status(StatusPost("s", known.epoch, known.revision, host.clock.now(), ()))


async def delete(market: Market, machine_id: int) -> None:
    async with market.context.engine.begin() as tx:
        await removal.delete(tx, machine_id, market.clock.now())


async def test_a_deleted_machine_says_so_until_it_is_taken_back(tmp_path: Path) -> None:
    async with open_pair(tmp_path) as (market, host):
        pull = pull_of(host)
        await pull.poll()
        assert await told(host) == []
        await delete(market, host.member.machine_id)
        await pull.poll()
        await heartbeat(host)
        for _ in range(2):
            with pytest.raises(UnauthorizedError, match="its owner deleted it"):
                await pull.poll()
            assert await told(host) == [("sync", "machine_deleted")]

        async with market.context.engine.begin() as tx:
            await tx.execute(sa.delete(tables.deleted_machines))
            await tx.execute(sa.update(tables.machines).values(revision=tables.machines.c.revision + 1))
        await pull.poll()
        assert await told(host) == []
