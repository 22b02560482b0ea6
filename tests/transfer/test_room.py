"""Where sizes are only measured, copies end with the room: for one holder, or for the machine."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from kaalia.contracts.disk import Overrun
from kaalia.contracts.volume import Volume, VolumeDesired
from kaalia.errors import ContractError, Problem
from kaalia.model.copying import CopyEnd, CopyOrder, DoorOrder, Holder, HolderKind
from kaalia.model.health import Condition, Severity
from kaalia.model.volume import VolumeBackend, VolumeState, VolumeStatus
from kaalia.store import conditions, contracts, disk, machine, outbox, volumes
from kaalia.store.changes import Changes, Topic
from kaalia.store.database import Database, Transaction
from kaalia.transfer import room, rsync, service
from kaalia.units import GB
from kaalia.wire.protocol import TaskRequest, Verb
from tests.support import own_network
from tests.support.builders import build_contract, build_report
from tests.support.clock import FakeClock
from tests.transfer.world import World, holder, world_in

INSTANCE = Holder(HolderKind.INSTANCE, 51)
OVER = Overrun(51, 1, 40 * GB, 10 * GB)
CHILDREN = f"/proc/self/task/{os.getpid()}/children"
"""Among them is what other tests share, such as an engine."""
UNSURE = Condition(Problem("disk_limits_unsure", "cannot hold sizes"), Severity.WARN, "soon")
LOW = Condition(Problem("disk_low", "cannot keep room"), Severity.WARN, "never")


@asynccontextmanager
async def opened(folder: Path) -> AsyncIterator[Database]:
    database = Database(folder / "state.db", Changes())
    await database.open()
    try:
        yield database
    finally:
        await database.close()


def sizes_are_enforced(tx: Transaction, enforced: bool) -> None:
    report = build_report()
    assert report.engine is not None
    machine.put_report(tx, replace(report, engine=replace(report.engine, enforces_disk_size=enforced)))


@pytest.mark.parametrize(
    ("over", "code"),
    [
        (OVER, "copy_disk_exceeded"),
        (replace(OVER, counts_holes=True), None),
        (replace(OVER, engine_file="local-logs"), None),
        (replace(OVER, size_bytes=10 * GB), None),
        (replace(OVER, contract_id=52), None),
    ],
)
async def test_who_holds_too_much_gets_no_more(tmp_path: Path, over: Overrun, code: str | None) -> None:
    async with opened(tmp_path) as database:
        await database.transaction(lambda tx: disk.put_overruns(tx, [over]))
        found = await database.read(lambda tx: room.problem(tx, INSTANCE))
        assert (None if found is None else found.code) == code
        assert await database.read(lambda tx: room.problem(tx, holder(51))) is None, "a volume of that number"


async def test_a_low_disk_stops_copies_where_no_size_is_enforced(tmp_path: Path) -> None:
    async with opened(tmp_path) as database:
        await database.transaction(lambda tx: conditions.replace(tx, "disk", [LOW], FakeClock().now()))
        await database.transaction(lambda tx: sizes_are_enforced(tx, True))
        assert await database.read(lambda tx: room.problem(tx, INSTANCE)) is None
        await database.transaction(lambda tx: sizes_are_enforced(tx, False))
        found = await database.read(lambda tx: room.problem(tx, INSTANCE))
        assert found is not None
        assert found.code == "copy_disk_low"
        assert await database.read(lambda tx: room.problem(tx, holder(901))) is None


def order(copy_id: str) -> CopyOrder:
    return CopyOrder(copy_id, CopyEnd(holder(901), "/"), CopyEnd(INSTANCE, "/in/"))


async def ask(world: World, copy_id: str) -> str:
    return await world.service.answer(TaskRequest("t", Verb.COPY, 0, world.clock.now(), copy=order(copy_id)))


async def over_its_size(world: World) -> None:
    await world.database.transaction(lambda tx: disk.put_overruns(tx, [OVER]), Topic.CONTRACTS)


async def rented(world: World) -> Path:
    files = world.files(51)
    files.mkdir(parents=True)
    await world.database.transaction(lambda tx: contracts.upsert(tx, build_contract(), world.clock.now()))
    return files


@pytest.mark.skipif(not own_network.is_possible(), reason="needs scripts/sandbox: namespaces and ports of its own")
async def test_doors_and_copies_to_who_holds_too_much_are_refused_and_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "LOOK_S", 0.05)
    async with world_in(tmp_path) as world:
        await rented(world)
        await world.add_volume(901)
        port = await world.service.open(DoorOrder(INSTANCE, (world.public,)))
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        assert (await reader.readline()).startswith(b"SSH-2.0-")

        await over_its_size(world)
        async with asyncio.timeout(30):
            await reader.read()  # to the end of the session
            while "copy_disk_exceeded" not in await told(world):
                await asyncio.sleep(0.02)
        writer.close()
        for refused in (world.service.open(DoorOrder(INSTANCE, (world.public,))), ask(world, "c" * 8)):
            with pytest.raises(ContractError) as caught:
                await refused
            assert caught.value.code == "copy_disk_exceeded"


@pytest.mark.skipif(not own_network.is_possible(), reason="needs scripts/sandbox: namespaces and ports of its own")
async def test_who_holds_too_much_is_read_from_and_not_written_to(tmp_path: Path) -> None:
    async with world_in(tmp_path) as world:
        files = await rented(world)
        (files / "kept").write_text("data")
        await over_its_size(world)
        port = await world.service.open(DoorOrder(INSTANCE, (world.public,), is_for_reading=True))
        back, new = str(tmp_path / "back"), str(tmp_path / "new")
        Path(new).write_text("more")
        assert (await asyncio.to_thread(world.rsync, port, "AT::C.51/kept", back)).returncode == 0
        assert Path(back).read_text() == "data"
        refused = await asyncio.to_thread(world.rsync, port, new, "AT::C.51/")
        assert refused.returncode != 0, "rsync's own words may be lost: its client need not read them to the end"
        assert not (files / "new").exists()

        await world.database.transaction(lambda tx: disk.put_overruns(tx, []), Topic.CONTRACTS)
        assert await world.service.open(DoorOrder(INSTANCE, (world.public,))) == port
        assert (await asyncio.to_thread(world.rsync, port, new, "AT::C.51/")).returncode == 0


@pytest.mark.parametrize(
    ("told", "used", "code"),
    [
        ((LOW,), None, None),
        ((UNSURE,), None, None),
        ((LOW, UNSURE), None, "copy_disk_low"),
        ((), 4 * GB, "copy_disk_exceeded"),
        ((), GB // 2, None),
    ],
)
async def test_a_volume_is_judged_too(
    tmp_path: Path, told: tuple[Condition, ...], used: int | None, code: str | None
) -> None:
    async with opened(tmp_path) as database:
        now = FakeClock().now()
        await database.transaction(lambda tx: conditions.replace(tx, "disk", list(told), now))
        await database.transaction(lambda tx: volumes.upsert(tx, Volume(901, "k", GB, VolumeDesired.PRESENT)))
        status = VolumeStatus(901, VolumeState.READY, now, VolumeBackend.BTRFS, used)
        await database.transaction(lambda tx: volumes.put_status(tx, status, now))
        found = await database.read(lambda tx: room.problem(tx, holder(901)))
        assert (None if found is None else found.code) == code


@pytest.mark.skipif(not own_network.is_possible(), reason="needs scripts/sandbox: namespaces and ports of its own")
async def test_a_copy_under_way_ends_with_the_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rsync, "_COMMON", (*rsync._COMMON, "--bwlimit=1000"))
    before = children()
    async with world_in(tmp_path) as world:
        files = await rented(world)
        (await world.add_volume(901) / "big").write_bytes(bytes(20_000_000))
        assert await ask(world, "c" * 8) == "begun"
        async with asyncio.timeout(30):
            while not list(files.rglob("*big*")):
                await asyncio.sleep(0.02)
            await over_its_size(world)
            while "copy_disk_exceeded" not in await told(world) or children() - before:
                await asyncio.sleep(0.02)


def children() -> set[str]:
    return set(Path(CHILDREN).read_text().split())


async def told(world: World) -> str:
    rows = await world.database.read(lambda tx: outbox.pending(tx, 1000))
    return " ".join(str(row.body) for row in rows)
