"""What is wrong with a machine leaves its offers and nothing else; a machine of two models has offers of each."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from kaalia.contracts.contract import Contract
from kaalia.contracts.fitness import Fault
from kaalia.marketplace import listings, machines
from kaalia.marketplace.db import tables
from kaalia.marketplace.db.fitness_tables import ask_models
from kaalia.model.health import HOST, Severity
from kaalia.model.machine import MachineReport
from kaalia.model.workload import WorkloadState
from kaalia.wire import document
from kaalia.wire.protocol import MessageKind, StatusMessage, StatusPost
from tests.marketplace.liar import open_liar
from tests.marketplace.renting import accept, rent, rented_market, say, show
from tests.marketplace.support import Market, open_market
from tests.support.clock import START
from tests.support.machines import machine_report

UUIDS = [gpu.uuid for gpu in machine_report().gpus]


def fault(scope: str, code: str = "gpu_xid_79", severity: Severity = Severity.CRITICAL) -> Fault:
    return Fault(scope, code, severity, START, f"cannot count on {scope}")


def mixed_report(old: int = 2, new: int = 1) -> MachineReport:
    first = machine_report(old, "NVIDIA GeForce RTX 3090").gpus
    more = machine_report(old + new, "NVIDIA GeForce RTX 5060 Ti").gpus[old:]
    return replace(machine_report(), gpus=(*first, *(replace(gpu, vram_mb=16311) for gpu in more)))


async def tell(market: Market, *faults: Fault) -> None:
    """As the daemon's heartbeat does."""
    async with market.context.engine.begin() as tx:
        await machines.put_faults(tx, 1, faults)
        await listings.refresh_asks(tx, 1, market.clock.now())


async def tell_report(market: Market, what: MachineReport) -> None:
    async with market.context.engine.begin() as tx:
        await machines.put_report(tx, 1, what)
        await listings.refresh_asks(tx, 1, market.clock.now())


async def sizes(market: Market, **filters: Any) -> list[int]:
    found = await market.search(rentable={"eq": True}, **filters)
    return sorted(offer["num_gpus"] for offer in found)


async def agreed(market: Market, contract_id: int) -> Contract:
    query = sa.select(tables.contracts.c.document).where(tables.contracts.c.id == contract_id)
    async with market.context.engine.begin() as tx:
        return document.decode(Contract, str(await tx.scalar(query)))


async def test_a_machine_of_eight_offers_seven_and_eight_again(tmp_path: Path) -> None:
    async with open_market(tmp_path) as market:
        await market.list_machine()
        ids = {offer["id"] for offer in await market.search()}
        before = await sizes(market)

        await tell(market, fault(UUIDS[3]))
        meanwhile = await sizes(market)
        await tell(market)

        assert before == [1] * 8 + [2] * 4 + [4] * 2 + [8]
        assert meanwhile == [1] * 7 + [2] * 3 + [4] + [7]
        assert await sizes(market) == before
        assert {offer["id"] for offer in await market.search()} == ids


async def test_a_tenant_on_the_broken_gpu_takes_nothing_from_what_is_offered(tmp_path: Path) -> None:
    async with rented_market(tmp_path) as market:
        instance_id = await rent(market, num_gpus=4)
        await say(market, instance_id, WorkloadState.RUNNING, gpu_uuids=tuple(UUIDS[:4]))
        before = await sizes(market)

        await tell(market, fault(UUIDS[0]))

        assert await sizes(market) == before == [1] * 4 + [2] * 2 + [4]
        assert (await show(market, instance_id))["actual_status"] == "running"


async def test_seven_can_be_rented(tmp_path: Path) -> None:
    async with rented_market(tmp_path) as market:
        await tell(market, fault(UUIDS[7]))
        instance_id = await rent(market, num_gpus=7)

        assert await sizes(market) == []
        assert (await agreed(market, instance_id)).gpu_model == "GeForce RTX 4090 24 GiB"


async def test_a_fault_of_the_host_is_told_by_its_code_and_ends_all_offers(tmp_path: Path) -> None:
    async with rented_market(tmp_path) as market:
        instance_id = await rent(market, num_gpus=1)
        await say(market, instance_id, WorkloadState.RUNNING, gpu_uuids=(UUIDS[0],))
        await tell(market, fault(HOST, "walls_missing"))
        offers = await sizes(market)
        refused = await accept(market)
        shown = await market.host.call("GET", "/api/v0/machines/1/")

        assert offers == []
        assert (refused.status, refused.body["error"]) == (410, "machine_unfit")
        assert "[walls_missing]" in refused.body["msg"]
        assert "walls_missing" in shown.body[0]["error_description"]
        assert (await show(market, instance_id))["actual_status"] == "running"

        await tell(market)
        assert (await accept(market)).status == 200


async def test_heartbeats_tell_faults_and_an_older_daemon_tells_none(tmp_path: Path) -> None:
    async with open_liar(tmp_path) as liar:
        await liar.post(StatusMessage(1, MessageKind.REPORT, report=machine_report(gpus=2)))
        body = {"machine": liar.machine_id, "price_gpu": 0.1}
        await liar.market.host.call("PUT", "/api/v0/machines/create_asks/", body)
        here = {"machine_id": {"eq": liar.machine_id}}
        before = await sizes(liar.market, **here)
        many = tuple(fault(f"GPU-{number}") for number in range(5000))
        await liar.post(faults=(fault(UUIDS[0]), *many))
        broken = await sizes(liar.market, **here)
        async with liar.market.context.engine.begin() as tx:
            known = await machines.get(tx, liar.machine_id)
        await liar.post(faults=None)

        assert (before, broken) == ([1, 1, 2], [1])
        assert known is not None
        assert len(known.faults) < 300
        assert await sizes(liar.market, **here) == before


async def test_two_models_are_offered_apart(tmp_path: Path) -> None:
    async with open_market(tmp_path) as market:
        await market.list_machine(mixed_report(old=2, new=1))
        offers = await market.search()
        told = sorted((offer["gpu_name"], offer["num_gpus"], offer["gpu_ram"]) for offer in offers)

    assert told == [
        ("RTX 3090", 1, 24564),
        ("RTX 3090", 1, 24564),
        ("RTX 3090", 2, 24564),
        ("RTX 5060 Ti", 1, 16311),
    ]
    assert {offer["gpu_frac"] for offer in offers} == {1 / 3, 2 / 3}


async def test_a_contract_is_for_a_model_and_its_instance_shows_it(tmp_path: Path) -> None:
    async with open_market(tmp_path) as market:
        await market.list_machine(mixed_report(old=2, new=1))
        small = next(one for one in await market.search() if one["gpu_name"] == "RTX 5060 Ti")
        answer = await accept(market, small["id"])
        instance_id = answer.body["new_contract"]
        shown = await show(market, instance_id)

        assert (await agreed(market, instance_id)).gpu_model == "GeForce RTX 5060 Ti 16 GiB"
        assert (shown["gpu_name"], shown["gpu_totalram"], shown["gpu_frac"]) == ("RTX 5060 Ti", 16311, 1 / 3)
        assert sorted(one["gpu_name"] for one in await market.search(rentable={"eq": True})) == ["RTX 3090"] * 3


async def test_slices_of_before_are_of_the_only_model_and_end_when_there_are_two(tmp_path: Path) -> None:
    async with open_market(tmp_path) as market:
        await market.list_machine(machine_report(2, "NVIDIA GeForce RTX 3090"))
        async with market.context.engine.begin() as tx:
            await tx.execute(sa.delete(ask_models))
        before = await market.search()
        await tell_report(market, mixed_report(old=2, new=1))

        assert [one["gpu_name"] for one in before] == ["RTX 3090"] * 3
        assert sorted(one["gpu_name"] for one in await market.search()) == ["RTX 3090"] * 3 + ["RTX 5060 Ti"]


async def test_a_gpu_that_is_gone_ends_the_offers_of_eight(tmp_path: Path) -> None:
    async with open_market(tmp_path) as market:
        await market.list_machine()
        ids = {offer["id"] for offer in await market.search() if offer["num_gpus"] <= 4}
        await tell_report(market, replace(machine_report(), gpus=machine_report().gpus[:7]))
        offers = await market.search()

    assert sorted({offer["num_gpus"] for offer in offers}) == [1, 2, 4, 7]
    assert {offer["id"] for offer in offers if offer["num_gpus"] <= 4} < ids


def test_a_post_of_before_and_one_of_later_are_understood() -> None:
    post = StatusPost("s", 1, 1, START, ())
    text = document.encode(replace(post, faults=(fault(HOST),)))

    assert document.decode(StatusPost, text).faults == (fault(HOST),)
    older = text.replace('"faults"', '"unheard_of"')
    assert document.decode(StatusPost, older) == post
