from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kaalia.contracts.offer import Listing
from kaalia.units import GB
from kaalia.wire import facts
from kaalia.wire import offer as wire_offer
from kaalia.wire.offer import Offer
from tests.support.clock import START
from tests.support.machines import machine_report

LISTING = Listing(
    price_gpu_per_hour=Decimal("0.4"),
    price_disk_per_gb_month=Decimal("0.73"),
    price_inet_up_per_gb=Decimal("0.01"),
    price_min_bid_per_hour=Decimal("0.1"),
    credit_discount_max=Decimal("0.25"),
)


def offer(num_gpus: int = 2, gpus: int = 8, **changes: Any) -> Offer:
    fields: dict[str, Any] = {
        "ask_id": 501,
        "machine_id": 77,
        "host_id": 3,
        "num_gpus": num_gpus,
        "machine_gpus": gpus,
        "facts": facts.encode(machine_report(gpus=gpus)),
        "disk_bytes": 250 * GB,
        "listing": LISTING,
        "rentable": True,
        "rented": False,
        "reliability": 0.95,
        "verification": "unverified",
        "start_at": START,
        "end_at": START + timedelta(days=10),
    }
    return Offer(**{**fields, **changes})


def encode(which: Offer, kind: str = "on-demand", storage_gb: int = 10) -> dict[str, Any]:
    return wire_offer.encode(which, START + timedelta(days=1), Decimal(storage_gb), kind)


def test_a_slice_has_its_share() -> None:
    row = encode(offer())

    assert row["gpu_frac"] == 0.25
    assert row["gpu_total_ram"] == 2 * 24564
    assert row["cpu_cores"] == 64
    assert row["cpu_cores_effective"] == 16
    assert row["cpu_ram"] == 64 * 1024
    assert row["disk_space"] == 250
    assert row["id"] == row["ask_contract_id"] == 501
    assert row["duration"] == 9 * 86400


def test_what_grows_with_gpus_is_the_slices_own_also_where_models_differ() -> None:
    """The facts are those of the two GPUs of its model, in a machine of eight."""
    two = facts.encode(machine_report(gpus=2))

    row = encode(offer(num_gpus=1, gpus=8, facts=two))

    assert (row["total_flops"], row["dlperf"], row["gpu_mem_bw"]) == (82.6, 23.0, 1008.0)
    assert row["flops_per_dphtotal"] == round(82.6 / row["dph_total"], 3)
    assert row["dlperf_per_dphtotal"] == round(23.0 / row["dph_total"], 3)


def test_prices_contain_the_storage() -> None:
    row = encode(offer())

    assert row["dph_base"] == 0.8
    assert row["storage_cost"] == 0.73
    assert row["storage_total_cost"] == 0.01
    assert row["dph_total"] == 0.81
    assert row["min_bid"] == 0.2
    assert row["internet_up_cost_per_tb"] == 10.24
    assert row["search"] == row["instance"]
    assert row["search"]["totalHour"] == 0.81
    assert row["search"]["discountTotalHour"] == 0


def test_a_bid_starts_at_the_floor_and_a_reserved_offer_has_the_discount() -> None:
    bid, reserved = encode(offer(), "bid"), encode(offer(), "reserved")

    assert (bid["is_bid"], bid["dph_base"]) == (True, 0.2)
    assert reserved["dph_total"] == 0.81
    assert reserved["discounted_dph_total"] == 0.61


def test_without_a_floor_a_bid_pays_the_full_price() -> None:
    row = encode(offer(listing=replace(LISTING, price_min_bid_per_hour=None)), "bid")

    assert row["dph_base"] == row["min_bid"] == 0.8


def test_a_listing_without_an_end_is_found_by_long_durations() -> None:
    row = encode(offer(end_at=None))

    assert row["end_date"] is None
    assert row["duration"] == wire_offer.ENDLESS_S


def test_a_machine_without_gpus() -> None:
    row = encode(offer(num_gpus=0, gpus=0))

    assert (row["num_gpus"], row["gpu_name"], row["gpu_ram"], row["gpu_frac"]) == (0, None, 0, 1.0)
    assert row["cpu_cores_effective"] == 64
    assert row["resource_type"] == "cpu"
    assert row["dph_base"] == 0.4
    assert row["score"] > 0


TEXTS = frozenset(
    {
        *(
            "gpu_name",
            "gpu_arch",
            "cpu_name",
            "cpu_arch",
            "driver_version",
            "mobo_name",
            "os_version",
            "ubuntu_version",
        ),
        *("public_ipaddr", "disk_name", "verification", "resource_type", "geolocation"),
    }
)
FLAGS = frozenset(
    {
        "rentable",
        "rented",
        "verified",
        "external",
        "datacenter",
        "vms_enabled",
        "is_vm_deverified",
        "is_bid",
        "gpu_display_active",
    }
)


@pytest.mark.parametrize("gpus", [0, 1, 8])
def test_columns_hold_what_clients_format(gpus: int) -> None:
    row = encode(offer(num_gpus=gpus, gpus=gpus))

    for field, value in row.items():
        if field in TEXTS:
            assert value is None or isinstance(value, str), field
        elif field in FLAGS:
            assert value is None or isinstance(value, bool), field
        elif field in {"search", "instance"}:
            assert all(isinstance(cost, float) for cost in value.values()), field
        else:
            assert value is None or (isinstance(value, int | float) and not isinstance(value, bool)), field


@given(st.sampled_from([2, 4, 8]), st.decimals("0.001", "100", places=3), st.integers(0, 1000))
def test_the_whole_machine_scores_more_than_any_slice(gpus: int, price: Decimal, storage_gb: int) -> None:
    listing = replace(LISTING, price_gpu_per_hour=price)
    scores = [
        encode(offer(num_gpus=size, gpus=gpus, listing=listing), storage_gb=storage_gb)["score"]
        for size in (1, 2, 4, 8)
        if size <= gpus
    ]

    assert scores == sorted(scores)
    assert len(set(scores)) == len(scores)
