"""Whatever stands in the files of a machine, a look at it ends: with facts, or with the word that it cannot see."""

import asyncio
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kaalia.errors import HostError
from kaalia.health.host import CHECKS
from kaalia.health.host_facts import HostFacts, Unread
from kaalia.health.host_reading import HostReader, Places
from kaalia.health.host_rules import rules
from kaalia.host import mountinfo, packages, raid, swapping
from kaalia.host.drives import Drive
from tests.support.clock import START, FakeClock

FILES = {
    "proc/1/mountinfo": "21 1 253:0 / / rw shared:1 - ext4 /dev/vda1 rw,discard",
    "proc/mdstat": "md0 : active raid1 sdb1[1](F) sda1[0]\n 9 blocks [2/1] [U_]\n [=>] recovery = 1.5% (1/9)",
    "proc/meminfo": "SwapTotal: 9 kB\nSwapFree: 1 kB",
    "proc/vmstat": "pswpin 1\npswpout 2",
    "proc/sys/kernel/osrelease": "6.8.0-45-generic",
    "etc/fstab": "UUID=1 /srv xfs rw 0 0",
    "etc/apt/apt.conf.d/20auto": 'APT::Periodic::Unattended-Upgrade "1";',
    "etc/apt/apt.conf.d/50unattended": 'Unattended-Upgrade::Package-Blacklist { "a("; };',
    "var/lib/dpkg/status": "Package: docker.io\nStatus: install ok installed",
    "usr/bin/unattended-upgrade": "",
    "run/reboot-required": "",
    "run/reboot-required.pkgs": "libc6",
}


async def none() -> tuple[Drive, ...] | None:
    return None


def look(root: Path) -> HostFacts:
    clock = FakeClock()
    reader = HostReader(Places(root, root, root), clock, rules().limits, lambda: None, none)
    read = asyncio.run(reader.read(str(root)))
    return HostFacts(now=START, state_dir=str(root), **read)


@st.composite
def torn(draw: st.DrawFn) -> dict[str, bytes]:
    """The files of a machine, some of them cut, mixed or of something else."""
    made = {}
    for name, text in FILES.items():
        good = text.encode()
        made[name] = draw(
            st.one_of(
                st.just(good),
                st.integers(0, len(good)).map(lambda end, good=good: good[:end]),  # type: ignore[misc]
                st.binary(max_size=60),
                st.binary(max_size=20).map(lambda more, good=good: good + b"\n" + more),  # type: ignore[misc]
            )
        )
    return made


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(files=torn())
def test_a_look_at_torn_files_ends_and_invents_no_error(files: dict[str, bytes]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for name, content in files.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        facts = look(root)

        for check in CHECKS:
            if not any(isinstance(getattr(facts, name), Unread) for name in check.needs):
                for one in check.find(facts, rules().limits):
                    assert one.id in check.ids
                    assert one.message.startswith("cannot ")


def test_files_without_end_are_read_in_bounded_time(tmp_path: Path) -> None:
    line = "30 21 259:2 / /var/lib/docker/overlay2/x/merged rw - overlay overlay rw,lowerdir=" + "l" * 200
    (tmp_path / "proc/1").mkdir(parents=True)
    (tmp_path / "proc/1/mountinfo").write_text("\n".join([line] * 5000))
    (tmp_path / "proc/mdstat").write_text("md0 : active raid1 " + "sda[0] " * 20_000)
    (tmp_path / "etc/apt/apt.conf.d").mkdir(parents=True)
    (tmp_path / "etc/apt/apt.conf.d/1").write_text("{" * 100_000 + '"' * 99_999)

    assert len(mountinfo.mounts(tmp_path)) == 5000
    assert raid.arrays(tmp_path) == (raid.RaidArray("md0", is_active=True),)
    assert packages.upgrades(("x",), tmp_path) is None
    with pytest.raises(HostError):
        swapping.swap(tmp_path)
