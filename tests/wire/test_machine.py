from dataclasses import replace
from datetime import timedelta
from decimal import Decimal

import pytest

from kaalia.contracts.contract import ContractKind
from kaalia.contracts.offer import Listing
from kaalia.units import GB
from kaalia.wire import machine as wire_machine
from kaalia.wire.machine import Machine, Rental
from tests.support.clock import START
from tests.support.machines import machine_report

MACHINE = Machine(
    machine_id=77,
    host_id=3,
    report=machine_report(gpus=4),
    listing=Listing(price_gpu_per_hour=Decimal("0.4"), price_min_bid_per_hour=Decimal("0.2"), min_gpu=2),
    rentals=(),
    reliability=0.97,
    verification="unverified",
    silence_s=5.0,
    is_online=True,
    enrolled_at=START,
    end_at=START + timedelta(days=1),
    free_disk_bytes=900 * GB,
)


def rental(kind: ContractKind, gpus: int, holds_gpus: bool = True, days: int | None = None) -> Rental:
    end_at = None if days is None else START + timedelta(days=days)
    return Rental(kind, gpus, 50 * GB, holds_gpus, Decimal("0.8"), end_at)


def test_a_listed_machine_shows_its_terms() -> None:
    row = wire_machine.encode(MACHINE)

    assert (row["id"], row["machine_id"], row["host_id"], row["num_gpus"]) == (77, 77, 3, 4)
    assert (row["listed"], row["listed_gpu_cost"], row["min_bid_price"], row["listed_min_gpu_count"]) == (
        True,
        0.4,
        0.2,
        2,
    )
    assert row["hostname"] == "rig-1"
    assert row["disk_space"] == 1200
    assert row["avail_disk_space"] == 900
    assert row["gpu_occupancy"] == "x x x x"
    assert row["error_description"] is None
    assert row["end_date"] == (START + timedelta(days=1)).timestamp()


def test_rentals_are_counted_and_marked() -> None:
    rentals = (
        rental(ContractKind.ON_DEMAND, 2, days=3),
        rental(ContractKind.INTERRUPTIBLE, 1, days=5),
        rental(ContractKind.ON_DEMAND, 1, holds_gpus=False),
    )
    row = wire_machine.encode(replace(MACHINE, rentals=rentals))

    assert row["gpu_occupancy"] == "D D I x"
    assert row["current_rentals_running"] == 2
    assert row["current_rentals_resident"] == 3
    assert row["current_rentals_on_demand"] == 2
    assert row["client_end_date"] == (START + timedelta(days=5)).timestamp()
    assert row["earn_hour"] == pytest.approx(1.6)
    assert row["alloc_disk_space"] == 150


def test_an_unlisted_machine_has_no_prices() -> None:
    row = wire_machine.encode(replace(MACHINE, listing=None, end_at=None))

    assert row["listed"] is False
    for field in ("listed_gpu_cost", "min_bid_price", "credit_discount_max", "listed_inet_up_cost", "end_date"):
        assert row[field] is None


def test_troubles_are_said() -> None:
    silent = wire_machine.encode(replace(MACHINE, is_online=False, silence_s=400.0))
    new = wire_machine.encode(replace(MACHINE, report=None, silence_s=None, is_online=False))

    assert silent["error_description"] == "offline: not heard of for 400 s"
    assert "not been heard of yet" in new["error_description"]
    assert new["num_gpus"] is None
    assert new["gpu_occupancy"] == ""
