"""Volumes on the marketplace: the documented 1000 GB example, renting, mounting, deleting, and what is refused."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kaalia.contracts.contract import Contract
from kaalia.contracts.volume import VolumeDesired
from kaalia.marketplace import volumes
from kaalia.marketplace.db import tables
from kaalia.model.machine import MachineReport
from kaalia.model.volume import VolumeState, VolumeStatus
from kaalia.units import GB
from kaalia.wire import document
from tests.marketplace.renting import accept, ask_of, show
from tests.marketplace.support import Market, add_machine, open_market, unanswered
from tests.support.machines import machine_report


@pytest.fixture
async def market(tmp_path: Path) -> AsyncIterator[Market]:
    """A listed machine of 2 GPUs and 1000 GB, of which 500 are offered as volumes."""
    async with open_market(tmp_path) as market:
        await market.list_machine(thousand_gb(), vol_size=500)
        yield market


def thousand_gb(gpus: int = 2) -> MachineReport:
    report = machine_report(gpus=gpus)
    assert report.disk is not None
    return replace(report, disk=replace(report.disk, total_bytes=1000 * GB, free_bytes=1000 * GB))


async def offers(market: Market) -> list[tuple[int, float]]:
    """(GPUs, GB of disk) of what can be rented."""
    rows = await market.search(rentable={"eq": True})
    return sorted((row["num_gpus"], row["disk_space"]) for row in rows)


async def volume_offers(market: Market, **query: Any) -> list[dict[str, Any]]:
    answer = await market.renter.call("POST", "/api/v0/volumes/search/", query)
    assert answer.status == 200, answer.body
    rows: list[dict[str, Any]] = answer.body["offers"]
    return rows


async def create(market: Market, size: float, **body: Any) -> int:
    answer = await market.renter.call("PUT", "/api/v0/volumes/", {"id": 1, "size": size, **body})
    assert answer.status == 200, answer.body
    return int(answer.body["volume_id"])


async def refused(market: Market, method: str, path: str, body: Any = None, as_host: bool = False) -> tuple[int, str]:
    answer = await (market.host if as_host else market.renter).call(method, path, body)
    assert answer.body["success"] is False
    assert answer.body["msg"].startswith("cannot "), answer.body
    assert ". " in answer.body["msg"], "a remedy follows the sentence"
    return answer.status, answer.body["error"]


async def test_the_documented_example_of_1000_gb(market: Market) -> None:
    assert await offers(market) == [(1, 500.0), (1, 500.0), (2, 1000.0)]
    assert [row["disk_space"] for row in await volume_offers(market)] == [500.0]

    await create(market, 200)

    assert await offers(market) == [(1, 400.0), (1, 400.0), (2, 800.0)]
    assert [row["disk_space"] for row in await volume_offers(market)] == [300.0]


@pytest.mark.parametrize(("stored_gb", "left_gb"), [(800, 200.0), (400, 500.0)])
async def test_stored_instances_shrink_the_volume_offer_only_when_they_must(
    market: Market, stored_gb: int, left_gb: float
) -> None:
    answer = await accept(market, await ask_of(market.context, 2), disk=stored_gb, target_state="stopped")
    assert answer.status == 200, answer.body

    assert [row["disk_space"] for row in await volume_offers(market)] == [left_gb]


async def test_by_default_half_of_the_free_disk_is_offered_at_the_price_of_disk(tmp_path: Path) -> None:
    async with open_market(tmp_path) as market:
        machine_id = await market.list_machine(thousand_gb(), price_disk=0.25)
        (row,) = await volume_offers(market)
        assert (row["disk_space"], row["storage_cost"], row["machine_id"]) == (500.0, 0.25, machine_id)

        body = {"machine": machine_id, "price_gpu": 0.4, "vol_size": 0}
        assert (await market.host.call("PUT", "/api/v0/machines/create_asks/", body)).status == 200
        assert await volume_offers(market) == []
        await market.host.call("PUT", "/api/v0/machines/create_asks/", {"machine": machine_id, "price_gpu": 0.4})
        assert await volume_offers(market) == []


async def test_unlisting_the_machine_unlists_its_volumes(market: Market) -> None:
    volume_id = await create(market, 10)

    assert (await market.host.call("DELETE", "/api/v0/machines/1/asks/")).status == 200

    assert await volume_offers(market) == []
    answer = await market.renter.call("GET", "/api/v0/volumes?owner=me&type=all_volume")
    assert [row["id"] for row in answer.body["volumes"]] == [volume_id]


async def test_the_real_client_lists_searches_creates_shows_mounts_and_deletes(market: Market) -> None:
    host, renter = market.client(market.host), market.client(market.renter)
    assert (await host.run("list", "volume", "1", "-p", "0.2", "-s", "100")).returncode == 0
    (offer,) = await renter.json("search", "volumes", "verified=any disk_space>=50")
    assert (offer["disk_space"], offer["storage_cost"]) == (100.0, 0.2)

    made = await renter.json("create", "volume", str(offer["id"]), "-s", "20", "-n", "lab")
    assert made["volume_name"] == f"V.{made['volume_id']}"
    ask = str(await ask_of(market.context, 1))
    env = f"-v V.{made['volume_id']}:/data"
    rented = await renter.json("create", "instance", ask, "--image", "ubuntu:22.04", "--disk", "10", "--env", env)
    (row,) = await renter.json("show", "volumes")
    assert (row["label"], row["disk_space"], row["instances"]) == ("lab", 20.0, [rented["new_contract"]])
    assert (await show(market, rented["new_contract"]))["volume_info"] == [
        {"id": made["volume_id"], "mount_path": "/data", "total_space": 20.0, "avail_space": 20.0}
    ]
    table = await renter.run("show", "volumes")
    assert "lab" in table.stdout, table.stderr

    in_use = await renter.run("delete", "volume", str(made["volume_id"]))
    assert f"instance {rented['new_contract']} mounts it" in in_use.stdout + in_use.stderr
    assert (await renter.run("destroy", "instance", str(rented["new_contract"]), "-y")).returncode == 0
    gone = await renter.run("delete", "volume", str(made["volume_id"]))
    assert "Deleted" in gone.stdout, gone.stdout + gone.stderr
    assert await renter.json("show", "volumes") == []
    assert (await host.run("unlist", "volume", str(offer["id"]))).returncode == 0
    assert await volume_offers(market) == []


async def test_an_instance_can_make_its_volume_and_the_next_links_it(market: Market) -> None:
    client = market.client(market.renter)
    common = ("--image", "ubuntu:22.04", "--disk", "10", "--mount-path", "/data")
    first = await client.json(
        "create", "instance", str(await ask_of(market.context)), *common, "--create-volume", "1", "--volume-size", "30"
    )
    answer = await market.renter.call("GET", "/api/v0/volumes?owner=me&type=local_volume")
    (row,) = answer.body["volumes"]
    assert (row["disk_space"], row["instances"]) == (30.0, [first["new_contract"]])

    second = await client.json(
        "create", "instance", str(await ask_of(market.context)), *common, "--link-volume", str(row["id"])
    )

    assert (await show(market, second["new_contract"]))["volume_info"][0]["id"] == row["id"]


async def test_the_machine_is_told_of_volumes_and_proves_them_gone(market: Market) -> None:
    volume_id = await create(market, 200)
    context = market.context
    async with context.engine.begin() as tx:
        (told,) = await volumes.of_machine(tx, 1)
        assert (told.size_bytes, told.desired, len(told.key)) == (200 * GB, VolumeDesired.PRESENT, 32)
    assert (await market.renter.call("DELETE", f"/api/v0/volumes/?id={volume_id}", {})).status == 200
    assert await offers(market) == [(1, 400.0), (1, 400.0), (2, 800.0)], "not freed before it is proven gone"

    async with context.engine.begin() as tx:
        assert (await volumes.of_machine(tx, 1))[0].desired is VolumeDesired.ENDED
        gone = VolumeStatus(volume_id, VolumeState.ENDED, context.clock.now())
        assert not await volumes.record(tx, 99, gone, context.clock.now()), "another machine's word does not count"
        assert await volumes.record(tx, 1, gone, context.clock.now())
        assert await volumes.of_machine(tx, 1) == ()

    assert await offers(market) == [(1, 500.0), (1, 500.0), (2, 1000.0)]


async def test_a_repeated_request_makes_one_volume(market: Market) -> None:
    """A name tells one from others, whether the answer was read or not."""
    assert await create(market, 20, name="lab") == await create(market, 20, name="lab")
    assert await create(market, 21) != await create(market, 20)


async def test_two_volumes_in_the_same_words_are_two(market: Market) -> None:
    first, second = await create(market, 20), await create(market, 20)
    clone = {"src_id": first, "dst_id": 1}
    copies = [await market.renter.call("POST", "/api/v0/volumes/copy/", clone) for _ in range(2)]

    assert len({first, second, *(copy.body["volume_id"] for copy in copies)}) == 4


async def test_a_volume_whose_renter_went_away_is_not_doubled(market: Market) -> None:
    """As the client does it after a broken connection: the first answer reached nobody."""
    async with unanswered(market, "PUT", "/api/v0/volumes/", {"id": 1, "size": 20}), asyncio.timeout(30):
        while not (found := (await market.renter.call("GET", "/api/v0/volumes/")).body["volumes"]):
            await asyncio.sleep(0.01)

    assert await create(market, 20) == found[0]["id"]
    assert await create(market, 20) != found[0]["id"]


@pytest.mark.parametrize(
    ("method", "path", "body", "as_host", "refusal"),
    [
        ("PUT", "/api/v0/volumes/", {"id": 1, "size": 501}, False, (400, "volume_size_invalid")),
        ("PUT", "/api/v0/volumes/", {"id": 1, "size": 0.5}, False, (400, "volume_size_invalid")),
        ("PUT", "/api/v0/volumes/", {"id": 1, "size": "much"}, False, (400, "invalid_args")),
        ("PUT", "/api/v0/volumes/", {"id": 1, "size": 5000}, False, (400, "volume_size_invalid")),
        ("PUT", "/api/v0/volumes/", {"id": 1, "size": 9, "name": "x" * 65}, False, (400, "volume_name_invalid")),
        ("PUT", "/api/v0/volumes/", {"id": 1, "size": 9, "name": "my lab"}, False, (400, "volume_name_invalid")),
        ("PUT", "/api/v0/volumes/", {"id": 1, "size": 9, "name": 7}, False, (400, "invalid_args")),
        ("PUT", "/api/v0/volumes/", {"id": 77, "size": 9}, False, (404, "no_such_offer")),
        ("DELETE", "/api/v0/volumes/?id=5", {}, False, (404, "no_such_volume")),
        ("POST", "/api/v0/volumes/copy/", {"src_id": 5, "dst_id": 1}, False, (404, "no_such_volume")),
        ("POST", "/api/v0/volumes/", {"machine": 1, "size": 1001, "price_disk": 0.1}, True, (400, "invalid_args")),
        ("POST", "/api/v0/volumes/", {"machine": 1, "size": 9, "end_date": 5}, True, (400, "invalid_args")),
        ("POST", "/api/v0/volumes/", {"machine": 8, "size": 9}, True, (404, "no_such_machine")),
        ("POST", "/api/v0/volumes/unlist", {"id": 9}, True, (404, "no_such_offer")),
        ("POST", "/api/v0/volumes/unlist", {"id": 1}, False, (404, "no_such_offer")),
    ],
)
async def test_bad_requests_are_refused(
    market: Market, method: str, path: str, body: dict[str, Any], as_host: bool, refusal: tuple[int, str]
) -> None:
    assert await refused(market, method, path, body, as_host) == refusal
    assert [row["disk_space"] for row in await volume_offers(market)] == [500.0]


async def test_a_second_delete_is_refused(market: Market) -> None:
    volume_id = await create(market, 20)
    path = f"/api/v0/volumes/?id={volume_id}"
    assert (await market.renter.call("DELETE", path, {})).status == 200

    assert await refused(market, "DELETE", path, {}) == (404, "no_such_volume")


async def test_a_foreign_volume_and_one_of_another_machine_cannot_be_mounted(market: Market) -> None:
    foreign = await market.host.call("PUT", "/api/v0/volumes/", {"id": 1, "size": 20})
    assert foreign.status == 200, foreign.body
    own = await create(market, 20)
    await add_machine(market.context, thousand_gb(1))
    body = {"machine": 2, "price_gpu": 0.4}
    assert (await market.host.call("PUT", "/api/v0/machines/create_asks/", body)).status == 200
    elsewhere = await ask_of(market.context, 1, machine_id=2)

    answer = await accept(market, env={f"-v V.{foreign.body['volume_id']}:/data": "1"})
    assert (answer.status, answer.body["error"]) == (404, "no_such_volume")
    answer = await accept(market, elsewhere, env={f"-v V.{own}:/data": "1"})
    assert (answer.status, answer.body["error"]) == (400, "volume_elsewhere")
    info = {"create_new": True, "volume_id": 1, "mount_path": "/data", "size": 5}
    answer = await accept(market, elsewhere, volume_info=info)
    assert (answer.status, answer.body["error"]) == (400, "volume_elsewhere")
    async with market.context.engine.begin() as tx:
        assert (await tx.execute(tables.contracts.select())).all() == []
        assert len((await tx.execute(tables.volumes.select())).all()) == 2, "a refused rental leaves no volume"


async def test_a_clone_is_made_on_the_same_machine_only(market: Market) -> None:
    source = await create(market, 20)
    answer = await market.renter.call("POST", "/api/v0/volumes/copy/", {"src_id": source, "dst_id": 1, "size": 10})
    assert (answer.status, answer.body["error"]) == (400, "volume_size_invalid")

    done = await market.client(market.renter).run("clone", "volume", str(source), "1", "-s", "25")

    assert done.returncode == 0, done.stderr
    async with market.context.engine.begin() as tx:
        copy = (await volumes.of_machine(tx, 1))[1]
    assert (copy.copy_of, copy.size_bytes) == (source, 25 * GB)


async def test_the_contract_names_the_mounts(market: Market) -> None:
    volume_id = await create(market, 20)
    answer = await accept(market, env={f"-v V.{volume_id}:/data": "1"})
    async with market.context.engine.begin() as tx:
        row = (await tx.execute(tables.contracts.select())).one()
    contract = document.decode(Contract, row.document)

    assert row.id == answer.body["new_contract"]
    assert [(mount.volume_id, mount.path) for mount in contract.spec.volumes] == [(volume_id, "/data")]


async def test_the_real_client_is_told_why_and_what_to_do(market: Market) -> None:
    renter, host = market.client(market.renter), market.client(market.host)
    made = await renter.json("create", "volume", "1", "-s", "20", "-n", "lab")
    number, ask = str(made["volume_id"]), str(await ask_of(market.context))
    foreign = await host.json("create", "volume", "1", "-s", "20")
    instance = ("create", "instance", ask, "--image", "ubuntu:22.04", "--disk", "10")

    for command, word in (
        (("create", "volume", "1", "-s", "30", "-n", "lab"), f"your volume {number} has this name"),
        (("create", "volume", "1", "-s", "30", "-n", "x" * 65), "letters, digits and _ only, 64 at most"),
        (("create", "volume", "1", "-s", "5000"), "the offer has 460.0 GB left"),
        (("delete", "volume", str(foreign["volume_id"])), "no such volume of yours"),
        (("clone", "volume", str(foreign["volume_id"]), "1"), "no such volume of yours"),
        ((*instance, "--env", f"-v V.{number}:/"), "cannot mount"),
        ((*instance, "--env", f"-v V.{number}:data"), "cannot mount"),
        ((*instance, "--env", f"-v V.{foreign['volume_id']}:/data"), "no such volume of yours"),
        ((*instance, "--create-volume", "1", "--volume-size", "900", "--mount-path", "/data"), "GB left"),
    ):
        done = await renter.run(*command)
        told = " ".join((done.stdout + done.stderr).split())
        assert word in told, (command, told)
    async with market.context.engine.begin() as tx:
        assert (await tx.execute(tables.contracts.select())).all() == []
        assert len((await tx.execute(tables.volumes.select())).all()) == 2


async def test_a_name_is_free_again_after_the_delete_and_a_copy_has_none(market: Market) -> None:
    first = await create(market, 20, name="lab")
    copied = await market.renter.call("POST", "/api/v0/volumes/copy/", {"src_id": first, "dst_id": 1})
    assert await refused(market, "PUT", "/api/v0/volumes/", {"id": 1, "size": 21, "name": "lab"}) == (
        409,
        "volume_name_taken",
    )
    assert (await market.renter.call("DELETE", f"/api/v0/volumes/?id={first}", {})).status == 200

    assert await create(market, 22, name="lab") > int(copied.body["volume_id"])
    rows = await market.client(market.renter).json("show", "volumes")
    assert [row["label"] for row in rows] == [None, "lab"]


async def test_show_volumes_has_every_column_that_the_client_prints(market: Market) -> None:
    volume_id = await create(market, 20, name="lab")
    rented = await accept(market, env={f"-v V.{volume_id}:/data": "1"})
    instance_id = rented.body["new_contract"]
    renter = market.client(market.renter)

    (row,) = await renter.json("show", "volumes")
    table = await renter.run("show", "volumes", "-t", "local")
    network = await renter.json("show", "volumes", "-t", "network")

    printed = {
        *("id", "cluster_id", "label", "disk_space", "status", "disk_name", "driver_version", "inet_up", "inet_down"),
        *("reliability2", "duration", "machine_id", "verification", "host_id", "geolocation", "instances"),
    }
    assert printed <= set(row)
    assert (row["id"], row["status"], row["machine_id"], row["instances"]) == (volume_id, "creating", 1, [instance_id])
    assert (row["storage_cost"], row["disk_space"], row["volume_name"]) == (0.1, 20.0, f"V.{volume_id}")
    shown = table.stdout.splitlines()[1].split()
    # In the order of the client's columns; first come colours and its own count.
    assert shown[2:7] == [str(volume_id), "-", "lab", "20", "creating"], table.stdout + table.stderr
    assert f"[{instance_id}]" in shown
    assert network == []


@pytest.mark.parametrize(
    ("flags", "mounted"),
    [
        (("--create-volume", "1", "--volume-size", "30", "--volume-label", "lab"), (30.0, "lab")),
        (("--create-volume", "1"), (15.0, None)),
    ],
)
async def test_an_instance_makes_a_volume_of_the_size_and_name_it_asks_for(
    market: Market, flags: tuple[str, ...], mounted: tuple[float, str | None]
) -> None:
    renter = market.client(market.renter)
    ask = str(await ask_of(market.context))
    common = ("--image", "ubuntu:22.04", "--disk", "10", "--mount-path", "/root/volume")
    made = await renter.json("create", "instance", ask, *common, *flags)

    (row,) = await renter.json("show", "volumes")
    assert (row["disk_space"], row["label"], row["instances"]) == (*mounted, [made["new_contract"]])
    (info,) = (await show(market, made["new_contract"]))["volume_info"]
    assert (info["id"], info["mount_path"], info["total_space"]) == (row["id"], "/root/volume", mounted[0])
    instances = await renter.run("show", "instances")
    assert str(made["new_contract"]) in instances.stdout, instances.stderr


@pytest.mark.parametrize("path", ["/", "data", "/proc/x", "/data/../etc"])
async def test_a_path_that_cannot_be_mounted_makes_no_volume(market: Market, path: str) -> None:
    for info in ({"create_new": True, "volume_id": 1, "size": 5}, {"volume_id": await create(market, 20)}):
        answer = await accept(market, volume_info={**info, "mount_path": path})
        assert answer.status == 400
        assert answer.body["reason"] == "volume_invalid"
        assert answer.body["msg"].startswith("cannot mount")
    async with market.context.engine.begin() as tx:
        assert len((await tx.execute(tables.volumes.select())).all()) == 1
