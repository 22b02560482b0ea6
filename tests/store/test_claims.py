"""At most one owner, whoever asks in whatever order (I2)."""

import asyncio
import tempfile
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kaalia.errors import StoreError
from kaalia.store import claims
from kaalia.store.changes import Changes
from kaalia.store.claims import Claim, ClaimKind
from kaalia.store.database import Database
from tests.support.clock import START


def gpu(key: str, contract_id: int, generation: int = 1) -> Claim:
    return Claim(ClaimKind.GPU, key, contract_id, generation)


async def test_a_second_owner_is_refused_and_gets_nothing_at_all(store: Database) -> None:
    await store.transaction(lambda tx: claims.claim(tx, [gpu("a", 1)], START))

    with pytest.raises(StoreError, match="gpu a to contract 2: contract 1 has it") as caught:
        await store.transaction(lambda tx: claims.claim(tx, [gpu("b", 2), gpu("a", 2)], START))

    assert caught.value.code == "claim_taken"
    assert await store.read(claims.all_claims) == (gpu("a", 1),)


async def test_the_same_owner_may_claim_again_for_a_newer_generation(store: Database) -> None:
    await store.transaction(lambda tx: claims.claim(tx, [gpu("a", 1)], START))
    await store.transaction(lambda tx: claims.claim(tx, [gpu("a", 1, 2)], START))

    assert await store.read(claims.all_claims) == (gpu("a", 1, 2),)


async def test_kinds_do_not_stand_in_each_others_way(store: Database) -> None:
    both = [Claim(ClaimKind.PORT_TCP, "40001", 1, 1), Claim(ClaimKind.PORT_UDP, "40001", 2, 1)]
    for one in both:
        await store.transaction(partial(claims.claim, claims=[one], now=START))

    assert set(await store.read(claims.all_claims)) == set(both)


async def test_release_gives_back_the_asked_kinds_of_one_contract(store: Database) -> None:
    port = Claim(ClaimKind.PORT_TCP, "40001", 1, 1)
    await store.transaction(lambda tx: claims.claim(tx, [gpu("a", 1), port, gpu("b", 2)], START))

    await store.transaction(lambda tx: claims.release(tx, 1, (ClaimKind.GPU,)))
    assert set(await store.read(claims.all_claims)) == {port, gpu("b", 2)}

    await store.transaction(lambda tx: claims.release(tx, 1))
    assert set(await store.read(claims.all_claims)) == {gpu("b", 2)}


KEYS = st.sets(st.sampled_from("abcd"), max_size=4)
STEPS = st.lists(st.tuples(st.booleans(), st.integers(1, 3), KEYS), max_size=25)


@given(STEPS)
@settings(max_examples=40, deadline=None)
def test_no_sequence_of_claims_and_releases_gives_a_thing_to_two(steps: list[tuple[bool, int, set[str]]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(_follow(Path(folder), steps))


async def _follow(folder: Path, steps: list[tuple[bool, int, set[str]]]) -> None:
    """Against a model: a dict from key to owner."""
    database = Database(folder / "state.db", Changes())
    await database.open()
    owners: dict[str, int] = {}
    for is_claim, contract_id, keys in steps:
        if not is_claim:
            await database.transaction(partial(claims.release, contract_id=contract_id))
            owners = {key: owner for key, owner in owners.items() if owner != contract_id}
            continue
        wanted = [gpu(key, contract_id) for key in sorted(keys)]
        is_free = all(owners.get(key, contract_id) == contract_id for key in keys)
        try:
            await database.transaction(partial(claims.claim, claims=wanted, now=START))
        except StoreError:
            assert not is_free
        else:
            assert is_free
            owners.update(dict.fromkeys(keys, contract_id))
    held = await database.read(claims.all_claims)
    await database.close()
    assert {claim.key: claim.contract_id for claim in held} == owners
    assert len(held) == len(owners)
