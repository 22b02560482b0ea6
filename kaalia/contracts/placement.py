"""What this machine should do for each contract now, and when that may change by itself.

    new ──▶ reject      below the owner's terms, or over before it began: final for its generation
     │
     └────▶ wait        the machine is not known yet, the marketplace's last word is too old, GPUs are taken
             │
             ▼
            run ◀──▶ stop (the renter's wish, or expired) ──▶ end (signed tombstone, or missing for long)

The owner's terms are checked for new contracts only: what runs was agreed to. Nothing here stops a workload because
something is not known.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from enum import StrEnum

from kaalia.contracts.contract import Contract, ContractKind, Desired, is_expired
from kaalia.contracts.offer import Listing, sizes
from kaalia.contracts.slicing import choose_gpus
from kaalia.errors import Problem
from kaalia.model.machine import MachineReport
from kaalia.model.workload import WorkloadState, WorkloadStatus

MISSING_REVISIONS = 2
MISSING_GRACE = timedelta(minutes=30)
"""A contract that snapshots leave out ends only after both."""
END_TOLERANCE = timedelta(seconds=60)
"""End dates pass through floats and roundings of several programs."""
OWN_KINDS = frozenset({ContractKind.SELFTEST, ContractKind.DEFAULT_JOB})
"""Contracts of the machine's owner: no listing and no marketplace is asked."""
_OCCUPIES = frozenset(
    {
        WorkloadState.PULLING,
        WorkloadState.CREATING,
        WorkloadState.STARTING,
        WorkloadState.RUNNING,
        WorkloadState.STOPPING,
        WorkloadState.EXITED,
        WorkloadState.REMOVING,
        WorkloadState.UNKNOWN,
    }
)
"""States in which a contract without GPUs has the machine, as one with GPUs has its GPUs."""
_MACHINE_TAKEN = "scheduling: waits for the machine, which another contract uses"


class Want(StrEnum):
    RUN = "run"
    STOP = "stop"
    END = "end"
    WAIT = "wait"
    REJECT = "reject"


@dataclass(frozen=True, slots=True)
class Held:
    """A contract as the machine holds it. `is_present`: its container exists; `missing_*`: see `store.contracts`."""

    contract: Contract
    workload: WorkloadStatus | None = None
    is_present: bool = False
    missing_since: datetime | None = None
    missing_revisions: int = 0

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


@dataclass(frozen=True, slots=True)
class Wish:
    """`gpu_uuids` are granted with RUN, `reason` explains WAIT and STOP, `problem` explains REJECT."""

    contract: Contract
    want: Want
    gpu_uuids: tuple[str, ...] = ()
    reason: str = ""
    problem: Problem | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    wishes: tuple[Wish, ...]
    next_change_at: datetime | None


def plan(held: Iterable[Held], machine: Machine, now: datetime) -> Plan:
    """Decide every contract. GPUs go to those that hold them, then to the earliest start, then to the lowest id.

    A contract without GPUs has all of the machine, so such contracts run one at a time.
    """
    contracts = sorted(held, key=lambda one: (one.contract.start_at, one.contract.contract_id))
    owners = dict(machine.gpu_owners)
    tenant = next((one.contract.contract_id for one in contracts if _is_whole(one.contract) and _occupies(one)), None)
    disk_bytes = sum(one.contract.spec.disk_bytes for one in contracts if one.has_disk)
    wishes = []
    for one in contracts:
        wish = _decide(one, machine, owners, disk_bytes, now)
        if wish.want is Want.RUN and _is_whole(one.contract):
            tenant = tenant or one.contract.contract_id
            if tenant != one.contract.contract_id:
                wish = Wish(one.contract, Want.WAIT, reason=_MACHINE_TAKEN)
        owners.update(dict.fromkeys(wish.gpu_uuids, one.contract.contract_id))
        if wish.want in (Want.RUN, Want.STOP) and not one.has_disk:
            disk_bytes += one.contract.spec.disk_bytes
        wishes.append(wish)
    changes = [at for one in contracts for at in _changes(one) if at > now]
    return Plan(tuple(wishes), min(changes, default=None))


def _decide(one: Held, machine: Machine, owners: Mapping[str, int], disk_bytes: int, now: datetime) -> Wish:
    contract = one.contract
    if contract.desired is Desired.ENDED or is_abandoned(one.missing_since, one.missing_revisions, now):
        return Wish(contract, Want.END, reason="ended by the marketplace")
    if one.is_new:
        refusal = _refusal(one, machine, now) or _over_disk(one, machine.report, disk_bytes)
        if refusal is not None:
            return Wish(contract, Want.REJECT, problem=refusal)
    if is_expired(contract, now):
        return Wish(contract, Want.STOP, reason=f"stopped: the contract ended at {contract.end_at:%Y-%m-%d %H:%M} UTC")
    if contract.desired is Desired.STOPPED:
        return Wish(contract, Want.STOP, reason="stopped")
    if one.is_new and (reason := _not_admitted(one, machine)):
        return Wish(contract, Want.WAIT, reason=reason)
    return _grant(one, machine.report, owners)


def _is_whole(contract: Contract) -> bool:
    return contract.spec.gpu_count == 0 and contract.kind not in OWN_KINDS


def _occupies(one: Held) -> bool:
    return one.workload is not None and one.workload.state in _OCCUPIES


def is_abandoned(missing_since: datetime | None, missing_revisions: int, now: datetime) -> bool:
    """Newer words of the marketplace left it out twice, and for half an hour: nobody will ask for it again."""
    if missing_since is None or missing_revisions < MISSING_REVISIONS:
        return False
    return now >= missing_since + MISSING_GRACE


def _changes(one: Held) -> Iterable[datetime]:
    if one.contract.end_at is not None:
        yield one.contract.end_at
    if one.missing_since is not None:
        yield one.missing_since + MISSING_GRACE


def _not_admitted(one: Held, machine: Machine) -> str | None:
    if machine.report is None:
        return "scheduling: the machine is still being looked at"
    if one.contract.kind in OWN_KINDS:
        return None
    if one.missing_since is not None:
        return "scheduling: the marketplace does not mention this contract any more"
    return f"scheduling: {machine.closed_because}" if machine.closed_because else None


def _refusal(one: Held, machine: Machine, now: datetime) -> Problem | None:
    """Why the owner's terms refuse a new contract. A refusal stays for its generation: the renter was told."""
    contract, status = one.contract, one.workload
    is_refused = status and status.state is WorkloadState.REJECTED and status.generation == contract.generation
    if status and is_refused:
        return status.problem
    if is_expired(contract, now):
        return Problem("contract_expired", f"cannot start: the contract ended at {contract.end_at}")
    if contract.kind in OWN_KINDS or machine.report is None:
        return None
    if machine.listing is None:
        return Problem("not_listed", "cannot accept the contract: the owner does not offer this machine")
    return _below_terms(contract, machine.listing, len(machine.report.gpus))


def _below_terms(contract: Contract, listing: Listing, num_gpus: int) -> Problem | None:
    floor = _price_floor(contract, listing)
    if contract.price_usd_per_hour < floor:
        return Problem(
            "price_below_floor",
            f"cannot accept {contract.price_usd_per_hour} USD per hour: the owner asks for at least {floor}",
            remedy="search again: the price of this machine has changed",
        )
    split = sizes(num_gpus, listing.min_gpu)
    if contract.spec.gpu_count not in split and contract.spec.gpu_count <= num_gpus:
        return Problem(
            "gpu_split_refused",
            f"cannot accept {contract.spec.gpu_count} GPUs: the owner rents out {', '.join(map(str, split))}",
            remedy="search again: the offers of this machine have changed",
        )
    if listing.end_at is not None and (contract.end_at is None or contract.end_at > listing.end_at + END_TOLERANCE):
        return Problem(
            "end_after_listing",
            f"cannot accept an end at {contract.end_at or 'no date'}: the owner's offer ends at {listing.end_at}",
            remedy="rent for a shorter time",
        )
    return None


def _price_floor(contract: Contract, listing: Listing) -> Decimal:
    """For the whole contract. A machine without GPUs counts as one; reserved contracts may have the discount."""
    units = max(contract.spec.gpu_count, 1)
    asked = listing.price_gpu_per_hour * units
    if contract.kind is ContractKind.RESERVED:
        return asked * (1 - listing.credit_discount_max)
    if contract.kind is ContractKind.INTERRUPTIBLE and listing.price_min_bid_per_hour is not None:
        return listing.price_min_bid_per_hour * units
    return asked


def _over_disk(one: Held, report: MachineReport | None, disk_bytes: int) -> Problem | None:
    """The disk of all contracts together (`disk_bytes` so far) never exceeds the disk of the machine."""
    if report is None or report.disk is None:
        return None
    left = report.disk.total_bytes - disk_bytes
    if one.contract.spec.disk_bytes <= left:
        return None
    return Problem(
        "disk_exhausted",
        f"cannot give {one.contract.spec.disk_bytes} bytes of disk: {max(left, 0)} are not promised yet",
        remedy="rent with a smaller disk, or on another machine",
    )


def _grant(one: Held, report: MachineReport | None, owners: Mapping[str, int]) -> Wish:
    """RUN with GPUs: those it holds, those its container was made with, or free ones. WAIT while they are not free."""
    contract, count = one.contract, one.contract.spec.gpu_count
    me = contract.contract_id
    mine = tuple(uuid for uuid, owner in owners.items() if owner == me)
    if len(mine) == count:
        return Wish(contract, Want.RUN, mine)
    gpus = report.gpus if report else ()
    busy = {uuid for uuid, owner in owners.items() if owner != me}
    if made_with := _made_with(one):
        return _regrant(contract, made_with, busy, {gpu.uuid for gpu in gpus})
    chosen = choose_gpus(gpus, busy, count)
    if chosen is None:
        free = sum(gpu.uuid not in busy for gpu in gpus)
        return Wish(contract, Want.WAIT, reason=f"scheduling: waits for {count} GPUs, {free} of {len(gpus)} are free")
    return Wish(contract, Want.RUN, chosen)


def _made_with(one: Held) -> tuple[str, ...]:
    """The GPUs that are built into its present container."""
    status = one.workload
    is_current = status is not None and one.is_present and status.generation == one.contract.generation
    return status.gpu_uuids if status and is_current else ()


def _regrant(contract: Contract, made_with: tuple[str, ...], busy: Collection[str], seen: Collection[str]) -> Wish:
    for uuid in made_with:
        if uuid in busy:
            return Wish(contract, Want.WAIT, reason=f"scheduling: waits for {uuid}, which another contract uses")
        if uuid not in seen:
            return Wish(contract, Want.WAIT, reason=f"scheduling: waits for {uuid}, which the driver does not show")
    return Wish(contract, Want.RUN, made_with)
