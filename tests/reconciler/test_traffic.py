"""Counting of internet traffic: counters with each network, sums in the books, lines in journal and outbox."""

import asyncio
from collections.abc import Callable
from contextlib import suppress

import pytest

from kaalia.errors import HostError
from kaalia.model.metering import TRAFFIC, Entry, Meter
from kaalia.model.traffic import Bytes, Counter
from kaalia.model.workload import WorkloadState
from kaalia.reconciler.traffic import TrafficService
from kaalia.store import claims, conditions, contracts, journal, outbox, traffic, workloads
from kaalia.store.changes import Changes, Topic
from kaalia.store.claims import Claim, ClaimKind
from kaalia.store.database import Database, Transaction
from kaalia.wire import document
from tests.support.builders import build_contract, build_status
from tests.support.clock import FakeClock
from tests.support.fake_counters import FakeCounters


async def eventually(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not holds():
            await asyncio.sleep(0.005)


async def until_read(street: "Street", times: int) -> None:
    await eventually(lambda: street.counters.reads == times)


FIRST, SECOND = "10.214.0.0/28", "10.214.0.16/28"


class Street:
    """A machine with counters, and the books that the service reads and writes."""

    def __init__(self, store: Database, changes: Changes, clock: FakeClock) -> None:
        self.store, self.changes, self.clock, self.counters = store, changes, clock, FakeCounters()
        self._epochs = 0
        self.service = self.reborn()

    def reborn(self) -> TrafficService:
        """The daemon dies and comes back."""
        self.service = TrafficService(self.store, self.changes, self.counters, self.clock, 60, self._epoch)
        return self.service

    def _epoch(self) -> str:
        self._epochs += 1
        return f"{self._epochs:08x}"

    async def rent(self, contract_id: int, subnet: str, state: WorkloadState = WorkloadState.RUNNING) -> None:
        def work(tx: Transaction) -> None:
            contracts.upsert(tx, build_contract(contract_id), self.clock.now())
            workloads.put(tx, build_status(contract_id, state=state))
            claims.claim(tx, [Claim(ClaimKind.SUBNET, subnet, contract_id, 1)], self.clock.now())

        await self.store.transaction(work, Topic.WORKLOADS)

    async def give_back(self, contract_id: int, *, forget: bool = False) -> None:
        def work(tx: Transaction) -> None:
            claims.release(tx, contract_id)
            if forget:
                contracts.delete(tx, contract_id)

        await self.store.transaction(work, Topic.WORKLOADS)

    async def look(self, after_s: float = 60) -> None:
        self.clock.advance(after_s)
        await self.service.look()

    async def totals(self) -> dict[int, tuple[int, int]]:
        found = await self.store.read(traffic.all_tallies)
        return {number: (one.total.up, one.total.down) for number, one in found.items()}

    async def lines(self) -> list[tuple[int, Meter, int]]:
        entries = [one for one in await self.store.read(journal.all_entries) if one.meter in TRAFFIC]
        rows = await self.store.read(lambda tx: outbox.pending(tx, 100))
        assert [document.decode(Entry, row.body) for row in rows] == entries, "what is journalled is told, once"
        return [(one.contract_id, one.meter, one.amount) for one in entries]

    async def codes(self) -> list[str]:
        return [one.condition.problem.code for one in await self.store.read(conditions.all_open)]


@pytest.fixture
def street(store: Database, changes: Changes, clock: FakeClock) -> Street:
    return Street(store, changes, clock)


async def test_what_passes_is_added_up_across_deaths_of_the_daemon_and_flushes(street: Street) -> None:
    await street.rent(51, FIRST)
    await street.rent(52, SECOND)
    await street.look()
    street.counters.send(FIRST, up=100, down=7)
    street.counters.send(SECOND, up=1)
    await street.look()
    street.counters.send(FIRST, up=10)
    street.reborn()
    street.counters.send(FIRST, up=10)
    await street.look()
    assert await street.totals() == {51: (120, 7), 52: (1, 0)}

    street.counters.flush()
    await street.look()
    street.counters.send(FIRST, up=500)
    await street.look()
    assert await street.totals() == {51: (620, 7), 52: (1, 0)}

    street.counters.zero()
    street.counters.send(FIRST, up=30)
    await street.look()
    assert await street.totals() == {51: (650, 7), 52: (1, 0)}
    assert await street.lines() == []


async def test_a_line_an_hour_and_one_at_each_rest_tell_the_sums(street: Street) -> None:
    await street.rent(51, FIRST)
    await street.look()
    street.counters.send(FIRST, up=100, down=7)
    await street.look(3600)
    assert await street.lines() == [(51, Meter.INET_UP, 100), (51, Meter.INET_DOWN, 7)]
    street.counters.send(FIRST, up=1)
    await street.look()
    assert len(await street.lines()) == 2
    await street.rent(51, FIRST, WorkloadState.STOPPED)
    await street.look(1)
    assert (await street.lines())[2:] == [(51, Meter.INET_UP, 101)]
    await street.look(7200)
    assert len(await street.lines()) == 3


async def test_a_contract_that_gives_its_network_back_is_told_to_the_last_byte(street: Street) -> None:
    await street.rent(51, FIRST)
    await street.look()
    street.counters.send(FIRST, up=100)
    await street.give_back(51)
    await street.rent(52, FIRST)
    await street.look(1)
    street.counters.send(FIRST, up=3)
    await street.look()
    assert await street.lines() == [(51, Meter.INET_UP, 100)]
    assert await street.totals() == {51: (100, 0), 52: (3, 0)}
    assert [counter.contract_id for counter in street.counters.raws] == [52]
    await street.give_back(51, forget=True)
    await street.look()
    assert await street.totals() == {52: (3, 0)}


async def test_a_counter_of_unknown_epoch_is_nobodys_and_goes(street: Street) -> None:
    stale = Counter(51, FIRST, "ffffffff")
    await street.counters.build([stale])
    street.counters.send(FIRST, up=10**9)
    await street.rent(51, FIRST)
    await street.look()
    street.counters.send(FIRST, up=5)
    await street.look()
    assert await street.totals() == {51: (5, 0)}
    assert stale not in street.counters.raws


async def test_a_contract_on_another_network_counts_on(street: Street) -> None:
    await street.rent(51, FIRST)
    await street.look()
    street.counters.send(FIRST, up=5)
    await street.give_back(51)
    await street.rent(51, SECOND)
    await street.look()
    street.counters.send(SECOND, up=6)
    await street.look()
    assert await street.totals() == {51: (11, 0)}


async def test_without_a_firewall_nothing_is_counted_and_that_is_told(street: Street) -> None:
    await street.rent(51, FIRST)
    street.counters.problem = HostError(
        "firewall_missing", "cannot read the firewall: it is not here", remedy="install"
    )
    await street.look()
    assert await street.codes() == ["traffic_uncounted"]
    assert await street.totals() == {}
    street.counters.problem = None
    await street.look()
    assert await street.codes() == []
    street.counters.send(FIRST, up=5)
    await street.look()
    assert await street.totals() == {51: (5, 0)}


async def test_an_idle_machine_is_left_alone(street: Street) -> None:
    for _ in range(3):
        await street.look()
    assert street.counters.reads == 1
    assert not street.counters.is_whole, "nothing was built for nobody"


async def test_an_idle_tenant_is_not_written_again(street: Street) -> None:
    await street.rent(51, FIRST)
    for _ in range(3):
        await street.look()
    before = await street.store.read(traffic.all_tallies)
    await street.look()
    assert await street.store.read(traffic.all_tallies) == before


async def test_a_new_network_is_counted_at_once_and_progress_is_no_reason_to_look(street: Street) -> None:
    running = asyncio.create_task(street.service.run())
    try:
        await until_read(street, 1)
        await street.rent(51, FIRST, WorkloadState.CREATING)
        await eventually(lambda: len(street.counters.raws) == 1)
        reads = street.counters.reads
        await street.rent(51, FIRST, WorkloadState.RUNNING)
        await asyncio.sleep(0.05)
        assert street.counters.reads == reads
        street.counters.send(FIRST, down=9)
        await street.rent(51, FIRST, WorkloadState.EXITED)
        await until_read(street, reads + 1)
        for _ in range(2):
            await street.rent(51, FIRST, WorkloadState.RUNNING)
            await asyncio.sleep(0.05)
            reads = street.counters.reads
            await street.rent(51, FIRST, WorkloadState.STOPPED)
            await until_read(street, reads + 1)
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
    assert await street.totals() == {51: (0, 9)}
    assert Bytes(0, 9) in street.counters.raws.values()
