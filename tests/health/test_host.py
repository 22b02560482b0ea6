"""The service: looks at a machine made of files, tells what it finds, keeps what it cannot see, ends what is over."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from kaalia.contracts import fitness
from kaalia.contracts.symptoms import causes
from kaalia.errors import Problem
from kaalia.health import host_reading
from kaalia.health.engine_time import EngineTime
from kaalia.health.host import HealthService
from kaalia.health.host_reading import HostReader, Places
from kaalia.health.host_rules import rules
from kaalia.host.drives import Drive
from kaalia.model.health import Condition, OpenCondition, Severity
from kaalia.model.machine import Engine, Missing
from kaalia.store import conditions, enrolment, machine
from kaalia.store.changes import Changes, Topic
from kaalia.store.database import Database
from tests.support.builders import build_report
from tests.support.clock import FakeClock
from tests.support.serving import running
from tests.support.sysfs import gpu_on_bus, write_files

MOUNTS = "21 1 253:0 / / rw shared:1 - ext4 /dev/vda1 rw"
FILES = {
    "proc/1/mountinfo": MOUNTS,
    "proc/meminfo": "SwapTotal: 0 kB\nSwapFree: 0 kB",
    "proc/vmstat": "pswpin 0\npswpout 0",
    "proc/sys/kernel/osrelease": "6.8.0-45-generic",
    "boot/vmlinuz-6.8.0-45-generic": "",
    "sys/fs/cgroup/system.slice/docker.service/cgroup.procs": "1",
}
"""A machine without fault."""


class Machine:
    """A service over a root of its own."""

    def __init__(self, folder: Path, store: Database, changes: Changes, clock: FakeClock) -> None:
        self.root = write_files(folder / "root", FILES)
        self.state = folder
        self.store, self.changes, self.clock = store, changes, clock
        self.answer_s: float | None = 0.01
        self.told_drives: tuple[Drive, ...] | None = None
        self.asked_drives = 0
        self.drives_answer = asyncio.Event()
        self.drives_answer.set()
        clock.synchronised = True
        clock.advance(7200)
        self.service = self.again()

    def again(self) -> HealthService:
        """As after a restart of the daemon."""
        reader = HostReader(
            Places(self.state, None, self.root), self.clock, rules().limits, lambda: self.answer_s, self._drives
        )
        return HealthService(self.store, self.changes, self.clock, reader, str(self.state), 60.0, 0.0)

    async def _drives(self) -> tuple[Drive, ...] | None:
        self.asked_drives += 1
        await self.drives_answer.wait()
        return self.told_drives

    async def report(self, **engine: Any) -> None:
        sound = build_report(gpus=2)
        assert sound.engine is not None
        known = replace(sound.engine, enforces_disk_size=True, data_root=str(self.state), **engine)
        put = replace(sound, engine=known, collected_at=self.clock.now())
        await self.store.transaction(lambda tx: machine.put_report(tx, put), Topic.MACHINE)

    async def look(self, *, is_full: bool = True) -> dict[str, OpenCondition]:
        self.clock.advance(60)
        await self.service.look(is_full=is_full)
        return await self.open()

    async def open(self) -> dict[str, OpenCondition]:
        return {one.condition.problem.code: one for one in await self.store.read(conditions.all_open)}


@pytest.fixture
def host(tmp_path: Path, store: Database, changes: Changes, clock: FakeClock) -> Machine:
    return Machine(tmp_path, store, changes, clock)


async def test_a_machine_without_fault_has_no_condition(host: Machine) -> None:
    await host.report()

    assert await host.look() == {}


async def test_a_fault_comes_with_its_time_and_goes_when_it_is_gone(host: Machine) -> None:
    write_files(
        host.root, {"run/reboot-required": "", "proc/mdstat": "md0 : active raid1 sda1[0]\n 9 blocks [2/1] [U_]"}
    )

    found = await host.look()
    since = host.clock.now()
    later = await host.look()
    (host.root / "proc/mdstat").unlink()

    assert found.keys() == later.keys() == {"reboot_pending", "raid_degraded"}
    assert later["raid_degraded"].since == since
    assert later["raid_degraded"].condition.scope == "md0"
    assert (await host.look()).keys() == {"reboot_pending"}
    (past,) = await host.store.read(partial(conditions.past, limit=9))
    assert past.condition.problem.code == "raid_degraded"


async def test_what_cannot_be_seen_stays_and_is_told_as_unknown(host: Machine) -> None:
    write_files(host.root, {"proc/1/mountinfo": MOUNTS.replace("vda1 rw", "vda1 ro")})
    assert (await host.look()).keys() == {"mount_read_only"}
    (host.root / "proc/1/mountinfo").unlink()

    await host.look()
    found = await host.look()

    assert found.keys() == {"mount_read_only", "host_unread"}
    assert found["host_unread"].condition.severity is Severity.UNKNOWN
    assert "mountinfo" in found["host_unread"].condition.problem.evidence


async def test_a_folder_of_docker_that_is_gone_leaves_the_others_seen(host: Machine) -> None:
    await host.report()
    report = await host.store.read(machine.get_report)
    assert report is not None
    assert report.engine is not None
    lost = replace(report, engine=replace(report.engine, data_root=str(host.state / "gone")))
    await host.store.transaction(lambda tx: machine.put_report(tx, lost))

    assert await host.look() == {}
    assert await host.look() == {}


async def test_a_restart_keeps_what_needed_patience(host: Machine) -> None:
    host.answer_s = 9.0
    await host.report()
    for _ in range(2):
        assert await host.look() == {}
        await host.report()
    assert (await host.look()).keys() == {"engine_slow"}

    host.service = host.again()
    await host.report()
    assert (await host.look()).keys() == {"engine_slow"}


async def test_the_report_of_an_earlier_run_says_nothing_of_docker_now(host: Machine) -> None:
    gone = replace(build_report(), engine=None, collected_at=host.clock.now())
    await host.store.transaction(lambda tx: machine.put_report(tx, gone))
    async with running(host.service):
        await _until_looked(host)

    assert await host.open() == {}


async def test_docker_that_goes_is_told_when_the_report_says_so(host: Machine) -> None:
    async with running(host.service):
        await _until_looked(host)
        gone = replace(build_report(), engine=None, collected_at=host.clock.now() + timedelta(seconds=1))
        await host.store.transaction(lambda tx: machine.put_report(tx, gone), Topic.MACHINE)
        await _until_open(host.open, {"engine_unavailable"})
        await host.report()
        await _until_open(host.open, set())


async def test_who_shares_the_gpus_stays_told_while_nobody_knows_them(host: Machine) -> None:
    write_files(host.root, {"sys/fs/cgroup/system.slice/k3s.service/cgroup.procs": "1"})
    await host.report()
    assert (await host.look()).keys() == {"other_manager"}
    hung = replace(build_report(gpus=0), engine=None, missing=(Missing("gpus", "the driver did not answer"),))
    later = replace(hung, collected_at=host.clock.now() + timedelta(seconds=1))
    await host.store.transaction(lambda tx: machine.put_report(tx, later))

    assert (await host.look()).keys() == {"other_manager", "engine_unavailable"}
    none = replace(build_report(gpus=0), collected_at=host.clock.now() + timedelta(seconds=2))
    await host.store.transaction(lambda tx: machine.put_report(tx, none))
    assert "other_manager" not in await host.look()


async def test_the_kernels_own_word_hides_the_mount(host: Machine) -> None:
    write_files(host.root, {"proc/1/mountinfo": MOUNTS.replace("vda1 rw", "vda1 ro")})
    (one,) = (await host.look()).values()
    problem = replace(one.condition.problem, code="filesystem_read_only")
    cause = replace(one.condition, problem=problem, scope="vda1", blocks=None)
    now = host.clock.now()
    await host.store.transaction(lambda tx: conditions.replace(tx, "kernel", [cause], now))
    await host.look()

    found = await host.store.read(conditions.all_open)
    assert [each.condition.problem.code for each in causes(found)] == ["filesystem_read_only"]
    keeps_out = fitness.of_host(fitness.faults(found))
    assert keeps_out is not None, "nobody rents a machine whose disk cannot be written"
    assert keeps_out.code == "mount_read_only"

    write_files(host.root, {"proc/1/mountinfo": MOUNTS})
    assert (await host.look()).keys() == {"filesystem_read_only"}


async def test_a_disk_that_the_kernel_shut_down_keeps_new_rentals_out(host: Machine) -> None:
    """XFS on a volume: it looks well among the mounts."""
    write_files(
        host.root, {"proc/1/mountinfo": "21 1 253:0 / / rw shared:1 - xfs /dev/mapper/vg-root rw", "dev/dm-3": ""}
    )
    (host.root / "dev/mapper").mkdir()
    (host.root / "dev/mapper/vg-root").symlink_to("../dm-3")
    problem = Problem("filesystem_damaged", "cannot count on this machine: a file system is damaged (dm-3)")
    cause, now = Condition(problem, Severity.CRITICAL, "a boot", "dm-3"), host.clock.now()
    await host.store.transaction(lambda tx: conditions.replace(tx, "kernel", [cause], now))
    await host.look()

    found = await host.store.read(conditions.all_open)
    assert [each.condition.problem.code for each in causes(found)] == ["filesystem_damaged"]
    keeps_out = fitness.of_host(fitness.faults(found))
    assert keeps_out is not None
    assert keeps_out.code == "mount_damaged"


async def test_drives_that_hang_hold_up_no_look(host: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_reading, "DRIVES_WAIT_S", 0.01)
    host.drives_answer.clear()
    write_files(host.root, {"run/reboot-required": ""})

    assert (await host.look()).keys() == {"reboot_pending"}
    assert (await host.look()).keys() == {"reboot_pending", "host_unread"}
    host.told_drives = (Drive("/dev/nvme0", "SSD", has_passed=False),)
    host.drives_answer.set()
    await asyncio.sleep(0)
    await host.look()
    assert (await host.look()).keys() == {"reboot_pending", "drive_failing"}
    assert host.asked_drives == 1


async def test_drives_are_asked_once_an_hour(host: Machine) -> None:
    host.told_drives = (Drive("/dev/nvme0", "SSD", has_passed=False),)
    for _ in range(60):
        found = await host.look()
    assert host.asked_drives == 1
    assert found.keys() == {"drive_failing"}

    await host.look()
    assert host.asked_drives == 2


async def test_another_address_is_told_for_a_day(host: Machine) -> None:
    await host.report()
    assert await host.look() == {}
    known = await host.store.read(machine.get_report)
    assert known is not None
    moved = replace(known, network=replace(known.network, public_ip="203.0.113.99"))
    await host.store.transaction(lambda tx: machine.put_report(tx, moved))

    found = await host.look()
    assert found.keys() == {"address_changed"}
    assert "203.0.113.99" in found["address_changed"].condition.problem.message
    host.clock.advance(24 * 3600)
    assert await host.look() == {}


async def test_a_marketplace_that_is_silent_is_told(host: Machine) -> None:
    now = host.clock.now()
    known = enrolment.AcceptedSnapshot(1, 1, now + timedelta(seconds=90), "{}", now)
    await host.store.transaction(lambda tx: enrolment.put(tx, enrolment.Enrolment("https://m.example", 1, {}, now)))
    await host.store.transaction(lambda tx: enrolment.put_snapshot(tx, known))

    assert await host.look() == {}
    assert (await host.look()).keys() == {"marketplace_silent"}


async def test_gpus_that_nouveau_holds_are_named(host: Machine) -> None:
    gpu_on_bus(host.root, "0000:01:00.0", driver="nouveau")
    assert await host.look() == {}
    (host.root / "sys/module/nouveau").mkdir(parents=True)

    assert (await host.look())["nouveau_loaded"].condition.problem.evidence == "0000:01:00.0"


async def test_how_long_docker_takes_is_measured(clock: FakeClock) -> None:
    known = build_report().engine
    assert known is not None

    async def answer() -> Engine:
        clock.advance(6)
        return known

    async def silence() -> Engine:
        raise TimeoutError

    timed = EngineTime(answer, clock)
    assert await timed.facts() is known
    assert timed.answer_s == 6.0
    timed._facts = silence
    with pytest.raises(TimeoutError):
        await timed.facts()
    assert timed.answer_s is None


async def test_what_docker_answered_last_is_known_while_it_is_asked_again(clock: FakeClock) -> None:
    known = build_report().engine
    assert known is not None
    seen: list[float | None] = []

    async def answer() -> Engine:
        seen.append(timed.answer_s)
        clock.advance(6.0)
        return known

    timed = EngineTime(answer, clock)
    await timed.facts()
    await timed.facts()

    assert seen == [None, 6.0]


async def test_a_change_of_mounts_is_looked_at_before_its_turn(host: Machine) -> None:
    heard: list[Callable[[], None]] = []
    silent = Ear()

    def hear(on_change: Callable[[], None]) -> Ear:
        heard.append(on_change)
        return silent

    await host.report()
    reader = HostReader(Places(host.state, Path("/data"), host.root), host.clock, rules().limits, lambda: 0.01)
    mounted = f"{MOUNTS}\n22 21 0:9 / /data rw - tmpfs tmpfs rw"
    write_files(host.root, {"proc/1/mountinfo": mounted})
    service = HealthService(host.store, host.changes, host.clock, reader, str(host.state), 3600.0, 0.0, hear=hear)
    async with running(service):
        await _until_open(host.open, set())
        async with asyncio.timeout(20):
            while not heard:
                await asyncio.sleep(0.01)
        write_files(host.root, {"proc/1/mountinfo": MOUNTS})

        heard[0]()

        await _until_open(host.open, {"mount_absent"})
    assert silent.is_closed


class Ear:
    is_closed = False

    def close(self) -> None:
        self.is_closed = True


async def _until_looked(host: Machine) -> None:
    async with asyncio.timeout(20):
        while not host.asked_drives:
            await asyncio.sleep(0.01)


async def _until_open(look: Callable[[], Awaitable[dict[str, OpenCondition]]], wanted: set[str]) -> None:
    async with asyncio.timeout(20):
        while set(await look()) != wanted:
            await asyncio.sleep(0.01)
