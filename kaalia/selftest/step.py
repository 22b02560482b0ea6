"""What a step of the self-test is: a coroutine that says what it saw, and what it may use for that."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from enum import StrEnum

from kaalia.clock import Clock
from kaalia.contracts import selftest as rules
from kaalia.contracts.canary import Room
from kaalia.contracts.under_load import Broken
from kaalia.errors import KaaliaError
from kaalia.host.nvml import NvmlProbe
from kaalia.model import canary
from kaalia.model.machine import Gpu, MachineReport
from kaalia.model.selftest import Figure, Outcome, SelfTestOrder, StepName, StepResult
from kaalia.selftest.container import Containers, Running
from kaalia.selftest.gpu_watch import EVERY_S, GpuWatch, words
from kaalia.selftest.login import LogIn, log_in
from kaalia.selftest.notebook import Ask, ask
from kaalia.selftest.programs import Ears, Programs
from kaalia.selftest.samples import Samples
from kaalia.selftest.work.protocol import End
from kaalia.store.changes import Changes
from kaalia.store.database import Database

MARGIN_S = 5.0
READINGS = 1800
"""Of the GPUs while they burn, however long that takes: each is kept until its end."""


class Need(StrEnum):
    """What has to be there for a step."""

    GPUS = "gpus"
    """GPUs that nobody else has, booked for this run."""
    CONTAINER = "container"
    """The machine's own test container, which runs."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What the configuration says. False: nobody tries the ports; the speed is measured with no peer."""

    probes_ports: bool = True
    measures_speed: bool = True


@dataclass(slots=True)
class Here:
    """Of one run. `gpus`: those that are booked, in the order of the report. `running` None: no container runs.

    `why_none`: why there is none, though steps want it.
    """

    order: SelfTestOrder
    report: MachineReport
    room: Room
    settings: Settings
    clock: Clock
    database: Database
    changes: Changes
    containers: Containers
    programs: Programs
    tell: Callable[[float | None, str], None]
    gpus: tuple[Gpu, ...] = ()
    running: Running | None = None
    why_none: KaaliaError | None = None
    samples: Samples = field(default_factory=Samples)
    log_in: LogIn = log_in
    ask: Ask = ask
    probe: NvmlProbe | None = None
    """Of the driver; None: nobody watches the GPUs."""
    _proven: tuple[canary.StepResult, ...] = ()
    _proving: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def burn_s(self) -> float:
        return rules.burn_s(self.order)

    @property
    def ears(self) -> Ears:
        """For work programs: what they say of themselves goes where it belongs."""
        return Ears(self.tell, self.samples.append)

    def name_of(self, gpu_uuid: str) -> str:
        names = {gpu.uuid: f"GPU {number} ({gpu.name})" for number, gpu in enumerate(self.report.gpus)}
        return names.get(gpu_uuid, gpu_uuid)

    async def proven(self) -> dict[canary.Step, canary.StepResult]:
        """What the container says of its GPUs, network, ports and disk: asked once. Raises as `Containers.proven`."""
        async with self._proving:
            if not self._proven and self.running is not None:
                self._proven = await self.containers.proven(self.running, self.report, self.room)
        return {one.step: one for one in self._proven}


@dataclass(frozen=True, slots=True)
class Step:
    """`limit_s` for a full test, `quick_s` for a quick one: then it has failed. The burn adds its own."""

    name: StepName
    work: Callable[[Here], Awaitable[StepResult]]
    limit_s: float
    quick_s: float
    needs: frozenset[Need] = frozenset()

    def limit(self, order: SelfTestOrder) -> float:
        own_s = self.quick_s if order.is_quick else self.limit_s
        return own_s + rules.burn_s(order) if self.name is StepName.BURN else own_s


def program(name: StepName, limit_s: float, quick_s: float, *, gpus: bool = True) -> Step:
    """A step that is a work program of its name. While it loads GPUs they are watched; of the burn samples are kept."""

    async def work(here: Here) -> StepResult:
        # The program has less time than the step, so that its own end is told and not the step's.
        limit = limit_s if not here.order.is_quick else quick_s
        extra_s = here.burn_s if name is StepName.BURN else 0.0
        running = here.programs.run(name, arguments(here), limit + extra_s - MARGIN_S, here.ears)
        if not gpus or here.probe is None:
            return found_by(name, *await running)
        is_burn = name is StepName.BURN
        every_s = max(EVERY_S, extra_s / READINGS)
        watch = GpuWatch(here.probe, here.clock, [gpu.uuid for gpu in here.gpus], every_s)
        found = found_by(name, *await watch.around(running, here.samples.append if is_burn else lambda _: None))
        if is_burn:
            found = replace(found, figures=(*found.figures, *watch.figures()))
        return with_broken(found, await watch.broken(), here.name_of)

    return Step(name, work, limit_s, quick_s, frozenset({Need.GPUS} if gpus else ()))


def found_by(name: StepName, end: End, figures: tuple[Figure, ...]) -> StepResult:
    """As a work program told it."""
    return StepResult(name, end.outcome, end.words, end.code, end.remedy, figures=figures)


def with_broken(found: StepResult, broken: tuple[Broken, ...], name_of: Callable[[str], str]) -> StepResult:
    """With the rules that GPUs broke under the step's load; what the program itself found wrong goes first.

    Advice is told behind it, with what to do.
    """
    faults = [one for one in broken if not one.is_advice]
    if advice := [one for one in broken if one.is_advice]:
        remedies = "; ".join(dict.fromkeys(one.remedy for one in advice))
        found = replace(found, words=f"{found.words}; {words(advice, name_of)} ({remedies})")
    if not faults:
        return found
    told, first = words(faults, name_of), faults[0]
    if found.outcome is Outcome.FAILED:
        return replace(found, words=f"{found.words}; {told}")
    return replace(found, outcome=Outcome.FAILED, words=told, code=first.code, remedy=first.remedy)


def arguments(here: Here) -> dict[str, object]:
    """What each work program is told; see work/protocol.py."""
    return {
        "gpus": [gpu.uuid for gpu in here.gpus],
        "quick": here.order.is_quick,
        "minutes": here.burn_s / 60,
    }


def skipped(name: StepName, why: str) -> StepResult:
    return StepResult(name, Outcome.SKIPPED, why)


def failed(name: StepName, code: str, words: str, remedy: str) -> StepResult:
    return StepResult(name, Outcome.FAILED, words, code, remedy)


def failed_by(step: StepName, error: KaaliaError, remedy: str) -> StepResult:
    """`remedy`: where the error knows none."""
    why = error.problem
    words = f"{why.message} ({why.evidence})" if why.evidence else why.message
    return failed(step, why.code, words, why.remedy or remedy)
