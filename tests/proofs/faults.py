"""Whatever breaks on a machine is told within ten seconds by a condition, and is over when it is seen to be over; the
tenant beside it keeps its process and its port; the loop is never held for 50 ms, and memory stays where it was.

Faults of the kernel's log, the driver, Docker, disks, walls and the machine, one after the other while it is rented.
Prints a line for each, and at the end the table that stands in docs/measured.md.
"""

import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil

from kaalia.client import LocalClient
from kaalia.errors import KaaliaError
from tests.proofs import fault_docker, fault_driver, fault_host, fault_kernel
from tests.proofs.disks import Disks, disks
from tests.proofs.fault import Fault, World
from tests.proofs.report import Report, Say
from tests.proofs.tenant import Tenant
from tests.support.clocked import LOOP_WATCH, Clocks
from tests.support.fake_nvidia.build import Hook
from tests.support.kmsg import FakeKernelLog
from tests.support.loop_watch import LONG_S, read
from tests.support.scene import scene
from tests.support.stack import Stack
from tests.support.waiting import wait_until

CLEARS_S = 15.0
GROWTH_MB = 12.0
"""Of the daemon's own memory, from before the first fault to after the last and the floods: about a seventh."""
CONFIG: dict[str, Any] = {
    "intervals": {"report_s": 0.5, "resync_s": 5, "heartbeat_s": 5, "health_s": 1},
    "nvml": {"deadline_s": 2},
}


@dataclass(frozen=True)
class Row:
    fault: Fault
    code: str
    appeared_s: float
    cleared_s: float
    is_untouched: bool
    """The tenant has the process that it had before, by Docker's own word."""


def prove(seed: int, rounds: int, say: Say) -> Report:
    """Every fault once; seed has no say here. `rounds`: only so many of each group."""
    report = Report(say)
    with TemporaryDirectory(prefix="kaalia-") as folder:
        home = Path(folder)
        clocks, lines = Clocks(home / "clocks"), home / "loop.jsonl"
        kernel = FakeKernelLog(Path("/"))
        with disks(home) as own, _stage(home, clocks, lines, own) as (stack, image):
            stack.list_machine()
            Hook(home / "hook", home / "hook" / "hook.log", home / "hook" / "hook.control").make_nodes()
            world = World(stack, kernel, clocks, home / "gpus.txt", own, Tenant(stack, image), report)
            fault_driver.begin(world)
            clocks.discipline()
            wait_until("the first conditions to settle", lambda: _settled(world), 30, 0.5)
            before_mb = _own_mb(stack.daemon.pid if stack.daemon else 0)
            rows = [row for group in _groups(rounds) for row in _run(world, group)]
            fault_kernel.floods(world)
            fault_kernel.hostile(world)
            report.worst("memory_growth_mb", _own_mb(stack.daemon.pid if stack.daemon else 0) - before_mb)
            rows += fault_kernel.reboot(world, Row)
            _judge(world, lines)
            world.tenant.check(report, "everything")
        kernel.close()
    report.counts["faults"] = len(rows)
    for line in table(rows):
        print(line)
    return report


def _stage(home: Path, clocks: Clocks, lines: Path, own: Disks) -> AbstractContextManager[tuple[Stack, str]]:
    config = CONFIG | {"disk": {"mount": str(own.expected)}}
    env = {LOOP_WATCH: str(lines)}
    return scene("8xRTX_4090", home, clocks=clocks.files, extra_config=config, extra_env=env)


def table(rows: Iterable[Row]) -> Iterable[str]:
    """As in docs/measured.md."""
    yield "| Source | Fault | Condition | Appears, s | Clears, s | Tenant |"
    yield "|---|---|---|---|---|---|"
    for row in rows:
        tenant = "untouched" if row.is_untouched else "touched"
        times = f"{row.appeared_s:.2f} | {row.cleared_s:.2f}"
        yield f"| {row.fault.source} | {row.fault.name} | `{row.code}` | {times} | {tenant} |"


def _groups(rounds: int) -> Iterable[tuple[Fault, ...]]:
    kernel = (fault_kernel.xids(), fault_kernel.passing())
    rest = (fault_driver.FAULTS, fault_docker.FAULTS, fault_host.DISKS, fault_host.WALLS, fault_host.MACHINE)
    for group in (*kernel, *rest):
        yield group[:rounds] if rounds else group


def _run(world: World, group: Iterable[Fault]) -> Iterable[Row]:
    for fault in group:
        row = _one(world, fault)
        if row is not None:
            yield row
    world.tenant.check(world.report, f"all of {fault.source}")


def _one(world: World, fault: Fault) -> Row | None:
    report, part = world.report, fault.part(world)
    began = time.monotonic()
    fault.strike(world)
    try:
        appeared_s = world.wait(
            f"{fault.name} to be told", lambda: world.tells(fault.code, part), fault.appears_s, began
        )
    except TimeoutError:
        report.check(f"{fault.name} is told as {fault.code}", False, world.codes())
        fault.mend(world)
        return None
    report.worst("slowest_to_appear_s", appeared_s)
    limit_s = fault.appears_s
    report.check(f"{fault.name} appears within {limit_s:g} s", appeared_s <= limit_s, appeared_s)
    began = time.monotonic()
    fault.mend(world)
    try:
        cleared_s = world.wait(f"{fault.name} to be over", lambda: not world.tells(fault.code, part), CLEARS_S, began)
    except TimeoutError:
        report.check(f"{fault.name} is over by observation", False, world.codes())
        return None
    report.worst("slowest_to_clear_s", cleared_s)
    seen = world.tenant.look()
    report.check(f"the tenant keeps its process through {fault.name}", seen == world.tenant.identity, seen)
    report.say(f"{fault.source}: {fault.name}: {fault.code} after {appeared_s:.2f} s, over after {cleared_s:.2f} s")
    return Row(fault, fault.code, appeared_s, cleared_s, seen == world.tenant.identity)


def _settled(world: World) -> bool:
    try:
        return LocalClient(world.stack.socket).report().gpus != ()
    except KaaliaError:
        return False


def _own_mb(pid: int) -> float:
    return psutil.Process(pid).memory_full_info().uss / 1e6


def _judge(world: World, lines: Path) -> None:
    report, blocks = world.report, read(lines)
    for name in ("wall_s", "own_s", "cpu_s"):
        report.worst(
            f"longest_callback_{name[:-2]}_ms", max((getattr(one, name) for one in blocks), default=0.0) * 1000
        )
    for one in blocks:
        world.report.say(f"the loop was held: {one}")
        report.check(f"the loop is never held for {LONG_S * 1000:.0f} ms", one.own_s < LONG_S, one)
    grown = report.figures["memory_growth_mb"]
    report.check("memory stays where it was", grown <= GROWTH_MB, grown)


Maker = Callable[[Fault, str, float, float, bool], Row]
