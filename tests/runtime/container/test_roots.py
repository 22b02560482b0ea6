"""The view of an instance's files, on a real engine with either storage driver: what is seen, and how it ends."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import pytest_asyncio

from kaalia.errors import WorkloadError
from kaalia.model.workload import VolumeMount
from kaalia.runtime.base import BindMount, ObservedState
from kaalia.runtime.container.engine import DockerEngine
from kaalia.runtime.container.roots import View
from kaalia.runtime.container.runtime import ContainerRuntime
from tests.support.docker_engine import PrivateDocker
from tests.support.images import import_demo
from tests.support.placements import MACHINE, build_placement, build_spec

pytestmark = pytest.mark.docker
STAYS = "import os, sys, time; os.chroot(sys.argv[1]); time.sleep(600)"
MARK = "echo from inside > /root/mark; sleep 1000"


@dataclass(frozen=True)
class Rig:
    runtime: ContainerRuntime
    docker: PrivateDocker


@pytest.fixture(scope="module", params=["overlay2", "btrfs"])
def docker_of(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateDocker]:
    folder, is_btrfs = tmp_path_factory.mktemp("r"), request.param == "btrfs"
    with PrivateDocker(folder, has_quota=is_btrfs, bridge="kaalia-roots", bridge_cidr="172.27.9.1/24") as engine:
        import_demo(engine)
        yield engine


@pytest_asyncio.fixture
async def rig(docker_of: PrivateDocker) -> AsyncIterator[Rig]:
    engine = DockerEngine(docker_of.socket)
    runtime = ContainerRuntime(engine, MACHINE)
    yield Rig(runtime, docker_of)
    await runtime.close()
    engine.close()
    docker_of.remove_containers()
    docker_of.remove_networks()
    assert not holders()


def holders() -> list[int]:
    """Processes that show a view."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                line = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if b"kaalia.runtime.view.program" in line:
                found.append(int(entry.name))
    return found


async def instance(rig: Rig, contract_id: int, state: ObservedState, **spec: object) -> None:
    changes = {"args": ("sh", "-c", MARK), **spec}
    await rig.runtime.create(build_placement(contract_id, spec=build_spec(**changes)))
    if state is not ObservedState.CREATED:
        await rig.runtime.start(contract_id)
        await holds_mark(rig, contract_id)
    if state is ObservedState.EXITED:
        await rig.runtime.stop(contract_id, 0)


async def holds_mark(rig: Rig, contract_id: int) -> None:
    for _ in range(100):
        if "mark" in await rig.runtime.roots.execute(contract_id, "ls /root", 5):
            return
        await asyncio.sleep(0.05)
    raise AssertionError("the mark was not written")


def shared_folder(folder: Path) -> Path:
    """One that the engine mounts as it does a volume's: what is mounted there reaches the container."""
    folder.mkdir(parents=True)
    for options in (["--bind", str(folder)], ["--make-shared"]):
        subprocess.run(["mount", *options, str(folder)], check=True)
    return folder


def read(view: View, path: str) -> str:
    return (view.path / path).read_text()


@pytest.mark.parametrize("state", [ObservedState.CREATED, ObservedState.RUNNING, ObservedState.EXITED])
async def test_the_whole_root_is_seen_and_written(rig: Rig, state: ObservedState) -> None:
    await instance(rig, 61, state)

    async with rig.runtime.roots.open(61) as view:
        names = await asyncio.to_thread(os.listdir, view.path)
        page = await asyncio.to_thread(read, view, "www/index.html")
        mark = await asyncio.to_thread((view.path / "root/mark").exists)
        proc = await asyncio.to_thread(os.listdir, view.path / "proc")
        await asyncio.to_thread((view.path / "root/new").write_text, "from outside")
        device = view.path / "root/device"
        await asyncio.to_thread(os.mknod, device, 0o020666, os.makedev(1, 3))
        with pytest.raises(PermissionError):
            await asyncio.to_thread(device.read_bytes)
        holder = view.pid

    if state is not ObservedState.RUNNING:
        await rig.runtime.start(61)
    async with rig.runtime.roots.open(61) as view:
        new = await asyncio.to_thread(read, view, "root/new")
    assert {"bin", "etc", "proc", "root", "www"} <= set(names)
    assert "It runs" in page
    assert mark is (state is not ObservedState.CREATED)
    assert proc == []
    assert new == "from outside"
    assert holder not in holders()


@pytest.mark.parametrize("state", [ObservedState.CREATED, ObservedState.RUNNING, ObservedState.EXITED])
async def test_volumes_are_part_of_it(rig: Rig, tmp_path: Path, state: ObservedState) -> None:
    data = shared_folder(tmp_path / "V.3/data")
    (data / "kept").write_text("in the volume")
    spec = build_spec(args=("sh", "-c", MARK), volumes=(VolumeMount(3, "/srv/deep/data"),))
    placement = replace(build_placement(62, spec=spec), mounts=(BindMount(3, str(data), "/srv/deep/data"),))
    await rig.runtime.create(placement)
    if state is not ObservedState.CREATED:
        await rig.runtime.start(62)
    if state is ObservedState.EXITED:
        await rig.runtime.stop(62, 0)

    async with rig.runtime.roots.open(62) as view:
        kept = await asyncio.to_thread(read, view, "srv/deep/data/kept")
        await asyncio.to_thread((view.path / "srv/deep/data/more").write_text, "x")
    async with rig.runtime.roots.folder(str(data)) as view:
        names = await asyncio.to_thread(os.listdir, view.path)

    await rig.runtime.remove(62)
    subprocess.run(["umount", str(data)], check=True)
    assert kept == "in the volume"
    assert sorted(names) == ["kept", "more"]


async def test_a_start_ends_the_view_and_who_is_in_it(rig: Rig) -> None:
    await instance(rig, 63, ObservedState.EXITED)
    entered, outcome = asyncio.Event(), []
    stays: list[asyncio.subprocess.Process] = []

    async def use() -> None:
        try:
            async with rig.runtime.roots.open(63) as view:
                # It forgets its process, as no user should.
                stays.append(await asyncio.create_subprocess_exec(sys.executable, "-c", STAYS, str(view.path)))
                entered.set()
                await asyncio.sleep(600)
        except WorkloadError as error:
            outcome.append(error.code)

    using = asyncio.create_task(use())
    await entered.wait()
    await asyncio.sleep(0.5)
    started = await asyncio.wait_for(rig.runtime.start(63), 20)
    await using

    assert outcome == ["view_withdrawn"]
    assert started.observed.state is ObservedState.RUNNING
    assert await asyncio.wait_for(stays[0].wait(), 30) == -signal.SIGKILL


async def test_who_comes_during_a_start_waits_for_it(rig: Rig) -> None:
    await instance(rig, 64, ObservedState.EXITED)

    started, text = await asyncio.gather(rig.runtime.start(64), rig.runtime.roots.execute(64, "ls /root", 5))

    assert started.observed.state is ObservedState.RUNNING
    assert "mark" in text


async def test_many_share_one_view(rig: Rig) -> None:
    await instance(rig, 65, ObservedState.EXITED)

    async with rig.runtime.roots.open(65) as first, rig.runtime.roots.open(65) as second:
        texts = await asyncio.gather(*(rig.runtime.roots.execute(65, "ls /root", 5) for _ in range(3)))
        assert first == second

    assert texts == ["mark\n"] * 3


async def test_a_killed_holder_leaves_nothing_and_hinders_no_start(rig: Rig) -> None:
    await instance(rig, 66, ObservedState.EXITED)

    async with rig.runtime.roots.open(66) as view:
        os.kill(view.pid, signal.SIGKILL)
    mounts = await asyncio.to_thread(Path("/proc/self/mounts").read_text)

    assert "/view" not in mounts
    assert (await rig.runtime.start(66)).observed.state is ObservedState.RUNNING


async def test_commands_do_what_they_say(rig: Rig) -> None:
    await instance(rig, 67, ObservedState.EXITED)
    execute = rig.runtime.roots.execute

    long = await execute(67, "ls -l /www", 5)
    usage = await execute(67, "du -s -b /www", 5)
    removed = await execute(67, "rm -v /www/index.html /nowhere", 5)
    after = await execute(67, "ls -A /www", 5)

    assert long.splitlines()[0].startswith("total ")
    assert long.splitlines()[1].startswith("-rw-r--r-- 1 root root 59 ")
    assert usage.endswith("\t/www\n")
    assert removed == "removed '/www/index.html'\nrm: cannot remove '/nowhere': No such file or directory\n"
    assert after == ""


async def test_a_removal_in_a_running_instance_tears_no_mounts_out(rig: Rig) -> None:
    await instance(rig, 68, ObservedState.RUNNING)
    seen = await rig.runtime.inspect(68)
    assert seen is not None
    mounts = Path(f"/proc/{seen.pid}/mountinfo")
    before = await asyncio.to_thread(mounts.read_text)

    text = await rig.runtime.roots.execute(68, "rm -rf /proc /dev /sys /etc/hosts /", 5)

    assert await asyncio.to_thread(mounts.read_text) == before
    assert "'/proc': Device or resource busy" in text or "'/proc': Read-only file system" in text
    assert "cannot remove '/': it is the root" in text


async def test_an_absent_instance_is_refused(rig: Rig) -> None:
    with pytest.raises(WorkloadError) as refusal:
        await rig.runtime.roots.execute(69, "ls", 5)

    assert refusal.value.code == "not_found"
