"""As it is shipped, with no interval shortened, a fault of the NVIDIA driver is told within ten seconds and over soon
after its end, and a tenant keeps its process. All faults of `fault_driver` but those that are about minutes.

Prints a line for each, and the slowest.
"""

import time
from pathlib import Path
from tempfile import TemporaryDirectory

from kaalia.client import LocalClient
from kaalia.health.gpu_rules import book
from tests.proofs import fault_driver
from tests.proofs.disks import Disks
from tests.proofs.fault import APPEARS_S, Fault, World
from tests.proofs.report import Report, Say
from tests.proofs.tenant import Tenant
from tests.support.clocked import Clocks
from tests.support.kmsg import FakeKernelLog
from tests.support.scene import scene
from tests.support.waiting import wait_until

CLEARS_S = 30.0
"""A hang is waited for longer each time."""
CALM_S = 7.0
"""Between two faults: for some seconds after each change the driver is read more often than by default."""


def prove(seed: int, rounds: int, say: Say) -> Report:
    """Every fault once; seed has no say here. `rounds`: only so many."""
    report, rules = Report(say), book().rules
    faults = [one for one in fault_driver.FAULTS if one.code not in rules or not rules[one.code].lasts]
    with TemporaryDirectory(prefix="kaalia-") as folder:
        home = Path(folder)
        kernel = FakeKernelLog(Path("/"))
        with scene("8xRTX_4090", home, clocks=(clocks := Clocks(home / "clocks")).files) as (stack, image):
            stack.list_machine()
            world = World(stack, kernel, clocks, home / "gpus.txt", Disks(home, home), Tenant(stack, image), report)
            fault_driver.begin(world)
            wait_until("the GPUs to be well", lambda: _is_well(world), 120, 1)
            for fault in faults[:rounds] if rounds else faults:
                _one(world, fault)
            world.tenant.check(report, "everything")
        kernel.close()
    report.counts["faults"] = len(faults[:rounds] if rounds else faults)
    return report


def _one(world: World, fault: Fault) -> None:
    report, part, appeared_s, cleared_s = world.report, fault.part(world), 0.0, 0.0
    time.sleep(CALM_S)
    began = time.monotonic()
    fault.strike(world)
    try:
        told = f"{fault.name} to be told"
        appeared_s = world.wait(told, lambda: world.tells(fault.code, part), 3 * APPEARS_S, began)
    except TimeoutError:
        report.check(f"{fault.name} is told as {fault.code}", False, world.codes())
    report.worst("slowest_to_appear_s", appeared_s)
    report.check(f"{fault.name} appears within {APPEARS_S:g} s", appeared_s <= APPEARS_S, appeared_s)
    began = time.monotonic()
    fault.mend(world)
    try:
        over = f"{fault.name} to be over"
        cleared_s = world.wait(over, lambda: not world.tells(fault.code, part), CLEARS_S, began)
    except TimeoutError:
        report.check(f"{fault.name} is over by observation", False, world.codes())
    report.worst("slowest_to_clear_s", cleared_s)
    report.say(f"{fault.name}: {fault.code} after {appeared_s:.2f} s, over after {cleared_s:.2f} s")


def _is_well(world: World) -> bool:
    return all(one.source != "gpu" for one in LocalClient(world.stack.socket).health().open)
