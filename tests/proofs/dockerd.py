"""dockerd is killed, stopped in order and hung, containerd is killed, with and without live-restore.

All the while the marketplace's row and the daemon's own are read: no row may say stopped or exited of a process that
lives. Afterwards what lived on has the same process, and what the engine ended runs again, by its row and in truth.
"""

import random
import signal
import threading
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from kaalia.client import LocalClient
from kaalia.errors import KaaliaError
from tests.proofs.report import Report, Say
from tests.proofs.tenant import Identity, Tenant
from tests.support.docker_engine import PrivateDocker
from tests.support.scene import scene
from tests.support.stack import Stack
from tests.support.waiting import wait_until

SAMPLE_S = 0.1
AGAIN_S = 60
HANG_S = 3.0
LONG_HANG_S = 36.0
"""Longer than kaalia waits for an answer (`link.LOOK_TIMEOUT_S`), so that it must take the engine for hung."""
ENDED = ("stopped", "exited", "offline")


def prove(seed: int, rounds: int, say: Say) -> Report:
    """Each fault `rounds` times (default 1), in both worlds."""
    report = Report(say)
    chance = random.Random(seed)
    for has_live_restore in (True, False):
        config = {"intervals": {"resync_s": 5}}
        with scene("2xRTX_4090", has_live_restore=has_live_restore, extra_config=config) as (stack, image):
            stack.list_machine()
            tenants = [Tenant(stack, image), Tenant(stack, image)]
            words = f"{'with' if has_live_restore else 'without'} live-restore"
            for _ in range(rounds or 1):
                for name, fault in faults(stack, chance, has_live_restore).items():
                    befall(stack, tenants, name, fault, report, must_survive=has_live_restore or name in HARMLESS)
                    say(f"{words}: {name}, {len(report.violations)} violations")
    return report


HARMLESS = ("a hang of dockerd", "a long hang of dockerd", "a kill of containerd")
"""These end no container, whatever dockerd was told."""


def faults(stack: Stack, chance: random.Random, is_long: bool) -> dict[str, Callable[[], None]]:
    engine = stack.engine
    assert isinstance(engine, PrivateDocker)

    def again(end: Callable[[], None]) -> None:
        end()
        time.sleep(chance.uniform(0.2, 3.0))
        engine.start()

    def hang(seconds: float) -> None:
        engine.send(signal.SIGSTOP)
        time.sleep(seconds)
        engine.send(signal.SIGCONT)

    def bereave() -> None:
        engine.kill_containerd()
        time.sleep(HANG_S)

    found: dict[str, Callable[[], None]] = {
        "SIGKILL of dockerd": lambda: again(engine.kill),
        "SIGTERM of dockerd": engine.restart,
        "a hang of dockerd": lambda: hang(HANG_S),
        "a kill of containerd": bereave,
    }
    return {**found, "a long hang of dockerd": lambda: hang(LONG_HANG_S)} if is_long else found


def befall(
    stack: Stack, tenants: list[Tenant], name: str, fault: Callable[[], None], report: Report, must_survive: bool
) -> None:
    """One fault under observation, and what came of it."""
    before = [tenant.look() for tenant in tenants]
    watch = Watch(stack, tenants, before)
    watch.start()
    began = time.monotonic()
    try:
        fault()
        report.counts["faults"] += 1
        for tenant in tenants:
            is_back = f"instance {tenant.instance_id} to run, and its row to say so"
            try:
                wait_until(is_back, lambda tenant=tenant: is_true(stack, tenant), AGAIN_S, 0.1)  # type: ignore[misc]
                report.check(f"running again after {name}", True)
            except TimeoutError as error:
                report.check(f"running again after {name}", False, (str(error), stack.log_text("daemon")[-1500:]))
    finally:
        watch.stop()
    report.worst("slowest_again_s", time.monotonic() - began)
    report.counts["samples"] += watch.samples
    report.check(f"no row calls a living process ended during {name}", not watch.lies, watch.lies[:5])
    for tenant, old in zip(tenants, before, strict=True):
        new = tenant.look()
        report.counts["kept" if new == old else "started_again"] += 1
        report.check(f"the process lives on through {name}", not must_survive or new == old, (old, new))
        report.check(f"the port answers after {name}", bool(wait_until("the port", tenant.serves, 15)))


def is_true(stack: Stack, tenant: Tenant) -> bool:
    """Docker runs it, and both rows say running of this very start."""
    try:
        state = stack.engine.inspect(f"C.{tenant.instance_id}")["State"]
        row = LocalClient(stack.socket).contract(tenant.instance_id)
    except (OSError, KaaliaError, RuntimeError):
        return False
    shown = stack.instance(tenant.instance_id)
    is_running = bool(state["Running"]) and row.state == "running" and bool(shown)
    is_same = row.started_at == datetime.fromisoformat(state["StartedAt"])
    return is_running and is_same and shown is not None and shown["actual_status"] == "running"


class Watch(threading.Thread):
    """Reads both rows again and again; keeps what they said of a process that lived before and after the reading."""

    def __init__(self, stack: Stack, tenants: list[Tenant], identities: list[Identity]) -> None:
        super().__init__(daemon=True)
        self.samples = 0
        self.lies: list[str] = []
        self._stack = stack
        self._pids = {tenant.instance_id: one.pid for tenant, one in zip(tenants, identities, strict=True)}
        self._births = {pid: _birth(pid) for pid in self._pids.values()}
        self._over = threading.Event()

    def run(self) -> None:
        while not self._over.wait(SAMPLE_S):
            for number, pid in self._pids.items():
                self._sample(number, pid)

    def stop(self) -> None:
        self._over.set()
        self.join()

    def _sample(self, number: int, pid: int) -> None:
        row = self._stack.instance(number)
        said = {"marketplace": row["actual_status"] if row else "absent", "daemon": self._stack.local_state(number)}
        self.samples += 1
        if _birth(pid) == self._births[pid]:
            self.lies += [f"{who} says {what} of C.{number}" for who, what in said.items() if what in ENDED]


def _birth(pid: int) -> str:
    """When the process began, in ticks; "" once it is gone or a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] == "Z" else fields[19]
