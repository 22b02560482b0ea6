"""Faults of the machine: its disks, mounts, walls, clock, a reboot that waits, and a container that lost its GPUs."""

import re
import sqlite3
import subprocess
from functools import partial
from pathlib import Path

from kaalia.health.host_rules import rules
from kaalia.model.health import HOST
from kaalia.units import MIB
from tests.proofs import disks
from tests.proofs.fault import Fault, World
from tests.proofs.fault_docker import engine

DEVICES = Path("/sys/fs/cgroup/devices/docker")
GPU_DEVICES = "c 195:* rw"
REBOOT = Path("/run/reboot-required")
"""In the sandbox: of nobody else."""
HOUR_S = 3600.0
LEFT_BYTES = 512 * MIB
"""Of Docker's disk: its low-water mark is a quarter."""
_limits = rules().limits


# Disks


def _state_left(left: float, world: World) -> None:
    world.disks.leave_bytes(round(left))


def _state_full(world: World) -> None:
    """Its log may have room in itself for the next writes: that goes first."""
    database = sqlite3.connect(world.disks.state / "state.db", timeout=10)
    database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    database.close()
    world.disks.leave_bytes(0)


def _few_inodes(world: World) -> None:
    world.disks.leave_inodes(round(disks.FILES * _limits.inodes_low_percent / 100 / 2))


def _roomy(world: World) -> None:
    world.disks.restore()


def _expected_gone(world: World) -> None:
    world.disks.unmount_expected()


def _expected_back(world: World) -> None:
    world.disks.mount_expected()


def _docker_read_only(world: World) -> None:
    disks.cover_read_only(engine(world).data_root)


def _docker_writable(world: World) -> None:
    disks.uncover(engine(world).data_root)


def _docker_full(world: World) -> None:
    disks.fill(engine(world).data_root, LEFT_BYTES)


def _docker_roomy(world: World) -> None:
    disks.empty(engine(world).data_root / "ballast")


DISKS: tuple[Fault, ...] = (
    Fault(
        "disks",
        "an expected mount is gone",
        "mount_absent",
        _expected_gone,
        _expected_back,
        lambda world: str(world.disks.expected),
    ),
    Fault(
        "disks",
        "Docker's data are read-only",
        "mount_read_only",
        _docker_read_only,
        _docker_writable,
        lambda world: str(engine(world).data_root),
    ),
    Fault("disks", "Docker's disk is nearly full", "disk_low", _docker_full, _docker_roomy),
    Fault(
        "disks", "hardly any inodes are left", "inodes_low", _few_inodes, _roomy, lambda world: str(world.disks.state)
    ),
    Fault(
        "disks",
        "the state's disk is low",
        "state_disk_low",
        partial(_state_left, _limits.state_low_mb * MIB / 2),
        _roomy,
    ),
    Fault("disks", "the state's disk is full", "state_disk_full", _state_full, _roomy),
)

# Walls


def _flush(kind: str, world: World) -> None:
    """Somebody empties a chain of ours."""
    for table, chain in _chains(kind):
        _iptables("-t", table, "-F", chain)


def _remove(kind: str, world: World) -> None:
    """Somebody takes it out, and all that leads there."""
    for table, chain in _chains(kind):
        for line in _saved(table):
            if line.startswith("-A ") and f"-j {chain}" in line:
                _iptables("-t", table, *line.replace("-A ", "-D ", 1).split())
        _iptables("-t", table, "-F", chain)
        _iptables("-t", table, "-X", chain)


def _an_hour_passes(world: World) -> None:
    """Then something is changed beside the walls, at which they are looked at."""
    world.clocks.passes(HOUR_S + 60)
    rule = ("PREROUTING", "-s", "192.0.2.1", "-j", "RETURN")
    _iptables("-t", "mangle", "-A", *rule)
    _iptables("-t", "mangle", "-D", *rule)


def _chains(kind: str) -> list[tuple[str, str]]:
    """Table and name of the chains whose name begins so."""
    found = []
    for table in ("mangle", "nat", "filter"):
        names = (re.match(rf":({kind}-\S+) ", line) for line in _saved(table))
        found += [(table, name[1]) for name in names if name]
    assert found, f"no chain {kind}"
    return found


def _saved(table: str) -> list[str]:
    done = subprocess.run(["iptables-save", "-t", table], check=True, capture_output=True, text=True)
    return done.stdout.splitlines()


def _iptables(*words: str) -> None:
    subprocess.run(["iptables", "--wait", *words], check=True)


WALLS: tuple[Fault, ...] = (
    Fault(
        "walls",
        "somebody empties the chain around tenants",
        "walls_repaired",
        partial(_flush, "KAALIA-WALLS"),
        _an_hour_passes,
    ),
    Fault(
        "walls",
        "somebody removes the chain around tenants",
        "walls_repaired",
        partial(_remove, "KAALIA-WALLS"),
        _an_hour_passes,
    ),
    Fault(
        "walls",
        "somebody empties the chain of ports",
        "ports_repaired",
        partial(_flush, "KAALIA-PORTS"),
        _an_hour_passes,
    ),
)

# The rest


def _no_ntp(world: World) -> None:
    world.clocks.lose_discipline()


def _ntp(world: World) -> None:
    world.clocks.discipline()


def _reboot_waits(world: World) -> None:
    REBOOT.touch()


def _reboot_done(world: World) -> None:
    REBOOT.unlink()


def _devices(world: World) -> Path:
    return DEVICES / str(engine(world).inspect(f"C.{world.tenant.instance_id}")["Id"])


def _forbid_gpus(world: World) -> None:
    (_devices(world) / "devices.deny").write_text(GPU_DEVICES)


def _allow_gpus(world: World) -> None:
    (_devices(world) / "devices.allow").write_text(GPU_DEVICES)


MACHINE: tuple[Fault, ...] = (
    Fault("machine", "the clock is not synchronised", "clock_unsynchronised", _no_ntp, _ntp, HOST),
    Fault("machine", "an update waits for a reboot", "reboot_pending", _reboot_waits, _reboot_done, HOST),
    Fault(
        "container",
        "it may not use its GPUs any more (daemon-reload)",
        "gpu_lost_in_container",
        _forbid_gpus,
        _allow_gpus,
        lambda world: f"C.{world.tenant.instance_id}",
    ),
)
