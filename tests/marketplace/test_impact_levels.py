"""Conditions of virtual machines and of single rentals, as renters, owners and searches see them."""

from dataclasses import replace
from pathlib import Path

import pytest

from kaalia.contracts.fitness import Fault
from kaalia.model.health import HOST, Severity
from kaalia.model.workload import WorkloadState
from tests.marketplace.renting import rent, say
from tests.marketplace.verifying import beat, open_verified, view
from tests.support.clock import START

pytestmark = pytest.mark.usefixtures("database")
VM = Fault(HOST, "vm_modeset_on", Severity.WARN, START, "cannot give GPUs to virtual machines: modeset is on")


async def test_no_virtual_machines_are_offered_and_containers_stay(tmp_path: Path) -> None:
    async with open_verified(tmp_path) as liar:
        renter, host = liar.market.client(liar.market.renter), liar.market.client(liar.market.host)
        well = await liar.market.search()
        await beat(liar, conditions=(VM,))
        found = await renter.json("search", "offers")
        with_vms = await renter.json("search", "offers", "vms_enabled=true verified=any")
        without = await liar.market.search(vms_enabled={"eq": False}, is_vm_deverified={"eq": True})
        row = (await host.json("show", "machines"))["machines"][0]
        told = await view(liar)
        ask = f"/api/v0/asks/{found[0]['id']}/"
        refused = await liar.market.renter.call("PUT", ask, {"image": "ubuntu", "disk": 10, "vm": True})
        await beat(liar)
        over = await liar.market.search()

    assert len(found) == len(without) == len(well) == 3
    assert {(offer["vms_enabled"], offer["is_vm_deverified"], offer["verification"]) for offer in found} == {
        (False, True, "verified")
    }
    assert {(offer["vericode"], offer["error_description"]) for offer in found} == {(0, None)}
    assert {offer["is_vm_deverified"] for offer in (*well, *over)} == {False}
    assert with_vms == []
    assert (refused.status, "VM" in refused.body["msg"]) == (400, True)
    assert (row["verification"], row["vericode"]) == ("verified", 0)
    assert row["error_description"] == f"no virtual machines: [vm_modeset_on] {VM.message}"
    assert ([one.code for one in told.asides], told.causes, told.lacks) == (["vm_modeset_on"], (), ())


async def test_what_is_of_one_rental_is_read_by_its_renter_and_the_owner_and_costs_nothing(tmp_path: Path) -> None:
    async with open_verified(tmp_path) as liar:
        market = liar.market
        market.context.settings = replace(market.context.settings, public_url=market.url)
        first, second = [await rent(market, num_gpus=1) for _ in range(2)]
        for number, uuid in ((first, "GPU-00000000"), (second, "GPU-00000001")):
            await say(market, number, WorkloadState.RUNNING, gpu_uuids=(uuid,))
        words = f"cannot hold C.{first} to its size on this file system"
        over = Fault(f"C.{first}", "disk_over_size", Severity.WARN, START, words)
        await beat(liar, conditions=(over,))
        shown = {
            number: (await market.renter.call("GET", f"/api/v0/instances/{number}/")).body["instances"]["status_msg"]
            for number in (first, second)
        }
        row = (await market.host.call("GET", "/api/v0/machines")).body["machines"][0]
        offers = await market.search()
        await beat(liar)
        after = (await market.renter.call("GET", f"/api/v0/instances/{first}/")).body["instances"]["status_msg"]

    assert f"{words} [disk_over_size]" in shown[first]
    assert "disk_over_size" not in shown[second]
    assert "disk_over_size" not in after
    assert (row["verification"], row["vericode"]) == ("verified", 0)
    assert row["error_description"] == f"of C.{first} alone: [disk_over_size] {words}"
    assert {(offer["verification"], offer["vericode"], offer["error_description"]) for offer in offers} == {
        ("verified", 0, None)
    }


async def test_a_fault_within_its_grace_is_told_to_the_owner_and_to_nobody_else(tmp_path: Path) -> None:
    engine = Fault(HOST, "engine_unavailable", Severity.CRITICAL, START, "cannot reach Docker")
    async with open_verified(tmp_path) as liar:
        await beat(liar, conditions=(engine,))
        row = (await liar.market.host.call("GET", "/api/v0/machines")).body["machines"][0]
        offers = await liar.market.search()
        await beat(liar, conditions=(engine,), after_s=660)
        down = (await liar.market.host.call("GET", "/api/v0/machines")).body["machines"][0]
        lost = await liar.market.search()
        await beat(liar)
        settling = await liar.market.search()

    assert row["error_description"] == (
        "not verified from 2026-01-01 12:12 UTC on: [engine_unavailable] cannot reach Docker"
    )
    assert row["vericode"] == 0
    assert {(offer["verification"], offer["vericode"]) for offer in offers} == {("verified", 0)}
    assert down["error_description"] == "not verified: [engine_unavailable] cannot reach Docker"
    for found in (lost, settling):
        assert {(offer["verification"], offer["vericode"], offer["error_description"]) for offer in found} == {
            ("deverified", 8, "engine_unavailable")
        }
