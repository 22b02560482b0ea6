"""One injected fault, and the rented machine that it strikes."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kaalia.client import LocalClient
from kaalia.errors import KaaliaError
from kaalia.model.health import HOST
from tests.proofs.disks import Disks
from tests.proofs.report import Report
from tests.proofs.tenant import Tenant
from tests.support.clocked import Clocks
from tests.support.kmsg import FakeKernelLog
from tests.support.stack import Stack

LOOK_S = 0.05
APPEARS_S = 10.0
"""The bar."""


@dataclass
class World:
    """`profile`: of the simulated driver, replaced to break it."""

    stack: Stack
    kernel: FakeKernelLog
    clocks: Clocks
    profile: Path
    disks: Disks
    tenant: Tenant
    report: Report

    def codes(self) -> set[tuple[str, str]]:
        """Code and part of all that `kaalia doctor` tells."""
        try:
            document = LocalClient(self.stack.socket).health()
        except KaaliaError:
            return set()
        told = {(one.condition.problem.code, one.condition.scope) for one in document.open}
        return told | {(problem.code, HOST) for problem in document.problems}

    def answers(self) -> bool:
        """The daemon is there."""
        try:
            LocalClient(self.stack.socket).health()
        except KaaliaError:
            return False
        return True

    def tells(self, code: str, scope: str | None) -> bool:
        """`scope` None: of any part."""
        return any(code == known and scope in (None, part) for known, part in self.codes())

    def wait(self, what: str, look: Callable[[], bool], timeout_s: float, began: float) -> float:
        """Seconds from `began` until it is so. Raises TimeoutError."""
        while not look():
            if time.monotonic() - began > timeout_s:
                raise TimeoutError(f"no {what} in {timeout_s:g} s")
            time.sleep(LOOK_S)
        return time.monotonic() - began


@dataclass(frozen=True)
class Fault:
    """`scope`: the part that the condition names; None: whichever. `mend`: makes it over, for somebody to see.

    `appears_s`: the bar, where the rule itself asks for more patience.
    """

    source: str
    name: str
    code: str
    strike: Callable[[World], None]
    mend: Callable[[World], None]
    scope: str | Callable[[World], str] | None = None
    appears_s: float = APPEARS_S

    def part(self, world: World) -> str | None:
        return self.scope(world) if callable(self.scope) else self.scope
