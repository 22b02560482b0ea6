"""The energy of contracts over rentals, pauses and readings that fail."""

from datetime import timedelta

from kaalia.contracts import energy as rules
from kaalia.store import claims, contracts, energy
from kaalia.store.claims import Claim, ClaimKind
from kaalia.store.database import Database
from tests.support.builders import build_contract
from tests.support.clock import START

MINUTE = timedelta(minutes=1)


async def give(store: Database, contract_id: int, *uuids: str) -> None:
    gpus = [Claim(ClaimKind.GPU, uuid, contract_id, 1) for uuid in uuids]
    await store.transaction(lambda tx: contracts.upsert(tx, build_contract(contract_id), START))
    await store.transaction(lambda tx: claims.claim(tx, gpus, START))


async def take(store: Database, contract_id: int) -> None:
    await store.transaction(lambda tx: claims.release(tx, contract_id, [ClaimKind.GPU]))


async def read(store: Database, minutes: float, **counters_j: int) -> dict[int, float]:
    told = {uuid: joules * 1000 for uuid, joules in counters_j.items()}
    await store.transaction(lambda tx: energy.count(tx, told, START + minutes * MINUTE))
    return await store.read(energy.totals)


async def lines(store: Database) -> list[tuple[int, int]]:
    query = "SELECT contract_id, amount FROM journal WHERE meter = 'energy' ORDER BY entry_id"
    rows = await store.read(lambda tx: tx.execute(query).fetchall())
    return [(row["contract_id"], row["amount"]) for row in rows]


async def test_each_contract_has_what_its_own_gpus_used(store: Database) -> None:
    await give(store, 51, "a", "b")
    await give(store, 52, "c")
    await read(store, 0, a=100, b=200, c=300, d=400)
    found = await read(store, 1, a=110, b=230, c=305, d=900)

    assert found == {51: 40.0, 52: 5.0}


async def test_a_gpu_that_another_had_meanwhile_is_not_counted_twice(store: Database) -> None:
    await give(store, 51, "a")
    await read(store, 0, a=100)
    await read(store, 1, a=110)
    await take(store, 51)
    await give(store, 52, "a")
    await read(store, 2, a=150)
    await read(store, 3, a=170)
    await take(store, 52)
    await give(store, 51, "a")
    await read(store, 4, a=190)
    found = await read(store, 5, a=200)

    assert found == {51: 20.0, 52: 20.0}


async def test_a_reading_that_failed_loses_nothing(store: Database) -> None:
    await give(store, 51, "a")
    await read(store, 0, a=100)
    await read(store, 1)
    found = await read(store, 2, a=190)

    assert found == {51: 90.0}


async def test_the_journal_has_a_line_an_hour_and_the_last_word(store: Database) -> None:
    await give(store, 51, "a")
    for minute in range(125):
        await read(store, minute, a=1000 + 60 * minute)
    await take(store, 51)
    await read(store, 126, a=99999)
    await read(store, 127, a=99999)

    assert await lines(store) == [(51, 60), (51, 60 * 61), (51, 60 * 121), (51, 60 * 124)]
    assert rules.LINE_EVERY == 60 * MINUTE


async def test_what_is_over_is_forgotten_but_in_the_journal(store: Database) -> None:
    await give(store, 51, "a")
    await read(store, 0, a=0)
    await read(store, 1, a=50)
    await take(store, 51)
    await store.transaction(lambda tx: contracts.delete(tx, 51))
    found = await read(store, 2, a=60)

    assert found == {}
    assert await lines(store) == [(51, 50)]
