"""What a marketplace knows of a machine when it judges it, and the measures it takes (`verification.toml`). Pure."""

import tomllib
from dataclasses import dataclass
from datetime import datetime
from importlib import resources
from typing import Any

from kaalia.contracts import requirements
from kaalia.contracts.fitness import Fault
from kaalia.contracts.requirement_facts import Facts
from kaalia.contracts.slicing import all_known
from kaalia.model.machine import MachineReport
from kaalia.model.selftest import RequirementVerdict
from kaalia.model.verification import Capacity, Cause

BARRED = "<admin-set>"
"""The code of what the operator did by hand, as the public marketplace spells it."""
CAPACITY = "capacity_reduced"
TEST_FAILED = "selftest_failed"
# When the module is imported, not in somebody's event loop.
DATA: dict[str, Any] = tomllib.loads(
    (resources.files("kaalia.contracts") / "verification.toml").read_text(encoding="utf-8")
)


@dataclass(frozen=True, slots=True)
class News:
    """All that the marketplace knows of a machine at one moment.

    `facts` None: it has not reported. `capacity` None: it cannot be counted now. `conditions`: open ones, None: it
    tells nothing; `faults`: what keeps parts of it from being rented, unknown ones too. `refused`: why no test can
    help, such as a simulated driver. `is_offered`: listed, and its owner does not work on it. `reporters`: renters who
    reported it since its last test. `elsewhere`: of its GPUs, those that another machine has, by what that one says.
    """

    now: datetime
    facts: Facts | None
    capacity: Capacity | None
    conditions: tuple[Fault, ...] | None = ()
    faults: tuple[Fault, ...] = ()
    is_rented: bool = False
    is_offered: bool = True
    refused: str = ""
    reporters: int = 0
    elsewhere: int = 0


def capacity(report: MachineReport) -> Capacity | None:
    """None: the driver does not show all, so that less is known than is there."""
    if not all_known(report):
        return None
    return Capacity(
        gpu_uuids=tuple(sorted(gpu.uuid for gpu in report.gpus)),
        memory_bytes=report.memory.total_bytes,
        cores=report.cpu.logical_cores,
        disk_bytes=report.disk.total_bytes if report.disk and report.engine else None,
    )


def counts(cause: Cause, now: datetime) -> bool:
    """It costs the verification: it stood for its grace, and is not over."""
    return cause.counts_at <= (cause.gone_at or now)


def unmet(facts: Facts) -> tuple[RequirementVerdict, ...]:
    """The requirements that are not met, as far as is known."""
    return requirements.unmet(requirements.verdicts(facts))


def is_less(before: int, now: int) -> bool:
    """By more than differs from boot to boot."""
    return now < before * (1 - float(DATA["capacity"]["slack"]))
