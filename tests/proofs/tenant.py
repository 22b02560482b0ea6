"""A tenant under watch: its process, its start time and its port must survive whatever a proof does to kaalia."""

import urllib.request
from dataclasses import dataclass

from tests.e2e.flows import SERVE_ENV, host_port
from tests.proofs.report import Report
from tests.support.stack import Stack
from tests.support.waiting import wait_until


@dataclass(frozen=True)
class Identity:
    """What must not change: the container's main process and when it started."""

    pid: int
    started_at: str


class Tenant:
    """One rented instance that serves HTTP."""

    def __init__(self, stack: Stack, image: str, gpus: int = 1) -> None:
        self._stack = stack
        env = {"-p 8000:8000": "1"}
        offer = stack.rentable_offer(gpus) or 0
        self.instance_id = stack.rent(
            offer, image=image, disk=1, runtype="args", env=env, args=["sh", "-c", SERVE_ENV], label="tenant"
        )
        row = stack.wait_status(self.instance_id, "running")
        self.port = host_port(row["ports"], "8000/tcp")
        wait_until("the tenant to serve", self.serves, 15)
        self.identity = self.look()

    def look(self) -> Identity:
        """Process and start time, from Docker itself."""
        state = self._stack.engine.inspect(f"C.{self.instance_id}")["State"]
        return Identity(int(state["Pid"]), str(state["StartedAt"]))

    def serves(self) -> bool:
        """The mapped port answers."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/env.txt", timeout=2) as reply:
                return bool(reply.status == 200)
        except OSError:
            return False

    def check(self, report: Report, after: str) -> None:
        """Same process, same start, port answers."""
        seen = self.look()
        report.check(f"tenant keeps its process after {after}", seen == self.identity, (self.identity, seen))
        report.check(f"tenant's port answers after {after}", self.serves(), self.port)
