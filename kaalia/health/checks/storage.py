"""Disks as file systems: mounted, writable, with room; and the RAID arrays below them."""

from collections.abc import Iterator, Mapping
from typing import TypeVar

from kaalia.health.host_facts import Check, Finding, HostFacts, Limits, Unread
from kaalia.host.block import Room
from kaalia.host.mountinfo import Mount, holding
from kaalia.model.health import Severity
from kaalia.units import MIB, format_bytes

T = TypeVar("T")
_MADE_READ_ONLY, _DAMAGED = "filesystem_read_only", "filesystem_damaged"
"""The kernel's own words, which `health.kernel_log` tells."""


def absent(facts: HostFacts, _: Limits) -> Iterator[Finding]:
    points = {one.point for one in _mounts(facts)}
    for path in dict.fromkeys(_known(facts.wanted_mounts)):
        if path not in points:
            message = f"cannot trust the disk below {path}: nothing is mounted there"
            yield Finding("mount_absent", message, "it is in fstab or in disk.mount", path, words={"path": path})


def read_only(facts: HostFacts, _: Limits) -> Iterator[Finding]:
    held = (holding(path, _mounts(facts)) for path in _paths(facts))
    for one in dict.fromkeys(mount for mount in held if mount is not None and mount.is_read_only):
        message = f"cannot write to {one.point}: it is mounted read-only"
        words = {"path": one.point, "device": one.source}
        # Where the kernel's log told why, that is shown; this keeps new rentals out nevertheless.
        cause = (_MADE_READ_ONLY,) if one.device in facts.made_read_only else ()
        scope = one.device if cause else one.point
        yield Finding("mount_read_only", message, f"{one.source} ({one.kind})", scope, words=words, hidden_by=cause)


def damaged(facts: HostFacts, _: Limits) -> Iterator[Finding]:
    """A file system that the kernel has shut down may look well among the mounts."""
    held = (holding(path, _mounts(facts)) for path in _paths(facts))
    for one in dict.fromkeys(mount for mount in held if mount is not None and mount.device in facts.damaged):
        message = f"cannot count on {one.point}: the kernel found its file system damaged"
        words, evidence = {"path": one.point, "device": one.source}, f"{one.source} ({one.kind}); dmesg"
        yield Finding("mount_damaged", message, evidence, one.device, words=words, hidden_by=(_DAMAGED,))


def inodes(facts: HostFacts, limits: Limits) -> Iterator[Finding]:
    rooms = _rooms(facts)
    for path, room in {room.mounted_at: (path, room) for path, room in rooms.items()}.values():
        if room.inodes and room.free_inodes * 100 < limits.inodes_low_percent * room.inodes:
            message = f"cannot make many more files below {path}: {room.free_inodes} of {room.inodes} inodes are left"
            yield Finding("inodes_low", message, f"df -i {room.mounted_at}", room.mounted_at, words={"path": path})


def state_room(facts: HostFacts, limits: Limits) -> Iterator[Finding]:
    """Docker's own disk has a low-water mark and its watch (`disk_low`); this is far below it."""
    rooms = _rooms(facts)
    room = rooms.get(facts.state_dir)
    if room is None or room.free_bytes >= limits.state_low_mb * MIB:
        return
    is_out = room.free_bytes < limits.state_out_mb * MIB
    message = f"cannot record much more in {facts.state_dir}: {format_bytes(room.free_bytes)} are left"
    evidence = f"{room.free_bytes} of {room.total_bytes} bytes free on {room.mounted_at}"
    severity = Severity.CRITICAL if is_out else None
    yield Finding("state_disk_low", message, evidence, severity=severity, words={"path": facts.state_dir})


def raid(facts: HostFacts, _: Limits) -> Iterator[Finding]:
    for one in _known(facts.raid):
        words = {"device": one.name}
        if not one.is_active:
            message = f"cannot use the RAID array {one.name}: it is not active"
            yield Finding("raid_failed", message, "/proc/mdstat", one.name, words=words)
        elif one.is_lost:
            message = f"cannot use the RAID array {one.name}: it has {one.present} of {one.wanted} disks"
            yield Finding("raid_failed", message, "/proc/mdstat", one.name, words=words)
        elif one.present < one.wanted:
            work = f", {one.rebuilt_percent:g} % rebuilt" if one.rebuilt_percent is not None else ""
            message = f"cannot lose another disk of {one.name}: it has {one.present} of {one.wanted}{work}"
            evidence = f"/proc/mdstat; failed: {', '.join(one.failed) or 'none named'}"
            yield Finding("raid_degraded", message, evidence, one.name, words=words)


def drives(facts: HostFacts, limits: Limits) -> Iterator[Finding]:
    for one in _known(facts.drives):
        name, words = f"{one.device} ({one.model})" if one.model else one.device, {"device": one.device}
        if one.silent:
            message = f"cannot tell whether the drive {name} is well: it does not answer"
            yield Finding("drive_silent", message, one.silent, one.device, words=words)
            continue
        if one.has_passed is False or one.warning:
            message = f"cannot count on the drive {name}: it says that it fails"
            evidence = f"SMART passed: {one.has_passed}; NVMe critical warning: {one.warning:#04x}"
            yield Finding("drive_failing", message, evidence, one.device, words=words)
            continue
        if one.used_percent is not None and one.used_percent >= limits.drive_worn_percent:
            message = f"cannot write to the drive {name} much longer: {one.used_percent} % of its life are used"
            yield Finding("drive_worn", message, f"Percentage Used: {one.used_percent}", one.device, words=words)
        if one.lost_sectors:
            message = f"cannot read everything on the drive {name}: {one.lost_sectors} sectors were lost or wait for it"
            yield Finding("drive_errors", message, f"media errors: {one.lost_sectors}", one.device, words=words)


def _paths(facts: HostFacts) -> tuple[str, ...]:
    return (*((facts.data_root,) if facts.data_root else ()), facts.state_dir)


def _mounts(facts: HostFacts) -> tuple[Mount, ...]:
    return tuple(_known(facts.mounts))


def _rooms(facts: HostFacts) -> Mapping[str, Room]:
    return {} if isinstance(facts.rooms, Unread) else facts.rooms


def _known(fact: tuple[T, ...] | Unread | None) -> tuple[T, ...]:
    return () if fact is None or isinstance(fact, Unread) else fact


CHECKS = (
    Check(("mount_absent",), absent, ("mounts", "wanted_mounts")),
    Check(("mount_read_only",), read_only, ("mounts",)),
    Check(("mount_damaged",), damaged, ("mounts",)),
    Check(("inodes_low",), inodes, ("rooms",)),
    Check(("state_disk_low",), state_room, ("rooms",)),
    Check(("raid_degraded", "raid_failed"), raid, ("raid",)),
    Check(("drive_failing", "drive_worn", "drive_errors", "drive_silent"), drives, ("drives",)),
)
