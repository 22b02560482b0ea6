"""The marketplace is down for a minute: nothing stops, and what happened meanwhile arrives afterwards, once each.

While it is down a tenant's process ends by itself, a container is killed behind kaalia's back, and the daemon is
killed and started again. The marketplace logs each message that it applies: numbers that it applied twice, and
those it never saw, are violations.
"""

import random
import re
import time
from collections import Counter

from tests.proofs.report import Report, Say
from tests.proofs.tenant import Tenant
from tests.support.scene import scene
from tests.support.stack import Stack
from tests.support.waiting import wait_until

OUTAGE_S = 60.0
APPLIED = re.compile(r"machine \d+: message (\d+) applied: contract (\d+) is (\w+)")


def prove(seed: int, rounds: int, say: Say) -> Report:
    """`rounds` outages of a minute each (default 1)."""
    report = Report(say)
    chance = random.Random(seed)
    with scene(gpus="4xRTX_4090") as (stack, image):
        stack.list_machine()
        tenant = Tenant(stack, image)
        for _ in range(rounds or 1):
            outage(stack, tenant, image, chance, report)
        check_once_each(stack, report)
        say(f"every message arrived once: {report.counts['messages']} applied")
    return report


def outage(stack: Stack, tenant: Tenant, image: str, chance: random.Random, report: Report) -> None:
    """One outage, what happens in it, and what the marketplace must know after it."""
    ending = rent_sleeper(stack, image, seconds=15)
    killed = rent_sleeper(stack, image, seconds=9999)
    stack.kill_marketplace()
    report.counts["outages"] += 1
    report.say(f"marketplace killed; {OUTAGE_S:.0f} s without it")
    began = time.monotonic()
    stack.engine.request("POST", f"/containers/C.{killed}/kill")
    kill_at = chance.uniform(10, 40)
    restarted = False
    while (elapsed := time.monotonic() - began) < OUTAGE_S:
        tenant.check(report, "an outage of the marketplace")
        if elapsed > kill_at and not restarted:
            stack.kill_daemon()
            stack.start_daemon()
            report.counts["daemon_kills"] += 1
            restarted = True
        time.sleep(2)
    stack.start_marketplace()
    report.say("marketplace is back")
    back = time.monotonic()
    for instance_id in (ending, killed):
        stack.wait_status(instance_id, "exited", 90, 0.2)
        report.check("an end during the outage is known after it", True)
    report.worst("slowest_catching_up_s", time.monotonic() - back)
    row = stack.instance(tenant.instance_id)
    report.check("the tenant is still shown as running", bool(row and row["actual_status"] == "running"), row)
    for instance_id in (ending, killed):
        stack.renter_api.call("DELETE", f"/api/v0/instances/{instance_id}/", {})
    wait_until("the machine to have room again", lambda: stack.rentable_offer(2), 60)


def rent_sleeper(stack: Stack, image: str, seconds: int) -> int:
    """An instance whose process ends by itself."""
    offer = stack.rentable_offer(1) or 0
    instance_id = stack.rent(offer, image=image, disk=1, runtype="args", args=["sleep", str(seconds)])
    stack.wait_status(instance_id, "running")
    return instance_id


def check_once_each(stack: Stack, report: Report) -> None:
    """By the marketplace's log: no number twice, ends told once."""
    applied = APPLIED.findall(stack.log_text("marketplace"))
    numbers = Counter(int(number) for number, _, _ in applied)
    report.counts["messages"] = len(applied)
    report.check("messages were applied", bool(applied))
    report.check("no message was applied twice", max(numbers.values(), default=0) == 1, numbers.most_common(3))
    report.check("messages were applied in order", list(numbers) == sorted(numbers), list(numbers))
    ends = Counter(contract for _, contract, state in applied if state == "exited")
    report.check("each end was told once", set(ends.values()) == {1}, dict(ends))
