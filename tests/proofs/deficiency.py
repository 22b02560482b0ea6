"""One thing that a machine lacks or that is broken in it, and the machine on which it is tried."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kaalia.client import LocalClient
from kaalia.errors import KaaliaError
from kaalia.model.health import Severity
from kaalia.model.machine import MachineReport
from kaalia.model.selftest import StepName
from tests.proofs.report import Report
from tests.support.docker_engine import PrivateDocker
from tests.support.fake_host import FakeHost
from tests.support.fake_nvidia.build import Hook
from tests.support.fake_nvidia.profiles import write
from tests.support.stack import Stack
from tests.support.waiting import wait_until

SEEN_S = 60.0
TEST_S = 600.0
"""A whole test that is not quick burns for two minutes."""

Found = dict[str, Any]
"""A run, as `kaalia self-test machine --json` prints it."""


@dataclass
class World:
    """`base`: the profile of GPUs that are well. `cpu_control`: what the stand-in for a bad core reads. `library`: the
    folder of the simulated driver."""

    stack: Stack
    docker: PrivateDocker
    hook: Hook
    host: FakeHost
    profile: Path
    base: str
    cpu_control: Path
    library: Path
    report: Report

    def client(self) -> LocalClient:
        return LocalClient(self.stack.socket)

    def kaalia(self, *words: str, timeout_s: float = TEST_S) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "kaalia.cli.main", *words, "--socket", str(self.stack.socket)]
        return subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)

    def test(self, *options: str, quick: bool = True) -> tuple[int, Found]:
        """Exit code, and the run; {} where there is none."""
        length = ("--quick",) if quick else ()
        done = self.kaalia("self-test", "machine", "--json", *length, *options)
        try:
            found: Found = json.loads(done.stdout)
        except ValueError:
            self.report.say(f"{done.returncode}: {done.stdout[-500:]}{done.stderr[-500:]}")
            found = {}
        return done.returncode, found

    def told(self) -> set[str]:
        """Codes of what is badly wrong with the machine now."""
        try:
            found = [one.condition for one in self.client().health().open]
        except KaaliaError:
            return {"no answer"}
        return {one.problem.code for one in found if one.severity is not Severity.WARN}

    def reported(self, look: Callable[[MachineReport], bool]) -> None:
        """Wait until the machine's report says so."""

        def says() -> bool:
            try:
                return look(self.client().report())
            except KaaliaError:
                return False

        wait_until("the report to say it", says, SEEN_S)

    def put(self, text: str) -> None:
        """Lines before the profile of the GPUs: the first line of a key counts."""
        write(self.profile, text + self.base)

    @contextmanager
    def gpus(self, text: str) -> Iterator[None]:
        """As `put`, for so long."""
        self.put(text)
        try:
            yield
        finally:
            write(self.profile, self.base)

    def read_anew(self) -> None:
        """Wait for a report that was begun from now on."""
        began = self.client().report().collected_at
        seen: set[Any] = set()

        def twice() -> bool:
            seen.add(self.client().report().collected_at)
            return len(seen - {began}) >= 2

        wait_until("two new reports", twice, SEEN_S)


Strike = Callable[[World], AbstractContextManager[object]]


@dataclass(frozen=True)
class Deficiency:
    """`requirement`, or `step` and its `code`: what must fail. `only`: these steps alone; empty: the whole test.

    `before`: what has to be so before the test begins. `besides`: how what may fail too, since it follows, begins.
    """

    name: str
    strike: Strike
    requirement: str = ""
    step: StepName | None = None
    code: str = ""
    only: tuple[StepName, ...] = ()
    before: Callable[[World], object] = World.read_anew
    besides: tuple[str, ...] = ()
    more: tuple[str, ...] = ()
    """Options of the command."""
    quick: bool = True

    @property
    def expected(self) -> str:
        return self.requirement or f"{self.step}: {self.code}"

    def options(self) -> tuple[str, ...]:
        return (*self.more, *(word for step in self.only for word in ("--only", step)))


def of_step(name: str, step: StepName, code: str, strike: Strike, **more: Any) -> Deficiency:
    """That one step tells, by itself."""
    return Deficiency(name, strike, step=step, code=code, **{"only": (step,), **more})


def of_gpus(
    name: str,
    text: str,
    requirement: str,
    look: Callable[[MachineReport], bool],
    besides: tuple[str, ...] = (),
    more: tuple[str, ...] = (),
) -> Deficiency:
    """That the report of the GPUs shows."""
    return Deficiency(
        name,
        lambda world: world.gpus(text),
        requirement,
        before=lambda world: world.reported(look),
        besides=besides,
        more=more,
    )


def at_once(_: World) -> None:
    """Nothing has to be read anew: the test itself finds it."""


def failures(found: Found) -> list[str]:
    """Every requirement that is not met, and every step that failed."""
    requirements = [
        one["requirement"]
        for one in found.get("verdicts", ())
        if one["outcome"] == "failed" and not one.get("is_advice")
    ]
    return requirements + [
        f"{one['step']}: {one['code']}" for one in found.get("steps", ()) if one["outcome"] == "failed"
    ]


def since(began: float) -> float:
    return round(time.monotonic() - began, 1)
