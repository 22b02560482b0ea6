"""News of addresses: what rings, what does not, and who wakes: the report at once, the ports when it was theirs."""

import asyncio
import contextlib
from datetime import timedelta

from kaalia.capability.address import Addresses, AddressService
from kaalia.capability.reach import ReachService, Wanted
from kaalia.capability.report import Inputs
from kaalia.capability.service import CapabilityService
from kaalia.contracts.remedies import Surroundings
from kaalia.errors import HostError
from kaalia.host.answering import Answering
from kaalia.host.links import LinkNews
from kaalia.model.machine import MachineReport, PortRange
from kaalia.store import machine as machine_rows
from kaalia.store import outbox, reach, speed
from kaalia.store.changes import Changes, Topic
from kaalia.store.database import Database
from tests.capability.conftest import MakeProbe
from tests.capability.reach_rig import HERE, Beside, Firewall
from tests.capability.test_service import PORTS, engine
from tests.support.builders import build_speed
from tests.support.clock import FakeClock
from tests.support.fake_nvidia.profiles import machine
from tests.support.serving import running

RANGE = PortRange(23160, 23167)
"""No other test's: tests run side by side."""
FIRST, SECOND = Addresses("11.1.0.7", frozenset({"11.1.0.7"})), Addresses("11.1.0.8", frozenset({"11.1.0.8"}))


class Kernel(LinkNews):
    """A kernel whose news a test makes."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[None] = asyncio.Queue()
        self.addresses = FIRST
        self.looks = 0
        self.is_closed = False

    async def next(self) -> None:
        await self.queue.get()

    def forget(self) -> None:
        while not self.queue.empty():
            self.queue.get_nowait()

    def close(self) -> None:
        self.is_closed = True

    def look(self) -> Addresses:
        self.looks += 1
        return self.addresses

    def say(self, times: int = 1) -> None:
        for _ in range(times):
            self.queue.put_nowait(None)


async def test_a_changed_address_rings_once_and_other_news_does_not(changes: Changes) -> None:
    kernel, bell = Kernel(), changes.subscribe(Topic.ADDRESS)
    async with running(AddressService(changes, kernel.look, lambda: kernel, settle_s=0.05)):
        kernel.say(200)
        await asyncio.sleep(0.2)
        assert not bell.is_set(), "a container got a network"
        assert kernel.looks <= 3, "200 messages are one"

        kernel.addresses = SECOND
        kernel.say(3)
        async with asyncio.timeout(30):
            await bell.wait()
        bell.clear()
        kernel.say()
        await asyncio.sleep(0.2)
        assert not bell.is_set(), "it is known now"
    assert kernel.is_closed


async def test_without_news_from_the_kernel_the_daemon_goes_on(changes: Changes) -> None:
    def none() -> LinkNews:
        raise HostError("netlink_failed", "cannot follow the addresses of this machine")

    async with running(AddressService(changes, lambda: FIRST, none)):
        pass


async def test_the_real_kernel_can_be_listened_to() -> None:
    news = LinkNews()
    try:
        news.forget()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.05):
                await news.next()
    finally:
        news.close()


async def test_the_report_follows_an_address_and_a_speed_at_once(
    store: Database, changes: Changes, clock: FakeClock, simulated: MakeProbe
) -> None:
    inputs = Inputs(simulated(machine("1xA100")), engine, PORTS)
    told = changes.subscribe(Topic.OUTBOX)

    async def next_report() -> MachineReport:
        async with asyncio.timeout(20):
            await told.wait()
        told.clear()
        await store.transaction(lambda tx: outbox.acknowledge(tx, 10**9))
        report = await store.read(machine_rows.get_report)
        assert report is not None
        return report

    async with running(CapabilityService(store, clock, inputs, interval_s=3600, changes=changes)):
        before = (await next_report()).network
        assert before.speed is None
        await store.transaction(lambda tx: reach.put_seen_address(tx, "11.1.0.8"), Topic.ADDRESS)
        if before.public_ip is None:  # else this machine has a public address of its own
            assert (await next_report()).network.public_ip == "11.1.0.8"
        await store.transaction(lambda tx: speed.put_result(tx, build_speed()), Topic.SPEED)
        assert (await next_report()).network.speed == build_speed()


async def test_ports_are_tried_again_when_the_machine_behind_the_router_got_another_address(
    store: Database, changes: Changes, clock: FakeClock
) -> None:
    link, routed = Beside(), ["192.168.1.20"]

    async def around() -> Surroundings:
        return Surroundings((routed[0],), routed[0])

    subject = ReachService(
        *(store, changes, clock, Wanted(RANGE, HERE, timedelta(hours=24)), link, Answering(), around, Firewall()),
        after_s=(0, 0),
        routed=lambda: routed[0],
    )

    async def probed_at(address: str) -> None:
        async with asyncio.timeout(20):
            while (found := await store.read(reach.get_map)) is None or found.routed_ip != address:
                await asyncio.sleep(0.02)

    async with running(subject):
        await probed_at("192.168.1.20")
        asked = len(link.asked)
        clock.advance(601)
        changes.ring(Topic.ADDRESS)
        await asyncio.sleep(0.2)
        assert len(link.asked) == asked, "nothing is new"
        routed[0] = "192.168.1.33"
        changes.ring(Topic.ADDRESS)
        await probed_at("192.168.1.33")
