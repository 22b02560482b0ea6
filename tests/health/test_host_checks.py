"""What is wrong with a machine beside its GPUs, by facts made by hand: each fault is found, and nothing else."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from kaalia.health.host import CHECKS
from kaalia.health.host_facts import Finding, HostFacts, Moved, Reboot, Silence, Swapping, Unread
from kaalia.health.host_rules import condition, rules, unread
from kaalia.host.block import Room
from kaalia.host.drives import Drive
from kaalia.host.mountinfo import Mount
from kaalia.host.packages import Upgrades
from kaalia.host.raid import RaidArray
from kaalia.host.swapping import Swap
from kaalia.model.certificate import Certificate
from kaalia.model.health import Severity
from kaalia.model.machine import Engine, MachineReport, Missing
from kaalia.units import GIB, MIB
from tests.support.builders import build_report
from tests.support.clock import START

DATA, STATE = "/srv/docker", "/var/lib/kaalia"
DISK = Mount("/srv", "/dev/nvme0n1p2", "xfs", is_read_only=False, device="nvme0n1p2")
ROOT = Mount("/", "/dev/nvme0n1p1", "ext4", is_read_only=False, device="nvme0n1p1")
ROOM = Room("/srv", 100 * GIB, 50 * GIB, 1_000_000, 500_000)
SOUND = Engine("27.0", "1.47", "overlay2", DATA, "2", True, True, "cdi", "runc")


def facts(**more: Any) -> HostFacts:
    """A machine of which all is known and nothing is wrong, but for `more`."""
    sound = HostFacts(
        now=START,
        uptime_s=86400.0,
        state_dir=STATE,
        report=replace(build_report(gpus=8), engine=SOUND),
        data_root=DATA,
        engine_answer_s=0.02,
        mounts=(ROOT, DISK),
        wanted_mounts=("/srv",),
        rooms={DATA: ROOM, STATE: replace(ROOM, mounted_at="/")},
        raid=(RaidArray("md0", is_active=True, wanted=2, present=2), RaidArray("md1", is_active=True)),
        drives=(Drive("/dev/nvme0", "SSD", has_passed=True, used_percent=3),),
        is_synchronised=True,
        upgrades=Upgrades(is_on=True, exposed=()),
        reboot=Reboot(None, "6.8.0-45-generic", None),
        services=frozenset({"docker.service", "ssh.service"}),
        swapping=Swapping(Swap(8 * GIB, GIB, 10), 0.0),
    )
    return replace(sound, **more)


def engine(**more: Any) -> MachineReport:
    return replace(build_report(gpus=8), engine=replace(SOUND, **more))


def found(of: HostFacts) -> list[Finding]:
    seen = (check for check in CHECKS if not any(isinstance(getattr(of, name), Unread) for name in check.needs))
    return [one for check in seen for one in check.find(of, rules().limits)]


def test_a_sound_machine_has_no_finding() -> None:
    assert found(facts()) == []


GONE = replace(build_report(), engine=None, missing=(Missing("engine", "cannot connect"),))
FEW_INODES = replace(ROOM, free_inodes=49_999)
STALE = Certificate(7, "", (), START - timedelta(days=60), START + timedelta(days=2))

FAULTS: list[tuple[str, dict[str, Any]]] = [
    ("engine_unavailable", {"report": GONE}),
    ("engine_slow", {"engine_answer_s": 5.0}),
    ("live_restore_off", {"report": engine(live_restore=False)}),
    ("default_runtime_foreign", {"report": engine(default_runtime="runsc")}),
    ("gpu_injection_missing", {"report": engine(gpu_mode="none")}),
    ("disk_size_unenforced", {"report": engine(enforces_disk_size=False)}),
    ("cgroup_v1", {"report": engine(cgroup_version="1")}),
    ("mount_absent", {"wanted_mounts": ("/srv/docker",)}),
    ("mount_read_only", {"mounts": (ROOT, replace(DISK, is_read_only=True))}),
    ("mount_damaged", {"damaged": frozenset({"nvme0n1p2"})}),
    ("inodes_low", {"rooms": {DATA: FEW_INODES, STATE: FEW_INODES}}),
    ("state_disk_low", {"rooms": {DATA: ROOM, STATE: replace(ROOM, free_bytes=1000 * MIB)}}),
    ("raid_degraded", {"raid": (RaidArray("md0", is_active=True, wanted=3, present=2, failed=("sdc",)),)}),
    ("raid_failed", {"raid": (RaidArray("md0", is_active=False),)}),
    ("raid_failed", {"raid": (RaidArray("md0", is_active=True, wanted=4, present=2, is_lost=True),)}),
    ("drive_failing", {"drives": (Drive("/dev/sda", has_passed=False, lost_sectors=4),)}),
    ("drive_failing", {"drives": (Drive("/dev/nvme0", has_passed=True, warning=8),)}),
    ("drive_worn", {"drives": (Drive("/dev/nvme0", has_passed=True, used_percent=90),)}),
    ("drive_errors", {"drives": (Drive("/dev/sda", has_passed=True, lost_sectors=1),)}),
    ("drive_silent", {"drives": (Drive("/dev/sda", silent="no answer within 30 s"),)}),
    ("clock_unsynchronised", {"is_synchronised": False}),
    ("unattended_upgrades", {"upgrades": Upgrades(is_on=True, exposed=("nvidia-driver-570",))}),
    ("reboot_pending", {"reboot": Reboot(("linux-base",), "6.8.0-45-generic", None)}),
    ("reboot_pending", {"reboot": Reboot(None, "6.8.0-45-generic", "6.8.0-47-generic")}),
    ("other_manager", {"services": frozenset({"k3s.service", "docker.service"})}),
    ("swap_busy", {"swapping": Swapping(Swap(8 * GIB, 5 * GIB, 10), 600.0)}),
    ("nouveau_loaded", {"nouveau_gpus": ("0000:01:00.0",)}),
    ("marketplace_silent", {"silence": Silence("https://m.example", START)}),
    ("address_changed", {"moved": Moved("203.0.113.7", "203.0.113.9", START)}),
    ("certificate_expiring", {"certificates": (STALE,)}),
]


@pytest.mark.parametrize(("code", "fault"), FAULTS)
def test_one_fault_is_one_finding(code: str, fault: dict[str, Any]) -> None:
    (one,) = found(facts(**fault))
    told = condition(one, rules().rules[one.id])

    assert one.id == code
    assert told.problem.message.startswith("cannot ")
    assert told.problem.evidence
    assert told.problem.remedy
    assert "{path}" not in told.problem.remedy + told.clears_when
    assert "{device}" not in told.problem.remedy + told.clears_when
    assert "{names}" not in told.problem.remedy
    assert "{units}" not in told.problem.remedy


def test_every_entry_of_the_catalogue_can_happen() -> None:
    assert {code for code, _ in FAULTS} | {"host_unread"} == rules().rules.keys()
    assert {name for check in CHECKS for name in check.ids} | {"host_unread"} == rules().rules.keys()


@pytest.mark.parametrize(
    "harmless",
    [
        {"uptime_s": 60.0, "is_synchronised": False},  # NTP needs a while after a boot
        {"swapping": Swapping(Swap(8 * GIB, 5 * GIB, 10), 10.0)},  # swapped out once, and left there
        {"swapping": Swapping(Swap(8 * GIB, 5 * GIB, 10), None)},
        {"services": None, "raid": None, "drives": None, "upgrades": None},  # no systemd, no md, no smartctl, no apt
        {"rooms": {DATA: replace(ROOM, inodes=0, free_inodes=0)}},  # btrfs has no fixed number
        {"engine_answer_s": None},
        {
            "damaged": frozenset({"loop7", "sdb1"}),
            "made_read_only": frozenset({"loop7"}),
        },  # a tenant's, and another disk
        {"certificates": (replace(STALE, begins_at=START - timedelta(hours=12), ends_at=START + timedelta(hours=12)),)},
        {"report": None},
        {"report": replace(build_report(gpus=0), engine=replace(SOUND, gpu_mode="none"))},
    ],
)
def test_what_is_no_fault_is_not_told(harmless: dict[str, Any]) -> None:
    assert found(facts(**harmless)) == []


def test_a_disk_of_state_that_is_out_is_worse_than_one_that_is_low() -> None:
    (one,) = found(facts(rooms={DATA: ROOM, STATE: replace(ROOM, free_bytes=MIB)}))

    assert condition(one, rules().rules[one.id]).severity is Severity.CRITICAL


def test_a_remedy_names_the_case() -> None:
    (one,) = found(facts(upgrades=Upgrades(is_on=True, exposed=("nvidia-driver-570", "containerd.io"))))

    assert "apt-mark hold nvidia-driver-570 containerd.io" in condition(one, rules().rules[one.id]).problem.remedy


def test_what_cannot_be_looked_at_is_unknown_and_no_fault() -> None:
    blind = facts(mounts=Unread("cannot read /proc/1/mountinfo"), raid=Unread("torn"))
    one = unread(blind, (name for check in CHECKS for name in check.needs))

    assert found(blind) == []
    assert one is not None
    assert one.message == "cannot look at everything of this machine: mounts, raid"
    assert condition(one, rules().rules[one.id]).severity is Severity.UNKNOWN
    assert unread(facts(), ("mounts", "raid")) is None
