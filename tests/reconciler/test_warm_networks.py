"""Which network a launch takes, and when networks are made ready and removed."""

import asyncio
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, field, replace
from datetime import timedelta

from kaalia.errors import WorkloadError
from kaalia.reconciler.launch import DEFAULT_SUBNET_POOL
from kaalia.reconciler.ledger import Ledger
from kaalia.reconciler.sandboxes import SandboxService, Waits
from kaalia.service import Tasks
from kaalia.store import claims
from kaalia.store.claims import ClaimKind
from tests.reconciler.rig import Rig, contract
from tests.support.builders import build_report

WAITS = Waits(look_s=60, settle_s=0.01, retry_s=0.01)
FIRST, SECOND, THIRD = "10.214.0.0/28", "10.214.0.16/28", "10.214.0.32/28"


@dataclass
class Pool:
    """Networks without an engine: what the daemon sees of them."""

    warm: frozenset[str] = frozenset()
    making: frozenset[str] = frozenset()
    is_down: bool = False
    refills: list[Collection[str]] = field(default_factory=list)
    chosen: list[str] = field(default_factory=list)
    bell: asyncio.Event = field(default_factory=asyncio.Event)

    async def refill(
        self, claimed: Callable[[], Awaitable[Collection[str]]], choose: Callable[[Collection[str]], str]
    ) -> None:
        self.bell.clear()
        if self.is_down:
            raise WorkloadError("engine_unavailable", "cannot list: the engine is away")
        owned = await claimed()
        self.refills.append(owned)
        self.chosen.append(choose(owned))

    async def changed(self, timeout_s: float) -> None:
        async with asyncio.timeout(timeout_s):
            await self.bell.wait()


async def subnets(rig: Rig) -> dict[int, str]:
    held = await rig.store.read(claims.all_claims)
    return {one.contract_id: one.key for one in held if one.kind is ClaimKind.SUBNET}


async def test_a_launch_takes_a_network_that_stands_ready(rig: Rig) -> None:
    rig.networks = Pool(warm=frozenset({THIRD, SECOND}))
    rig.boot()
    await rig.put(contract())
    await rig.settle()

    assert await subnets(rig) == {51: SECOND}


async def test_no_two_contracts_take_the_same_and_the_next_one_gets_a_new_one(rig: Rig) -> None:
    rig.networks = Pool(warm=frozenset({SECOND}), making=frozenset({FIRST}))
    rig.boot()
    await rig.prepare(build_report(rig.clock.now(), gpus=2))
    both = [contract(number, end_at=rig.clock.now() + timedelta(days=1)) for number in (51, 52)]
    await rig.put(*(replace(one, spec=replace(one.spec, disk_bytes=1)) for one in both))
    await rig.settle()

    assert sorted((await subnets(rig)).values()) == [SECOND, THIRD], "the first is about to be somebody's"


async def test_a_host_name_needs_a_network_of_its_own(rig: Rig) -> None:
    rig.networks = Pool(warm=frozenset({SECOND}))
    rig.boot()
    rented = contract()
    await rig.put(replace(rented, spec=replace(rented.spec, hostname="rented")))
    await rig.settle()

    assert await subnets(rig) == {51: FIRST}


async def test_the_service_fills_up_after_each_change_and_bears_an_engine_that_is_away(rig: Rig) -> None:
    pool, ledger = Pool(is_down=True), Ledger(rig.store, rig.clock)
    await rig.put(contract())
    await rig.settle()
    tasks = Tasks()
    tasks.start("service", SandboxService(pool, ledger, DEFAULT_SUBNET_POOL, lambda: [SECOND], waits=WAITS).run())

    await asyncio.sleep(0.05)
    assert pool.refills == []
    pool.is_down = False
    await rig.until(lambda: _has(pool, 1))
    pool.bell.set()
    await rig.until(lambda: _has(pool, 2))
    await tasks.close()

    assert pool.refills == [{FIRST}, {FIRST}]
    assert pool.chosen == [THIRD, THIRD]


async def _has(pool: Pool, count: int) -> bool:
    return len(pool.refills) >= count
