"""The self-test's service on a bench, with steps and work programs that a test writes itself."""

import asyncio
import os
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

from kaalia.contracts.lease import certain
from kaalia.model.selftest import Outcome, SelfTestOrder, SelfTestRun, StepName
from kaalia.selftest import registry
from kaalia.selftest.programs import Programs
from kaalia.selftest.service import SelfTestService
from kaalia.selftest.step import Settings, Step, program
from kaalia.selftest.trial import Trials
from kaalia.store import selftest
from kaalia.store.changes import Topic
from tests.selftest.bench import Bench
from tests.support.serving import running

TALK = """import json, os, signal, sys, time
def say(**line):
    print(json.dumps(line), flush=True)
told = json.loads(sys.argv[1])
"""


HANGS = """
import pathlib
signal.signal(signal.SIGTERM, signal.SIG_IGN)
pathlib.Path(__file__).with_suffix(".pid").write_text(str(os.getpid()))
say(progress=0.5, words="half of it")
time.sleep(600)
"""


@dataclass
class Trial:
    """`steps`: those that are registered here, beside the four that use containers."""

    bench: Bench
    folder: Path
    steps: dict[StepName, Step] = field(default_factory=dict)
    settings: Settings = field(default_factory=lambda: Settings(probes_ports=False, measures_speed=False))
    services: AsyncExitStack = field(default_factory=AsyncExitStack)

    def add(self, name: StepName, text: str, limit_s: float = 60.0, *, gpus: bool = True) -> None:
        """A work program of this name."""
        (self.folder / f"{name}.py").write_text(TALK + text)
        self.steps[name] = program(name, limit_s, limit_s, gpus=gpus)

    def pid(self, name: StepName) -> int | None:
        """Of a program that wrote it down beside its file."""
        try:
            return int((self.folder / f"{name}.pid").read_text() or 0) or None
        except FileNotFoundError:
            return None

    async def start(self) -> None:
        await self.bench.services.enter_async_context(running(self.bench.rig.service))
        await self.bench.services.enter_async_context(running(self._service()))

    async def order(self, **wanted: object) -> int:
        now = self.bench.clock.now()
        wish = SelfTestOrder(now, **wanted)  # type: ignore[arg-type]
        store = self.bench.rig.store
        run = await store.transaction(lambda tx: selftest.order(tx, wish), Topic.SELFTEST)
        return run.run_id

    async def until(self, what: Callable[[SelfTestRun], bool]) -> SelfTestRun:
        for _ in range(6000):
            run = await self.bench.rig.store.read(selftest.newest)
            if run is not None and what(run):
                return run
            await asyncio.sleep(0.005)
        raise AssertionError(f"it did not come true: {run}")

    async def ended(self) -> SelfTestRun:
        return await self.until(lambda run: run.result is not None)

    async def until_told(self, words: str) -> None:
        """It is at what it tells by these words."""
        for _ in range(6000):
            found = await self.bench.rig.store.read(selftest.get_progress)
            if found is not None and words in found.words:
                return
            await asyncio.sleep(0.005)
        raise AssertionError(f"it is at something else: {found}")

    async def cancel(self, run_id: int) -> None:
        now = self.bench.clock.now()
        await self.bench.rig.store.transaction(lambda tx: selftest.cancel(tx, run_id, now), Topic.SELFTEST)

    def _service(self) -> SelfTestService:
        bench = self.bench
        steps: Mapping[StepName, Step] = {**registry.STEPS, **self.steps}
        trials = Trials(
            bench.rig.store,
            bench.rig.changes,
            bench.clock,
            lambda: certain(bench.clock.now()),
            self.settings,
            Programs(dict(os.environ), self.folder),
            {name: step for name, step in steps.items() if name in self.steps or name in _CONTAINER_STEPS},
            log_in=bench.log_in,
            ask=bench.ask,
        )
        return SelfTestService(
            bench.rig.store, bench.rig.changes, bench.clock, trials.lease_time, bench.means(), lambda: trials.test
        )


_CONTAINER_STEPS = (StepName.SYSTEM, StepName.LAUNCH, StepName.PORTS, StepName.NETWORK)


def outcomes(run: SelfTestRun) -> dict[StepName, Outcome]:
    return {one.step: one.outcome for one in run.steps}


async def hanging(trial: Trial, step: StepName = StepName.MEMORY) -> int:
    """The number of the process that hangs in this step."""
    for _ in range(6000):
        if (pid := trial.pid(step)) is not None:
            return pid
        await asyncio.sleep(0.005)
    raise AssertionError("it did not begin")


async def gone(pid: int) -> None:
    for _ in range(2000):
        if not Path(f"/proc/{pid}").exists():
            return
        await asyncio.sleep(0.005)
    raise AssertionError(f"process {pid} is still there")
