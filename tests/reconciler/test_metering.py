"""The journal follows what the engine ran, whatever happens to the daemon, the engine or the machine."""

from dataclasses import replace
from datetime import datetime, timedelta
from operator import methodcaller

import pytest

from kaalia.contracts import metering
from kaalia.contracts.contract import Desired
from kaalia.errors import StoreError
from kaalia.model.metering import Edge, Interval, Meter
from kaalia.reconciler.ledger import Boot, Ledger
from kaalia.runtime.base import ObservedState
from kaalia.store import journal, outbox
from kaalia.wire.protocol import MessageKind
from tests.reconciler.rig import Rig, contract
from tests.reconciler.test_recovery import crash_during


async def counted(rig: Rig, meter: Meter = Meter.RUN) -> list[Interval]:
    entries = await rig.store.read(lambda tx: journal.all_entries(tx, 51))
    return [one for one in metering.intervals(entries) if one.meter is meter]


async def times(rig: Rig, meter: Meter = Meter.RUN) -> list[tuple[datetime, datetime | None]]:
    return [(one.started_at, one.ended_at) for one in await counted(rig, meter)]


async def test_a_launch_counts_from_the_moment_the_engine_names(rig: Rig) -> None:
    await rig.put(contract(gpus=2))
    await rig.settle()

    assert await times(rig) == [(rig.runtime.containers[51].started_at, None)]
    assert [one.amount for one in await counted(rig)] == [2]
    [disk] = await counted(rig, Meter.DISK)
    assert disk.amount == contract().spec.disk_bytes
    assert disk.started_at <= (await counted(rig))[0].started_at


async def test_each_line_is_told_in_the_transaction_that_writes_it(rig: Rig) -> None:
    await rig.put(contract())
    await rig.settle()
    await rig.put(contract(desired=Desired.STOPPED))
    await rig.settle()

    told = [one for one in await rig.store.read(lambda tx: outbox.pending(tx, 1000)) if one.kind == MessageKind.METER]
    assert len(told) == len(await rig.store.read(journal.all_entries)) == 3


async def test_a_stop_counts_to_the_end_the_engine_names_and_keeps_the_disk(rig: Rig) -> None:
    await rig.put(contract())
    await rig.settle()
    await rig.later(hours=1)
    await rig.put(contract(desired=Desired.STOPPED))
    await rig.settle()

    stopped = rig.runtime.containers[51]
    assert await times(rig) == [(stopped.started_at, stopped.finished_at)]
    assert [ended for _, ended in await times(rig, Meter.DISK)] == [None]


async def test_a_destroy_ends_both(rig: Rig) -> None:
    await rig.put(contract())
    await rig.settle()
    await rig.later(hours=1)
    await rig.put(contract(desired=Desired.ENDED))
    await rig.settle()

    assert all(ended is not None for _, ended in [*await times(rig), *await times(rig, Meter.DISK)])


@pytest.mark.parametrize("point", ["create.done", "start.done", "launch.recorded"])
async def test_a_crash_while_launching_counts_one_run(rig: Rig, point: str) -> None:
    await rig.put(contract())
    await crash_during(rig, point)
    rig.clock.advance(600)
    await rig.settle()

    assert await times(rig) == [(rig.runtime.containers[51].started_at, None)]
    assert len(await counted(rig, Meter.DISK)) == 1


@pytest.mark.parametrize("point", ["stop.intended", "stop.done", "stop.recorded"])
async def test_a_crash_while_stopping_counts_to_the_real_end(rig: Rig, point: str) -> None:
    await rig.put(contract())
    await rig.settle()
    await rig.put(contract(desired=Desired.STOPPED))
    await crash_during(rig, point)
    rig.clock.advance(600)
    await rig.settle()

    stopped = rig.runtime.containers[51]
    assert await times(rig) == [(stopped.started_at, stopped.finished_at)]


async def test_a_tenant_that_ran_on_without_the_daemon_is_counted(rig: Rig) -> None:
    await rig.put(contract())
    await rig.settle()
    began = rig.runtime.containers[51].started_at
    rig.clock.advance(7200)
    rig.runtime.exit(51, 0)
    rig.clock.advance(7200)
    await rig.restart()
    await rig.settle()

    assert await times(rig) == [(began, rig.runtime.containers[51].finished_at)]


async def test_a_silent_engine_changes_no_count(rig: Rig) -> None:
    await rig.put(contract())
    await rig.settle()
    before = await times(rig)
    rig.runtime.go_down()
    await rig.later(hours=1)
    rig.runtime.come_up()
    await rig.later(hours=1)

    assert await times(rig) == before


async def test_a_container_that_vanished_counts_to_the_last_look(rig: Rig) -> None:
    await rig.put(contract())
    await rig.settle()
    await rig.later(minutes=10)
    looked_at = rig.clock.now()
    rig.runtime.set_state(51, ObservedState.RUNNING)
    rig.clock.advance(3600)
    rig.runtime.vanish(51)
    await rig.settle()

    [(_, ended)] = await times(rig)
    assert ended is not None
    assert looked_at - timedelta(seconds=1) <= ended <= rig.clock.now()
    assert [end is None for _, end in await times(rig, Meter.DISK)] == [False]


async def test_a_boot_costs_the_renter_nothing_while_the_machine_was_down(rig: Rig) -> None:
    await rig.put(contract())
    await rig.settle()
    seen_at = rig.clock.now()
    before = Ledger(rig.store, rig.clock, Boot("one"))
    await before.prove_life()
    rig.clock.advance(5000)
    booted_at = rig.clock.now()
    after = Ledger(rig.store, rig.clock, Boot("two", booted_at))
    await after.prove_life()
    await after.prove_life()

    [(_, ended)] = await times(rig)
    assert ended == seen_at
    first, second = await times(rig, Meter.DISK)
    assert first[1] == seen_at
    assert second == (booted_at, None)


async def test_the_journal_cannot_be_rewritten(rig: Rig) -> None:
    await rig.put(contract())
    await rig.settle()

    for deed in ("UPDATE journal SET amount = 0", "DELETE FROM journal"):
        with pytest.raises(StoreError, match="append-only"):
            await rig.store.transaction(methodcaller("execute", deed))
    entries = await rig.store.read(journal.all_entries)
    assert {entry.edge for entry in entries} == {Edge.START}
    assert replace(entries[0], amount=0) != entries[0]
