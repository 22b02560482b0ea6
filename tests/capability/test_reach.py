"""The service with a real prober beside it, on loopback: maps, orders, failures, and a prober that lies."""

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from kaalia.capability import probing
from kaalia.capability.reach import NoReachService
from kaalia.contracts import reach as contract_reach
from kaalia.errors import UnreachableError
from kaalia.model.machine import PortRange
from kaalia.model.reach import Outcome, Place, PortState, ProbeProgress
from kaalia.model.workload import Protocol
from kaalia.prober.bounds import LOOPBACK
from kaalia.store import claims, reach
from kaalia.store.changes import Changes, Topic
from kaalia.store.claims import Claim, ClaimKind
from kaalia.store.database import Database
from kaalia.wire.probe import ProbeReply, ProbeRequest, ProbeResult
from tests.capability.reach_rig import HERE, RANGE, Mute, Rig
from tests.support.clock import FakeClock

TCP, UDP = Protocol.TCP, Protocol.UDP
PORTS = range(RANGE.first, RANGE.last + 1)


@pytest.fixture
def rig(store: Database, changes: Changes, clock: FakeClock) -> Rig:
    return Rig(store, changes, clock)


async def test_every_port_is_proven_and_the_map_is_stored(rig: Rig) -> None:
    found = await rig.service().probe()

    assert found is not None
    assert await rig.store.read(reach.get_map) == found
    assert (found.open_count(TCP), found.open_count(UDP), found.address) == (20, 20, HERE)
    assert found.hairpin is True
    assert await rig.codes() == set()
    assert not rig.answering.places
    assert await rig.store.read(reach.get_progress) is None


async def test_a_large_range_is_tried_in_a_pace_that_routers_bear(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """40 places in batches of 10: the last one begins after 30."""
    monkeypatch.setattr(contract_reach, "UNPACED", 0)
    monkeypatch.setattr(contract_reach, "PLACES_PER_S", 40)
    began_s, begun_s = time.monotonic(), []

    async def look(request: ProbeRequest) -> None:
        begun_s.extend([time.monotonic() - began_s] if request.targets else [])

    rig.link.before = look
    await rig.service().probe()

    assert [second >= due for second, due in zip(begun_s, (0, 0.25, 0.5, 0.75), strict=True)] == [True] * 4
    assert begun_s[-1] < 3


async def test_at_most_a_quarter_of_a_small_range_is_bound_at_once(rig: Rig) -> None:
    most = 0

    async def look(_: ProbeRequest) -> None:
        nonlocal most
        most = max(most, len(rig.answering.places))

    rig.link.before = look
    await rig.service().probe()

    assert 0 < most <= len(RANGE) * 2 // 4
    assert contract_reach.batch_size(2) == 2
    assert contract_reach.batch_size(131072) == 512


async def test_ports_of_contracts_are_left_alone_and_those_of_programs_named(rig: Rig) -> None:
    held = [Claim(ClaimKind.PORT_TCP, str(PORTS[1]), 51, 1), Claim(ClaimKind.PORT_UDP, str(PORTS[2]), 51, 1)]
    await rig.store.transaction(lambda tx: claims.claim(tx, held, rig.clock.now()))
    with socket.create_server((HERE, PORTS[3])):
        found = await rig.service().probe()

    assert found is not None
    states = {place: found.state_at(place) for place in ((PORTS[1], TCP), (PORTS[2], UDP), (PORTS[3], TCP))}
    assert [(one.state, one.detail.partition(" (")[0]) for one in states.values() if one] == [
        (PortState.HELD, "C.51"),
        (PortState.HELD, "C.51"),
        (PortState.HELD, f"used by {Path('/proc/self/comm').read_text().strip()}"),
    ]
    assert await rig.codes() == {"ports_in_use"}
    asked = {(t.port, t.protocol): t.connect_only for request in rig.link.asked for t in request.targets}
    assert asked[PORTS[1], TCP] is True
    assert (PORTS[2], UDP) not in asked


async def test_a_port_that_a_renter_gets_during_a_probe_is_his_at_once(rig: Rig) -> None:
    async def take(request: ProbeRequest) -> None:
        if any(target.port == PORTS[5] for target in request.targets):
            assert await asyncio.to_thread(rig.answering.release, (PORTS[5], TCP))
            with socket.create_server(("0.0.0.0", PORTS[5])):
                pass

    rig.link.before = take
    found = await rig.service().probe()

    assert found is not None
    assert (found.open_count(TCP), found.open_count(UDP)) == (19, 20)
    assert await rig.codes() == set(), "nobody is told of a port that was only given away"


async def test_the_firewall_lets_in_what_is_tried_and_nothing_of_other_programs_and_only_as_long(rig: Rig) -> None:
    held = [Claim(ClaimKind.PORT_TCP, str(PORTS[1]), 51, 1), Claim(ClaimKind.PORT_UDP, str(PORTS[2]), 51, 1)]
    await rig.store.transaction(lambda tx: claims.claim(tx, held, rig.clock.now()))
    let_in: set[Place] = set()

    async def look(request: ProbeRequest) -> None:
        asked = {(target.port, target.protocol) for target in request.targets}
        assert rig.firewall.let_in == asked
        let_in.update(asked)

    rig.link.before = look
    with socket.create_server((HERE, PORTS[3])):
        assert await rig.service().probe()

    assert let_in == {*contract_reach.places(RANGE)} - {(PORTS[2], UDP), (PORTS[3], TCP)}
    assert rig.firewall.let_in == set()


@pytest.mark.parametrize(
    ("is_there", "counted", "is_known"),
    [(True, False, True), (True, True, False), (True, None, False), (False, None, False)],
)
async def test_where_the_own_firewall_may_be_why_nothing_is_known_of_published_ports(
    rig: Rig, is_there: bool, counted: bool | None, is_known: bool
) -> None:
    rig.firewall.is_there, rig.firewall.counted = is_there, counted
    rig.link.prober = Mute(LOOPBACK)

    found = await rig.service().probe()

    assert found is not None
    assert (found.proven is not None) == is_known
    assert await rig.codes() == {"ports_all_filtered" if is_known else "ports_unknown"}


def forged(reply: ProbeReply) -> ProbeReply:
    return replace(reply, results=tuple(replace(one, proof="00" * 16) for one in reply.results))


def invented(reply: ProbeReply) -> ProbeReply:
    return replace(reply, results=(*reply.results, ProbeResult(22, TCP, Outcome.ANSWERED)))


def short(reply: ProbeReply) -> ProbeReply:
    return replace(reply, results=reply.results[1:]) if reply.results else reply


def nowhere(reply: ProbeReply) -> ProbeReply:
    return replace(reply, seen_address="the moon")


def only_connected(reply: ProbeReply) -> ProbeReply:
    return replace(reply, results=tuple(replace(one, outcome=Outcome.CONNECTED) for one in reply.results))


@pytest.mark.parametrize("twist", [forged, invented, short, nowhere, only_connected])
async def test_a_prober_that_lies_changes_nothing(rig: Rig, twist: Callable[[ProbeReply], ProbeReply]) -> None:
    before = await rig.service().probe()
    rig.link.twist = twist

    assert await rig.service().probe() is None

    assert await rig.store.read(reach.get_map) == before
    assert await rig.codes() == {"prober_lied"}
    assert not rig.answering.places
    rig.link.twist = lambda reply: reply
    assert await rig.service().probe()
    assert await rig.codes() == set()


async def test_a_prober_that_tries_another_address_in_the_middle_begins_anew(rig: Rig) -> None:
    """Its way out changed, or it lies: ports of two addresses make no map."""
    batches = 0

    def once(reply: ProbeReply) -> ProbeReply:
        nonlocal batches
        batches += bool(reply.results)
        return replace(reply, address="203.0.113.9") if batches == 2 and reply.results else reply

    rig.link.twist = once
    found = await rig.service().probe()

    assert found is not None
    assert (found.address, found.open_count(TCP)) == (HERE, 20)
    assert len({request.nonce for request in rig.link.asked}) == 2

    rig.link.twist = lambda reply: replace(reply, address="203.0.113.9") if reply.results else reply
    assert await rig.service().probe() is None
    assert await rig.codes() == {"probe_address_changes"}
    assert await rig.store.read(reach.get_map) == found
    assert not rig.answering.places


@pytest.mark.parametrize(("code", "status"), [("probe_crowded", 429), ("prober_overloaded", 503), ("probe_busy", 429)])
async def test_a_prober_without_time_is_asked_again_for_that_batch_alone(rig: Rig, code: str, status: int) -> None:
    refusals = 0

    async def refuse(request: ProbeRequest) -> None:
        nonlocal refusals
        if len(rig.link.asked) in (3, 4):
            refusals += 1
            raise UnreachableError(code, "later", status=status, retry_after_s=0.01)

    rig.link.before = refuse
    found = await rig.service().probe()

    assert found is not None
    assert (found.open_count(TCP), found.open_count(UDP), refusals) == (20, 20, 2)
    assert len({request.nonce for request in rig.link.asked}) == 1
    assert await rig.codes() == set()


@pytest.mark.parametrize("wait_s", [None, 3000.0])
async def test_a_prober_that_will_not_have_time_soon_is_not_waited_for(rig: Rig, wait_s: float | None) -> None:
    async def refuse(_: ProbeRequest) -> None:
        raise UnreachableError("probe_too_often", "not now", status=429, retry_after_s=wait_s)

    rig.link.before = refuse
    assert await rig.service().probe() is None
    assert await rig.codes() == {"probe_too_often"}
    assert len(rig.link.asked) == 1


async def test_nor_is_one_that_never_has_time(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probing, "PATIENCE_S", 0.1)

    async def refuse(request: ProbeRequest) -> None:
        if request.targets:
            assert len(rig.answering.places)
            raise UnreachableError("probe_crowded", "later", status=429, retry_after_s=0.02)

    rig.link.before = refuse
    assert await rig.service().probe() is None
    assert await rig.codes() == {"probe_crowded"}
    assert not rig.answering.places


async def test_a_prober_that_cannot_be_reached_is_a_condition_and_is_tried_again_later(rig: Rig) -> None:
    rig.link.fails = UnreachableError("prober_unreachable", "cannot reach the prober")
    subject = rig.service()
    running = asyncio.ensure_future(subject.run())
    try:
        await until(lambda: has(rig, "prober_unreachable"))
        rig.link.fails = None
        rig.changes.ring(Topic.PORTS)
        await asyncio.sleep(0.05)
        assert await rig.store.read(reach.get_map) is None, "not before its time"
        rig.clock.advance(400)
        rig.changes.ring(Topic.PORTS)
        await until(lambda: has_map(rig))
    finally:
        running.cancel()


async def test_it_probes_by_itself_when_address_or_range_changed_and_once_a_day(rig: Rig) -> None:
    running = asyncio.ensure_future(rig.service().run())
    try:
        await until(lambda: has_map(rig))
        first = len(rig.link.asked)
        rig.clock.advance(601)
        rig.changes.ring(Topic.PORTS)
        await asyncio.sleep(0.05)
        assert len(rig.link.asked) == first, "nothing is new"

        await tell_address(rig, "2001:db8::7")
        await until(lambda: is_more(rig, first))
        await quiet(rig)
        second = len(rig.link.asked)
        await tell_address(rig, "198.51.100.1")
        await asyncio.sleep(0.05)
        assert len(rig.link.asked) == second, "twice in ten minutes is enough"
        rig.clock.advance(601)
        await tell_address(rig, "198.51.100.1")
        await until(lambda: is_more(rig, second))
        await quiet(rig)

        second = len(rig.link.asked)
        rig.clock.advance(27 * 3600)
        rig.changes.ring(Topic.PORTS)
        await until(lambda: is_more(rig, second))
        await quiet(rig)
    finally:
        running.cancel()
    rig.wanted = replace(rig.wanted, port_range=PortRange(PORTS[0], PORTS[3]))
    running = asyncio.ensure_future(rig.service().run())
    try:
        await until(lambda: has_map_of(rig, 4))
    finally:
        running.cancel()


async def test_an_order_is_obeyed_at_once_and_shows_its_progress(rig: Rig) -> None:
    seen: list[ProbeProgress | None] = []

    async def look(_: ProbeRequest) -> None:
        seen.append(await rig.store.read(reach.get_progress))

    rig.link.before = look
    await rig.store.transaction(lambda tx: reach.order(tx, rig.clock.now()))
    running = asyncio.ensure_future(rig.service(after_s=(100, 100)).run())
    try:
        await until(lambda: has_map(rig))
    finally:
        running.cancel()

    assert [(one.done, one.total) for one in seen if one] == [(0, 0), (0, 40), (10, 40), (20, 40), (30, 40)]


async def test_a_configured_address_that_the_prober_may_not_try_is_told(
    store: Database, changes: Changes, clock: FakeClock
) -> None:
    rig = Rig(store, changes, clock, public_ip="203.0.113.7")

    found = await rig.service().probe()

    assert found is not None
    assert (found.address, found.configured_ip) == (HERE, "203.0.113.7")
    assert "public_ip_differs" in await rig.codes()


async def test_switched_off_it_forgets_what_it_knew(rig: Rig) -> None:
    rig.wanted = replace(rig.wanted, public_ip="203.0.113.7")
    await rig.service().probe()
    await rig.store.transaction(lambda tx: reach.order(tx, rig.clock.now()))
    assert await rig.codes()

    running = asyncio.ensure_future(NoReachService(rig.store, rig.clock, rig.firewall).run())
    try:
        await until(lambda: is_forgotten(rig))
    finally:
        running.cancel()
    assert await rig.codes() == set()


async def is_forgotten(rig: Rig) -> bool:
    return not await has_map(rig) and await rig.store.read(reach.get_progress) is None


async def has(rig: Rig, code: str) -> bool:
    return code in await rig.codes()


async def has_map(rig: Rig) -> bool:
    return await rig.store.read(reach.get_map) is not None


async def has_map_of(rig: Rig, size: int) -> bool:
    found = await rig.store.read(reach.get_map)
    return found is not None and len(found.port_range) == size


async def is_more(rig: Rig, number: int) -> bool:
    return len(rig.link.asked) > number


async def tell_address(rig: Rig, address: str) -> None:
    await rig.store.transaction(lambda tx: reach.put_seen_address(tx, address), Topic.PORTS)


async def quiet(rig: Rig) -> None:
    """Until a probe that is under way has ended."""
    await until(lambda: is_over(rig))
    await asyncio.sleep(0.05)
    await until(lambda: is_over(rig))


async def is_over(rig: Rig) -> bool:
    return await rig.store.read(reach.get_progress) is None and not rig.answering.places


async def until(true: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(30):
        while not await true():
            await asyncio.sleep(0.01)
