"""Sums never grow beyond what the machine has, whoever asks in whatever order (I2)."""

import asyncio
import tempfile
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kaalia.errors import StoreError
from kaalia.model.volume import VolumeState, VolumeStatus
from kaalia.store import amounts, machine, volumes
from kaalia.store.amounts import Amount, AmountKind, OwnerKind
from kaalia.store.changes import Changes
from kaalia.store.database import Database, Transaction
from kaalia.units import GIB
from tests.support.builders import build_report, build_volume
from tests.support.clock import START

LIMITS = {AmountKind.DISK: 100}


def disk(owner_id: int, size: int, owner: OwnerKind = OwnerKind.CONTRACT, generation: int = 1) -> Amount:
    return Amount(AmountKind.DISK, owner, owner_id, generation, size)


async def take(store: Database, *wanted: Amount) -> None:
    await store.transaction(lambda tx: amounts.claim(tx, wanted, START, LIMITS))


async def test_what_fits_together_is_given_and_one_byte_more_is_refused(store: Database) -> None:
    await take(store, disk(1, 60), disk(2, 40))

    with pytest.raises(StoreError, match="cannot give 1 of disk to contract 3: 0 are left") as caught:
        await take(store, disk(3, 1))

    assert caught.value.code == "claim_exceeds"
    assert caught.value.problem.evidence == "100 in all"
    assert await store.read(amounts.all_amounts) == (disk(1, 60), disk(2, 40))


async def test_all_or_nothing_is_taken(store: Database) -> None:
    with pytest.raises(StoreError, match="to contract 2: 40 are left"):
        await take(store, disk(1, 60), disk(2, 41))

    assert await store.read(amounts.all_amounts) == ()


async def test_volumes_and_contracts_of_one_number_share_the_disk(store: Database) -> None:
    await take(store, disk(7, 60), disk(7, 40, OwnerKind.VOLUME))

    with pytest.raises(StoreError, match="cannot give 41 of disk to volume 7: 40 are left"):
        await take(store, disk(7, 41, OwnerKind.VOLUME))


async def test_an_owner_keeps_what_it_has_even_on_a_disk_that_shrank(store: Database) -> None:
    await store.transaction(lambda tx: amounts.claim(tx, [disk(1, 90), disk(2, 80)], START))

    await take(store, disk(1, 90, generation=2), disk(2, 70))

    assert await store.read(amounts.all_amounts) == (disk(1, 90, generation=2), disk(2, 70))
    with pytest.raises(StoreError, match="cannot give 91 of disk"):
        await take(store, disk(1, 91))


async def test_a_kind_without_a_limit_is_counted_and_not_refused(store: Database) -> None:
    cpu = Amount(AmountKind.CPU, OwnerKind.CONTRACT, 1, 1, 10**9)

    await take(store, cpu)

    assert await store.read(lambda tx: amounts.total(tx, AmountKind.CPU)) == 10**9
    assert await store.read(lambda tx: amounts.total(tx, AmountKind.RAM)) == 0


async def test_release_gives_back_the_asked_kinds_of_one_owner(store: Database) -> None:
    ram = Amount(AmountKind.RAM, OwnerKind.CONTRACT, 1, 1, 5)
    await take(store, disk(1, 10), ram, disk(1, 20, OwnerKind.VOLUME), disk(2, 30))

    await store.transaction(lambda tx: amounts.release(tx, OwnerKind.CONTRACT, 1, (AmountKind.RAM,)))
    assert ram not in await store.read(amounts.all_amounts)

    await store.transaction(lambda tx: amounts.release(tx, OwnerKind.CONTRACT, 1))
    assert await store.read(amounts.all_amounts) == (disk(2, 30), disk(1, 20, OwnerKind.VOLUME))


async def test_a_volume_has_its_bytes_from_the_intent_until_it_is_gone(store: Database) -> None:
    volume = build_volume(901, size_bytes=30)
    await store.transaction(lambda tx: volumes.upsert(tx, volume))
    assert await store.read(amounts.all_amounts) == ()

    for state, held in (
        (VolumeState.CREATING, 30),
        (VolumeState.READY, 30),
        (VolumeState.REMOVING, 30),
        (VolumeState.ENDED, 0),
        (VolumeState.ENDED, 0),
    ):
        status = VolumeStatus(901, state, START)
        await store.transaction(partial(volumes.put_status, status=status, now=START))
        assert await store.read(lambda tx: amounts.total(tx, AmountKind.DISK)) == held, state


async def test_a_volume_that_could_not_be_made_has_no_bytes(store: Database) -> None:
    await store.transaction(lambda tx: volumes.upsert(tx, build_volume(901, size_bytes=30)))
    for state in (VolumeState.CREATING, VolumeState.FAILED, VolumeState.REMOVING):
        status = VolumeStatus(901, state, START)
        await store.transaction(partial(volumes.put_status, status=status, now=START))

    assert await store.read(amounts.all_amounts) == ()


async def test_a_volume_that_does_not_fit_is_refused_with_its_intent(store: Database) -> None:
    """1000 GiB of disk; one that exists is counted all the same."""

    def make(tx: Transaction, state: VolumeState) -> None:
        volumes.upsert(tx, build_volume(901, size_bytes=1001 * GIB))
        volumes.put_status(tx, VolumeStatus(901, state, START), START)

    await store.transaction(lambda tx: machine.put_report(tx, build_report()))
    with pytest.raises(StoreError, match="to volume 901") as caught:
        await store.transaction(lambda tx: make(tx, VolumeState.CREATING))
    assert caught.value.code == "claim_exceeds"
    assert await store.read(volumes.all_volumes) == ()

    await store.transaction(lambda tx: make(tx, VolumeState.READY))
    assert await store.read(lambda tx: amounts.total(tx, AmountKind.DISK)) == 1001 * GIB


OWNERS = st.tuples(st.sampled_from(OwnerKind), st.integers(1, 3))
STEPS = st.lists(st.tuples(OWNERS, st.none() | st.integers(0, 70), st.booleans()), max_size=25)


@given(STEPS)
@settings(max_examples=40, deadline=None)
def test_no_sequence_of_claims_and_releases_gives_more_than_there_is(
    steps: list[tuple[tuple[OwnerKind, int], int | None, bool]],
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(_follow(Path(folder), steps))


async def _follow(folder: Path, steps: list[tuple[tuple[OwnerKind, int], int | None, bool]]) -> None:
    """Against a model: a dict from owner to size. None releases; the flag opens the file anew, as after a crash."""
    database = Database(folder / "state.db", Changes())
    await database.open()
    held: dict[tuple[OwnerKind, int], int] = {}
    for (owner, owner_id), size, is_reopened in steps:
        if is_reopened:
            await database.close()
            database = Database(folder / "state.db", Changes())
            await database.open()
        if size is None:
            await database.transaction(partial(amounts.release, owner=owner, owner_id=owner_id))
            held.pop((owner, owner_id), None)
            continue
        fits = sum(held.values()) - held.get((owner, owner_id), 0) + size <= 100
        try:
            await take(database, disk(owner_id, size, owner))
        except StoreError:
            assert not fits
        else:
            assert fits
            held[owner, owner_id] = size
        assert await database.read(lambda tx: amounts.total(tx, AmountKind.DISK)) <= 100
    found = await database.read(amounts.all_amounts)
    await database.close()
    assert {(one.owner, one.owner_id): one.amount for one in found} == held
