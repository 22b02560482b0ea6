"""Which older access kits go: none that a container or a process has, and none that may yet be the newest again."""

import asyncio
import os
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from kaalia.errors import HostError, WorkloadError
from kaalia.host import mounted
from kaalia.model.workload import LaunchMode
from kaalia.runtime.container.engine import DockerEngine
from kaalia.runtime.container.old_kits import GRACE, Kits
from kaalia.runtime.container.runtime import ContainerRuntime
from kaalia.runtime.sandbox.sandboxes import Sandboxes
from tests.support.containers import ports_of
from tests.support.kits import KITS, access_in
from tests.support.placements import MACHINE, build_placement, build_spec

OLD, NEW, OTHER = "a" * 16, "b" * 16, "c" * 16
NOW = datetime(2026, 1, 1, tzinfo=UTC)
LATER = NOW + GRACE + timedelta(minutes=1)


def add(folder: Path, name: str) -> Path:
    """A kit that is the newest from now on."""
    (folder / name / "sbin").mkdir(parents=True)
    (folder / name / "sbin" / "init").touch()
    (folder / "current.new").symlink_to(name)
    os.utime(folder / "current.new", (NOW.timestamp(),) * 2, follow_symlinks=False)
    (folder / "current.new").rename(folder / "current")
    return folder / name


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "kit"
    for name in (OLD, OTHER, NEW):
        add(made, name)
    return made


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {"current"}


def test_what_nobody_has_goes_an_hour_after_the_newest_came(folder: Path) -> None:
    kits = Kits(folder, is_own=True, mounts=lambda: frozenset({"", "sbin"}))

    assert kits.older(NOW) == ()
    older = kits.older(LATER)
    assert {path.name for path in older} == {OLD, OTHER}
    assert set(kits.remove(older, frozenset({"/srv/data"}))) == {OLD, OTHER}
    assert names(folder) == {NEW}
    kits.check()


def test_what_a_container_or_a_process_has_stays(folder: Path) -> None:
    kits = Kits(folder, is_own=True, mounts=lambda: frozenset({OTHER}))

    assert kits.remove(kits.older(LATER), {str(folder / OLD)}) == ()
    assert names(folder) == {OLD, OTHER, NEW}


def test_a_folder_that_serves_others_and_files_of_others_are_left_alone(folder: Path) -> None:
    assert Kits(folder, is_own=False).older(LATER) == ()
    (folder / ".work.x").mkdir()
    (folder / "mine").mkdir()
    (folder / ("d" * 16)).symlink_to("/etc")
    kits = Kits(folder, is_own=True, mounts=frozenset)
    kits.remove(kits.older(LATER), ())

    assert names(folder) == {NEW, ".work.x", "mine", "d" * 16}


def half_removed(path: Path, ignore_errors: bool = False) -> None:
    if not ignore_errors:
        (path / "sbin" / "init").unlink()
        raise OSError(5, "I/O error")


def test_a_crash_while_one_goes_leaves_no_half_of_a_kit(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kits = Kits(folder, is_own=True, mounts=frozenset)
    with monkeypatch.context() as broken:
        broken.setattr(shutil, "rmtree", half_removed)
        with pytest.raises(HostError) as caught:
            kits.remove([folder / OLD], ())

    assert caught.value.code == "kit_unremovable"
    assert OLD not in names(folder), "build-kit would take it for a whole one"
    kits.remove(kits.older(LATER), ())
    assert names(folder) == {NEW}


def test_the_newest_again_stays(folder: Path) -> None:
    kits = Kits(folder, is_own=True, mounts=frozenset)
    older = kits.older(LATER)
    (folder / "current").unlink()
    (folder / "current").symlink_to(OLD)

    assert kits.remove(older, ()) == (OTHER,)
    kits.check()


def test_no_kit_at_all(tmp_path: Path) -> None:
    kits = Kits(tmp_path / "none", is_own=True)

    assert kits.older(LATER) == ()
    with pytest.raises(WorkloadError) as caught:
        kits.check()
    assert caught.value.code == "kit_missing"


@pytest.fixture
def real(tmp_path: Path) -> Path:
    """A kit that containers run with."""
    made = tmp_path / "kits"
    shutil.copytree(KITS / "current", made / OLD, symlinks=True)
    (made / "current").symlink_to(OLD)
    return made


@pytest.mark.docker
async def test_containers_keep_theirs_also_while_they_are_stopped(
    docker_engine: DockerEngine, real: Path, tmp_path: Path
) -> None:
    folder = real
    runtime = ContainerRuntime(
        docker_engine,
        MACHINE,
        ports=ports_of(docker_engine),
        access=access_in(tmp_path, folder),
        sandboxes=Sandboxes(docker_engine, MACHINE),
    )
    kits = Kits(folder, is_own=True)

    async def removed(sources: frozenset[str]) -> tuple[str, ...]:
        return await asyncio.to_thread(lambda: kits.remove(kits.older(LATER), sources))

    await runtime.create(build_placement(260, spec=build_spec(launch_mode=LaunchMode.SSH, args=())))
    await asyncio.to_thread(add, folder, NEW)
    created = await removed(await docker_engine.mount_sources())
    await runtime.start(260)
    by_processes = OLD in await asyncio.to_thread(mounted.names)
    running = await removed(frozenset())
    await runtime.stop(260, 5)
    stopped = await removed(await docker_engine.mount_sources())
    assert (created, running, stopped, by_processes) == ((), (), (), True)

    await runtime.remove(260)
    assert await removed(await docker_engine.mount_sources()) == (OLD,)
    assert await asyncio.to_thread(names, folder) == {NEW}
    await runtime.close()
