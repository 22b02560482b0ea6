"""The service with a real peer beside it: results, orders, tenants that are left alone, failures, when it is due."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from kaalia.capability.speed import SpeedService, Wanted
from kaalia.contracts import traffic as rules
from kaalia.contracts.contract import ContractKind
from kaalia.errors import UnreachableError
from kaalia.model.speed import Confidence, Direction, SpeedOrder, SpeedProgress
from kaalia.model.traffic import Bytes, Counter
from kaalia.model.workload import WorkloadState
from kaalia.speed.peer import Order, Peer
from kaalia.store import conditions, contracts, reach, speed, traffic, workloads
from kaalia.store.changes import Changes, Topic
from kaalia.store.database import Database, Transaction
from kaalia.wire.speed import SpeedGrant, SpeedRequest
from tests.support.builders import build_contract, build_speed, build_status
from tests.support.clock import FakeClock
from tests.support.speed_peers import HERE, SECRET, serving

pytestmark = pytest.mark.timeout(60)
ADDRESS = "203.0.113.7"


class Beside:
    """The way to a marketplace whose peer is in this process."""

    def __init__(self, peer: Peer, port: int) -> None:
        self.peer, self.port = peer, port
        self.asked: list[SpeedRequest] = []
        self.fails: Exception | None = None

    async def name(self) -> str | None:
        return "https://market.example"

    async def grant(self, request: SpeedRequest) -> tuple[str, SpeedGrant]:
        self.asked.append(request)
        if self.fails is not None:
            raise self.fails
        identity, key = bytes([len(self.asked)]) * 16, b"k" * 32
        self.peer.add(identity, Order("machine 7", key, request.streams, request.seconds, request.bytes_max))
        sizes = (request.streams, request.seconds, request.bytes_max)
        return HERE, SpeedGrant(identity.hex(), key.hex(), None, self.port, *sizes)


class Rig:
    def __init__(self, store: Database, changes: Changes, clock: FakeClock, peer: Peer, port: int) -> None:
        self.store, self.changes, self.clock = store, changes, clock
        self.link = Beside(peer, port)
        self.wanted = Wanted(None, None, timedelta(hours=24), 2 * 10**9, streams=2, seconds=1)

    def service(self) -> SpeedService:
        return SpeedService(self.store, self.changes, self.clock, self.wanted, self.link, after_s=(0, 0))

    async def codes(self) -> set[str]:
        return {one.condition.problem.code for one in await self.store.read(conditions.all_open)}

    async def rent(self, mbps: float = 0.0) -> None:
        """A tenant runs, and moves so much."""

        def fill(tx: Transaction) -> None:
            contracts.upsert(tx, build_contract(51), self.clock.now())
            workloads.put(tx, replace(build_status(51), state=WorkloadState.RUNNING))
            minute = timedelta(minutes=1)
            begun = rules.begun(Counter(51, "10.214.0.0/28", "a1"), 1, self.clock.now() - minute)
            traffic.put(tx, rules.counted(begun, Bytes(down=round(mbps * 1e6 / 8 * 60)), self.clock.now()))

        await self.store.transaction(fill)


@pytest.fixture
def rig(store: Database, changes: Changes, clock: FakeClock) -> Iterator[Rig]:
    peer = Peer(SECRET)
    with serving(peer) as port:
        yield Rig(store, changes, clock, peer, port)


async def turns(service: SpeedService, seconds: float) -> None:
    """Let it run for a while."""
    try:
        async with asyncio.timeout(seconds):
            await service.run()
    except TimeoutError:
        pass


async def test_a_result_is_stored_with_how_it_was_found_and_rings(rig: Rig) -> None:
    await rig.store.transaction(lambda tx: reach.put_seen_address(tx, ADDRESS))
    bell = rig.changes.subscribe(Topic.SPEED)

    found = await rig.service().test(None)

    assert found is not None
    assert await rig.store.read(speed.get_result) == found
    assert (found.measured_at, found.peer, found.address) == (rig.clock.now(), "https://market.example", ADDRESS)
    assert (found.streams, found.limited) == (2, False)
    assert min(found.down.mbps, found.up.mbps) > 100
    assert bell.is_set()
    assert await rig.codes() == set()
    assert await rig.store.read(speed.get_progress) is None


async def test_nothing_known_means_a_test_and_then_none_for_a_day(rig: Rig) -> None:
    service = rig.service()
    await turns(service, 6)
    assert len(rig.link.asked) == 1
    await turns(service, 0.5)
    assert len(rig.link.asked) == 1, "it is known now"


async def test_a_new_address_is_measured_anew_but_not_at_once_again(rig: Rig) -> None:
    known = build_speed(rig.clock.now(), address=ADDRESS)
    await rig.store.transaction(lambda tx: speed.put_result(tx, known))
    await rig.store.transaction(lambda tx: reach.put_seen_address(tx, ADDRESS))
    await turns(rig.service(), 0.5)
    assert not rig.link.asked

    await rig.store.transaction(lambda tx: reach.put_seen_address(tx, "203.0.113.99"))
    await turns(rig.service(), 6)
    assert len(rig.link.asked) == 1
    found = await rig.store.read(speed.get_result)
    assert found is not None
    assert found.address == "203.0.113.99"


async def test_tenants_are_not_disturbed_where_the_speed_is_known(rig: Rig) -> None:
    await rig.rent()
    old = build_speed(rig.clock.now() - timedelta(days=9), address=None)
    await rig.store.transaction(lambda tx: speed.put_result(tx, old))
    await turns(rig.service(), 0.5)

    assert not rig.link.asked


async def test_tenants_that_move_much_are_not_disturbed_at_all(rig: Rig) -> None:
    await rig.rent(mbps=50)
    await turns(rig.service(), 0.5)

    assert not rig.link.asked


async def test_beside_quiet_tenants_a_test_is_limited_and_says_so(rig: Rig) -> None:
    await rig.rent(mbps=1)
    rig.wanted = replace(rig.wanted, seconds=10, bytes_max=10**10)
    await turns(rig.service(), 10)

    assert [(one.seconds, one.bytes_max) for one in rig.link.asked] == [(3, 5 * 10**8)]
    found = await rig.store.read(speed.get_result)
    assert found is not None
    assert found.limited
    assert found.down.transferred_bytes <= 5 * 10**8
    assert {found.down.confidence, found.up.confidence} == {Confidence.LOW}


async def test_an_order_is_carried_out_though_nothing_is_due_and_its_secret_is_forgotten(
    rig: Rig, tmp_path: Path
) -> None:
    rig.wanted = replace(rig.wanted, is_off=True)
    order = SpeedOrder(rig.clock.now(), f"{HERE}:{rig.link.port}", SECRET.decode())
    assert SECRET.decode() not in repr(order)
    await rig.store.transaction(lambda tx: speed.put_order(tx, order))
    await turns(rig.service(), 5)

    found = await rig.store.read(speed.get_result)
    assert found is not None
    assert found.peer == f"{HERE}:{rig.link.port}"
    assert await rig.store.read(speed.get_order) is None
    assert not rig.link.asked

    shared = tmp_path / "secret"
    shared.write_bytes(SECRET + b"\n")
    rig.wanted = replace(rig.wanted, peer=f"{HERE}:{rig.link.port}", secret_path=shared)
    rig.clock.advance(5)
    assert await rig.service().test(None) is not None, "the configured peer and its secret"


async def test_what_fails_is_told_tried_later_and_leaves_the_known_number(rig: Rig) -> None:
    known = build_speed(rig.clock.now() - timedelta(days=2))
    await rig.store.transaction(lambda tx: speed.put_result(tx, known))
    rig.link.fails = UnreachableError("speed_busy", "cannot measure now", retry_after_s=1200.0)
    await turns(rig.service(), 0.5)

    assert len(rig.link.asked) == 1, "not again at once"
    assert await rig.codes() == {"speed_busy"}
    assert await rig.store.read(speed.get_result) == known
    failure = await rig.store.read(speed.get_failure)
    assert failure is not None
    assert failure.problem.code == "speed_busy"

    rig.link.fails = None
    assert await rig.service().test(None) is not None
    assert await rig.codes() == set()
    assert await rig.store.read(speed.get_failure) is None


@pytest.mark.parametrize(
    ("order", "code"),
    [
        (("198.51.100.9:1", ""), "speed_secret_missing"),
        ((f"{HERE}:9", SECRET.decode()), "speed_peer_unreachable"),
    ],
)
async def test_an_order_that_cannot_be_carried_out_is_answered(rig: Rig, order: tuple[str, str], code: str) -> None:
    wanted = SpeedOrder(rig.clock.now(), *order)
    await rig.store.transaction(lambda tx: speed.put_order(tx, wanted))
    await turns(rig.service(), 1.5)

    failure = await rig.store.read(speed.get_failure)
    assert failure is not None
    assert failure.problem.code == code
    assert await rig.store.read(speed.get_order) is None


async def test_a_secret_that_is_no_secret_is_refused(rig: Rig, tmp_path: Path) -> None:
    for text in ("short", None):
        file = tmp_path / "secret"
        if text is not None:
            file.write_text(text)
        else:
            file.unlink()
        rig.wanted = replace(rig.wanted, peer=f"{HERE}:{rig.link.port}", secret_path=file)
        assert await rig.service().test(None) is None
        assert await rig.codes() == {"speed_secret_invalid"}


async def test_a_test_that_a_crash_cut_off_is_forgotten_and_an_order_stands(rig: Rig) -> None:
    order = SpeedOrder(rig.clock.now(), f"{HERE}:{rig.link.port}", SECRET.decode())
    await rig.store.transaction(lambda tx: speed.put_order(tx, order))
    await rig.store.transaction(lambda tx: speed.put_progress(tx, SpeedProgress(Direction.UP, 0.7, 100.0)))
    rig.wanted = replace(rig.wanted, is_off=True)
    await turns(rig.service(), 0.3)

    assert await rig.store.read(speed.get_order) is None, "it was begun: it need not be begun twice"
    assert await rig.store.read(speed.get_progress) is None
    assert await rig.store.read(speed.get_result) is None


async def test_the_owners_own_job_is_nobody_to_be_disturbed(rig: Rig) -> None:
    await rig.rent()
    found = await rig.store.read(lambda tx: speed.tenants(tx, rig.clock.now()))
    assert found.running == 1

    job = replace(build_contract(51), kind=ContractKind.DEFAULT_JOB)
    await rig.store.transaction(lambda tx: contracts.upsert(tx, job, rig.clock.now()))
    found = await rig.store.read(lambda tx: speed.tenants(tx, rig.clock.now()))
    assert found.running == 0


async def test_a_tenant_who_comes_in_the_middle_gets_the_line_and_nobody_is_warned(rig: Rig) -> None:
    rig.wanted = replace(rig.wanted, seconds=15, bytes_max=32 * 10**9)
    testing = asyncio.ensure_future(rig.service().test(None))
    await asyncio.sleep(1)
    await rig.rent()
    async with asyncio.timeout(30):
        assert await testing is None

    failure = await rig.store.read(speed.get_failure)
    assert failure is not None
    assert failure.problem.code == "speed_tenants_came"
    assert await rig.codes() == set()


async def test_who_breaks_off_what_he_wanted_has_the_line_back(rig: Rig) -> None:
    rig.wanted = replace(rig.wanted, seconds=15, bytes_max=32 * 10**9)
    order, newer = SpeedOrder(rig.clock.now()), SpeedOrder(rig.clock.now(), "198.51.100.1:1")
    await rig.store.transaction(lambda tx: speed.put_order(tx, order))
    testing = asyncio.ensure_future(rig.service().test(order))
    await asyncio.sleep(1)
    assert await rig.store.read(speed.get_progress) is not None

    await rig.store.transaction(lambda tx: speed.withdraw(tx, order))

    async with asyncio.timeout(10):
        assert await testing is None
    failure = await rig.store.read(speed.get_failure)
    assert failure is not None
    assert failure.problem.code == "speed_withdrawn"
    assert await rig.codes() == set()
    await rig.store.transaction(lambda tx: speed.put_order(tx, newer))
    await rig.store.transaction(lambda tx: speed.withdraw(tx, order))
    assert await rig.store.read(speed.get_order) == newer, "it is another's"


async def test_an_order_is_begun_once_though_it_ends_in_a_way_that_nobody_expected(rig: Rig) -> None:
    order = SpeedOrder(rig.clock.now(), f"{HERE}:{rig.link.port}")
    rig.wanted = replace(rig.wanted, is_off=True, secret_path=Path("x\0y"))
    await rig.store.transaction(lambda tx: speed.put_order(tx, order))
    await turns(rig.service(), 1.8)

    assert await rig.store.read(speed.get_order) is None
    assert await rig.store.read(speed.get_progress) is None
