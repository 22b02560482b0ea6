"""Leases against lying clocks: jumps, suspends, reboots with a right and a wrong hardware clock, mostly offline.

Daemon and marketplace are real processes with clocks that the proof sets (`tests.support.clocked`), so a lease of
hours ends within seconds. The marketplace has the true time. In a reboot the tenant's container keeps running, which a
real one would not allow: so it shows whether kaalia would have stopped it.
"""

import random
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

from kaalia.client import LocalClient
from kaalia.errors import UnreachableError
from tests.proofs.report import Report, Say
from tests.support.clocked import Clocks
from tests.support.scene import scene
from tests.support.stack import Stack
from tests.support.waiting import wait_until

MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0
REACTION_S = 15.0
"""Real seconds from the end of a lease to the order to stop, the slowest notice of a suspend (10 s) included."""
CALM_S = 2.5
"""Several turns of the reconciler, and a look of the timekeeper after each restart."""
STORIES = 6
CONFIG = {"intervals": {"heartbeat_s": 1, "resync_s": 1}}


class World:
    """The stack, its clocks, and one tenant at a time."""

    def __init__(self, stack: Stack, image: str, clocks: Clocks, report: Report) -> None:
        self.stack, self.image, self.clocks, self.report = stack, image, clocks, report
        self.instance_id = 0
        self.end_at = clocks.now()
        self.started_at = ""
        self.is_online = True

    def lease(self, hours: float) -> None:
        """A tenant whose contract ends in so many hours of true time."""
        self.end_at = self.list_until(hours)
        offer = wait_until("an offer", self.stack.rentable_offer, 60)
        body = {"image": self.image, "disk": 1, "runtype": "args", "args": ["sleep", "99999"]}
        self.instance_id = self.stack.rent(offer, **body)
        self.stack.wait_status(self.instance_id, "running")
        self.started_at = self.start_time()
        self.report.counts["leases"] += 1

    def list_until(self, hours: float) -> datetime:
        """The machine's offer ends then; contracts that end earlier are extended."""
        end_at = self.clocks.now() + timedelta(hours=hours)
        terms = {"machine": self.stack.machine_id, "price_gpu": 0.4, "end_date": end_at.timestamp()}
        code, body = self.stack.host_api.call("PUT", "/api/v0/machines/create_asks/", terms)
        self.report.check("the owner lists with an end date", code == 200, body)
        return end_at

    def offline(self) -> None:
        self.stack.kill_marketplace()
        self.is_online = False

    def online(self) -> None:
        if not self.is_online:
            self.stack.start_marketplace()
            self.is_online = True

    def reboot(self, off_s: float, error_s: float = 0.0) -> None:
        self.stack.kill_daemon()
        self.clocks.reboot(off_s, error_s)
        self.restart()
        self.report.counts["reboots"] += 1

    def restart(self) -> None:
        self.stack.kill_daemon()
        self.stack.start_daemon()
        wait_until("the daemon to answer", lambda: self.problems() is not None, 30)

    def problems(self) -> set[str] | None:
        try:
            return {problem.code for problem in LocalClient(self.stack.socket).status().problems}
        except UnreachableError:
            return None

    def start_time(self) -> str:
        return str(self.stack.engine.inspect(f"C.{self.instance_id}")["State"]["StartedAt"])

    def is_running(self) -> bool:
        return bool(self.stack.engine.inspect(f"C.{self.instance_id}")["State"]["Running"])

    def stays(self, after: str) -> None:
        """The tenant runs, and has never been stopped."""
        time.sleep(CALM_S)
        self.report.check(f"the tenant runs on after {after}", self.is_running(), self.end_at)
        self.report.check(f"the tenant was not restarted by {after}", self.start_time() == self.started_at)

    def ends(self, after: str, within_s: float = REACTION_S) -> None:
        began = time.monotonic()
        while self.is_running() and time.monotonic() - began < within_s:
            time.sleep(0.1)
        self.report.check(f"the lease ends by {after}", not self.is_running(), self.end_at)
        self.report.worst("slowest_end_s", time.monotonic() - began)

    def says(self, code: str, wanted: bool = True) -> None:
        def look() -> bool:
            return (code in (self.problems() or set())) is wanted

        try:
            wait_until(f"the status to be {code}={wanted}", look, 60)
            self.report.check(f"status: {code}={wanted}", True)
        except TimeoutError as error:
            self.report.check(f"status: {code}={wanted}", False, str(error))

    def destroy(self) -> None:
        """The clocks are set right first, as a host would."""
        self.clocks.discipline()
        self.online()
        self.stack.renter_api.call("DELETE", f"/api/v0/instances/{self.instance_id}/", {})
        name = f"C.{self.instance_id}"
        wait_until("the container to go", lambda: not self.stack.engine.has_container(name), 90)


def jump_forward(world: World) -> None:
    """The wall clock jumps ahead of the end: nothing ends, the machine stays online; the true end ends it."""
    world.lease(2)
    world.clocks.jump(30 * DAY)
    world.stays("a jump ahead")
    world.says("clock_jumped")
    world.clocks.passes(2 * HOUR)
    world.ends("the true end, the wall clock being ahead")


def jump_back_offline(world: World) -> None:
    """The wall clock jumps back for good, nobody corrects it: the lease is not prolonged."""
    world.lease(2)
    world.offline()
    world.clocks.jump(-30 * DAY)
    world.clocks.passes(HOUR)
    world.stays("a jump back")
    world.restart()
    world.stays("a restart with a wrong clock")
    world.clocks.passes(HOUR)
    world.ends("the true end, the wall clock being behind")


def suspend_offline(world: World) -> None:
    """Suspended time counts."""
    world.lease(2)
    world.offline()
    world.clocks.passes(1.9 * HOUR)
    world.stays("a suspend that ends before the lease")
    world.clocks.passes(0.1 * HOUR)
    world.ends("a suspend over the end")


def reboot_behind(world: World) -> None:
    """A dead hardware clock: in doubt, the tenant runs on; the marketplace's time ends the doubt."""
    world.lease(2)
    world.clocks.passes(HOUR / 2)
    time.sleep(CALM_S)
    world.offline()
    world.reboot(10 * MINUTE, -9000 * DAY)
    world.stays("a reboot with a clock that went back")
    world.says("time_uncertain")
    world.online()
    world.says("time_uncertain", False)
    world.stays("a doubt that the marketplace ended")
    world.clocks.passes(1.5 * HOUR)
    world.ends("the true end after that")


def reboot_ahead(world: World) -> None:
    """A hardware clock in local time: what it says is over runs on until somebody tells the time."""
    world.lease(1)
    world.offline()
    world.reboot(3 * MINUTE, 2 * HOUR)
    world.stays("a reboot with a clock that is ahead")
    world.says("time_uncertain")
    world.clocks.discipline()
    world.says("time_uncertain", False)
    world.stays("NTP")
    world.clocks.passes(HOUR)
    world.ends("the true end after that")


def off_for_long(world: World) -> None:
    """Off until after the end, offline: the right hardware clock is believed after the slack."""
    world.lease(1)
    world.offline()
    world.reboot(3 * HOUR)
    world.stays("a long time off, as long as the clock is unconfirmed")
    world.clocks.passes(10 * MINUTE)
    world.ends("an unchallenged clock after ten minutes")


def extension(world: World) -> None:
    """An expired instance cannot be started; a later end brings it back by itself, a wrong wall clock or not."""
    world.lease(1)
    world.clocks.jump(-5 * HOUR)
    world.clocks.passes(HOUR)
    world.ends("its end")
    path = f"/api/v0/instances/{world.instance_id}/"
    code, body = world.stack.renter_api.call("PUT", path, {"state": "running"})
    refused = code == 400 and body["error"] == "contract_expired"
    world.report.check("an expired instance cannot be started", refused, (code, body))
    world.list_until(3)
    try:
        wait_until("the extended tenant", world.is_running, 60)
        world.report.check("a later end brings it back", True)
    except TimeoutError as error:
        world.report.check("a later end brings it back", False, str(error))


SCENES: tuple[Callable[[World], None], ...] = (
    jump_forward,
    jump_back_offline,
    suspend_offline,
    reboot_behind,
    reboot_ahead,
    off_for_long,
    extension,
)


def story(world: World, chance: random.Random) -> None:
    """Random jumps, suspends, kills, outages and reboots with a right clock, until the lease is over."""
    world.lease(hours := chance.uniform(2, 50))
    steps = 0
    while world.clocks.now() < world.end_at - timedelta(minutes=5):
        steps += 1
        left_s = (world.end_at - world.clocks.now()).total_seconds()
        what = chance.choice(("jump", "suspend", "restart", "outage", "reboot", "NTP"))
        if what == "jump":
            world.clocks.jump(chance.uniform(-40, 40) * DAY)
        elif what == "suspend" or steps > 8:
            world.clocks.passes(min(left_s, chance.uniform(0.1, 0.7) * hours * HOUR) if steps <= 8 else left_s)
        elif what == "restart":
            world.restart()
        elif what == "outage":
            world.online() if not world.is_online else world.offline()
        elif what == "reboot":
            world.reboot(min(left_s / 2, chance.uniform(0, 2 * HOUR)))
        else:
            world.clocks.discipline()
        world.report.counts[f"random_{what}"] += 1
        if world.clocks.now() < world.end_at - timedelta(minutes=5):
            world.stays(f"a random {what}")
    world.clocks.passes(max(0.0, (world.end_at - world.clocks.now()).total_seconds()) + 11 * MINUTE)
    world.ends("its end, after a random story")


def prove(seed: int, rounds: int, say: Say) -> Report:
    """Every scene once, then `rounds` random stories (default 6)."""
    report, chance = Report(say), random.Random(seed)
    with TemporaryDirectory(prefix="kaalia-clock-") as folder:
        clocks = Clocks(Path(folder))
        with scene(gpus="1xRTX_4090", clocks=clocks.files, extra_config=CONFIG) as (stack, image):
            world = World(stack, image, clocks, report)
            for play in SCENES:
                play(world)
                world.destroy()
                report.counts["scenes"] += 1
                say(f"{play.__name__}: {len(report.violations)} violations")
            for number in range(rounds or STORIES):
                story(world, chance)
                world.destroy()
                report.counts["stories"] += 1
                say(f"story {number + 1}: {len(report.violations)} violations")
    return report
