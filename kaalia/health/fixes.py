"""Which conditions can be mended without harm to anybody, and how: every fix is shown word for word before it is done.

None of them stops, restarts or reboots anything: what needs that stays a remedy for a person.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from kaalia.contracts.reach import in_short
from kaalia.errors import HostError, Problem
from kaalia.health.host_rules import rules
from kaalia.host import net, packages
from kaalia.host.kernel import read_text
from kaalia.host.mending import Command, Step, WriteFile
from kaalia.model.health import Condition
from kaalia.model.machine import PortRange

ENGINE_SETTINGS = "etc/docker/daemon.json"
PORTS_FILE = "etc/sysctl.d/99-z-kaalia-ports.conf"
"""As install.sh writes it."""
_UUID = re.compile(r"GPU-[0-9a-fA-F-]{8,40}")


@dataclass(frozen=True, slots=True)
class Machine:
    """`root` holds /etc and /proc; tests give one. `port_range`: of the configuration."""

    port_range: PortRange
    now: datetime
    root: Path = Path("/")


@dataclass(frozen=True, slots=True)
class Fix:
    """`does`: in words, what it changes and what it leaves alone."""

    code: str
    does: str
    steps: tuple[Step, ...]


@dataclass(frozen=True, slots=True)
class ByHand:
    """`why`: what keeps a fix that there is from being safe here; "": there is none."""

    problem: Problem
    why: str = ""


def plan(found: Iterable[Condition], machine: Machine) -> tuple[list[Fix], list[ByHand]]:
    """What can be mended, each thing once, and what is left to a person."""
    by_code: dict[str, list[Condition]] = {}
    for one in found:
        by_code.setdefault(one.problem.code, []).append(one)
    fixes: list[Fix] = []
    by_hand: list[ByHand] = []
    for code, conditions in by_code.items():
        try:
            if (make := _FIXES.get(code)) is not None:
                fixes.append(Fix(code, *make(machine, conditions)))
            else:
                by_hand += [ByHand(one.problem) for one in conditions]
        except HostError as error:
            by_hand += [ByHand(one.problem, error.problem.message) for one in conditions]
    return fixes, by_hand


_Made = tuple[str, tuple[Step, ...]]


def _live_restore(machine: Machine, _: list[Condition]) -> _Made:
    path = machine.root / ENGINE_SETTINGS
    path = path.resolve() if path.is_symlink() else path  # as tools put it there that keep such files elsewhere
    settings, before = _engine_settings(path)
    data_root = machine.root / str(settings.get("data-root", "/var/lib/docker")).lstrip("/")
    if (data_root / "swarm/docker-state.json").exists():
        raise _unsafe("this Docker is part of a swarm, which does not go together with live-restore")
    if any("--live-restore" in words for words in _engine_arguments(machine.root)):
        raise _unsafe("dockerd is started with --live-restore, and refuses the same setting in daemon.json")
    text = json.dumps({**settings, "live-restore": True}, indent=2) + "\n"
    kept = path.with_name(f"{path.name}.before-kaalia-{machine.now:%Y%m%dT%H%M%SZ}") if path.exists() else None
    steps = (WriteFile(path, text, kept, based_on=before), Command(("systemctl", "reload", "docker")))
    return "lets containers run on while dockerd is restarted; a reload stops nothing", steps


def _engine_settings(path: Path) -> tuple[Mapping[str, object], bytes]:
    """What it says, and its bytes."""
    if not path.exists():
        return {}, b""
    try:
        content = path.read_bytes()
        found = json.loads(content.strip() or b"{}")
    except OSError as error:
        raise _unsafe(f"{path} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise _unsafe(f"{path} is no JSON: {error}") from error
    if not isinstance(found, dict):
        raise _unsafe(f"{path} holds {type(found).__name__}, not an object")
    return found, content


def _engine_arguments(root: Path) -> Iterable[tuple[str, ...]]:
    """Of each dockerd that runs."""
    for folder in (root / "proc").glob("[0-9]*"):
        try:
            if read_text(folder / "comm") == "dockerd":
                yield tuple(word.partition("=")[0] for word in read_text(folder / "cmdline").split("\0"))
        except HostError:
            continue  # it ended meanwhile


def _hold(machine: Machine, _: list[Condition]) -> _Made:
    found = packages.upgrades(rules().limits.packages, machine.root)
    if found is None or not found.exposed:
        raise _unsafe("nothing is left to hold: look again in a minute")
    command = Command(("apt-mark", "hold", *found.exposed))
    return "keeps these packages from being updated, by anybody, until: apt-mark unhold", (command,)


def _synchronise(machine: Machine, _: list[Condition]) -> _Made:
    return "lets systemd keep the clock right by NTP", (Command(("timedatectl", "set-ntp", "true")),)


def _persist(machine: Machine, found: list[Condition]) -> _Made:
    service = machine.root / "lib/systemd/system/nvidia-persistenced.service"
    if service.exists() or (machine.root / "etc/systemd/system/nvidia-persistenced.service").exists():
        command = ("systemctl", "enable", "--now", "nvidia-persistenced.service")
        return "keeps the driver loaded, also after a reboot", (Command(command),)
    uuids = [one.scope for one in found if _UUID.fullmatch(one.scope)]
    if not uuids:
        raise _unsafe("the condition names no GPU")
    steps = tuple(Command(("nvidia-smi", "-i", uuid, "-pm", "1")) for uuid in uuids)
    return "keeps the driver loaded until the next reboot", steps


def _reserve(machine: Machine, _: list[Condition]) -> _Made:
    """The set of ports, and the file with what was reserved before, as install.sh and uninstall.sh keep them."""
    path, wanted = machine.root / PORTS_FILE, _ports(machine.port_range)
    now = frozenset(port for kept in net.reserved_ports(machine.root) for port in kept)
    before = now
    if path.exists():
        noted = read_text(path)
        before = _noted("before", noted)
        now = now - (_noted("range", noted) - before)
    every = _in_short(now | wanted)
    text = (
        "# Written by kaalia from ports.range: no outgoing connection takes a port of renters.\n"
        "# All that was reserved then is here too; after a change of either, run install.sh again.\n"
        f"# range: {machine.port_range.first}-{machine.port_range.last}\n"
        f"# before: {_in_short(before)}\n"
        f"net.ipv4.ip_local_reserved_ports = {every}\n"
    )
    command = Command(("sysctl", "-q", "-w", f"net.ipv4.ip_local_reserved_ports={every}"))
    return "keeps outgoing connections off the ports of renters; those that stand go on", (
        WriteFile(path, text),
        command,
    )


def _ports(kept: PortRange) -> frozenset[int]:
    return frozenset(range(kept.first, kept.last + 1))


def _noted(name: str, text: str) -> frozenset[int]:
    match = re.search(rf"^# {name}: (.*)$", text, re.MULTILINE)
    try:
        parts = [part.partition("-") for part in (match[1] if match else "").split(",") if part.strip()]
        return frozenset(port for first, _, last in parts for port in range(int(first), int(last or first) + 1))
    except ValueError as error:
        raise _unsafe(f"{PORTS_FILE} cannot be read: {error}") from error


def _in_short(ports: Iterable[int]) -> str:
    return in_short(ports).replace(", ", ",")


def _unsafe(why: str) -> HostError:
    return HostError("fix_unsafe", f"cannot mend it safely: {why}")


_FIXES: Mapping[str, Callable[[Machine, list[Condition]], _Made]] = {
    "live_restore_off": _live_restore,
    "unattended_upgrades": _hold,
    "clock_unsynchronised": _synchronise,
    "gpu_persistence_off": _persist,
    "ports_not_reserved": _reserve,
}
FIXED = frozenset(_FIXES)
