"""Crashes at every place: kaalia's own crash points, lost answers of every Docker verb, kill -9 at random moments.

The work that passes a point of `reconciler/crash.POINTS` is wished, the daemon dies there, is started, may die there
again, and is started once more. A lost answer: dockerd did it, nobody hears of it, and the daemon runs on.
After each case I1, I2 and I3 of docs/architecture.md are checked by `witness`.
"""

import random
import signal
import tempfile
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

from kaalia.reconciler import crash
from tests.proofs.report import Report, Say
from tests.proofs.tenant import Tenant
from tests.proofs.witness import Witness
from tests.support.docker_engine import PrivateDocker
from tests.support.docker_proxy import DockerProxy, Fault
from tests.support.images import rootfs
from tests.support.registry import Registry, a_registry
from tests.support.scene import scene
from tests.support.stack import Stack
from tests.support.waiting import wait_until

GPUS = 4
RANDOM_KILLS = 200
SETTLE_EVERY = 10
"""Random kills between two checks that all interrupted work completes."""
SETTLE_S = 60
LAUNCH, PULL, SSH = "launch", "launch of a new image", "launch with ssh"
START, STOP, REBOOT, RECYCLE, DESTROY = "start", "stop", "reboot", "recycle", "destroy"

POINTS = {
    LAUNCH: ("create.intended", "create.done", "start.done", "launch.recorded"),
    PULL: ("pull.intended", "pull.done", "create.intended"),
    START: ("start.intended", "start.done", "launch.recorded"),
    STOP: ("stop.intended", "stop.done", "stop.recorded"),
    REBOOT: ("stop.intended", "stop.done", "start.done", "launch.recorded"),
    RECYCLE: (
        *("renew.intended", "pull.done", "discard.intended", "discard.done", "discard.recorded"),
        *("create.intended", "create.done", "start.done", "launch.recorded"),
    ),
    DESTROY: ("remove.intended", "remove.done", "remove.recorded"),
}
"""Which points each work of a renter passes."""

WAIT = "trap 'exit 0' TERM; while :; do sleep 1 & wait $!; done"
NAME = r"/containers/[^/]+"
VERBS = (
    (LAUNCH, "POST", "/networks/create"),
    (LAUNCH, "POST", "/containers/[^/]+/rename"),
    (LAUNCH, "POST", "/containers/create"),
    (SSH, "PUT", f"{NAME}/archive"),
    (LAUNCH, "POST", f"{NAME}/start"),
    (LAUNCH, "GET", f"{NAME}/json"),
    (LAUNCH, "GET", r"/images/.+/json"),
    (PULL, "POST", "/images/create"),
    (START, "POST", f"{NAME}/start"),
    (STOP, "POST", f"{NAME}/stop"),
    (STOP, "GET", f"{NAME}/json"),
    (REBOOT, "POST", f"{NAME}/stop"),
    (REBOOT, "POST", f"{NAME}/start"),
    (RECYCLE, "POST", "/images/create"),
    (RECYCLE, "POST", f"{NAME}/stop"),
    (RECYCLE, "DELETE", NAME),
    (RECYCLE, "POST", "/containers/create"),
    (RECYCLE, "POST", f"{NAME}/start"),
    (DESTROY, "DELETE", NAME),
    (DESTROY, "POST", "/containers/[^/]+/rename"),
    (DESTROY, "DELETE", r"/networks/[^/]+"),
    (DESTROY, "GET", "/networks"),
)
"""Every verb that kaalia says to Docker, and a work that needs it.

The first comes right after a start of the daemon: none for which a network must stand ready.
"""


@dataclass
class World:
    """One machine, its renters' wishes, and the two that are never touched."""

    stack: Stack
    image: str
    registry: Registry
    report: Report
    witness: Witness
    wished: dict[int, str] = field(default_factory=dict)
    reboots: dict[int, str] = field(default_factory=dict)
    """Start times before a reboot that was asked for."""
    recycles: dict[int, str] = field(default_factory=dict)
    """Ids of the containers before a recycle that was asked for."""
    pulled: set[int] = field(default_factory=set)
    """Those whose image is in the registry: only they can be recycled."""
    pulls: int = 0

    # What renters do

    def begin(self, work: str) -> int:
        """Ask for the work, on an instance that is ready for it; the marketplace has agreed when this returns."""
        if work in (LAUNCH, PULL, SSH):
            number = self.rent(self.new_image() if work == PULL else self.image, has_ssh=work == SSH)
            self.pulled |= {number} if work == PULL else set()
            return number
        number = self._ready(work)
        self.witness.release(number)
        self.ask(work, number)
        return number

    def ask(self, work: str, number: int) -> None:
        api = self.stack.renter_api
        if work == DESTROY:
            api.call("DELETE", f"/api/v0/instances/{number}/", {})
            del self.wished[number]
        elif work == REBOOT:
            found = self.witness.containers().get(number)
            if found:  # what was never made is only launched
                self.reboots[number] = found["State"]["StartedAt"]
            api.call("PUT", f"/api/v0/instances/reboot/{number}/", {})
        elif work == RECYCLE:
            self.recycles[number] = self.witness.containers()[number]["Id"]
            api.call("PUT", f"/api/v0/instances/recycle/{number}/", {})
        else:
            self.wished[number] = "running" if work == START else "stopped"
            api.call("PUT", f"/api/v0/instances/{number}/", {"state": self.wished[number]})

    def is_rebooting(self, number: int) -> bool:
        """So the marketplace says: an earlier request is not known to be done."""
        row = self.stack.instance(number)
        return row is not None and row["actual_status"] == "rebooting"

    def rent(self, image: str, has_ssh: bool = False) -> int:
        offer = wait_until("an offer", lambda: self.stack.rentable_offer(1), 30)
        mode = {"runtype": "ssh", "onstart": "true"} if has_ssh else {"runtype": "args", "args": ["sh", "-c", WAIT]}
        number = self.stack.rent(offer, image=image, disk=1, env={"-p 9000:9000": "1"}, **mode)
        self.wished[number] = "running"
        return number

    def new_image(self) -> str:
        """A reference that this machine has never pulled."""
        self.pulls += 1
        env = ["PATH=/bin:/usr/bin", f"NUMBER={self.pulls}"]
        return self.registry.add("matrix", str(self.pulls), [LAYER], {"Cmd": ["sh"], "Env": env})

    def _ready(self, work: str) -> int:
        """An instance of the right state, made if there is none."""
        wanted = "stopped" if work == START else "running"
        found = [number for number, state in self.wished.items() if state == wanted and number not in self.keepers]
        if work == RECYCLE:
            found = [number for number in found if number in self.pulled]
        if found:
            wait_until("earlier reboots to be told", lambda: not self.is_rebooting(found[0]), SETTLE_S)
            return found[0]
        if work == RECYCLE:
            number = self.begin(PULL)
        else:
            number = self.rent(self.image) if wanted == "running" else self._ready(STOP)
        if wanted == "stopped":
            self.witness.release(number)
            self.ask(STOP, number)
        self.settle("making it ready")
        return number

    @property
    def keepers(self) -> set[int]:
        """The tenants whom no renter's wish touches: the first that were rented."""
        return set(sorted(self.wished)[:2])

    # What is checked

    def settle(self, after: str) -> None:
        """I3: all that is wished comes true, and nothing else is left; then what runs is watched."""
        try:
            wait_until("everything to be as wished", lambda: not self.unsettled(), SETTLE_S, 0.1)
            self.report.check(f"I3 interrupted work completes after {after}", True)
        except TimeoutError:
            words = self.unsettled()
            self.report.check(f"I3 interrupted work completes after {after}", False, (words, self.daemon_log()))
        running = {number for number, state in self.wished.items() if state == "running"}
        running &= set(self.witness.containers()) - self.witness.waiting(self.wished)
        self.report.counts["waited_for_a_gpu"] += len(self.witness.waiting(self.wished))
        self.witness.watch(*running)

    def unsettled(self) -> list[str]:
        """What has not come true yet, in words."""
        containers, words = self.witness.containers(), self.witness.unsettled(self.wished)
        # What waits for the GPU that is built into it starts anew when it gets it, and is looked at then.
        waiting = self.witness.waiting(self.wished)
        for number, before in list(self.reboots.items()):
            is_moot = self.wished.get(number) != "running"
            if is_moot or (number in containers and containers[number]["State"]["StartedAt"] != before):
                del self.reboots[number]
            elif number not in waiting:
                words.append(f"C.{number} was not rebooted")
        for number, before in list(self.recycles.items()):
            is_moot = self.wished.get(number) != "running"
            if is_moot or (number in containers and containers[number]["Id"] != before):
                del self.recycles[number]
            elif number not in waiting:
                words.append(f"C.{number} was not recycled")
        return words

    def check_dead(self, after: str) -> None:
        """I1 and I2 right after the daemon's death."""
        self.witness.check_untouched(after)
        self.witness.check_owners(after)

    def daemon_log(self) -> str:
        return self.stack.log_text("daemon")[-1500:]

    def make_room(self) -> None:
        """All but the tenants are destroyed."""
        for number in set(self.wished) - self.keepers:
            self.witness.release(number)
            self.ask(DESTROY, number)


LAYER = rootfs()


def prove(seed: int, rounds: int, say: Say) -> Report:
    """`rounds` random kills (default 200), after all crash points and all verbs."""
    report = Report(say)
    assert {point for points in POINTS.values() for point in points} == set(crash.POINTS)
    with tempfile.TemporaryDirectory(prefix="kaalia-") as folder:
        home = Path(folder)
        with scene(f"{GPUS}xRTX_4090", home) as (stack, image), a_registry() as registry:
            stack.list_machine()
            world = World(stack, image, registry, report, Witness(stack, report))
            tenants = [Tenant(stack, image), Tenant(stack, image)]
            world.wished |= dict.fromkeys((one.instance_id for one in tenants), "running")
            world.settle("the beginning")
            crash_points(world)
            lose_answers(world, home)
            random_kills(world, random.Random(seed), rounds or RANDOM_KILLS)
            for tenant in tenants:
                tenant.check(report, "all of it")
    return report


# Every crash point


def crash_points(world: World) -> None:
    for work, points in POINTS.items():
        for point in points:
            if len(world.wished) >= GPUS:
                world.make_room()
                world.settle("making room")
            crash_at(world, work, point)
            world.report.say(f"{work}: killed at {point}, {len(world.report.violations)} violations")


def crash_at(world: World, work: str, point: str) -> None:
    """Die there, start, perhaps die there again, start, complete."""
    stack, after = world.stack, f"a crash at {point} of a {work}"
    if work in (START, STOP, REBOOT, RECYCLE, DESTROY):
        world._ready(work)
    stack.kill_daemon()
    world.begin(work)
    for attempt in (1, 2):
        stack.start_daemon(**{crash.VARIABLE: point})
        if not died(world, must=attempt == 1):
            stack.kill_daemon()  # it would die at the point of this work in the next one
            stack.start_daemon()
            break
        world.report.counts["point_kills"] += 1
        world.check_dead(after)
        if attempt == 2:
            stack.start_daemon()
    world.report.counts["points"] += 1
    world.settle(after)


def died(world: World, must: bool) -> bool:
    """The daemon ended by SIGKILL of itself; the second time it may as well complete what is wished."""
    process = world.stack.daemon
    assert process is not None

    def look() -> str | None:
        if process.poll() is not None:
            return "died"
        return None if must or world.unsettled() else "settled"

    try:
        ended = wait_until("the daemon to die", look, 30, 0.05)
    except TimeoutError:
        ended = "lives"
    if must:
        world.report.check("the daemon reaches the crash point", ended == "died", world.daemon_log())
    if ended == "died":
        world.report.check("it died by SIGKILL", process.returncode == -signal.SIGKILL, process.returncode)
    return ended == "died"


# Every verb's lost answer


def lose_answers(world: World, folder: Path) -> None:
    stack = world.stack
    assert isinstance(stack.engine, PrivateDocker)
    direct = stack.options
    with DockerProxy(folder / "proxy.sock", stack.engine) as proxy:
        use(stack, proxy.docker_host)
        for work, method, pattern in VERBS:
            lose_answer(world, proxy, work, Fault("lost", method, pattern))
            world.report.say(f"{work}: answer of {method} {pattern} lost, {len(world.report.violations)} violations")
        stack.kill_daemon()
    stack.options = direct
    stack.write_config()
    stack.start_daemon()
    world.settle("the proxy is gone")


def use(stack: Stack, docker_host: str) -> None:
    """The daemon speaks to another socket from now on."""
    stack.options = replace(stack.options, extra_config={"docker": {"host": docker_host}})
    stack.write_config()
    stack.kill_daemon()
    stack.start_daemon()


def lose_answer(world: World, proxy: DockerProxy, work: str, fault: Fault) -> None:
    after = f"the lost answer of {fault.method} {fault.pattern} in a {work}"
    if len(world.wished) >= GPUS:
        world.make_room()
        world.settle("making room")
    if work not in (LAUNCH, PULL, SSH):
        world._ready(work)
    proxy.clear()
    proxy.add(fault)
    world.begin(work)
    world.settle(after)
    world.witness.check_untouched(after)
    world.witness.check_owners(after)
    world.report.check(f"an answer was lost: {after}", proxy.hits() == [1], proxy.hits())
    world.report.counts["lost_answers"] += 1


# Random kills


def random_kills(world: World, chance: random.Random, kills: int) -> None:
    for number in range(1, kills + 1):
        act(world, chance)
        time.sleep(chance.uniform(0.0, 1.0))
        world.stack.kill_daemon()
        world.report.counts["random_kills"] += 1
        world.check_dead(f"random kill {number}")
        world.stack.start_daemon()
        if number % SETTLE_EVERY == 0 or number == kills:
            world.settle(f"random kill {number}")
            world.report.say(f"{number} random kills, {len(world.report.violations)} violations")


def act(world: World, chance: random.Random) -> None:
    """One wish of a renter, or of nobody."""
    mine = sorted(set(world.wished) - world.keepers)
    offered = world.stack.rentable_offer(1)
    # More than there are GPUs would wait for each other: then nothing could be expected of them.
    has_room = sum(state == "running" for state in world.wished.values()) < GPUS
    works = [LAUNCH] * 2 if offered and has_room and len(mine) < GPUS else []
    running = [number for number in mine if world.wished[number] == "running"]
    stopped = [number for number in mine if world.wished[number] == "stopped"]
    works += [STOP, REBOOT] if running else []
    works += [START] * 2 if stopped and has_room else []
    works += [DESTROY] if mine else []
    work = chance.choice([*works, "nothing"])
    world.report.counts[f"random_{work}"] += 1
    if work == LAUNCH:
        world.rent(world.image)
    elif work != "nothing":
        number = chance.choice({START: stopped, DESTROY: mine}.get(work, running))
        world.witness.release(number)
        world.ask(work, number)
