"""Copies between holders, by the real rsync in its cell, on one machine and by a door of another."""

import asyncio
import os
from pathlib import Path

import pytest

from kaalia.errors import ContractError
from kaalia.model.copying import CopyDestination, CopyEnd, CopyOrder, CopyState, CopyStatus
from kaalia.store import copies, outbox
from kaalia.transfer import between, rsync
from kaalia.transfer.copier import Copier
from kaalia.wire import document, signature
from kaalia.wire.protocol import TaskRequest, Verb
from tests.support import own_network
from tests.transfer.world import World, holder, world_in

pytestmark = [
    pytest.mark.skipif(not own_network.is_possible(), reason="needs scripts/sandbox: namespaces and ports of its own"),
    pytest.mark.timeout(120),
]


def order(source: str, target: str, copy_id: str = "c" * 8, away: CopyDestination | None = None) -> CopyOrder:
    return CopyOrder(copy_id, CopyEnd(holder(901), source), CopyEnd(holder(902), target), away)


async def ask(world: World, wanted: CopyOrder) -> str:
    deadline = world.clock.now()
    return await world.service.answer(TaskRequest("t", Verb.COPY, 0, deadline, copy=wanted))


async def told(world: World) -> list[CopyStatus]:
    rows = await world.database.read(lambda tx: outbox.pending(tx, 1000))
    found = [document.decode(CopyStatus, row.body) for row in rows if row.kind == "copy"]
    return [one for one in found if one.holder == holder(902) and not one.copy_id.startswith("door")]


async def ended(world: World, copy_id: str = "c" * 8) -> CopyStatus:
    async with asyncio.timeout(30):
        while True:
            found = [one for one in await told(world) if one.copy_id == copy_id]
            if found and found[-1].state is not CopyState.RUNNING:
                return found[-1]
            await asyncio.sleep(0.05)


async def two_volumes(world: World) -> tuple[Path, Path]:
    source, target = await world.add_volume(901), await world.add_volume(902)
    (source / "work" / "deep").mkdir(parents=True)
    (source / "work" / "deep" / "data").write_bytes(os.urandom(2_000_000))
    (source / "work" / "script").write_text("hello")
    os.chown(source / "work" / "script", 1234, 2345)
    return source, target


@pytest.mark.parametrize(
    ("source", "wanted", "landed"),
    [
        ("/work/", "/in/", "in"),
        ("/work", "/a/b/c", "a/b/c/work"),
        ("/work/", "/a/b/c", "a/b/c"),
        ("/work", "/", "work"),
        ("/", "/all/", "all/work"),
        ("/jump/", "/in/", "in"),
        ("/work/", "/leap/in", "real/in"),
    ],
)
async def test_folders_land_where_rsync_would_put_them(tmp_path: Path, source: str, wanted: str, landed: str) -> None:
    async with world_in(tmp_path) as world:
        files, target = await two_volumes(world)
        (files / "jump").symlink_to("/work")
        (target / "real").mkdir()
        (target / "leap").symlink_to("/real")

        assert await ask(world, order(source, wanted)) == "begun"
        last = await ended(world)
        assert last.state is CopyState.DONE, last
        assert (target / landed / "deep" / "data").read_bytes() == (files / "work" / "deep" / "data").read_bytes()
        found = (target / landed / "script").stat()
        assert (found.st_uid, found.st_gid) == (1234, 2345)
        assert await world.database.read(copies.under_way) == ()


async def test_a_file_goes_under_another_name_or_into_a_folder(tmp_path: Path) -> None:
    async with world_in(tmp_path) as world:
        _, target = await two_volumes(world)
        await ask(world, order("/work/script", "/renamed"))
        assert (await ended(world)).state is CopyState.DONE
        (target / "folder").mkdir()
        await ask(world, order("/work/script", "/folder", "d" * 8))
        async with asyncio.timeout(20):
            while not (target / "folder" / "script").exists():
                await asyncio.sleep(0.05)
        assert (target / "renamed").read_text() == "hello"


async def test_links_out_of_a_holder_lead_nowhere(tmp_path: Path) -> None:
    async with world_in(tmp_path) as world:
        files, target = await two_volumes(world)
        for number, name in enumerate(("etc", "../../../../../../etc", "/etc", "/proc/1/root/etc")):
            (files / "bad").unlink(missing_ok=True)
            (files / "bad").symlink_to(name)
            await ask(world, order("/bad/", "/in/", f"{number}" * 8))
            last = await ended(world, f"{number}" * 8)
            assert last.problem is not None
            assert last.problem.code == "copy_source_missing"
        (target / "escape").symlink_to("/etc")
        await ask(world, order("/work/script", "/escape/kaalia-was-here", "e" * 8))
        assert (await ended(world, "e" * 8)).state is CopyState.FAILED
        (target / "etc").mkdir()  # where the holder's own root is
        await ask(world, order("/work/script", "/escape/kaalia-was-here", "f" * 8))
        assert (await ended(world, "f" * 8)).state is CopyState.DONE
        assert not Path("/etc/kaalia-was-here").exists()
        assert (target / "etc" / "kaalia-was-here").exists()


async def test_what_fails_names_its_reason(tmp_path: Path) -> None:
    async with world_in(tmp_path) as world:
        _, target = await two_volumes(world)
        (target / "file").write_text("x")
        await ask(world, order("/none/", "/in/"))
        last = await ended(world)
        assert last.problem is not None
        assert (last.state, last.problem.code) == (CopyState.FAILED, "copy_source_missing")
        with pytest.raises(ContractError) as caught:
            await ask(world, CopyOrder("c" * 8, CopyEnd(holder(901), "/"), CopyEnd(holder(999), "/")))
        assert caught.value.code == "copy_holder_unknown"
        bad = CopyDestination("-oProxyCommand=id", 22, "x")
        with pytest.raises(ContractError) as caught:
            await ask(world, order("/work", "/in", away=bad))
        assert caught.value.code == "copy_destination_invalid"
        for copy_id in ("../../etc/x", "", "C" * 8, "a" * 65):
            with pytest.raises(ContractError) as caught:
                await ask(world, order("/work", "/in", copy_id))
            assert caught.value.code == "copy_id_invalid"
        with pytest.raises(ContractError) as caught:
            await ask(world, order("/work/../..", "/in"))
        assert caught.value.code == "copy_path_invalid"


def test_a_full_disk_is_named() -> None:
    found = rsync.problem(order("/a", "/b"), 11, "rsync: write failed on /target/b: Disk quota exceeded (122)")
    assert found is not None
    assert (found.code, "V.902" in found.message) == ("copy_disk_full", True)
    assert rsync.problem(order("/a", "/b"), 24, "") is None


def test_progress_is_read() -> None:
    found = rsync.progress("    157,286,400  45%  110.53MB/s    0:00:01 (xfr#3, to-chk=5/9)")
    assert str(found) == "45 %, 150.0 MiB, 110.53MB/s"
    assert rsync.progress("rsync: something failed") is None


async def test_a_copy_is_told_on_its_way_and_cancelled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(between, "TELL_S", 0.05)
    monkeypatch.setattr(rsync, "_COMMON", (*rsync._COMMON, "--bwlimit=2000"))
    async with world_in(tmp_path) as world:
        files, target = await two_volumes(world)
        (files / "work" / "big").write_bytes(os.urandom(20_000_000))
        await ask(world, order("/work/", "/in/"))
        with pytest.raises(ContractError) as caught:
            await ask(world, order("/work/", "/in/", "ab12ab12"))
        assert caught.value.code == "copy_running"
        async with asyncio.timeout(20):
            while not any("%" in one.text for one in await told(world)):
                await asyncio.sleep(0.05)
        request = TaskRequest("t", Verb.CANCEL_COPY, 0, world.clock.now(), holder=holder(902))
        assert await world.service.answer(request) == "1"
        assert await world.service.answer(request) == "0"
        last = await ended(world)
        assert (last.state, "was cancelled" in last.text) == (CopyState.CANCELLED, True)
        await asyncio.sleep(0.5)
        before = sum(one.stat().st_size for one in target.rglob("*") if one.is_file())
        await asyncio.sleep(1)
        assert sum(one.stat().st_size for one in target.rglob("*") if one.is_file()) == before
        assert await world.service.answer(request) == "0"
        assert not [one for one in target.rglob("*") if one.name.startswith(".")], "nothing half written stays"


async def test_one_volume_has_two_copies_at_a_time_and_few_that_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rsync, "_COMMON", (*rsync._COMMON, "--bwlimit=2000"))
    async with world_in(tmp_path) as world:
        files, target = await two_volumes(world)
        (files / "work" / "big").write_bytes(os.urandom(20_000_000))
        for number in range(4):
            assert await ask(world, order("/work/", f"/in/{number}", f"{number}" * 8)) == "begun"
        with pytest.raises(ContractError) as caught:
            await ask(world, order("/work/", "/in/4", "4" * 8))
        assert (caught.value.code, bool(caught.value.problem.remedy)) == ("copy_busy", True)
        async with asyncio.timeout(30):
            while len(found := {one.copy_id: one.text for one in await told(world)}) < 4:
                await asyncio.sleep(0.05)
        assert ["waits for its turn" in found[f"{number}" * 8] for number in range(4)] == [False, False, True, True]
        request = TaskRequest("t", Verb.CANCEL_COPY, 0, world.clock.now(), holder=holder(902))
        async with asyncio.timeout(20):
            while len(list(target.glob("in/*"))) < 2:
                await asyncio.sleep(0.05)
        assert await world.service.answer(request) == "4"
        async with asyncio.timeout(20):
            while list((tmp_path / "transfer").glob("*.json")):
                await asyncio.sleep(0.05)
        assert len(list(target.glob("in/*"))) == 2, "what waited has copied nothing"


async def test_what_a_crash_cut_off_is_told_by_the_next_daemon(tmp_path: Path) -> None:
    async with world_in(tmp_path) as world:
        await two_volumes(world)
        await world.database.transaction(lambda tx: copies.put(tx, order("/work/", "/in/")))
        await Copier(world.database, world.clock, world.tools, world.clouds).recover()
        last = await ended(world)
        assert (last.state, "restart" in last.text) == (CopyState.INTERRUPTED, True)
        assert await world.database.read(copies.under_way) == ()


async def test_between_machines_a_door_is_the_way(tmp_path: Path) -> None:
    async with world_in(tmp_path / "one") as here, world_in(tmp_path / "two", 23100) as there:
        files, _ = await two_volumes(here)
        target = await there.add_volume(902)
        request = TaskRequest("t", Verb.COPY_KEY, 0, here.clock.now(), copy_id="c" * 8)
        key = await here.service.answer(request)
        port = await there.open(902, key)
        away = CopyDestination("127.0.0.1", port, there.host_key)

        await ask(here, order("/work/", "/deep/in/", away=away))
        last = await ended(here)
        assert last.state is CopyState.DONE, last
        assert (target / "deep/in/deep/data").read_bytes() == (files / "work/deep/data").read_bytes()
        assert (target / "deep/in/script").stat().st_uid == 1234
        assert not list((tmp_path / "one" / "transfer").glob("*.key"))

        stranger = signature.openssh_public(signature.generate_key())
        await ask(here, order("/work/", "/again/", "d" * 8, CopyDestination("127.0.0.1", port, stranger)))
        last = await ended(here, "d" * 8)
        assert last.state is CopyState.FAILED
        assert last.problem is not None
        assert "Host key verification failed" in last.problem.evidence
        assert not (target / "again").exists()
