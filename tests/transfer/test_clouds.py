"""Copies from and to clouds, by the machine's own rclone in its cell, against a store that looks at signatures."""

import asyncio
import contextlib
import os
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from kaalia.contracts.volume import VolumeDesired
from kaalia.errors import ContractError, HostError
from kaalia.host import outside
from kaalia.model.copying import CloudLogin, CloudOrder, CopyEnd, CopyState, CopyStatus
from kaalia.store import copies, outbox
from kaalia.transfer import clouds
from kaalia.transfer.clouds import Clouds
from kaalia.wire import document
from kaalia.wire.protocol import TaskRequest, Verb
from tests.support import own_network, s3
from tests.support.s3 import ObjectStore
from tests.transfer.world import POOL, World, holder, world_in

pytestmark = [
    pytest.mark.skipif(not own_network.is_possible(), reason="needs scripts/sandbox: namespaces and ports of its own"),
    pytest.mark.skipif(shutil.which("rclone") is None, reason="needs rclone"),
    pytest.mark.timeout(120),
]

ADDRESS = "198.18.77.1"
"""RFC 2544: neither loopback, which rclone's proxy would not be asked for, nor on the internet."""


@dataclass
class Scene:
    world: World
    store: ObjectStore
    options: dict[str, str]
    files: Path

    def listens(self, host: str) -> bool:
        """The machine's own programs reach it there."""
        with socket.create_connection((host, self.store.port), timeout=5):
            return True

    async def ask(self, wanted: CloudOrder, **options: str) -> str:
        async def login() -> CloudLogin:
            return CloudLogin("s3", {**self.options, **options})

        request = TaskRequest("t", Verb.CLOUD_COPY, 0, self.world.clock.now(), cloud=wanted)
        return await self.world.service.answer(request, login)

    async def done(self, wanted: CloudOrder, **options: str) -> CopyStatus:
        await self.ask(wanted, **options)
        return await ended(self.world, wanted.copy_id)


@asynccontextmanager
async def scene(folder: Path, *allowed: str, at: str = ADDRESS) -> AsyncIterator[Scene]:
    argv = ["ip", "address", "replace", f"{ADDRESS}/32", "dev", "lo"]
    await asyncio.to_thread(subprocess.run, argv, check=True)
    async with s3.serving(at) as store, world_in(folder, allowed=allowed or (f"{ADDRESS}/32",)) as world:
        options = {
            "endpoint": f"http://{ADDRESS}:{store.port}",
            "access_key_id": store.key_id,
            "secret_access_key": store.secret,
        }
        yield Scene(world, store, options, await world.add_volume(901))


def order(path: str, cloud_path: str, copy_id: str = "c" * 8, *flags: str, is_upload: bool = True) -> CloudOrder:
    return CloudOrder(copy_id, CopyEnd(holder(901), path), "s3.1001", cloud_path, is_upload, flags)


async def told(world: World) -> list[CopyStatus]:
    rows = await world.database.read(lambda tx: outbox.pending(tx, 1000))
    return [document.decode(CopyStatus, row.body) for row in rows if row.kind == "copy"]


async def ended(world: World, copy_id: str) -> CopyStatus:
    async with asyncio.timeout(60):
        while True:
            found = [one for one in await told(world) if one.copy_id == copy_id]
            if found and found[-1].state is not CopyState.RUNNING:
                return found[-1]
            await asyncio.sleep(0.05)


def code(status: CopyStatus) -> str:
    assert status.problem is not None, status
    assert status.problem.message.startswith("cannot ")
    return status.problem.code


async def test_files_go_to_a_cloud_and_back(tmp_path: Path) -> None:
    async with scene(tmp_path) as here:
        (here.files / "work" / "deep").mkdir(parents=True)
        data = os.urandom(3_000_000)
        (here.files / "work" / "deep" / "data").write_bytes(data)
        (here.files / "work" / "small é").write_text("hello")
        (here.files / "work" / "out").symlink_to("/etc/shadow")

        up = await here.done(order("/work", "bucket/in"))
        assert up.state is CopyState.DONE, up
        assert (
            up.text
            == "copy from V.901:/work to s3.1001:bucket/in: Cloud Copy Operation Finished, 2 files, 2.9 MiB copied"
        )
        assert here.store.objects.keys() == {"bucket/in/deep/data", "bucket/in/small é"}
        assert here.store.objects["bucket/in/deep/data"].content == data

        down = await here.done(order("/made/here", "bucket/in", "d" * 8, is_upload=False))
        assert down.state is CopyState.DONE, down
        assert (here.files / "made" / "here" / "deep" / "data").read_bytes() == data
        assert (here.files / "made" / "here" / "small é").read_text() == "hello"
        assert await here.world.database.read(copies.under_way) == ()
        assert not list((tmp_path / "transfer").glob("*.json"))


async def test_a_file_is_copied_and_flags_are_heeded(tmp_path: Path) -> None:
    async with scene(tmp_path) as here:
        (here.files / "one").write_text("new")
        dry = await here.done(order("/one", "bucket", "a" * 8, "--dry-run"))
        assert "would be copied" in dry.text
        assert not here.store.objects
        assert (await here.done(order("/one", "bucket"))).state is CopyState.DONE
        (here.files / "one").write_text("newer")
        await here.done(order("/one", "bucket", "b" * 8, "--ignore-existing"))
        assert here.store.objects["bucket/one"].content == b"new"
        with pytest.raises(ContractError, match="cannot copy with the flag '--config=/etc/shadow'"):
            await here.ask(order("/one", "bucket", "e" * 8, "--config=/etc/shadow"))


async def test_a_wrong_login_is_refused_and_told_without_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with scene(tmp_path) as here:
        (here.files / "one").write_text("x")
        secret = "wrong-but-secret-0123456789"
        last = await here.done(order("/one", "bucket/in"), secret_access_key=secret)
        assert code(last) == "cloud_login_refused"
        assert here.store.refused
        assert code(await here.done(order("/one", "bucket/in", "d" * 8), access_key_id="AKIASOMEBODY")) == (
            "cloud_login_refused"
        )
        assert secret not in document.encode(last) + caplog.text
        assert "AKIASOMEBODY" not in caplog.text


async def test_what_is_secret_is_on_no_disk_and_in_no_argument(tmp_path: Path) -> None:
    async with scene(tmp_path) as here:
        here.store.piece_wait_s = 0.05
        (here.files / "big").write_bytes(os.urandom(5_000_000))
        await here.ask(order("/big", "bucket/in"))
        rclone = await running("rclone")
        secret = here.store.secret.encode()
        found = (Path(f"/proc/{rclone}") / "environ").read_bytes()
        assert secret in found
        names = {line.partition(b"=")[0] for line in found.split(b"\0") if line}
        ours = {b"HOME", b"LC_ALL", b"GOMAXPROCS", b"GOMEMLIMIT", b"HTTP_PROXY", b"HTTPS_PROXY"}
        assert all(name in ours or name.startswith(b"RCLONE_") for name in names), names
        assert not [process for process, words in arguments() if secret in words]
        for folder, _, files in os.walk(tmp_path):
            for name in files:
                path = Path(folder) / name
                assert not path.is_file() or secret not in path.read_bytes(), path
        # It has no way to the machine's network but the outlet, nor to its files.
        assert (Path(f"/proc/{rclone}/ns/net")).readlink() != Path("/proc/self/ns/net").readlink()
        assert not (Path(f"/proc/{rclone}/root") / "etc" / "shadow").exists()
        assert (await ended(here.world, "c" * 8)).state is CopyState.DONE


def arguments() -> Iterator[tuple[int, bytes]]:
    """Of every process."""
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            yield int(process.name), (process / "cmdline").read_bytes()


async def running(name: str) -> int:
    async with asyncio.timeout(20):
        while True:
            for process, words in arguments():
                if words.split(b"\0")[0].endswith(name.encode()) and b"\0copy\0" in words:
                    return process
            await asyncio.sleep(0.02)


async def test_it_is_cancelled_and_nothing_is_left_running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clouds, "TELL_S", 0.1)
    async with scene(tmp_path) as here:
        here.store.piece_wait_s = 0.05
        here.store.put("bucket/in/big", os.urandom(20_000_000))
        wanted = order("/got", "bucket/in", is_upload=False)
        await here.ask(wanted)
        process = await running("rclone")
        with pytest.raises(ContractError, match="that copy goes on already"):
            await here.ask(order("/got", "bucket/in", "e" * 8, is_upload=False))
        cancel = TaskRequest("t", Verb.CANCEL_SYNC, 0, here.world.clock.now(), holder=holder(901))
        assert await here.world.service.answer(cancel) == "1"
        assert (await ended(here.world, wanted.copy_id)).state is CopyState.CANCELLED
        async with asyncio.timeout(30):
            while Path(f"/proc/{process}/root/files").exists():
                await asyncio.sleep(0.05)
        assert await here.world.service.answer(cancel) == "0"

        here.store.piece_wait_s = 0.0
        again = await here.done(order("/got", "bucket/in", "d" * 8, is_upload=False))
        assert again.state is CopyState.DONE
        assert (here.files / "got" / "big").read_bytes() == here.store.objects["bucket/in/big"].content


async def test_a_copy_from_a_cloud_is_cancelled_as_any_other(tmp_path: Path) -> None:
    async with scene(tmp_path) as here:
        here.store.piece_wait_s = 0.05
        here.store.put("bucket/in/big", os.urandom(20_000_000))
        await here.ask(order("/got", "bucket/in", is_upload=False))
        await running("rclone")
        cancel = TaskRequest("t", Verb.CANCEL_COPY, 0, here.world.clock.now(), holder=holder(901))
        assert await here.world.service.answer(cancel) == "1"
        assert (await ended(here.world, "c" * 8)).state is CopyState.CANCELLED


async def test_paths_lead_nowhere_outside(tmp_path: Path) -> None:
    async with scene(tmp_path) as here:
        for number, (link, problem) in enumerate(
            {"/etc": "copy_source_missing", "../../../../etc/shadow": "copy_source_missing"}.items()
        ):
            (here.files / "bad").unlink(missing_ok=True)
            (here.files / "bad").symlink_to(link)
            assert code(await here.done(order("/bad", "bucket/in", f"{number}" * 8))) == problem
        for path in ("/a/../../etc", "/a\nb"):
            with pytest.raises(ContractError, match="cannot copy with path="):
                await here.ask(order(path, "bucket/in"))
        # Names in the cloud that climb, and links in the way of what comes.
        here.store.put("bucket/in/../../../../../../tmp/kaalia-was-here", b"x")
        here.store.put("bucket/in/etc/kaalia-was-here", b"x")
        (here.files / "escape").mkdir()
        (here.files / "escape" / "etc").symlink_to("/etc")
        await here.done(order("/escape", "bucket/in", "d" * 8, is_upload=False))
        assert not Path("/etc/kaalia-was-here").exists()
        assert not Path("/tmp/kaalia-was-here").exists()
        outside = [one for one in tmp_path.rglob("kaalia-was-here") if here.files not in one.parents]
        assert not outside


@pytest.mark.parametrize("host", [ADDRESS, "192.0.2.2", "10.214.3.2", "169.254.169.254", "168.63.129.16", "fd77::2"])
async def test_no_cloud_is_on_this_machine_or_beside_it(tmp_path: Path, host: str) -> None:
    """A store listens there, and networks that hold the machine's and tenants' addresses are allowed."""
    with held(host):
        async with scene(tmp_path, "192.0.2.0/24", "10.0.0.0/8", "fd77::/64", at="::" if ":" in host else host) as here:
            (here.files / "one").write_text("x")
            named = f"[{host}]" if ":" in host else host
            assert here.listens(host)
            last = await here.done(order("/one", "bucket/in"), endpoint=f"http://{named}:{here.store.port}")
            assert code(last) == "cloud_address_refused"
            assert not here.store.requests


async def test_loopback_is_the_cells_own(tmp_path: Path) -> None:
    async with scene(tmp_path, "127.0.0.0/8", at="127.0.0.1") as here:
        (here.files / "one").write_text("x")
        last = await here.done(order("/one", "bucket/in"), endpoint=f"http://localhost:{here.store.port}")
        assert code(last) == "copy_failed"
        assert not here.store.requests


async def test_a_way_out_that_would_be_root_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def prefix(*limits: str) -> tuple[str, ...]:
        return ("setpriv", "--bounding-set=-setuid,-setgid") if limits == clouds.OUTLET_LIMITS else ()

    monkeypatch.setattr(outside, "prefix", prefix)
    async with scene(tmp_path) as here:
        (here.files / "one").write_text("x")
        assert code(await here.done(order("/one", "bucket/in"))) == "copy_outlet_unfit"
        assert not here.store.requests


async def test_below_the_daemons_sandbox_systemd_runs_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The daemon's unit has no right to become nobody; a program stands for systemd's own."""
    systemd = tmp_path / "bin" / "systemd-run"
    systemd.parent.mkdir()
    systemd.write_text(
        f'#!/bin/sh\nprintf "%s " "$@" >>{tmp_path}/asked\necho >>{tmp_path}/asked\n'
        'while [ "$1" != -- ]; do shift; done; shift; exec "$@"\n'
    )
    systemd.chmod(0o755)
    monkeypatch.setenv("PATH", f"{systemd.parent}:{os.environ['PATH']}")
    monkeypatch.setattr(outside, "is_sandboxed", lambda _: True)
    async with scene(tmp_path) as here:
        (here.files / "one").write_text("x")
        assert (await here.done(order("/one", "bucket/in"))).state is CopyState.DONE
    (asked,) = [one for one in (tmp_path / "asked").read_text().splitlines() if "kaalia.transfer.outlet" in one]
    assert "--pipe" in asked
    assert "--property=CapabilityBoundingSet=CAP_SETUID CAP_SETGID" in asked
    assert f"allowed={ADDRESS}/32 pool={POOL}" in asked


@contextlib.contextmanager
def held(address: str) -> Iterator[None]:
    """By the machine; of those that others share nothing is taken away."""
    words = [f"{address}/{128 if ':' in address else 32}", "dev", "lo"]
    subprocess.run(["ip", "address", "replace", *words], check=True)
    try:
        yield
    finally:
        if address != ADDRESS:
            subprocess.run(["ip", "address", "del", *words], check=True)


async def test_a_disk_that_is_full_is_told(tmp_path: Path) -> None:
    async with scene(tmp_path) as here:
        await mounted(here.files)
        here.store.put("bucket/in/big", os.urandom(3_000_000))
        last = await here.done(order("/", "bucket/in", is_upload=False))
        assert code(last) == "copy_disk_full"
        await asyncio.to_thread(subprocess.run, ["umount", str(here.files)], check=True)


async def mounted(folder: Path) -> None:
    argv = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    await asyncio.to_thread(subprocess.run, argv, check=True)


async def test_a_bucket_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    async with scene(tmp_path) as here:
        (here.files / "one").write_text("x")
        assert code(await here.done(order("/one", "other/in"))) == "copy_source_missing"


async def test_without_rclone_it_is_refused_before_a_login_is_asked_for(tmp_path: Path) -> None:
    async with scene(tmp_path) as here:
        lacking = Clouds(tmp_path, here.world.tools.show, searched=str(tmp_path))
        with pytest.raises(HostError, match="rclone is not installed on this machine") as refused:
            await lacking.check()
        assert refused.value.code == "copy_cloud_unsupported"


async def test_what_a_restart_cut_off_is_told(tmp_path: Path) -> None:
    async with scene(tmp_path) as here:
        wanted = order("/one", "bucket/in")
        await here.world.database.transaction(lambda tx: copies.put(tx, wanted))
        assert await here.world.database.read(copies.under_way) == (wanted,)
        await here.world.service._copier.recover()
        assert (await ended(here.world, wanted.copy_id)).state is CopyState.INTERRUPTED


async def test_a_volume_that_ended_is_refused(tmp_path: Path) -> None:
    async with scene(tmp_path) as here:
        await here.world.add_volume(901, VolumeDesired.ENDED)
        with pytest.raises(ContractError, match=r"V\.901 is not on this machine"):
            await here.ask(order("/one", "bucket/in"))
