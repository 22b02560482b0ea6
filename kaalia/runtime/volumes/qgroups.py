"""Keeps the counts true by which btrfs limits sizes: of Docker's containers and of volumes alike.

When a removed subvolume is cleared away, Linux may find that its numbers do not add up, or its tree too tall to follow,
and marks all counts of the file system as inconsistent: from then on nothing is counted, and no limit holds, until
somebody asks for a rescan. This is that somebody. One rescan at a time, whoever asks; nothing of others is removed.
"""

import asyncio
import logging
import re
from collections.abc import Callable
from contextlib import suppress
from enum import StrEnum
from pathlib import Path

from kaalia.errors import HostError
from kaalia.host import block
from kaalia.host.kernel import read_text
from kaalia.runtime.base import LimitsUnsure
from kaalia.runtime.volumes.commands import LONG_S, command
from kaalia.service import Tasks

log = logging.getLogger(__name__)

SYSFS = Path("/sys/fs/btrfs")
CLEARING_S = 60.0
"""How long removed subvolumes are waited for before the counts are judged: a rescan before they are gone is spoilt."""
SETTLE_S = 60.0
"""How long a new promise waits for sound counts. A rescan reads all metadata, minutes on a large disk; when it ends the
new limit holds as well, and until then `disk_limits_unsure` is told and sizes are watched."""
_POLL_S = 0.1
_ROUNDS = 5
"""Rescans in a row: each may be spoilt by another removal. The next look goes on."""
_UUID = re.compile(r"uuid: ([0-9a-f-]{36})")
_RESCAN = "rescan"


class Counts(StrEnum):
    """What the kernel says of its counts. Limits hold only while they are SOUND."""

    SOUND = "sound"
    UNDER_WAY = "a rescan is under way"
    INCONSISTENT = "the kernel marked the counts as inconsistent"
    OFF = "quotas are switched off"


class Qgroups:
    """The counts of one btrfs file system, by any folder on it."""

    def __init__(self, folder: Path, uuid: str, sysfs: Path = SYSFS) -> None:
        self.folder = folder
        self._kernel = sysfs / uuid / "qgroups"
        self._tasks = Tasks()
        self._mended = asyncio.Event()
        self._is_doubted = True
        self._was_on = False
        self._dropped: set[int] = set()
        self.evidence = ""

    def doubt(self, dropped: int | None = None) -> None:
        """Something was removed: mend behind it. `dropped`: id of a subvolume of ours, whose qgroup goes with it."""
        self._is_doubted = True
        if dropped is not None:
            self._dropped.add(dropped)
        self._begin()

    async def look(self) -> Counts:
        """What the kernel says now. Raises HostError."""
        if not await asyncio.to_thread(self._kernel.parent.is_dir):
            return await self._shown()
        if await self._read("enabled", "0") != "1":
            return Counts.OFF
        self._was_on = True
        if await self._read("mode", "qgroup") == "squota":
            return Counts.SOUND  # counted at each write: nothing to rescan
        status = await command("btrfs", "quota", "rescan", "-s", self.folder)
        if "running" in status.stdout:
            return Counts.UNDER_WAY
        return Counts.INCONSISTENT if await self._read("inconsistent", "0") == "1" else Counts.SOUND

    @property
    def is_promised(self) -> bool:
        """Quotas were seen at work: nobody may switch them off any more."""
        return self._was_on

    async def settle(self, wait_s: float, *, enable: bool = False) -> Counts:
        """Mend what is to be mended, and wait for that at most `wait_s`. Raises HostError."""
        counts = await self.look()
        if counts is Counts.OFF:
            if not enable:
                return counts
            await command("btrfs", "quota", "enable", self.folder)
            counts = await self.look()
        if counts is Counts.SOUND:
            # What was removed may take minutes to clear away, and may spoil nothing: a launch does not wait for it.
            if self._is_doubted:
                self._begin()
            return counts
        self._begin()
        with suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                await self._mended.wait()
        return await self.look()

    async def close(self) -> None:
        """Let go; a rescan goes on in the kernel."""
        await self._tasks.close()

    def _begin(self) -> None:
        if not self._tasks.busy(_RESCAN):
            self._mended.clear()
            self._tasks.start(_RESCAN, self._mend())

    async def _mend(self) -> None:
        try:
            for _ in range(_ROUNDS):
                self._is_doubted = False
                await self._clear()
                counts = await self.look()
                if counts in (Counts.SOUND, Counts.OFF):
                    self.evidence = ""
                    if self._is_doubted:
                        continue
                    break
                log.info("disk: counts of %s: %s; rescanning", self.folder, counts)
                await command("btrfs", "quota", "rescan", "-w", self.folder, timeout_s=LONG_S)
        except HostError as error:
            self.evidence = _evidence(error)
            log.warning("disk: the counts of %s cannot be mended: %s", self.folder, self.evidence)
        finally:
            self._mended.set()

    async def _clear(self) -> None:
        """Wait until removed subvolumes are gone, then remove the qgroups of ours that an older kernel left behind."""
        if self._dropped or await self._removed():
            await self._sync()  # wakes the kernel's cleaner
            for _ in range(round(CLEARING_S / _POLL_S)):
                if not await self._removed():
                    break
                await asyncio.sleep(_POLL_S)
        # Off the list is not done: the counts are judged, and marked if need be, when the clearing is committed.
        await self._sync()
        for subvolume_id in sorted(self._dropped):
            with suppress(HostError):  # newer kernels have removed it
                await command("btrfs", "qgroup", "destroy", f"0/{subvolume_id}", self.folder)
        self._dropped.clear()

    async def _sync(self) -> None:
        await command("btrfs", "filesystem", "sync", self.folder)

    async def _removed(self) -> bool:
        """Some subvolume was removed, and is not cleared away yet."""
        return bool((await command("btrfs", "subvolume", "list", "-d", self.folder)).stdout.strip())

    async def _read(self, name: str, otherwise: str) -> str:
        """A file of the kernel's; older kernels have fewer."""
        try:
            return (await asyncio.to_thread(read_text, self._kernel / name)).strip()
        except HostError:
            return otherwise

    async def _shown(self) -> Counts:
        """Where the kernel shows nothing in /sys (before 5.9): what btrfs-progs warns of."""
        try:
            said = (await command("btrfs", "qgroup", "show", "--raw", self.folder)).stderr
        except HostError as error:
            if "quota" in error.problem.evidence and "not enabled" in error.problem.evidence:
                return Counts.OFF
            raise
        if "rescan is running" in said:
            return Counts.UNDER_WAY
        return Counts.INCONSISTENT if "inconsistent" in said else Counts.SOUND


class BtrfsLimits:
    """The counts of every btrfs file system on which a size was promised, as `runtime.base.DiskLimits`."""

    def __init__(self) -> None:
        self._known: dict[str, Qgroups] = {}
        self._uuids: dict[Path, str] = {}
        self._blind: dict[Path, str] = {}

    async def settle(self, folder: Path, wait_s: float) -> bool:
        """Before a size is promised on the file system of `folder`. True: its limits hold; False: `check` says why."""
        try:
            counts = await (await self._of(folder)).settle(wait_s, enable=True)
            self._blind.pop(folder, None)
        except HostError as error:
            self._blind[folder] = _evidence(error)
            return False
        return counts is Counts.SOUND

    async def watch(self, folder: Path) -> None:
        """Include the file system of `folder` in every `check`."""
        await self._with(folder, lambda one: None)

    async def removed(self, folder: Path, subvolume_id: int | None = None) -> None:
        """A subvolume was removed there; `subvolume_id` of ours: its qgroup goes with it."""
        await self._with(folder, lambda one: one.doubt(subvolume_id))

    async def check(self, wait_s: float) -> tuple[LimitsUnsure, ...]:
        for folder in list(self._blind):
            await self.watch(folder)
        unsure = [LimitsUnsure(str(folder), why, frozenset({str(folder)})) for folder, why in self._blind.items()]
        for uuid, one in list(self._known.items()):
            try:
                counts = await one.settle(wait_s)
                why = one.evidence or counts
            except HostError as error:
                counts, why = Counts.INCONSISTENT, _evidence(error)
            if counts is not Counts.SOUND and (counts is not Counts.OFF or one.is_promised):
                folders = frozenset(str(folder) for folder, its in self._uuids.items() if its == uuid)
                unsure.append(LimitsUnsure(str(one.folder), why, folders))
        return tuple(unsure)

    async def close(self) -> None:
        for one in self._known.values():
            await one.close()

    async def _with(self, folder: Path, work: Callable[[Qgroups], None]) -> None:
        try:
            work(await self._of(folder))
            self._blind.pop(folder, None)
        except HostError as error:
            self._blind[folder] = _evidence(error)

    async def _of(self, folder: Path) -> Qgroups:
        if folder not in self._uuids:
            said = (await command("btrfs", "filesystem", "show", await block.mount_point(folder))).stdout
            found = _UUID.search(said)
            if found is None:
                raise HostError("unreadable", f"cannot tell the btrfs file system of {folder}", evidence=said)
            self._uuids[folder] = found[1]
        uuid = self._uuids[folder]
        return self._known.setdefault(uuid, Qgroups(folder, uuid))


def _evidence(error: HostError) -> str:
    return f"{error.problem.message}: {error.problem.evidence.strip()}"
