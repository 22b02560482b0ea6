"""An owner's machine in the public API's spelling: the rows of `show machines`."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from kaalia.contracts import arbitration, cordon, impact
from kaalia.contracts.contract import ContractKind
from kaalia.contracts.cordon import Cordon
from kaalia.contracts.fitness import Fault
from kaalia.contracts.impact import Impact
from kaalia.contracts.maintenance import Window
from kaalia.contracts.offer import Listing
from kaalia.model.machine import MachineReport
from kaalia.model.verification import Cause
from kaalia.units import GB
from kaalia.wire import facts, maintenance
from kaalia.wire.offer import TROUBLED

_MARKS = {
    ContractKind.ON_DEMAND: "D",
    ContractKind.RESERVED: "R",
    ContractKind.INTERRUPTIBLE: "I",
    ContractKind.DEFAULT_JOB: "J",
    ContractKind.SELFTEST: "T",
}
FREE_MARK = "x"


@dataclass(frozen=True, slots=True)
class Rental:
    """What one live contract takes of a machine.

    `holds_gpus`: it runs, or, when nobody may take its GPUs, it should.
    """

    kind: ContractKind
    gpus: int
    disk_bytes: int
    holds_gpus: bool
    price_usd_per_hour: Decimal
    end_at: datetime | None


@dataclass(frozen=True, slots=True)
class Machine:
    """A machine as its owner sees it. `report` None: enrolled, but it has not said yet what it is."""

    machine_id: int
    host_id: int
    report: MachineReport | None
    listing: Listing | None
    rentals: tuple[Rental, ...]
    reliability: float
    verification: str
    silence_s: float | None
    """Seconds since it was heard of; None: never."""
    is_online: bool
    enrolled_at: datetime
    end_at: datetime | None
    """When the listing ends."""
    free_disk_bytes: int
    num_reports: int = 0
    """What renters have reported."""
    remaining_s: float | None = None
    """Until the listing ends."""
    windows: tuple[Window, ...] = ()
    """Maintenance that is not over."""
    cordon: Cordon | None = None
    """Set while its owner drains it."""
    faults: tuple[Fault, ...] = ()
    """What keeps parts of it from being rented anew."""
    costs: tuple[Cause, ...] = ()
    """What costs it its verification now."""
    nears: tuple[Cause, ...] = ()
    """What will, when it goes on."""
    asides: tuple[Cause, ...] = ()
    """What virtual machines, or one rental, suffer from; the machine pays nothing for it."""


def encode(machine: Machine) -> dict[str, Any]:
    """Sizes: MB of RAM, GB of disk; money: $/h; times: epoch seconds."""
    return {
        **(_hardware(machine.report) if machine.report else {"num_gpus": None, "gpu_name": None, "hostname": None}),
        **_terms(machine),
        **_use(machine),
        "id": machine.machine_id,
        "machine_id": machine.machine_id,
        "host_id": machine.host_id,
        "num_reports": machine.num_reports,
        "verification": machine.verification,
        "reliability2": machine.reliability,
        "timeout": machine.silence_s,
        "error_description": _trouble(machine),
        "vericode": TROUBLED if machine.faults or machine.costs else 0,
        "start_date": machine.enrolled_at.timestamp(),
        "machine_maintenance": maintenance.rows(machine.machine_id, machine.windows) or None,
    }


def _hardware(report: MachineReport) -> dict[str, Any]:
    return {
        **facts.encode(report),
        "num_gpus": len(report.gpus),
        "hostname": report.system.hostname,
        "disk_space": facts.disk_space_gb(report),
        "gpu_max_cur_temp": max(
            (gpu.temperature_c for gpu in report.gpus if gpu.temperature_c is not None), default=None
        ),
        "direct_port_start": report.network.port_range.first,
        "direct_port_end": report.network.port_range.last,
        "agent_version": report.agent_version,
    }


def _terms(machine: Machine) -> dict[str, Any]:
    listing = machine.listing
    if listing is None:
        return {"listed": False, "end_date": None, "duration": None, **dict.fromkeys((*_PRICES, *_NOT_PRICED))}
    return {
        "listed": True,
        "end_date": machine.end_at.timestamp() if machine.end_at else None,
        "duration": machine.remaining_s,
        "rolling_duration": listing.rolling_duration_s,
        "listed_min_gpu_count": listing.min_gpu,
        "listed_volume_cost": None,
        **{name: _number(getattr(listing, field)) for name, field in _PRICES.items()},
    }


_PRICES = {
    "listed_gpu_cost": "price_gpu_per_hour",
    "listed_storage_cost": "price_disk_per_gb_month",
    "listed_inet_up_cost": "price_inet_up_per_gb",
    "listed_inet_down_cost": "price_inet_down_per_gb",
    "min_bid_price": "price_min_bid_per_hour",
    "bid_gpu_cost": "price_min_bid_per_hour",
    "credit_discount_max": "credit_discount_max",
}
_NOT_PRICED = ("listed_min_gpu_count", "listed_volume_cost", "rolling_duration")


def _use(machine: Machine) -> dict[str, Any]:
    running = [rental for rental in machine.rentals if rental.holds_gpus]
    ends = [rental.end_at.timestamp() for rental in machine.rentals if rental.end_at]
    return {
        "gpu_occupancy": _occupancy(machine, running),
        "current_rentals_running": len(running),
        "current_rentals_resident": len(machine.rentals),
        "current_rentals_on_demand": sum(rental.kind is ContractKind.ON_DEMAND for rental in machine.rentals),
        "client_end_date": max(ends, default=None),
        "earn_hour": float(sum((rental.price_usd_per_hour for rental in running), Decimal(0))),
        "alloc_disk_space": sum(rental.disk_bytes for rental in machine.rentals) // GB,
        "avail_disk_space": machine.free_disk_bytes // GB,
    }


def _occupancy(machine: Machine, running: list[Rental]) -> str:
    """One mark a GPU: D on-demand, R reserved, I interruptible, J default job, T self-test, x free.

    While one gives way to another of higher rank, the GPU is counted for the latter.
    """
    total = len(machine.report.gpus) if machine.report else 0
    ordered = sorted(running, key=lambda rental: arbitration.rank(rental.kind))
    marks = [_MARKS[rental.kind] for rental in ordered for _ in range(rental.gpus)][:total]
    return " ".join([*marks, *([FREE_MARK] * (total - len(marks)))])


def _trouble(machine: Machine) -> str | None:
    if machine.silence_s is None:
        return "enrolled, but its daemon has not been heard of yet"
    if not machine.is_online:
        return f"offline: not heard of for {machine.silence_s:.0f} s"
    told = [cordon.in_short(machine.cordon)] if machine.cordon else []
    told += [f"not rented out: {one.scope} [{one.code}] {one.message}".rstrip() for one in machine.faults]
    shown = {one.code for one in machine.faults}
    told += [_said("not verified", one) for one in machine.costs if one.code not in shown]
    told += [_said(f"not verified from {one.counts_at:%Y-%m-%d %H:%M} UTC on", one) for one in machine.nears]
    told += [_said(_ASIDES.get(impact.level(one.code), "of {}").format(one.scope), one) for one in machine.asides]
    return "; ".join(told) or None


_ASIDES: Mapping[Impact | None, str] = {Impact.VM: "no virtual machines", Impact.RENTAL: "of {} alone"}


def _said(what: str, cause: Cause) -> str:
    return f"{what}: [{cause.code}] {cause.words}".rstrip()


def _number(value: Decimal | None) -> float | None:
    return None if value is None else float(value)
