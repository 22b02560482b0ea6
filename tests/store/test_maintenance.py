"""The rows that close a machine for a while."""

from datetime import timedelta

from kaalia.contracts.cordon import Cordon
from kaalia.contracts.maintenance import Window
from kaalia.store import maintenance
from kaalia.store.database import Database
from kaalia.store.maintenance import StoredCordon
from tests.support.clock import START

HOUR = timedelta(hours=1)


async def test_windows_are_replaced_as_a_whole(store: Database) -> None:
    late, early = Window(START + 9 * HOUR, START + 10 * HOUR, START, "gpu"), Window(START, START + HOUR, START)

    await store.transaction(lambda tx: maintenance.put_windows(tx, [late, early]))
    assert await store.read(maintenance.windows) == (early, late)
    await store.transaction(lambda tx: maintenance.put_windows(tx, [late]))
    assert await store.read(maintenance.windows) == (late,)
    await store.transaction(lambda tx: maintenance.put_windows(tx, []))
    assert await store.read(maintenance.windows) == ()


async def test_a_cordon_is_placed_obeyed_dated_and_lifted(store: Database) -> None:
    placed = Cordon(START + timedelta(microseconds=123457))
    assert await store.read(maintenance.get_cordon) is None

    await store.transaction(lambda tx: maintenance.put_cordon(tx, placed))
    assert await store.read(maintenance.get_cordon) == StoredCordon(placed, is_obeyed=False)
    await store.transaction(lambda tx: maintenance.obey_cordon(tx, Cordon(START - HOUR), START))
    assert await store.read(maintenance.get_cordon) == StoredCordon(placed, is_obeyed=False)
    await store.transaction(lambda tx: maintenance.obey_cordon(tx, placed, START))
    await store.transaction(lambda tx: maintenance.set_until(tx, START + HOUR))
    dated = Cordon(placed.placed_at, START + HOUR)
    assert await store.read(maintenance.get_cordon) == StoredCordon(dated, is_obeyed=True)

    await store.transaction(lambda tx: maintenance.put_cordon(tx, Cordon(START + HOUR)))
    assert await store.read(maintenance.get_cordon) == StoredCordon(Cordon(START + HOUR), is_obeyed=False)
    await store.transaction(maintenance.lift_cordon)
    assert await store.read(maintenance.get_cordon) is None
