"""The machine as a test found it, held against the requirements by which a marketplace verifies it."""

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime

from kaalia.contracts import reliability, requirement_facts, requirements
from kaalia.model.machine import MachineReport
from kaalia.model.selftest import RequirementVerdict, StepResult
from kaalia.store import availability, machine, reach, speed
from kaalia.store.database import Transaction
from kaalia.wire import facts


def judge(
    tx: Transaction, tested: MachineReport, steps: Iterable[StepResult], now: datetime
) -> tuple[RequirementVerdict, ...]:
    """`tested`: the report as it was when the test began. What the steps measured is newer than any report."""
    report, record, found = machine.get_report(tx) or tested, availability.get_record(tx), reach.get_map(tx)
    network = replace(
        report.network,
        speed=speed.get_result(tx) or report.network.speed,
        proven=report.network.proven if found is None else found.proven,
    )
    told = None if record is None else reliability.figure(record, now)
    flops = facts.encode(report)["total_flops"]
    measured = requirement_facts.least(steps)
    return requirements.verdicts(requirement_facts.of(replace(report, network=network), told, flops, measured))
