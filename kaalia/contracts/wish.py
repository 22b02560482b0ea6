"""What `placement` plans with: contracts as the machine holds them, the machine, and what it should do for each."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from kaalia.contracts import fitness
from kaalia.contracts.admission import Group, House
from kaalia.contracts.contract import Contract
from kaalia.contracts.disk import Overrun
from kaalia.contracts.fitness import Fault
from kaalia.contracts.maintenance import Window
from kaalia.contracts.offer import Listing
from kaalia.contracts.policy import OPEN, Policy
from kaalia.contracts.slicing import all_known, by_model
from kaalia.errors import Problem
from kaalia.model.machine import MachineReport
from kaalia.model.workload import WorkloadState, WorkloadStatus


class Want(StrEnum):
    RUN = "run"
    STOP = "stop"
    END = "end"
    WAIT = "wait"
    YIELD = "yield"
    """As WAIT, and stopped for it: one of higher rank has its GPUs. Its data are kept, and it resumes by itself."""
    REJECT = "reject"


@dataclass(frozen=True, slots=True)
class Held:
    """A contract as the machine holds it. `is_present`: its container exists; `missing_*`: see `store.contracts`."""

    contract: Contract
    workload: WorkloadStatus | None = None
    is_present: bool = False
    missing_since: datetime | None = None
    missing_revisions: int = 0
    is_local: bool = False
    """Made by the machine itself, not by a marketplace: nobody else's rules are asked."""
    overrun: Overrun | None = None
    """It was measured to hold more than it rented."""
    notice: str = ""
    """What its renter should know of what runs inside."""

    @property
    def too_large(self) -> Overrun | None:
        """What is known of its size, if that is too large and of what is there to stay."""
        row = self.workload
        is_there = row is not None and row.answered >= self.contract.generation
        stays = row.generation if row is not None and is_there else self.contract.generation
        is_current = self.overrun is not None and self.overrun.generation == stays
        return self.overrun if is_current else None

    @property
    def is_new(self) -> bool:
        """The machine has done nothing for it yet, so it may still be refused."""
        state = self.workload.state if self.workload else WorkloadState.WAITING
        return not self.is_present and state in (WorkloadState.WAITING, WorkloadState.REJECTED)

    @property
    def has_disk(self) -> bool:
        """Its disk is promised: it was admitted, and it has not ended."""
        is_over = self.workload is not None and self.workload.state is WorkloadState.ENDED
        return self.is_present or not (self.is_new or is_over)


@dataclass(frozen=True, slots=True)
class Machine:
    """What the rules know of the machine. `gpu_owners`: UUID -> the contract that has it, known or not."""

    report: MachineReport | None
    listing: Listing | None
    gpu_owners: Mapping[str, int]
    closed_because: str | None = None
    """Why nothing new is admitted; None: admission is open."""
    latest_at: datetime | None = None
    """While the time is in doubt: how late it may be. None: the time of planning is certain."""
    volume_bytes: int = 0
    """Disk that volumes were promised."""
    windows: tuple[Window, ...] = ()
    """Maintenance that the owner announced."""
    is_cordoned: bool = False
    """The owner drains it (`closed_because` says so): his own jobs give way too."""
    reopens_at: datetime | None = None
    """When `closed_because` ends by itself, where that is known."""
    policy: Policy = OPEN
    faults: tuple[Fault, ...] = ()
    """What keeps parts of it from being rented anew."""

    @property
    def unfit(self) -> dict[str, Fault]:
        """UUID -> what is wrong with a GPU."""
        return fitness.of_gpus(self.faults)

    @property
    def house(self) -> House:
        report, unfit = self.report, self.unfit
        if report is None:
            return House(self.listing, self.policy, None)
        groups = {
            model: Group(len(gpus), tuple(unfit[gpu.uuid] for gpu in gpus if gpu.uuid in unfit))
            for model, gpus in by_model(report.gpus).items()
        }
        return House(self.listing, self.policy, len(report.gpus), groups if all_known(report) else None)


@dataclass(frozen=True, slots=True)
class Wish:
    """`gpu_uuids` are granted with RUN, `reason` explains WAIT, YIELD and STOP, `problem` REJECT, and STOP if need be.

    `warning` is told to the renter while it runs.
    """

    contract: Contract
    want: Want
    gpu_uuids: tuple[str, ...] = ()
    reason: str = ""
    problem: Problem | None = None
    warning: str = ""


@dataclass(frozen=True, slots=True)
class Plan:
    wishes: tuple[Wish, ...]
    next_change_at: datetime | None
