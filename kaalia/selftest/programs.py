"""Work programs (kaalia/selftest/work) as children that can be killed: heard line by line, and never awaited for ever.

A child has a process group of its own and, where the kernel lets the daemon, a cgroup of its own. When time is over,
or whoever waits here is cancelled, it is killed at once. One that not even that ends hangs in the driver: it is left,
told of, and no other is started on the GPUs beside it.
"""

import asyncio
import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from kaalia.errors import HostError
from kaalia.host.own_cgroup import OwnCgroup
from kaalia.host.process import KILL_GRACE_S, Program
from kaalia.model.selftest import Figure, Sample
from kaalia.selftest.work import protocol
from kaalia.selftest.work.protocol import End, Progress

WORK = Path(__file__).with_name("work")
PYTHON = (sys.executable, "-I", "-S")
_ENVIRONMENT = {"CUDA_CACHE_DISABLE": "1", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
"""Nothing is left on disk, and the driver counts as the bus does."""
_REINSTALL = "see dmesg for the GPU's last words, and: kaalia doctor; where it comes again: reinstall the NVIDIA driver"


@dataclass(slots=True)
class Told:
    """What a program said so far."""

    figures: list[Figure] = field(default_factory=list)
    end: End | None = None
    garbled: HostError | None = None


@dataclass(frozen=True, slots=True)
class Ears:
    """Who hears of a program while it works."""

    progress: Callable[[float | None, str], None]
    sample: Callable[[Sample], None]


class Programs:
    """Starts them, one at a time. `environment`: what they have of the daemon's."""

    def __init__(self, environment: Mapping[str, str] | None = None, work: Path = WORK) -> None:
        self._environment = environment
        self._work = work
        self._stuck: Program | None = None

    @property
    def stuck(self) -> int | None:
        """A process of an earlier step that no signal ends."""
        return self._stuck.pid if self._stuck is not None and self._stuck.alive else None

    async def run(
        self, name: str, arguments: Mapping[str, Any], limit_s: float, ears: Ears, first: Sequence[str] = ()
    ) -> tuple[End, tuple[Figure, ...]]:
        """Run `name`.py to its end: what it found. `first`: what its command begins with (host/outside.py).

        Raises HostError `work_stuck`, `work_late`, `work_died`, `work_garbled`, or what a program that cannot be
        started raises.
        """
        if self.stuck is not None:
            raise _stuck(self.stuck)
        told = Told()
        script = str(self._work / f"{name}.py")
        environment = {**(os.environ if self._environment is None else self._environment), **_ENVIRONMENT}
        program = await Program.start(
            (*first, *PYTHON, script, json.dumps(arguments)), partial(_hear, told, ears), environment, by_output=True
        )
        making = asyncio.gather(asyncio.to_thread(OwnCgroup.around, program.pid, f"selftest-{name}"))
        try:
            async with asyncio.timeout(limit_s):
                await asyncio.shield(making)
                exit_code = await program.ended()
            await program.said()
        except TimeoutError:
            raise await self._late(program, name, limit_s) from None
        finally:
            await self._end(program, making)
        if told.garbled is not None:
            raise told.garbled
        if told.end is None:
            raise _died(name, exit_code, program.evidence)
        return told.end, tuple(told.figures)

    async def _end(self, program: Program, making: "asyncio.Future[tuple[OwnCgroup | None]]") -> None:
        """Its group at once; whatever left that, as soon as a thread is free."""
        try:
            await program.stop(0)
        finally:
            self._stuck = program if program.alive else None
            (cgroup,) = await making
            if cgroup is not None:
                await asyncio.to_thread(_cleared, cgroup)

    async def _late(self, program: Program, name: str, limit_s: float) -> HostError:
        await program.stop(0)
        if program.alive:
            return _stuck(program.pid)
        return HostError(
            "work_late",
            f"cannot finish the step {name} within {limit_s:g} s: its program was killed",
            remedy=_REINSTALL,
            evidence=program.evidence,
        )


def _cleared(cgroup: OwnCgroup) -> None:
    cgroup.kill()
    until = time.monotonic() + KILL_GRACE_S
    while cgroup.members() and time.monotonic() < until:
        time.sleep(0.01)
    cgroup.remove()


def _hear(told: Told, ears: Ears, line: str) -> None:
    try:
        said = protocol.read(line)
    except HostError as error:
        told.garbled = told.garbled or error
        return
    match said:
        case Progress():
            ears.progress(said.share, said.words)
        case Figure():
            told.figures.append(said)
        case Sample():
            ears.sample(said)
        case End():
            told.end = said


def _stuck(pid: int) -> HostError:
    return HostError(
        "work_stuck",
        f"cannot end process {pid} of the test: a call of the driver holds it",
        remedy=f"see /proc/{pid}/stack and dmesg; a GPU that hangs so comes back by a reboot",
    )


def _died(name: str, exit_code: int, evidence: str) -> HostError:
    how = f"signal {-exit_code}" if exit_code < 0 else f"exit code {exit_code}"
    return HostError(
        "work_died",
        f"cannot finish the step {name}: its program ended with {how} and no verdict",
        remedy=_REINSTALL,
        evidence=evidence,
    )
