"""All that one scrape is made of, read from the store in one go: no value is kept for the metrics alone."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from kaalia.contracts.local import is_local
from kaalia.contracts.maintenance import Window
from kaalia.contracts.offer import Listing
from kaalia.contracts.reliability import WINDOW
from kaalia.contracts.traffic import Tally
from kaalia.model.availability import Cause, Record
from kaalia.model.gpu_health import GpuReading
from kaalia.model.gpu_use import GpuUse
from kaalia.model.health import OpenCondition
from kaalia.model.kernel_log import KernelFault
from kaalia.model.machine import MachineReport
from kaalia.model.workload import WorkloadStatus
from kaalia.store import (
    amounts,
    availability,
    claims,
    conditions,
    contracts,
    disk,
    energy,
    enrolment,
    gpu_health,
    gpu_use,
    kernel_log,
    machine,
    maintenance,
    outbox,
    overview,
    standing,
    traffic,
    volumes,
    workloads,
)
from kaalia.store.amounts import Amount
from kaalia.store.availability import Contact, Sum
from kaalia.store.claims import Claim
from kaalia.store.contracts import StoredContract
from kaalia.store.database import Transaction
from kaalia.store.enrolment import AcceptedSnapshot, Enrolment
from kaalia.store.maintenance import StoredCordon
from kaalia.store.volumes import StoredVolume
from kaalia.wire.local import DiskLedger


@dataclass(frozen=True, slots=True)
class Reading:
    """`claims` with the moment since which their owners have them. `conditions`: symptoms of others among them.

    `outages`: of the last 30 days. `energies`: joules, by contract.
    """

    now: datetime
    report: MachineReport | None
    use: GpuUse | None
    driver: GpuReading | None
    enrolled: Enrolment | None
    snapshot: AcceptedSnapshot | None
    verification: str
    listing: Listing | None
    cordon: StoredCordon | None
    contracts: tuple[StoredContract, ...]
    workloads: Mapping[int, WorkloadStatus]
    volumes: tuple[StoredVolume, ...]
    claims: tuple[tuple[Claim, datetime], ...]
    amounts: tuple[Amount, ...]
    tallies: Mapping[int, Tally]
    energies: Mapping[int, float]
    disk: DiskLedger | None
    conditions: tuple[OpenCondition, ...]
    conditions_ended: int
    faults: tuple[KernelFault, ...]
    outages: Mapping[Cause, Sum]
    contact: Contact
    record: Record | None
    windows: tuple[Window, ...]
    state_bytes: int
    outbox_length: int
    outbox_since: datetime | None


def read(tx: Transaction, now: datetime) -> Reading:
    """What is true at `now`."""
    report = machine.get_report(tx)
    return Reading(
        now=now,
        report=report,
        use=gpu_use.get(tx),
        driver=gpu_health.get(tx),
        enrolled=enrolment.get(tx),
        snapshot=enrolment.get_snapshot(tx),
        verification=standing.verification(tx),
        listing=machine.get_listing(tx),
        cordon=maintenance.get_cordon(tx),
        contracts=tuple(one for one in contracts.all_contracts(tx) if not is_local(one.contract.contract_id)),
        workloads={number: row for number, row in workloads.all_workloads(tx).items() if not is_local(number)},
        volumes=volumes.all_volumes(tx),
        claims=claims.with_times(tx),
        amounts=amounts.all_amounts(tx),
        tallies=traffic.all_tallies(tx),
        energies=energy.totals(tx),
        disk=disk.get_ledger(tx),
        conditions=conditions.all_open(tx),
        conditions_ended=conditions.ended(tx),
        faults=kernel_log.faults(tx, report.system.boot_id) if report else (),
        outages=availability.sums(tx, now - WINDOW, now),
        contact=availability.get_contact(tx),
        record=availability.get_record(tx),
        windows=maintenance.windows(tx),
        state_bytes=overview.size_bytes(tx),
        outbox_length=outbox.count(tx),
        outbox_since=outbox.oldest_at(tx),
    )
