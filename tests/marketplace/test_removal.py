"""Deleting a machine: what its renters, its owner and its daemon see; and cleaning one up."""

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from kaalia.contracts.contract import Desired
from kaalia.contracts.volume import VolumeDesired
from kaalia.marketplace import listings, machines, volumes
from kaalia.model.metering import Edge, Meter
from kaalia.model.volume import VolumeState, VolumeStatus
from kaalia.model.workload import WorkloadState
from kaalia.wire.protocol import MessageKind, StatusMessage
from tests.marketplace.liar import Liar, new_token, open_liar
from tests.marketplace.renting import accept, contract_of, hear_of, rent, revision_of
from tests.marketplace.support import Market
from tests.marketplace.test_cli_billing import edge
from tests.support.machines import machine_report
from tests.sync.support import status

DAY_S = 86400


@pytest.fixture
async def liar(tmp_path: Path) -> AsyncIterator[Liar]:
    """A machine of two GPUs, enrolled and listed for ten days, with half of its disk as volumes."""
    async with open_liar(tmp_path) as liar:
        await liar.post(StatusMessage(1, MessageKind.REPORT, report=machine_report(gpus=2)))
        await relist(liar.market, 10)
        yield liar


async def relist(market: Market, days: float, **terms: Any) -> None:
    body = {"machine": 1, "price_gpu": 0.4, "end_date": market.clock.now().timestamp() + days * DAY_S, **terms}
    answer = await market.host.call("PUT", "/api/v0/machines/create_asks/", body)
    assert answer.status == 200, answer.body


async def delete(market: Market) -> Any:
    answer = await market.host.call("POST", "/api/v0/machines/1/force_delete/", {})
    assert answer.status == 200, answer.body
    return answer.body


async def rent_volume(market: Market) -> int:
    answer = await market.renter.call("PUT", "/api/v0/volumes/", {"id": 1, "size": 10})
    assert answer.status == 200, answer.body
    return int(answer.body["volume_id"])


async def code_of_look(liar: Liar) -> tuple[int, str]:
    reply = await liar.send("GET", liar.path("desired?epoch=0&revision=0&wait=0"))
    return reply.status, reply.code if reply.status != 200 else ""


async def test_a_deleted_machine_is_in_no_list(liar: Liar) -> None:
    market = liar.market
    await rent(market)
    done = await delete(market)

    assert done["num_deleted"] == 1
    assert (await market.host.call("GET", "/api/v0/machines?owner=me")).body == {"machines": []}
    assert await market.search() == []
    assert (await market.renter.call("POST", "/api/v0/volumes/search/", {})).body["offers"] == []
    for method, path, body in (
        ("GET", "/api/v0/machines/1", None),
        ("POST", "/api/v0/machines/1/force_delete/", {}),
        ("PUT", "/api/v0/machines/create_asks/", {"machine": 1, "price_gpu": 1}),
        ("DELETE", "/api/v0/machines/1/asks/", {}),
        ("PUT", "/api/v0/machines/1/cleanup/", {}),
        ("PUT", "/api/v0/machines/1/minbid/", {"price": 1}),
        ("PUT", "/api/v0/machines/defrag_offers/", {"machine_ids": [1]}),
        ("POST", "/api/v0/volumes/", {"machine": 1, "size": 5}),
        ("GET", "/api/v0/machines/1/reports/", {}),
    ):
        answer = await market.host.call(method, path, body)
        assert (answer.status, answer.body["error"]) == (404, "no_such_machine"), path
    assert (await accept(market, 2)).status in {404, 410}


async def test_its_contracts_end_by_tombstones_and_then_it_is_turned_away(liar: Liar) -> None:
    market = liar.market
    instance_id, volume_id = await rent(market), await rent_volume(market)
    await delete(market)

    assert (await market.renter.call("GET", f"/api/v0/instances/{instance_id}/")).body["instances"] is None
    told = await liar.look()
    assert told is not None
    assert told.listing is None
    assert [(one.contract_id, one.desired) for one in told.contracts] == [(instance_id, Desired.ENDED)]
    assert [(one.volume_id, one.desired) for one in told.volumes] == [(volume_id, VolumeDesired.ENDED)]

    # It is served until it has proven both gone and knows so.
    market.clock.advance(1)
    now = market.clock.now()
    gone = StatusMessage(2, MessageKind.WORKLOAD, workload=status(instance_id, WorkloadState.ENDED, now))
    await liar.post(gone, revision=told.revision)
    assert await code_of_look(liar) == (200, "")
    volume = VolumeStatus(volume_id, VolumeState.ENDED, now)
    await liar.post(StatusMessage(3, MessageKind.VOLUME, volume=volume), revision=told.revision)
    last = await liar.look()
    assert last is not None
    assert (last.contracts, last.volumes) == ((), ())
    await liar.post(revision=last.revision)
    assert await code_of_look(liar) == (401, "machine_deleted")
    refused = await liar.send("GET", liar.path("desired"))
    assert b"cannot serve machine 1: its owner deleted it" in refused.body
    assert b"--recover" in refused.body


async def test_charges_end_with_the_machine(liar: Liar) -> None:
    market = liar.market
    instance_id = await rent(market)
    start = edge(market, instance_id, Meter.RUN, Edge.START, 1, timedelta(0))
    await liar.post(StatusMessage(2, MessageKind.METER, meter=start))
    market.clock.advance(3600)
    await delete(market)
    market.clock.advance(3600)
    end = edge(market, instance_id, Meter.RUN, Edge.END, 1, timedelta(0))
    await liar.post(StatusMessage(3, MessageKind.METER, meter=end))
    user = await market.renter.call("GET", "/api/v0/users/current")

    assert user.body["credit"] == pytest.approx(1000 - 0.4)


async def test_a_machine_that_was_away_is_told_first(liar: Liar) -> None:
    """Nothing is left to prove, but its listing is withdrawn before it is turned away."""
    market = liar.market
    known = await liar.look()
    assert known is not None
    await liar.post(revision=known.revision)
    market.clock.advance(3600)
    await delete(market)
    told = await liar.look(known.epoch, known.revision)
    assert told is not None
    assert told.listing is None
    await liar.post(revision=told.revision)
    assert await code_of_look(liar) == (401, "machine_deleted")


async def test_a_new_token_brings_it_back_and_an_old_one_does_not(liar: Liar) -> None:
    market = liar.market
    async with market.context.engine.begin() as tx:
        await machines.put_listing(tx, 1, None)
    old = await new_token(market)
    assert (await liar.enrol(old)).status == 200
    await delete(market)
    again = await liar.enrol(old)
    assert (again.status, again.code) == (409, "machine_deleted")
    assert (await market.host.call("GET", "/api/v0/machines?owner=me")).body == {"machines": []}

    assert (await liar.enrol(await new_token(market))).status == 200
    [row] = (await market.host.call("GET", "/api/v0/machines?owner=me")).body["machines"]
    assert (row["id"], row["listed"], row["verification"]) == (1, False, "unverified")
    assert await code_of_look(liar) == (200, "")
    await relist(market, 10)
    await rent(market)


async def test_only_its_owner_deletes_a_machine(liar: Liar) -> None:
    market = liar.market
    instance_id = await rent(market)
    before = await contract_of(market, instance_id)
    revision = await revision_of(market)
    for api, number in ((market.renter, 1), (market.host, 77)):
        answer = await api.call("POST", f"/api/v0/machines/{number}/force_delete/", {})
        assert (answer.status, answer.body["error"]) == (404, "no_such_machine")
    assert await contract_of(market, instance_id) == before
    assert await revision_of(market) == revision
    assert await market.search() != []


async def test_cleanup_ends_old_volumes_and_tells_again_of_unproven_ones(liar: Liar) -> None:
    market = liar.market
    old, kept = await rent_volume(market), await mounted_volume(market)
    await market.renter.call("DELETE", f"/api/v0/volumes/?id={old}", {})
    market.clock.advance(1)
    expired = await rent_again(market)
    market.clock.advance(12 * DAY_S)
    await hear_of(market)
    revision = await revision_of(market)
    first = (await market.host.call("PUT", "/api/v0/machines/1/cleanup/", {})).body
    async with market.context.engine.begin() as tx:
        left = {one.volume_id: one.desired for one in await volumes.of_machine(tx, 1)}
        machine = await machines.get(tx, 1)
        assert machine is not None
        free = (await listings.free(tx, machine, market.context.clock.now())).disk_bytes

    # The instance of the mounted volume has expired too, so both go.
    assert first["num_deleted"] == 3
    assert set(left.values()) == {VolumeDesired.ENDED}
    assert {old, kept, expired} == set(left)
    assert "4 deleted contracts wait for the machine" in first["msg"]
    assert await revision_of(market) > revision
    again = (await market.host.call("PUT", "/api/v0/machines/1/cleanup/", {})).body
    assert again["num_deleted"] == 0
    assert set(again) == {"success", "ctime", "machine_id", "user_id", "num_deleted", "msg"}

    now = market.clock.now()
    gone = [VolumeStatus(number, VolumeState.ENDED, now) for number in left]
    await liar.post(volumes=tuple(gone))
    async with market.context.engine.begin() as tx:
        assert (await listings.free(tx, replace(machine), market.context.clock.now())).disk_bytes >= free


async def rent_again(market: Market) -> int:
    answer = await market.renter.call("PUT", "/api/v0/volumes/", {"id": 1, "size": 11})
    assert answer.status == 200, answer.body
    return int(answer.body["volume_id"])


async def mounted_volume(market: Market) -> int:
    """A volume that an instance has mounted."""
    answer = await market.renter.call("PUT", "/api/v0/volumes/", {"id": 1, "size": 12})
    number = int(answer.body["volume_id"])
    await rent(market, env={f"-v V.{number}:/data": "1"})
    return number


async def test_cleanup_leaves_a_volume_that_a_live_instance_mounts(liar: Liar) -> None:
    market = liar.market
    number = await mounted_volume(market)
    await relist(market, 30)
    market.clock.advance(12 * DAY_S)
    done = (await market.host.call("PUT", "/api/v0/machines/1/cleanup/", {})).body
    async with market.context.engine.begin() as tx:
        [left] = await volumes.of_machine(tx, 1)
    assert (done["num_deleted"], left.volume_id, left.desired) == (0, number, VolumeDesired.PRESENT)


async def test_the_real_client_deletes_a_machine(liar: Liar) -> None:
    host = liar.market.client(liar.market.host)
    foreign = await liar.market.client(liar.market.renter).run("delete", "machine", "1")
    done = await host.run("delete", "machine", "1")
    shown = await host.json("show", "machines")

    assert "cannot find machine 1" in foreign.stderr
    assert "deleted machine_id (1) and all related contracts" in done.stdout, done.stderr
    assert shown == {"machines": []}
