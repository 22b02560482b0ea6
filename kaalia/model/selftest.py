"""The machine's test of itself: what is ordered, how far it is, what each step measured, and the verdict."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from kaalia.errors import Problem

BURN_MAX_S = 24 * 3600.0


class StepName(StrEnum):
    """In the order in which they are run."""

    SYSTEM = "system"
    LAUNCH = "launch"
    PORTS = "ports"
    NETWORK = "network"
    MEMORY = "memory"
    COMPUTE = "compute"
    MATRIX = "matrix"
    DEVICE_BANDWIDTH = "device_bandwidth"
    HOST_BANDWIDTH = "host_bandwidth"
    PEER_BANDWIDTH = "peer_bandwidth"
    COLLECTIVE = "collective"
    CPU = "cpu"
    RAM = "ram"
    DISK = "disk"
    BURN = "burn"


class Outcome(StrEnum):
    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"
    """There is nothing to prove on this machine, or nobody could say; the words beside it tell why."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One number that a step measured. `gpu_uuid` None: of the whole machine.

    `spread`: standard deviation of its rounds, as a share of the mean.
    """

    name: str
    value: float
    unit: str
    gpu_uuid: str | None = None
    spread: float | None = None


@dataclass(frozen=True, slots=True)
class Sample:
    """How a GPU was at a moment under load. `at_s`: since the step began; `throughput` in the unit of the figure.

    What the driver does not tell is None.
    """

    at_s: float
    gpu_uuid: str
    temperature_c: float | None = None
    clock_mhz: float | None = None
    power_w: float | None = None
    throughput: float | None = None


@dataclass(frozen=True, slots=True)
class StepResult:
    """`words`: what was seen, or why nothing was. `code` and `remedy` of one that failed, else empty."""

    step: StepName
    outcome: Outcome
    words: str
    code: str = ""
    remedy: str = ""
    took_s: float = 0.0
    figures: tuple[Figure, ...] = ()


@dataclass(frozen=True, slots=True)
class RequirementVerdict:
    """One requirement held against the machine. SKIPPED: nothing is known of it, and `words` tells why.

    `actual` and `required` as people read them, with unit and bound: "2.1 GB/s", "> 2.85 GB/s".
    """

    requirement: str
    """Its id in contracts/requirements.toml."""
    outcome: Outcome
    words: str
    actual: str
    required: str
    source: str
    remedy: str = ""
    is_advice: bool = False
    """It is told, and fails no test."""


@dataclass(frozen=True, slots=True)
class SelfTestOrder:
    """`only`: these steps, empty: all. `burn_s` None: as long as a full or a quick test takes by itself.

    `task_id`: of the marketplace that asked for it, empty: the owner did. Such a one waits until nobody rents.
    """

    ordered_at: datetime
    is_quick: bool = False
    only: tuple[StepName, ...] = ()
    burn_s: float | None = None
    task_id: str = ""


@dataclass(frozen=True, slots=True)
class SelfTestProgress:
    """Where a run is. `share`: of this step, 0 to 1, None: it does not tell. `done`: of `steps`, how many ended."""

    step: StepName
    share: float | None
    words: str
    done: int
    steps: int


class RunResult(StrEnum):
    PASSED = "passed"
    FAILED = "failed"
    NOT_RUN = "not_run"
    """It came to no verdict: it could not begin, gave way to a renter, or was broken off."""


@dataclass(frozen=True, slots=True)
class SelfTestRun:
    """`began_at` None: it is ordered. `result` None: it has not ended. `problem`: why it came to no verdict.

    `verdicts` are of a whole test only: a part of the steps says nothing of all requirements.
    """

    run_id: int
    order: SelfTestOrder
    began_at: datetime | None = None
    ended_at: datetime | None = None
    result: RunResult | None = None
    problem: Problem | None = None
    steps: tuple[StepResult, ...] = ()
    verdicts: tuple[RequirementVerdict, ...] = ()
