"""The daemon's state is damaged in every way: tenants run on, nothing is admitted, and what can be repaired goes on.

state.db corrupt, of a newer schema, on a read-only disk, on a full disk (at a start and while running), and gone. When
it is gone the labels are all there is: a contract whose label ends is stopped, nothing else is touched, and
`kaalia enroll --recover` finds machine, contracts and containers again.
"""

import shutil
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from kaalia.client import LocalClient
from kaalia.errors import KaaliaError
from kaalia.wire.local import DaemonStatus
from tests.proofs.kill_matrix import WAIT
from tests.proofs.report import Report, Say
from tests.proofs.tenant import Tenant
from tests.proofs.witness import Witness
from tests.support.scene import scene
from tests.support.stack import Stack
from tests.support.waiting import wait_until

DISK = "16m"
SHORT_LEASE_S = 30
QUIET_S = 3.0
"""How long is watched that nothing happens."""
LEAVE_S = 40


class World:
    """One machine with two tenants, whose state lies on a small disk of its own."""

    def __init__(self, stack: Stack, image: str, report: Report) -> None:
        self.stack, self.image, self.report = stack, image, report
        self.witness = Witness(stack, report)
        self.disk = stack.folder / "state"
        self.database = self.disk / "state.db"
        self.tenants = [Tenant(stack, image), Tenant(stack, image)]

    def status(self) -> DaemonStatus | None:
        try:
            return LocalClient(self.stack.socket).status()
        except KaaliaError:
            return None

    def rent(self) -> int:
        offer = wait_until("an offer", lambda: self.stack.rentable_offer(1), 60)
        return self.stack.rent(offer, image=self.image, disk=1, runtype="args", args=["sh", "-c", WAIT])

    def check_tenants(self, after: str) -> None:
        for tenant in self.tenants:
            tenant.check(self.report, after)

    def expect_safe_mode(self, code: str, after: str) -> None:
        """The daemon lives, says why, and touches nobody."""

        def look() -> DaemonStatus | None:
            status = self.status()
            return status if status and status.safe_mode else None

        try:
            status = wait_until("safe mode", look, 30)
            codes = {problem.code for problem in status.problems}
            self.report.check(f"safe mode says {code} after {after}", codes == {code}, codes)
        except TimeoutError:
            self.report.check(f"safe mode after {after}", False, self.stack.log_text("daemon")[-1500:])
        time.sleep(QUIET_S)
        process = self.stack.daemon
        self.report.check(f"the daemon lives after {after}", process is not None and process.poll() is None)
        self.check_tenants(after)

    def expect_sound(self, after: str) -> None:
        """Full service again, by itself: both tenants are running, in its own words."""

        def look() -> bool:
            status = self.status()
            said = {self.stack.local_state(tenant.instance_id) for tenant in self.tenants}
            return status is not None and not status.safe_mode and said == {"running"}

        try:
            wait_until("full service", look, LEAVE_S)
            self.report.check(f"full service again after {after}", True)
        except TimeoutError:
            self.report.check(f"full service again after {after}", False, self.stack.log_text("daemon")[-1500:])
        self.check_tenants(f"{after}, repaired")


def prove(seed: int, rounds: int, say: Say) -> Report:
    """Every damage once; seed and rounds have no say here."""
    report = Report(say)
    with tempfile.TemporaryDirectory(prefix="kaalia-") as folder, small_disk(Path(folder) / "stack" / "state"):
        config = {"intervals": {"resync_s": 5}}
        with scene("4xRTX_4090", Path(folder), extra_config=config) as (stack, image):
            stack.list_machine()
            world = World(stack, image, report)
            for damage in (corrupt, torn, newer, read_only, full_while_running, full_at_start, gone):
                began = time.monotonic()
                damage(world)
                report.counts["damages"] += 1
                took = time.monotonic() - began
                say(f"{damage.__name__.replace('_', ' ')}: {took:.0f} s, {len(report.violations)} violations")
    return report


@contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True, mode=0o700)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK},mode=700", "tmpfs", folder], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def corrupt(world: World) -> None:
    """Its first pages are something else."""
    _damaged(world, lambda: world.database.write_bytes(b"not a database" * 5000), "state_corrupt")


def torn(world: World) -> None:
    """Pages in the middle are lost: it opens, and does not pass its check."""

    def tear() -> None:
        content = bytearray(world.database.read_bytes())
        content[8192:] = bytes(len(content) - 8192)
        world.database.write_bytes(content)

    _damaged(world, tear, "state_corrupt")


def newer(world: World) -> None:
    """A later version of kaalia wrote it. What is rented meanwhile waits for the repair."""

    def advance() -> None:
        with sqlite3.connect(world.database) as db:
            db.execute("PRAGMA user_version = 9999")
        db.close()

    late: list[int] = []

    def rent() -> None:
        late.append(world.rent())
        time.sleep(QUIET_S)
        found = world.stack.engine.has_container(f"C.{late[0]}")
        world.report.check("nothing is admitted in safe mode", not found, late)

    _damaged(world, advance, "state_newer", meanwhile=rent)
    try:
        world.stack.wait_status(late[0], "running", 60)
        world.report.check("what was rented meanwhile runs after the repair", True)
    except TimeoutError as error:
        world.report.check("what was rented meanwhile runs after the repair", False, str(error)[-1500:])
    world.stack.destroy(late[0])


def _damaged(
    world: World, damage: Callable[[], object], code: str, meanwhile: Callable[[], None] | None = None
) -> None:
    """Damage the file behind a dead daemon, start, look, put the old file back: the daemon goes on by itself."""
    name = code.replace("_", " ")
    world.stack.kill_daemon()
    kept = world.disk.parent / "kept"
    shutil.copytree(world.disk, kept)
    with sqlite3.connect(world.database) as db:  # what the write-ahead log still holds would repair the damage
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    db.close()
    damage()
    spoilt = world.database.read_bytes()
    world.stack.start_daemon()
    world.expect_safe_mode(code, f"a {name}")
    if meanwhile:
        meanwhile()
    world.report.check(f"the file of a {name} stays as it is", world.database.read_bytes() == spoilt)
    for file in kept.iterdir():
        if file.name.startswith("state.db") and not file.name.endswith("-shm"):
            shutil.copy(file, world.disk / f"{file.name}.back")
    for old in world.disk.glob("state.db*"):
        if not old.name.endswith(".back"):
            old.unlink()
    for file in sorted(world.disk.glob("*.back")):
        file.rename(file.with_suffix(""))  # the log first, then the database
    shutil.rmtree(kept)
    world.expect_sound(f"a {name}")


def read_only(world: World) -> None:
    world.stack.kill_daemon()
    subprocess.run(["mount", "-o", "remount,ro", world.disk], check=True)
    world.stack.start_daemon()
    world.expect_safe_mode("state_unavailable", "a read-only disk")
    subprocess.run(["mount", "-o", f"remount,rw,size={DISK}", world.disk], check=True)
    world.expect_sound("a read-only disk")


def fill(world: World) -> Path:
    """A file that leaves not one byte."""
    ballast = world.disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        for size in (65536, 4096, 1):
            try:
                while file.write(bytes(size)):
                    pass
            except OSError:
                continue
    return ballast


def full_while_running(world: World) -> None:
    """A renter's wishes wait until there is room; the daemon lives and says what it lacks."""
    number = world.rent()
    world.stack.wait_status(number, "running")
    ballast = fill(world)
    world.stack.renter_api.call("PUT", f"/api/v0/instances/{number}/", {"state": "stopped"})
    time.sleep(3 * QUIET_S)
    process = world.stack.daemon
    world.report.check("the daemon lives on a full disk", process is not None and process.poll() is None)
    world.report.check("it says that the disk is full", "state_disk_full" in world.stack.log_text("daemon"))
    world.check_tenants("a full disk")
    ballast.unlink()
    try:
        world.stack.wait_status(number, "stopped", 90)
        world.report.check("a wish of the full time comes true after it", True)
    except TimeoutError as error:
        world.report.check("a wish of the full time comes true after it", False, str(error)[-1500:])
    world.stack.destroy(number)
    world.expect_sound("a full disk")


def full_at_start(world: World) -> None:
    world.stack.kill_daemon()
    ballast = fill(world)
    world.stack.start_daemon()
    time.sleep(3 * QUIET_S)
    process = world.stack.daemon
    lives = process is not None and process.poll() is None
    world.report.check("the daemon starts on a full disk", lives, world.stack.log_text("daemon")[-1500:])
    world.check_tenants("a start on a full disk")
    ballast.unlink()
    world.expect_sound("a start on a full disk")


def gone(world: World) -> None:
    """Labels are all that is left; a lease ends by its label, and everything is found again by the key."""
    stack, report = world.stack, world.report
    end = time.time() + SHORT_LEASE_S
    stack.host.json("list", "machine", str(stack.machine_id), "--price_gpu", "0.4", "--end_date", str(int(end)))
    short = world.rent()
    stack.wait_status(short, "running")
    stack.kill_daemon()
    for file in world.disk.glob("state.db*"):
        file.unlink()
    stack.start_daemon()
    world.expect_safe_mode("state_missing", "a lost database")
    state = stack.engine.inspect(f"C.{short}")["State"]
    report.check("a lease runs to its end in safe mode", state["Running"] == (time.time() < int(end)), state)
    try:
        is_over = lambda: not stack.engine.inspect(f"C.{short}")["State"]["Running"]  # noqa: E731
        wait_until("the short lease to end", is_over, SHORT_LEASE_S + 20, 0.2)
        report.worst("latest_end_s", time.time() - int(end))
        report.check("no lease ends early in safe mode", time.time() >= int(end), end)
    except TimeoutError as error:
        report.check("a lease ends in safe mode", False, (str(error), stack.log_text("daemon")[-1500:]))
    world.check_tenants("an end in safe mode")
    token = stack.enroll_token()
    done = stack.kaalia(
        "enroll", stack.url, "-", "--recover", "--config", str(stack.config_file), "--json", stdin=token
    )
    report.check("the machine recovers as the same one", f'"machine_id": {stack.machine_id}' in done.stdout, done)
    world.expect_sound("a lost database")
    report.check("what ended stays ended", not stack.engine.inspect(f"C.{short}")["State"]["Running"])
    owners = world.witness.books().owners
    for tenant in world.tenants:
        kinds = {kind for (kind, _), owner in owners.items() if owner == tenant.instance_id}
        report.check("claims are found again", {"gpu", "port/tcp"} <= kinds, kinds)
