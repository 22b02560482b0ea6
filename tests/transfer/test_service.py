"""Doors for copies: the real rsync and ssh in, and nothing else; their ports, their keys, their ends."""

import asyncio
import os
import socket
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from kaalia.contracts.volume import VolumeDesired
from kaalia.errors import ContractError
from kaalia.host import netfilter
from kaalia.host.netfilter import Change, Family
from kaalia.model.copying import DoorOrder
from kaalia.store import claims
from kaalia.store.changes import Topic
from kaalia.transfer import door, lobby, service
from kaalia.transfer.door import OPEN_S
from kaalia.wire.protocol import TaskRequest, Verb
from tests.support import own_network
from tests.support.ssh import new_key
from tests.transfer.world import FIRST, LAST, World, holder, world_in

pytestmark = [
    pytest.mark.skipif(not own_network.is_possible(), reason="needs scripts/sandbox: namespaces and ports of its own"),
    pytest.mark.timeout(120),
]


async def rsync(world: World, port: int, *words: str, key: Path | None = None) -> subprocess.CompletedProcess[str]:
    return await asyncio.to_thread(lambda: world.rsync(port, *words, key=key))


async def ports_held(world: World) -> list[str]:
    held = await world.database.read(claims.all_claims)
    return [one.key for one in held if one.contract_id == claims.MACHINE]


async def test_files_go_in_and_out_with_owners_modes_and_links(tmp_path: Path) -> None:
    async with world_in(tmp_path) as world:
        files = await world.add_volume(901)
        mine = tmp_path / "mine"
        (mine / "deep").mkdir(parents=True)
        (mine / "deep" / "data").write_bytes(os.urandom(2_000_000))
        (mine / "script").write_text("echo hello")
        (mine / "script").chmod(0o751)
        os.chown(mine / "script", 1234, 2345)
        (mine / "link").symlink_to("/etc/passwd")
        port = await world.open(901)

        up = await rsync(world, port, f"{mine}/", "AT::V.901//data/in/")
        assert up.returncode != 0, "rsync makes one folder, not two"
        up = await rsync(world, port, f"{mine}/", "AT::V.901//in/")
        assert (up.returncode, up.stderr) == (0, "")
        assert (files / "in/deep/data").read_bytes() == (mine / "deep/data").read_bytes()
        found = (files / "in/script").stat()
        assert (found.st_uid, found.st_gid, found.st_mode & 0o777) == (1234, 2345, 0o751)
        assert (files / "in/link").readlink() == Path("/etc/passwd")

        down = await rsync(world, port, "AT::V.901//in/", str(tmp_path / "back"))
        assert (down.returncode, down.stderr) == (0, "")
        assert (tmp_path / "back/deep/data").read_bytes() == (mine / "deep/data").read_bytes()
        assert port == LAST


async def test_nothing_of_the_machine_is_reached(tmp_path: Path) -> None:
    async with world_in(tmp_path) as world:
        files = await world.add_volume(901)
        neighbour = await world.add_volume(902)
        (neighbour / "secret").write_text("neighbour's")
        (files / "out").symlink_to("/etc")
        (files / "up").symlink_to("../../../../../../../etc")
        await world.open(902)
        port = await world.open(901)

        reached = []
        for path in (
            "out/passwd",
            "up/passwd",
            "../902/secret",
            "../../../../etc/passwd",
            "/etc/passwd",
            ".kaalia/bin",
        ):
            done = await rsync(world, port, f"AT::V.901/{path}", str(tmp_path / "stolen"))
            if done.returncode == 0 or (tmp_path / "stolen").exists():
                reached.append(path)
        assert reached == []
        for module in ("V.902", "902", "C.901", "/", "etc", ".."):
            done = await rsync(world, port, f"AT::{module}/", str(tmp_path / "stolen"))
            assert done.returncode != 0, module
        (tmp_path / "evil").write_text("x")
        await rsync(world, port, str(tmp_path / "evil"), "AT::V.901/out/evil")
        assert not Path("/etc/evil").exists()


async def test_a_login_gives_rsync_and_nothing_else(tmp_path: Path) -> None:
    async with world_in(tmp_path) as world:
        await world.add_volume(901)
        port = await world.open(901)
        flags = ["-F", "none", "-i", str(world.key), "-p", str(port), "-o", "StrictHostKeyChecking=no", "-o"]
        flags += ["UserKnownHostsFile=/dev/null", "-o", "BatchMode=yes", "-o", "LogLevel=ERROR"]

        async def ssh(*words: str) -> subprocess.CompletedProcess[str]:
            argv = ["ssh", *flags, *words]
            run = lambda: subprocess.run(argv, capture_output=True, text=True, input="\n", timeout=30, check=False)  # noqa: E731
            return await asyncio.to_thread(run)

        said = await ssh("vastai_kaalia@127.0.0.1", "cat /etc/passwd; id")
        assert said.stdout.startswith("@RSYNCD:")
        assert "uid=" not in said.stdout + said.stderr
        for user in ("root", "nobody", "sshd"):
            assert "Permission denied" in (await ssh(f"{user}@127.0.0.1", "id")).stderr
        forwarded = await ssh("-W", "127.0.0.1:22", "vastai_kaalia@127.0.0.1")
        assert forwarded.returncode != 0
        assert "SSH-2.0" not in forwarded.stdout


async def test_only_the_keys_of_the_newest_grant_log_in(tmp_path: Path) -> None:
    async with world_in(tmp_path) as world:
        files = await world.add_volume(901)
        (files / "one").write_text("1")
        other, public = new_key(tmp_path, "other")
        port = await world.open(901)
        denied = await rsync(world, port, "AT::V.901/one", str(tmp_path / "a"), key=other)
        assert "Permission denied" in denied.stderr

        assert await world.open(901, public) == port
        assert (await rsync(world, port, "AT::V.901/one", str(tmp_path / "a"), key=other)).returncode == 0
        assert "Permission denied" in (await rsync(world, port, "AT::V.901/one", str(tmp_path / "b"))).stderr
        with pytest.raises(ContractError) as caught:
            await world.open(901, 'command="sh" x y')
        assert caught.value.code == "copy_keys_missing"


async def test_a_port_is_claimed_while_a_door_is_open_and_no_longer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "LOOK_S", 0.05)
    async with world_in(tmp_path) as world:
        await world.add_volume(901)
        await world.add_volume(902)
        world.busy.add(LAST)
        first, second = await world.open(901), await world.open(902)
        assert (first, second) == (LAST - 1, LAST - 2)
        assert sorted(await ports_held(world)) == [str(second), str(first)]

        world.clock.advance(OPEN_S - 1)
        await world.open(902)
        world.clock.advance(2)
        await _until(world, [str(second)])
        with pytest.raises(ConnectionRefusedError), socket.create_connection(("127.0.0.1", first), 5):
            pass
        await world.add_volume(902, VolumeDesired.ENDED)
        await _until(world, [])


async def test_a_closed_firewall_lets_renters_to_open_doors_alone(tmp_path: Path) -> None:
    with own_network.own_network():
        await netfilter.apply(Family.IPV4, [Change("filter", commands=[("-P", "INPUT", "DROP")])])
        async with world_in(tmp_path) as world:
            await world.add_volume(901)
            port = await world.open(901)
            saved = await netfilter.saved(Family.IPV4, "filter")
            chain = next(name for name in saved if name.startswith("KAALIA-COPY-"))
            assert [rule.text for rule in saved[chain]] == [f"-p tcp -m tcp --dport {port} -j ACCEPT"]
            assert saved["INPUT"][0].text == f"-j {chain}"
            request = TaskRequest("t", Verb.CANCEL_COPY, 0, world.clock.now(), holder=holder(901))
            await world.service.answer(request)
            after = await netfilter.saved(Family.IPV4, "filter")
            assert not [name for name in after if name.startswith("KAALIA")]


async def test_no_port_no_holder_no_door(tmp_path: Path) -> None:
    async with world_in(tmp_path) as world:
        await world.add_volume(901)
        await world.add_volume(902, VolumeDesired.ENDED)
        world.busy.update(range(FIRST, LAST + 1))
        codes = []
        for number in (901, 902, 903):
            with pytest.raises(ContractError) as caught:
                await world.open(number)
            codes.append(caught.value.code)
        assert codes == ["copy_ports_exhausted", "copy_holder_unknown", "copy_holder_unknown"]
        assert await ports_held(world) == []


async def test_what_is_moved_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "LOOK_S", 0.05)
    async with world_in(tmp_path) as world:
        await world.add_volume(901)
        (tmp_path / "big").write_bytes(os.urandom(3_000_000))
        port = await world.open(901)
        assert (await rsync(world, port, str(tmp_path / "big"), "AT::V.901/")).returncode == 0
        world.changes.ring(Topic.CONTRACTS)

        async with asyncio.timeout(30):
            while "finished" not in (text := await _told(world)):
                await asyncio.sleep(0.05)
        assert "2.9 MiB received" in text
        assert '"number":901' in text


async def test_the_machine_serves_so_many_at_a_time_over_all_doors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(door, "SESSIONS_ALL_MAX", 2)
    async with world_in(tmp_path) as world:
        await world.add_volume(901)
        await world.add_volume(902)
        one, two = await world.open(901), await world.open(902)
        (tmp_path / "file").write_text("x")
        for number in (901, 902):
            (world.files(number) / "big").write_bytes(os.urandom(3_000_000))
        slow = [
            asyncio.create_task(rsync(world, port, "--bwlimit=700", f"AT::V.{number}/big", str(tmp_path / name)))
            for port, number, name in ((one, 901, "slow1"), (two, 902, "slow2"))
        ]
        async with asyncio.timeout(20):
            while len(list(tmp_path.glob(".slow*"))) < 2:
                await asyncio.sleep(0.02)
        for port in (one, two):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            assert await reader.read() == b"", "it hangs up"
            writer.close()
        for task in slow:
            assert (await task).returncode == 0
        async with asyncio.timeout(30):
            while (await rsync(world, two, str(tmp_path / "file"), "AT::V.902/")).returncode != 0:
                await asyncio.sleep(0.1)


async def test_idle_strangers_who_fill_the_lobby_keep_no_renter_out(tmp_path: Path) -> None:
    async with world_in(tmp_path) as world:
        await world.add_volume(901)
        (tmp_path / "file").write_text("x")
        port = await world.open(901)
        held = []
        for number in range(lobby.LOBBY_MAX):
            address = (f"127.0.0.{2 + number % 2}", 0)
            held.append(await asyncio.open_connection("127.0.0.1", port, local_addr=address))
            assert (await held[-1][0].readline()).startswith(b"SSH-2.0-")
        for _ in range(3):
            done = await rsync(world, port, str(tmp_path / "file"), "AT::V.901/")
            assert (done.returncode, done.stderr) == (0, "")
        for _, writer in held:
            writer.close()


async def test_strangers_of_one_address_keep_nobody_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lobby, "LOBBY_MAX", 3)
    monkeypatch.setattr(lobby, "ADDRESS_MAX", 2)
    async with world_in(tmp_path) as world:
        await world.add_volume(901)
        (tmp_path / "file").write_text("x")
        port = await world.open(901)
        held = [await asyncio.open_connection("127.0.0.1", port, local_addr=("127.0.0.2", 0)) for _ in range(2)]
        for reader, _ in held:
            assert (await reader.readline()).startswith(b"SSH-2.0-")
        reader, third = await asyncio.open_connection("127.0.0.1", port, local_addr=("127.0.0.2", 0))
        assert await reader.read() == b"", "that address has enough"
        held.append(await asyncio.open_connection("127.0.0.1", port, local_addr=("127.0.0.3", 0)))
        assert (await held[-1][0].readline()).startswith(b"SSH-2.0-")
        for _ in range(2):
            assert (await rsync(world, port, str(tmp_path / "file"), "AT::V.901/")).returncode == 0
        async with asyncio.timeout(30):
            await held[0][0].read()  # to its end: it waited longest when another one came
        for writer in (third, *(one for _, one in held)):
            writer.close()


async def test_a_key_that_is_withdrawn_is_let_in_no_more_and_its_session_ends(tmp_path: Path) -> None:
    async with world_in(tmp_path) as world:
        files = await world.add_volume(901)
        (files / "big").write_bytes(os.urandom(4_000_000))
        other, public = new_key(tmp_path, "other")
        port = await world.open(901, world.public, public)
        slow = asyncio.create_task(rsync(world, port, "--bwlimit=500", "AT::V.901/big", str(tmp_path / "slow")))
        kept = asyncio.create_task(
            rsync(world, port, "--bwlimit=2000", "AT::V.901/big", str(tmp_path / "kept"), key=other)
        )
        async with asyncio.timeout(20):
            while len(list(tmp_path.glob(".slow*"))) + len(list(tmp_path.glob(".kept*"))) < 2:
                await asyncio.sleep(0.02)
        request = TaskRequest(
            "t", Verb.WITHDRAW_KEYS, 0, world.clock.now(), door=DoorOrder(holder(901), (f"{world.public} me@home",))
        )
        assert await world.service.answer(request) == "1"
        assert (await slow).returncode != 0
        refused = await rsync(world, port, "AT::V.901/big", str(tmp_path / "again"))
        assert "Permission denied" in refused.stderr
        assert (await kept).returncode == 0, "another's session goes on"
        other_door = replace(request, door=DoorOrder(holder(902), (world.public,)))
        assert await world.service.answer(other_door) == "0"


async def test_each_connection_has_a_cell_with_the_keys_of_its_own_time(tmp_path: Path) -> None:
    async with world_in(tmp_path) as world:
        await world.add_volume(901)
        _, public = new_key(tmp_path, "other")
        held, found = [], list[list[str]]()
        for key in (world.public, public):
            port = await world.open(901, key)
            held.append(await asyncio.open_connection("127.0.0.1", port))
            assert (await held[-1][0].readline()).startswith(b"SSH-2.0-")
            files = sorted((tmp_path / "transfer").glob("V.901*.json"))
            found.append([one.read_text() for one in files])
        assert [len(one) for one in found] == [1, 2]
        assert found[1][0] == found[0][0]
        assert [key.split()[1] in found[1][1] for key in (world.public, public)] == [False, True]
        for _, writer in held:
            writer.close()
        async with asyncio.timeout(30):
            while list((tmp_path / "transfer").glob("V.901*")):
                await asyncio.sleep(0.05)


async def test_strangers_keep_no_door_open_and_no_grant_is_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "LOOK_S", 0.05)
    async with world_in(tmp_path) as world:
        await world.add_volume(901)
        (tmp_path / "file").write_text("x")
        stranger, _ = new_key(tmp_path, "stranger")
        port = await world.open(901)
        world.clock.advance(OPEN_S - 1)
        knock = await rsync(world, port, str(tmp_path / "file"), "AT::V.901/", key=stranger)
        assert "Permission denied" in knock.stderr
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        assert (await reader.readline()).startswith(b"SSH-2.0-")
        world.clock.advance(2)
        await _until(world, [])
        writer.close()

        port = await world.open(901)
        for _ in range(int(door.GRANT_S / (OPEN_S - 1))):
            world.clock.advance(OPEN_S - 1)
            assert (await rsync(world, port, str(tmp_path / "file"), "AT::V.901/")).returncode == 0
        assert await ports_held(world) == [str(port)], "who was let in may come again"
        world.clock.advance(OPEN_S - 1)
        await _until(world, [])


async def _told(world: World) -> str:
    rows = await world.database.read(lambda tx: tx.execute("SELECT body FROM outbox ORDER BY seq").fetchall())
    return str(rows[-1]["body"]) if rows else ""


async def _until(world: World, wanted: list[str]) -> None:
    async with asyncio.timeout(30):
        while await ports_held(world) != wanted:
            await asyncio.sleep(0.02)
