"""Reads the machine for the checks: files in a thread, `df` and `smartctl` in children. What fails is Unread."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from kaalia.clock import MachineClock
from kaalia.errors import HostError
from kaalia.health.host_facts import Limits, Reboot, Swapping, Unread
from kaalia.host import block, boots, drives, mountinfo, packages, pci, raid, swapping, units
from kaalia.host.drives import Drive
from kaalia.host.packages import Upgrades
from kaalia.service import Tasks, answer_anyway
from kaalia.store.changes import wait

T = TypeVar("T")
DRIVES_WAIT_S = 5.0
"""Those that are well answer within a second."""
_DRIVES = "drives"
_ABSENT = "No such file or directory"


@dataclass(frozen=True, slots=True)
class Places:
    """`wanted_mount`: what the configuration says must be mounted. `root` holds /proc, /sys, /etc; tests give one."""

    state_dir: Path
    wanted_mount: Path | None = None
    root: Path = Path("/")


class HostReader:
    """`engine_answer_s`: how long Docker took to answer when it was asked last."""

    def __init__(
        self,
        places: Places,
        clock: MachineClock,
        limits: Limits,
        engine_answer_s: Callable[[], float | None],
        read_drives: Callable[[], Awaitable[tuple[Drive, ...] | None]] = drives.drives,
    ) -> None:
        self._places = places
        self._root = places.root
        self._clock = clock
        self._limits = limits
        self._engine_answer_s = engine_answer_s
        self._read_drives = read_drives
        self._drives: tuple[Drive, ...] | Unread | None = Unread("smartctl has not answered yet")
        self._drives_at_s: float | None = None
        self._drives_told = asyncio.Event()
        self._tasks = Tasks()
        self._packages_stamp: tuple[object, ...] | None = None
        self._upgrades: Upgrades | Unread | None = None
        self._swapped: tuple[float, int] | None = None

    async def close(self) -> None:
        """What is under way yet ends."""
        await self._tasks.close()

    async def read(self, data_root: str | None) -> dict[str, Any]:
        """The fields of HostFacts that this machine tells. Raises nothing of kaalia's."""
        found = await asyncio.to_thread(self._read_files, data_root)
        paths = dict.fromkeys(path for path in (data_root, str(self._places.state_dir)) if path)
        found["rooms"] = await self._rooms(tuple(paths))
        found["drives"] = await self._seldom_drives()
        return found

    def _read_files(self, data_root: str | None) -> dict[str, Any]:
        root, clock = self._root, self._clock
        synchronised = clock.synchronisation()
        return {
            "uptime_s": clock.boottime_s(),
            "engine_answer_s": self._engine_answer_s(),
            "mounts": _read(lambda: mountinfo.mounts(root)),
            "wanted_mounts": _read(lambda: self._wanted_mounts(data_root)),
            "raid": _read(lambda: raid.arrays(root)),
            "is_synchronised": Unread("the kernel may not be asked") if synchronised is None else synchronised,
            "upgrades": self._changed_upgrades(),
            "reboot": _read(self._reboot),
            "services": _read(lambda: units.running_services(root)),
            "swapping": _read(self._swapping),
            "nouveau_gpus": _read(self._nouveau_gpus),
        }

    def _wanted_mounts(self, data_root: str | None) -> tuple[str, ...]:
        own = (str(self._places.wanted_mount),) if self._places.wanted_mount else ()
        if not (self._root / "etc/fstab").exists():
            return own
        paths = (path for path in (data_root, str(self._places.state_dir)) if path)
        return (*own, *(point for path in paths for point in mountinfo.wanted_points(path, self._root)))

    def _changed_upgrades(self) -> Upgrades | Unread | None:
        """The list of packages is some MB: read again when it changed."""
        try:
            stamp = packages.stamp(self._root)
        except OSError as error:
            return Unread(str(error))
        if stamp != self._packages_stamp:
            self._upgrades = _read(lambda: packages.upgrades(self._limits.packages, self._root))
            self._packages_stamp = stamp
        return self._upgrades

    def _reboot(self) -> Reboot:
        running = boots.running_kernel(self._root)
        return Reboot(boots.waiting_packages(self._root), running, boots.newer_kernel(running, self._root))

    def _swapping(self) -> Swapping:
        found, now_s = swapping.swap(self._root), self._clock.monotonic_s()
        before, self._swapped = self._swapped, (now_s, found.pages)
        if before is None or now_s <= before[0]:
            return Swapping(found, None)
        return Swapping(found, max(0, found.pages - before[1]) / (now_s - before[0]))

    def _nouveau_gpus(self) -> tuple[str, ...]:
        if not (self._root / "sys/module/nouveau").exists():
            return ()
        return tuple(one.address for one in pci.nvidia_gpus(self._root) if one.driver == "nouveau")

    async def _rooms(self, paths: Iterable[str]) -> dict[str, block.Room] | Unread:
        wanted = tuple(paths)
        try:
            return dict(zip(wanted, await block.rooms(map(Path, wanted)), strict=True))
        except HostError:
            pass  # one of them may be why: each is asked for itself
        found = {}
        for path in wanted:
            try:
                (found[path],) = await block.rooms([Path(path)])
            except HostError as error:
                # A folder that is not there has no room: whoever needs it tells that.
                if _ABSENT not in error.problem.evidence:
                    return Unread(f"{error.problem.message} {error.problem.evidence}".strip())
        return found

    async def _seldom_drives(self) -> tuple[Drive, ...] | Unread | None:
        """As they were told last: those that hang are waited for beside the looks, which find what else is wrong."""
        now_s = self._clock.monotonic_s()
        is_due = self._drives_at_s is None or now_s - self._drives_at_s >= self._limits.drives_every_min * 60
        if is_due and not self._tasks.busy(_DRIVES):
            self._drives_at_s = now_s
            self._drives_told.clear()
            self._tasks.start(_DRIVES, answer_anyway(_DRIVES, self._ask_drives(), lambda: None))
            await wait(self._drives_told, DRIVES_WAIT_S)
        return self._drives

    async def _ask_drives(self) -> None:
        try:
            self._drives = await self._read_drives()
        except HostError as error:
            self._drives = Unread(error.problem.message)
        self._drives_told.set()


def _read(reader: Callable[[], T]) -> T | Unread:
    try:
        return reader()
    except HostError as error:
        return Unread(error.problem.message)
    except OSError as error:
        return Unread(str(error))
