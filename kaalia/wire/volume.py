"""Volumes and volume offers in the public API's spelling. Sizes in GB, prices in $/GB/month, times as epoch seconds."""

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from kaalia.contracts.volume import Volume
from kaalia.model.machine import MachineReport
from kaalia.model.volume import VolumeState, VolumeStatus
from kaalia.units import GB, HOURS_PER_MONTH
from kaalia.wire import facts
from kaalia.wire.offer import ENDLESS_S


@dataclass(frozen=True, slots=True)
class VolumeOffer:
    """Space for volumes on one machine. `space_bytes`: what can be rented now."""

    offer_id: int
    machine_id: int
    host_id: int
    report: MachineReport
    space_bytes: int
    price_per_gb_month: Decimal
    reliability: float
    verification: str
    start_at: datetime
    end_at: datetime | None


@dataclass(frozen=True, slots=True)
class RentedVolume:
    """A volume as its renter sees it. `instances`: ids of those that mount it."""

    volume: Volume
    status: VolumeStatus | None
    name: str | None
    offer_id: int
    machine_id: int
    host_id: int
    report: MachineReport
    price_per_gb_month: Decimal
    reliability: float
    verification: str
    online: bool
    start_at: datetime
    instances: tuple[int, ...]


def encode_offer(offer: VolumeOffer, storage_gb: Decimal, now: datetime) -> dict[str, Any]:
    """One row of `search volumes`."""
    end_at, price = offer.end_at, offer.price_per_gb_month
    return {
        **_hardware(offer.report),
        "id": offer.offer_id,
        "machine_id": offer.machine_id,
        "host_id": offer.host_id,
        "cluster_id": None,
        "disk_space": offer.space_bytes / GB,
        "storage_cost": float(price),
        "storage_total_cost": float(price * storage_gb / HOURS_PER_MONTH),
        "reliability": offer.reliability,
        "reliability2": offer.reliability,
        "verification": offer.verification,
        "verified": offer.verification == "verified",
        "external": False,
        "datacenter": False,
        "rentable": True,
        "start_date": offer.start_at.timestamp(),
        "end_date": None if end_at is None else end_at.timestamp(),
        "duration": ENDLESS_S if end_at is None else max(0.0, (end_at - now).total_seconds()),
        "score": float(1 / max(price, Decimal("0.0001"))),
        "nw_disk_min_bw": None,
        "nw_disk_max_bw": None,
        "nw_disk_avg_bw": None,
    }


def encode(rented: RentedVolume, now: datetime) -> dict[str, Any]:
    """One row of `show volumes`."""
    size_gb = rented.volume.size_bytes / GB
    status, end_at = rented.status, rented.volume.end_at
    return {
        **_hardware(rented.report),
        "id": rented.volume.volume_id,
        "volume_name": f"V.{rented.volume.volume_id}",
        "label": rented.name,
        "name": rented.name,
        "type": "local_volume",
        "cluster_id": None,
        "offer_id": rented.offer_id,
        "machine_id": rented.machine_id,
        "host_id": rented.host_id,
        "disk_space": size_gb,
        "disk_usage": None if status is None or status.used_bytes is None else status.used_bytes / GB,
        "status": _status(rented, now),
        "status_msg": status.problem.message if status and status.problem else "",
        "backend": None if status is None else status.backend,
        "storage_cost": float(rented.price_per_gb_month),
        "storage_total_cost": float(rented.price_per_gb_month * Decimal(str(size_gb)) / HOURS_PER_MONTH),
        "reliability": rented.reliability,
        "reliability2": rented.reliability,
        "verification": rented.verification,
        "start_date": rented.start_at.timestamp(),
        "end_date": None if end_at is None else end_at.timestamp(),
        "instances": list(rented.instances),
    }


def encode_mount(volume_id: int, path: str, size_bytes: int, used_bytes: int | None) -> dict[str, Any]:
    """One entry of an instance's `volume_info`. What nobody measured yet counts as free."""
    total = size_bytes / GB
    return {
        "id": volume_id,
        "mount_path": path,
        "total_space": total,
        "avail_space": total if used_bytes is None else max(0.0, (size_bytes - used_bytes) / GB),
    }


def _status(rented: RentedVolume, now: datetime) -> str:
    if not rented.online:
        return "offline"
    if rented.volume.end_at is not None and rented.volume.end_at <= now:
        return "expired"
    return str(VolumeState.CREATING if rented.status is None else rented.status.state)


def _hardware(report: MachineReport) -> dict[str, Any]:
    known = facts.encode(report)
    names = (
        "cpu_arch",
        "cpu_ghz",
        "cuda_max_good",
        "disk_bw",
        "disk_name",
        "driver_version",
        "driver_vers",
        "gpu_arch",
    )
    more = ("geolocation", "has_avx", "inet_up", "inet_down", "pci_gen", "pcie_bw", "static_ip", "total_flops")
    return {name: known[name] for name in (*names, *more, "ubuntu_version")}
