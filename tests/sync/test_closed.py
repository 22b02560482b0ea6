"""What closes a machine for a while travels both ways: windows in the snapshot, the cordon in every heartbeat."""

import random
from datetime import timedelta
from pathlib import Path

from kaalia.contracts.cordon import Cordon
from kaalia.contracts.maintenance import Window
from kaalia.marketplace import machines
from kaalia.store import maintenance
from kaalia.store.changes import Topic
from kaalia.sync.backoff import Backoff
from kaalia.sync.pull import Pull
from kaalia.sync.push import Push
from tests.marketplace.support import Market
from tests.sync.support import Machine, open_pair

HOUR = timedelta(hours=1)


def push_of(host: Machine) -> Push:
    chance = random.Random(1)
    bell = host.changes.subscribe(Topic.OUTBOX)
    return Push(host.database, host.client, host.clock, bell, Backoff(chance), chance, 30)


async def told(market: Market, host: Machine) -> Cordon | None:
    async with market.context.engine.begin() as tx:
        machine = await machines.get(tx, host.member.machine_id)
    assert machine is not None
    return machine.cordon


async def test_every_heartbeat_tells_the_cordon_for_as_long_as_it_is_up(tmp_path: Path) -> None:
    async with open_pair(tmp_path) as (market, host):
        placed = Cordon(host.clock.now(), host.clock.now() + HOUR)
        push = push_of(host)
        await push.once()
        assert await told(market, host) is None

        await host.database.transaction(lambda tx: maintenance.put_cordon(tx, placed))
        for _ in range(2):
            await push.once()
            assert await told(market, host) == placed

        host.clock.advance(3600)
        market.clock.advance(3600)
        await push.once()
        assert await told(market, host) is None


async def test_a_cordon_that_is_lifted_is_told(tmp_path: Path) -> None:
    async with open_pair(tmp_path) as (market, host):
        push = push_of(host)
        await host.database.transaction(lambda tx: maintenance.put_cordon(tx, Cordon(host.clock.now())))
        await push.once()
        await host.database.transaction(maintenance.lift_cordon)
        await push.once()

        assert await told(market, host) is None


async def test_windows_come_with_the_snapshot_and_go_with_it(tmp_path: Path) -> None:
    async with open_pair(tmp_path) as (market, host):
        pull = Pull(host.database, host.client, host.clock, host.member, Backoff(random.Random(1)))
        await pull.once(0)
        now = market.clock.now()
        coming, past = (
            Window(now + HOUR, now + 2 * HOUR, now, "disk"),
            Window(now - 2 * HOUR, now - HOUR, now - 3 * HOUR),
        )

        for windows, kept in (((past, coming), (coming,)), ((), ())):
            async with market.context.engine.begin() as tx:
                await machines.put_windows(tx, host.member.machine_id, windows)
                await machines.bump(tx, host.member.machine_id)
            await pull.once(0)
            assert await host.database.read(maintenance.windows) == kept
