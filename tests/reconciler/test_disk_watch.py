"""What the watch over the disk measures, tells and removes: and what it leaves alone."""

import asyncio
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from kaalia.contracts.contract import Contract
from kaalia.model.health import Severity
from kaalia.model.machine import Engine
from kaalia.model.workload import WorkloadState
from kaalia.reconciler.disk_watch import MEASURE_MIN_S, DiskWatch, Hands
from kaalia.reconciler.image_use import ImageUse
from kaalia.runtime.base import GrownFile, LimitsUnsure
from kaalia.store import conditions, contracts, disk, images, machine, workloads
from kaalia.store.database import Database, Transaction
from kaalia.store.images import PulledImage
from kaalia.units import GB
from tests.support.builders import build_contract, build_report, build_status
from tests.support.clock import FakeClock
from tests.support.fake_disk import FakeDisk
from tests.support.fake_runtime import ENGINE

UNENFORCED = replace(ENGINE, enforces_disk_size=False)


def unsure(*folders: str) -> LimitsUnsure:
    """All on one file system."""
    return LimitsUnsure(folders[0], "a rescan is under way", frozenset(folders))


class Watched:
    """A watch over a fake disk, and the books that it reads and writes."""

    def __init__(self, store: Database, clock: FakeClock) -> None:
        self.store, self.clock, self.disk, self.use = store, clock, FakeDisk(), ImageUse()
        hands = Hands(self.disk, self.disk, self.disk.space, self.use, low_water_bytes=100 * GB)
        self.watch = DiskWatch(store, hands, clock)

    async def report(self, engine: Engine) -> None:
        report = replace(build_report(self.clock.now()), engine=engine)
        await self.store.transaction(lambda tx: machine.put_report(tx, report))

    async def rent(self, contract_id: int, disk_gb: int = 10, state: WorkloadState = WorkloadState.RUNNING) -> Contract:
        made = build_contract(contract_id)
        made = replace(made, spec=replace(made.spec, disk_bytes=disk_gb * GB, image=f"i{contract_id}"))

        def work(tx: Transaction) -> None:
            contracts.upsert(tx, made, self.clock.now())
            workloads.put(tx, build_status(contract_id, state=state))

        await self.store.transaction(work)
        return made

    async def pulled(self, name: str, days_ago: int) -> None:
        at = self.clock.now() - timedelta(days=days_ago)
        row = PulledImage(f"sha256:{name}", f"{name}:latest", at)
        await self.store.transaction(lambda tx: images.put_pulled(tx, row))

    async def look(self) -> None:
        self.clock.advance(MEASURE_MIN_S + 1)
        await self.watch.look()

    async def told(self) -> dict[tuple[str, str], Severity]:
        found = await self.store.read(conditions.all_open)
        return {(one.condition.problem.code, one.condition.scope): one.condition.severity for one in found}

    async def overruns(self) -> dict[int, int]:
        return {number: one.size_bytes // GB for number, one in (await self.store.read(disk.overruns)).items()}


@pytest.fixture
def watched(store: Database, clock: FakeClock) -> Watched:
    return Watched(store, clock)


async def test_who_holds_more_than_was_rented_is_written_down_and_told(watched: Watched) -> None:
    await watched.report(UNENFORCED)
    for contract_id in (51, 52, 53):
        await watched.rent(contract_id)
    watched.disk.sizes = {51: 10 * GB, 52: round(10.5 * GB), 53: 12 * GB, 99: 100 * GB}

    await watched.look()

    assert await watched.overruns() == {52: 10, 53: 12}
    assert await watched.told() == {
        ("disk_over_size", "C.52"): Severity.WARN,
        ("disk_limit_exceeded", "C.53"): Severity.CRITICAL,
    }

    watched.disk.sizes = {52: 9 * GB}
    await watched.look()
    assert await watched.overruns() == {}
    assert await watched.told() == {}


@pytest.mark.parametrize("engine", [ENGINE, UNENFORCED], ids=["sizes are enforced", "sizes are measured"])
async def test_who_fills_a_file_of_the_engine_s_is_stopped_until_it_is_recycled(
    watched: Watched, engine: Engine
) -> None:
    await watched.report(engine)
    made = await watched.rent(51)
    await watched.rent(52)
    watched.disk.grown = {51: GrownFile("/etc/hosts", 50 * GB), 52: GrownFile("/etc/hosts", 4096)}

    for _ in range(2):
        await watched.look()
        (over,) = (await watched.store.read(disk.overruns)).values()
        assert (over.contract_id, over.is_exceeded, over.problem.code) == (51, True, "engine_file_filled")
        assert "/etc/hosts" in over.problem.message
        assert await watched.told() == {("engine_file_filled", "C.51"): Severity.CRITICAL}

    again = replace(made, generation=made.generation + 1)
    await watched.store.transaction(lambda tx: contracts.upsert(tx, again, watched.clock.now()))
    await watched.look()
    assert (await watched.overruns(), await watched.told()) == ({}, {})


async def test_holes_in_files_are_not_held_against_anybody(watched: Watched) -> None:
    await watched.report(UNENFORCED)
    await watched.rent(51)
    watched.disk.sizes, watched.disk.holes = {51: 500 * GB}, {51: 495 * GB}

    await watched.look()

    assert await watched.overruns() == {}


async def test_a_size_that_may_be_mostly_holes_warns_and_stops_nobody(watched: Watched) -> None:
    await watched.report(UNENFORCED)
    await watched.rent(51)
    watched.disk.sizes, watched.disk.opaque = {51: 500 * GB}, {51}

    await watched.look()

    assert await watched.told() == {("disk_over_size", "C.51"): Severity.WARN}
    (over,) = (await watched.store.read(disk.overruns)).values()
    assert (over.size_bytes, over.is_exceeded) == (500 * GB, False)


@pytest.mark.parametrize("opaque", [set(), {51}], ids=["counted", "with holes"])
async def test_the_newest_size_is_the_one_that_counts(watched: Watched, opaque: set[int]) -> None:
    await watched.report(UNENFORCED)
    await watched.rent(51)
    watched.disk.opaque = opaque
    for size in (round(10.5 * GB), 30 * GB, 12 * GB):
        watched.disk.sizes = {51: size}
        await watched.look()
        assert await watched.overruns() == {51: size // GB}


async def test_who_was_measured_too_large_stays_so_while_holes_cannot_be_told(watched: Watched) -> None:
    await watched.report(UNENFORCED)
    await watched.rent(51)
    watched.disk.sizes, watched.disk.holes = {51: 30 * GB}, {51: 10 * GB}
    await watched.look()

    watched.disk.sizes, watched.disk.opaque = {51: 40 * GB}, {51}
    await watched.look()
    assert await watched.overruns() == {51: 20}
    assert await watched.told() == {("disk_limit_exceeded", "C.51"): Severity.CRITICAL}

    watched.disk.sizes = {51: 9 * GB}
    await watched.look()
    assert await watched.told() == {}


async def test_nothing_is_measured_where_sizes_are_enforced_unless_that_is_in_doubt(watched: Watched) -> None:
    await watched.report(ENGINE)
    await watched.rent(51)
    watched.disk.sizes = {51: 20 * GB}

    await watched.look()
    assert (watched.disk.measurements, await watched.told()) == (0, {})

    watched.disk.unsure = (unsure("/var/lib/docker"),)
    await watched.look()
    assert await watched.overruns() == {51: 20}
    assert set(await watched.told()) == {("disk_limits_unsure", "/var/lib/docker"), ("disk_limit_exceeded", "C.51")}

    watched.disk.unsure = ()
    await watched.look()
    assert (await watched.overruns(), await watched.told()) == ({}, {})


async def test_doubts_about_another_file_system_than_dockers_measure_nobody(watched: Watched) -> None:
    await watched.report(ENGINE)
    await watched.rent(51)
    watched.disk.sizes = {51: 20 * GB}

    watched.disk.unsure = (unsure("/volumes"),)
    await watched.look()
    assert await watched.told() == {("disk_limits_unsure", "/volumes"): Severity.WARN}

    watched.disk.unsure = (unsure("/volumes", ENGINE.data_root),)
    await watched.look()
    assert await watched.overruns() == {51: 20}


async def test_what_was_measured_stays_while_the_engine_is_silent(watched: Watched) -> None:
    await watched.report(UNENFORCED)
    await watched.rent(51)
    watched.disk.sizes = {51: 20 * GB}
    await watched.look()

    watched.disk.is_down, watched.disk.sizes = True, {}
    await watched.look()

    assert await watched.overruns() == {51: 20}
    assert set(await watched.told()) == {("disk_limit_exceeded", "C.51")}


async def test_a_contract_that_is_over_or_of_an_older_generation_is_not_judged(watched: Watched) -> None:
    await watched.report(UNENFORCED)
    await watched.rent(51, state=WorkloadState.ENDED)
    made = await watched.rent(52)
    newer = replace(made, generation=2)
    await watched.store.transaction(lambda tx: contracts.upsert(tx, newer, watched.clock.now()))
    watched.disk.sizes = {51: 20 * GB, 52: 20 * GB}

    await watched.look()

    assert await watched.overruns() == {}


@pytest.mark.parametrize("changes", [{"generation": 2}, {"container_id": "d" * 64}], ids=["recycled", "made anew"])
async def test_a_new_container_is_not_held_to_what_the_old_one_was_measured_to_hold(
    watched: Watched, changes: dict[str, Any]
) -> None:
    await watched.report(UNENFORCED)
    made = await watched.rent(51)
    watched.disk.sizes = {51: 20 * GB}

    async def replaced() -> None:
        def work(tx: Transaction) -> None:
            contracts.upsert(tx, replace(made, generation=changes.get("generation", 1)), watched.clock.now())
            workloads.put(tx, build_status(51, **changes))

        await watched.store.transaction(work)

    watched.disk.meanwhile = replaced
    await watched.look()

    assert (await watched.overruns(), await watched.told()) == ({}, {})


async def test_measuring_takes_a_small_part_of_the_time(watched: Watched) -> None:
    await watched.report(UNENFORCED)
    await watched.rent(51)
    for _ in range(4):
        await watched.watch.look()
        watched.clock.advance(MEASURE_MIN_S / 4)

    assert watched.disk.measurements == 1


async def test_a_measuring_that_fails_keeps_its_pace_and_lets_images_go(watched: Watched) -> None:
    await watched.report(UNENFORCED)
    await watched.rent(51)
    watched.disk.is_too_slow = True
    watched.disk.add_image("old")
    await watched.pulled("old", 30)
    watched.disk.others_bytes = 895 * GB  # 95 of 100 are free

    for _ in range(4):
        await watched.watch.look()
        watched.clock.advance(MEASURE_MIN_S / 4)

    assert watched.disk.measurements == 1
    assert watched.disk.names() == set()


async def test_a_shortage_is_told_until_room_is_seen(watched: Watched) -> None:
    watched.disk.others_bytes = 930 * GB
    await watched.look()
    watched.disk.is_down = True

    await watched.look()
    assert await watched.told() == {("disk_low", "host"): Severity.WARN}

    watched.disk.is_down, watched.disk.others_bytes = False, 0
    await watched.look()
    assert await watched.told() == {}


async def test_room_is_made_from_the_longest_unused_image_on(watched: Watched) -> None:
    for name, days_ago in (("old", 30), ("older", 60), ("new", 1)):
        watched.disk.add_image(name)
        await watched.pulled(name, days_ago)
    watched.disk.add_image("owners", 500 * GB)
    watched.disk.others_bytes = 375 * GB  # 95 of 100 are free

    await watched.look()

    assert watched.disk.names() == {"owners", "new", "old"}
    assert await watched.told() == {}
    assert {one.image_id for one in await watched.store.read(images.all_pulled)} == {
        "sha256:old",
        "sha256:new",
        "sha256:older",
    }
    await watched.look()
    assert {one.image_id for one in await watched.store.read(images.all_pulled)} == {"sha256:old", "sha256:new"}


async def test_above_the_mark_nothing_is_removed(watched: Watched) -> None:
    watched.disk.add_image("old")
    await watched.pulled("old", 300)
    watched.disk.others_bytes = 890 * GB

    await watched.look()

    assert watched.disk.names() == {"old"}
    assert watched.disk.sweeps == 0


async def test_what_anybody_needs_stays_and_that_it_is_not_enough_is_told(watched: Watched) -> None:
    await watched.rent(51, state=WorkloadState.STOPPED)
    for name in ("used", "i51", "wanted", "owners", "renamed", "busy"):
        watched.disk.add_image(name, tags=("renamed:latest", "mine:1") if name == "renamed" else ())
        if name != "owners":
            await watched.pulled(name, 30)
    watched.disk.set_in_use("used", True)
    watched.disk.conflicts = {"sha256:busy"}
    watched.disk.others_bytes = 930 * GB

    async with watched.use.using("wanted"):
        await watched.look()

    assert watched.disk.names() == {"used", "i51", "wanted", "owners", "renamed", "busy"}
    assert await watched.told() == {("disk_low", "host"): Severity.WARN}

    watched.disk.others_bytes = 0
    await watched.look()
    assert await watched.told() == {}


async def test_an_image_that_is_pulled_while_images_are_listed_stays_known(watched: Watched) -> None:
    await watched.pulled("gone", 30)

    async def pull() -> None:
        watched.clock.advance(0.1)
        watched.disk.add_image("new")
        await watched.pulled("new", 0)

    watched.disk.meanwhile = pull
    await watched.look()

    assert {one.image_id for one in await watched.store.read(images.all_pulled)} == {"sha256:new"}


async def test_an_image_that_is_in_use_stays_young(watched: Watched) -> None:
    watched.disk.add_image("a", in_use=True)
    await watched.pulled("a", 30)

    await watched.look()

    (row,) = await watched.store.read(images.all_pulled)
    assert row.used_at == watched.clock.now()


async def test_a_launch_waits_for_a_removal_under_way_and_forbids_the_next() -> None:
    use, removing, go_on = ImageUse(), asyncio.Event(), asyncio.Event()
    order: list[str] = []

    async def remove() -> None:
        removing.set()
        await go_on.wait()
        order.append("removed")

    async def launch() -> None:
        async with use.using("a"):
            order.append("launched")

    gone = asyncio.create_task(use.remove(["a:latest"], remove))
    await removing.wait()
    launched = asyncio.create_task(launch())
    await asyncio.sleep(0)
    go_on.set()
    await asyncio.gather(gone, launched)

    assert order == ["removed", "launched"]
    async with use.using("docker.io/x:1"):
        assert not await use.remove(["docker.io/x:1"], remove)
    assert await use.remove(["docker.io/x:1"], remove)
