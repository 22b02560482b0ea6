"""kill -9 of the daemon at many moments, and of dockerd with live-restore: tenants do not notice.

Each daemon kill falls at a random moment of other work (a launch, a stop, a destroy, idleness). After each
restart the tenant has the same process and start time, its port answers, and the daemon's own word and
`show instance` say running within two seconds.
"""

import random
import time

from tests.proofs.report import Report, Say
from tests.proofs.tenant import Tenant
from tests.support.docker_engine import PrivateDocker
from tests.support.scene import scene
from tests.support.stack import Stack
from tests.support.waiting import wait_until

DAEMON_KILLS = 40
DOCKERD_KILLS = 8
RUNNING_AGAIN_S = 2.0


def prove(seed: int, rounds: int, say: Say) -> Report:
    report = Report(say)
    chance = random.Random(seed)
    with scene(gpus="2xRTX_4090") as (stack, image):
        stack.list_machine()
        tenant = Tenant(stack, image)
        for number in range(rounds or DAEMON_KILLS):
            work = chance.choice(("idle", "launch", "stop", "destroy"))
            kill_during(stack, tenant, image, work, chance, report)
            say(f"daemon kill {number + 1} during {work}: tenant kept its process, {len(report.violations)} violations")
        for number in range(min(rounds or DOCKERD_KILLS, DOCKERD_KILLS)):
            kill_dockerd(stack, tenant, report)
            say(f"dockerd kill {number + 1}: {len(report.violations)} violations")
    return report


def kill_during(stack: Stack, tenant: Tenant, image: str, work: str, chance: random.Random, report: Report) -> None:
    """Start some other work, kill the daemon a random moment later, restart it, check, clean up."""
    other = start_work(stack, image, work)
    time.sleep(chance.uniform(0, 0.6))
    stack.kill_daemon()
    report.counts["daemon_kills"] += 1
    restarted = time.monotonic()
    stack.start_daemon()
    wait_until("the daemon to say running", lambda: stack.local_state(tenant.instance_id) == "running", 30, 0.01)
    took = time.monotonic() - restarted
    report.worst("slowest_running_again_s", took)
    report.check("the daemon says running within 2 s", took <= RUNNING_AGAIN_S, f"{took:.2f} s during {work}")
    row = stack.instance(tenant.instance_id)
    report.check("show instance says running", bool(row and row["actual_status"] == "running"), row)
    tenant.check(report, f"a daemon kill during {work}")
    if other:
        settle(stack, other, work, report)


def start_work(stack: Stack, image: str, work: str) -> int:
    """Begin what the kill will interrupt; returns the other instance's id, 0 when idle."""
    if work == "idle":
        return 0
    other = stack.rent(stack.rentable_offer(1) or 0, image=image, disk=1, runtype="args", args=["sleep", "9999"])
    if work != "launch":
        stack.wait_status(other, "running")
    if work == "stop":
        stack.renter_api.call("PUT", f"/api/v0/instances/{other}/", {"state": "stopped"})
    if work == "destroy":
        stack.renter_api.call("DELETE", f"/api/v0/instances/{other}/", {})
    return other


def settle(stack: Stack, other: int, work: str, report: Report) -> None:
    """The interrupted work comes to its end by itself; then nothing of it is left."""
    wanted = {"launch": "running", "stop": "stopped"}.get(work)
    if wanted:
        try:
            stack.wait_status(other, wanted, 30)
            report.check(f"an interrupted {work} completes", True)
        except TimeoutError as error:
            report.check(f"an interrupted {work} completes", False, str(error)[:300])
        stack.renter_api.call("DELETE", f"/api/v0/instances/{other}/", {})
    name = f"C.{other}"
    try:
        wait_until(f"{name} to be removed", lambda: not stack.engine.has_container(name), 30)
        report.check("a destroyed instance leaves no container", True)
    except TimeoutError as error:
        report.check("a destroyed instance leaves no container", False, str(error))
    wait_until("its GPU to be on offer again", lambda: stack.rentable_offer(1), 60)


def kill_dockerd(stack: Stack, tenant: Tenant, report: Report) -> None:
    """SIGKILL dockerd, start it again; live-restore keeps the tenant, kaalia finds it again."""
    engine = stack.engine
    assert isinstance(engine, PrivateDocker)
    engine.kill()
    report.counts["dockerd_kills"] += 1
    time.sleep(0.5)
    row = stack.instance(tenant.instance_id)
    seen = row["actual_status"] if row else None
    report.check(
        "show instance does not say stopped while dockerd is down", seen not in (None, "stopped", "exited"), seen
    )
    restarted = time.monotonic()
    engine.start()
    stack.wait_status(tenant.instance_id, "running", 30)
    report.worst("slowest_after_dockerd_s", time.monotonic() - restarted)
    wait_until("the daemon to see dockerd again", lambda: stack.local_state(tenant.instance_id) == "running", 60)
    tenant.check(report, "a dockerd kill")
