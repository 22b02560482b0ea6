"""The port map and the orders of probes in the store."""

from kaalia.errors import Problem
from kaalia.model.machine import PortRange
from kaalia.model.reach import PortMap, PortSpan, PortState, ProbeProgress, Reason
from kaalia.model.workload import Protocol
from kaalia.store import reach
from kaalia.store.database import Database
from tests.support.clock import START

MAP = PortMap(
    START,
    "http://prober",
    PortRange(40000, 40009),
    "203.0.113.7",
    "203.0.113.7",
    "198.51.100.1",
    False,
    (PortSpan(40000, 40009, Protocol.UDP, PortState.FILTERED, Reason.SILENT, is_open=False, detail="x"),),
    (Problem("ports_filtered", "cannot", "remedy"),),
    "2001:db8::7",
)


async def test_the_map_comes_back_whole(store: Database) -> None:
    assert await store.read(reach.get_map) is None
    await store.transaction(lambda tx: reach.put_map(tx, MAP))
    await store.transaction(lambda tx: reach.put_map(tx, MAP))

    assert await store.read(reach.get_map) == MAP


async def test_an_order_does_not_set_back_a_probe_that_is_under_way(store: Database) -> None:
    await store.transaction(lambda tx: reach.order(tx, START))
    assert await store.read(reach.get_progress) == ProbeProgress(START)
    await store.transaction(lambda tx: reach.put_progress(tx, ProbeProgress(START, 5, 20)))
    await store.transaction(lambda tx: reach.order(tx, START))

    assert await store.read(reach.get_progress) == ProbeProgress(START, 5, 20)
    await store.transaction(lambda tx: reach.put_progress(tx, None))
    assert await store.read(reach.get_progress) is None


async def test_the_seen_address_is_the_last_one(store: Database) -> None:
    assert await store.read(reach.get_seen_address) is None
    for address in ("203.0.113.7", "198.51.100.1"):
        await store.transaction(lambda tx, told=address: reach.put_seen_address(tx, told))  # type: ignore[misc]

    assert await store.read(reach.get_seen_address) == "198.51.100.1"
