"""The machine's own contracts in the store: numbers of their own, never given twice, and gone when proven gone."""

from datetime import timedelta

from kaalia.contracts.contract import ContractKind, Desired
from kaalia.contracts.local import LOCAL_FIRST, is_local
from kaalia.model.certificate import Certificate
from kaalia.model.workload import WorkloadState, WorkloadStatus
from kaalia.store import certificates, contracts, local_contracts, workloads
from kaalia.store.contracts import StoredContract
from kaalia.store.database import Database, Transaction
from tests.support.clock import START
from tests.support.placements import build_spec

LASTS = timedelta(minutes=10)


async def make(store: Database, count: int = 1, purpose: str = "canary") -> list[int]:
    specs = [build_spec() for _ in range(count)]
    return await store.transaction(lambda tx: local_contracts.make(tx, purpose, specs, START, LASTS))


async def remove(store: Database, number: int) -> list[int]:
    """As the reconciler and its maker do."""

    def work(tx: Transaction) -> list[int]:
        local_contracts.end(tx, [number], START)
        workloads.put(tx, WorkloadStatus(number, 1, WorkloadState.ENDED, START))
        return local_contracts.forget_ended(tx, [number])

    return await store.transaction(work)


async def stored(store: Database) -> dict[int, StoredContract]:
    return {one.contract.contract_id: one for one in await store.read(contracts.all_contracts)}


async def test_a_contract_of_the_lowest_rank_that_ends_by_itself(store: Database) -> None:
    (number,) = await make(store)

    found = (await stored(store))[number]

    assert number == LOCAL_FIRST
    assert is_local(number)
    assert not is_local(number - 1)
    assert (found.origin, found.contract.kind, found.contract.desired) == (
        local_contracts.ORIGIN,
        ContractKind.SELFTEST,
        Desired.RUNNING,
    )
    assert found.contract.end_at == START + LASTS


async def test_each_purpose_has_its_own(store: Database) -> None:
    first = await make(store, 2)
    second = await make(store, 1, "selftest")

    assert await store.read(lambda tx: local_contracts.of(tx, "canary")) == first
    assert await store.read(lambda tx: local_contracts.of(tx, "selftest")) == second


async def test_what_is_not_proven_gone_stays(store: Database) -> None:
    first, second = await make(store, 2)

    left = await store.transaction(lambda tx: local_contracts.forget_ended(tx, [first, second]))

    assert left == [first, second]
    assert await remove(store, first) == []
    assert set(await stored(store)) == {second}


async def test_a_certificate_is_kept_by_its_contract_and_goes_with_it(store: Database) -> None:
    (number,) = await make(store)
    made = Certificate(number, "chain", ("127.0.0.1",), START, START + LASTS)
    await store.transaction(lambda tx: certificates.put(tx, made))

    await store.transaction(lambda tx: certificates.keep_only(tx, ()))  # as whoever talks to a marketplace does
    assert await store.read(certificates.all_certificates) == {number: made}

    await remove(store, number)
    assert await store.read(certificates.all_certificates) == {}


async def test_no_number_is_given_twice(store: Database) -> None:
    given = []
    for _ in range(local_contracts.NUMBERS_KEPT + 5):
        (number,) = await make(store)
        given.append(number)
        await remove(store, number)

    rows = await store.read(lambda tx: tx.execute("SELECT count(*) AS n FROM local_contracts").fetchone()["n"])

    assert len(set(given)) == len(given)
    assert given == sorted(given)
    assert rows <= local_contracts.NUMBERS_KEPT
