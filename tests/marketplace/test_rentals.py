import asyncio
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import pytest
import sqlalchemy as sa

from kaalia.contracts.contract import ContractKind, Desired
from kaalia.contracts.offer import Listing
from kaalia.marketplace import accounts, listings, machines, rentals
from kaalia.marketplace.db import tables
from kaalia.model.workload import PortRequest, Protocol, WorkloadState
from tests.marketplace.renting import (
    TERMS,
    accept,
    ask_of,
    contract_of,
    list_machine,
    prove_removed,
    rent,
    rented_market,
    revision_of,
    say,
    show,
)
from tests.marketplace.support import Market, add_machine


async def test_a_rental_becomes_a_contract(tmp_path: Path) -> None:
    async with rented_market(tmp_path) as market:
        before = await revision_of(market)

        answer = await accept(
            market, env={"A": "B", "-p 8081:8081/udp": "1", "-h": "node1"}, label="L1", disk=40.0, runtype="args"
        )

        assert answer.body["success"] is True
        contract = await contract_of(market, answer.body["new_contract"])
        assert contract.kind is ContractKind.ON_DEMAND
        assert contract.desired is Desired.RUNNING
        assert contract.price_usd_per_hour == Decimal("0.4")
        assert contract.end_at is None
        assert contract.terms == TERMS
        assert contract.spec.image == "ubuntu:22.04"
        assert contract.spec.disk_bytes == 40_000_000_000
        assert contract.spec.gpu_count == 1
        assert contract.spec.hostname == "node1"
        assert contract.spec.ports == (PortRequest(8081, Protocol.UDP),)
        assert await revision_of(market) > before


async def test_variables_identify_the_instance(tmp_path: Path) -> None:
    async with rented_market(tmp_path) as market:
        answer = await accept(market, env={"A": "B", "CONTAINER_ID": "99", "OPEN_BUTTON_TOKEN": "1"})
        instance_id = answer.body["new_contract"]

        env = dict((await contract_of(market, instance_id)).spec.env)

        assert env["A"] == "B"
        assert env["CONTAINER_ID"] == str(instance_id)
        assert env["VAST_CONTAINERLABEL"] == f"C.{instance_id}"
        assert env["CONTAINER_API_KEY"] == answer.body["instance_api_key"]
        assert env["GPU_COUNT"] == "1"
        assert env["VAST_URL"] == market.context.settings.public_url
        assert env["JUPYTER_TOKEN"] == env["OPEN_BUTTON_TOKEN"] == (await show(market, instance_id))["jupyter_token"]


async def test_account_secrets_and_ssh_keys_reach_the_container(tmp_path: Path) -> None:
    async with rented_market(tmp_path) as market:
        async with market.context.engine.begin() as tx:
            for key, value in (("HF_TOKEN", "account"), ("MODEL", "account")):
                await tx.execute(sa.insert(tables.secrets).values(user_id=2, key=key, value=value))
            for number, deleted_at in ((1, None), (2, 5.0), (3, None)):
                await tx.execute(
                    sa.insert(tables.ssh_keys).values(
                        user_id=2, public_key=f"ssh-ed25519 K{number}", created_at=1.0, deleted_at=deleted_at
                    )
                )

        instance_id = await rent(market, env={"MODEL": "request"})

        env = dict((await contract_of(market, instance_id)).spec.env)
        assert env["HF_TOKEN"] == "account"
        assert env["MODEL"] == "request"
        assert env["SSH_PUBLIC_KEY"] == "ssh-ed25519 K1\nssh-ed25519 K3"
        assert (await show(market, instance_id))["extra_env"] == [["MODEL", "request"]]


async def test_the_same_request_again_is_the_same_contract(tmp_path: Path) -> None:
    async with rented_market(tmp_path) as market:
        ask_id = await ask_of(market.context)

        answers = await asyncio.gather(*(accept(market, ask_id, label="same") for _ in range(5)))

        assert [answer.status for answer in answers] == [200] * 5
        assert len({answer.body["new_contract"] for answer in answers}) == 1
        assert len({answer.body["instance_api_key"] for answer in answers}) == 1


async def test_a_repetition_after_a_minute_or_with_another_body_is_refused(tmp_path: Path) -> None:
    async with rented_market(tmp_path) as market:
        ask_id = await ask_of(market.context)
        assert (await accept(market, ask_id)).status == 200

        other = await accept(market, ask_id, label="other")
        market.clock.advance(61)
        late = await accept(market, ask_id)

        assert (other.status, other.body["error"]) == (410, "no_such_ask")
        assert (late.status, late.body["error"]) == (410, "no_such_ask")


async def test_a_taken_offer_says_that_nothing_queues(tmp_path: Path) -> None:
    async with rented_market(tmp_path) as market:
        ask_id = await ask_of(market.context)
        await accept(market, ask_id, label="first")

        queued = await accept(market, ask_id, cancel_unavail=False)
        cancelled = await accept(market, ask_id, cancel_unavail=None)

        assert queued.body["ask_id"] == ask_id
        assert "not queued" in queued.body["msg"]
        assert cancelled.status == 410
        assert "queued" not in cancelled.body["msg"]


async def test_overlapping_slices_never_share_a_gpu(tmp_path: Path) -> None:
    async with rented_market(tmp_path) as market:
        everything = await ask_of(market.context, 8)
        await rent(market, 1)

        refused = await accept(market, everything)

        assert (refused.status, refused.body["error"]) == (410, "no_such_ask")
        assert "no_such_ask" in refused.body["msg"]


async def test_racing_renters_get_no_more_gpus_than_there_are(tmp_path: Path) -> None:
    async with rented_market(tmp_path) as market:
        sizes = [8, 4, 4, 2, 2, 2, 1, 1, 1]
        async with market.context.engine.begin() as tx:
            rows = (await tx.execute(sa.select(tables.asks.c.id, tables.asks.c.num_gpus))).all()
        asks = [row.id for size in sorted(set(sizes)) for row in rows if row.num_gpus == size][: len(sizes) * 2]

        answers = await asyncio.gather(*(accept(market, ask_id, label=str(ask_id)) for ask_id in asks))

        made = [answer.body["new_contract"] for answer in answers if answer.status == 200]
        taken = [(await contract_of(market, contract_id)).spec.gpu_count for contract_id in made]
        assert sum(taken) == 8
        assert {answer.status for answer in answers} == {200, 410}


async def test_an_unknown_offer_is_404_with_no_such_ask_in_words(tmp_path: Path) -> None:
    async with rented_market(tmp_path) as market:
        for ask_id in (4711, 10**17):
            answer = await accept(market, ask_id)

            assert (answer.status, answer.body["error"], answer.body["ask_id"]) == (404, "invalid_args", ask_id)
            assert "no_such_ask" in answer.body["msg"]


async def test_a_number_beyond_the_database_is_not_found(tmp_path: Path) -> None:
    async with rented_market(tmp_path) as market:
        assert (await accept(market, 2**63)).status == 404
        assert (await market.renter.call("GET", f"/api/v0/instances/{10**30}/")).status == 404


async def test_nobody_rents_without_a_key_and_hosts_only_their_own(tmp_path: Path) -> None:
    async with rented_market(tmp_path) as market:
        other_key = await accounts.add_user(market.context.engine, "other host", True, market.clock.now())

        nobody = await accept(market, 1, by=market.anyone)
        other = await accept(market, 1, by=market.anyone.using(other_key))
        owner = await accept(market, 1, by=market.host)

        assert nobody.status == 401
        assert (other.status, other.body["error"]) == (403, "invalid_args")
        assert "not your own" in other.body["msg"]
        assert owner.status == 200


async def test_an_offline_or_unlisted_machine_is_gone(tmp_path: Path) -> None:
    async with rented_market(tmp_path) as market:
        ask_id = await ask_of(market.context)
        market.clock.advance(181)
        offline = await accept(market, ask_id)

        second = await add_machine(market.context)
        await list_machine(market.context, second)
        other_ask = await ask_of(market.context, machine_id=second)
        async with market.context.engine.begin() as tx:
            await machines.put_listing(tx, second, None)
        unlisted = await accept(market, other_ask)

        assert offline.status == 410
        assert unlisted.status == 410


async def test_the_contract_ends_with_the_listing(tmp_path: Path) -> None:
    async with rented_market(tmp_path) as market:
        now = market.clock.now()
        end_at = now + timedelta(days=3)
        await list_machine(market.context, 1, Listing(TERMS.price_gpu_per_hour, end_at=end_at))
        fixed = await contract_of(market, await rent(market))
        await list_machine(market.context, 1, Listing(TERMS.price_gpu_per_hour, rolling_duration_s=7200.0))
        rolling = await contract_of(market, await rent(market))
        await list_machine(market.context, 1, Listing(TERMS.price_gpu_per_hour, end_at=now))
        past = await accept(market)

        assert fixed.end_at == end_at
        assert rolling.end_at == now + timedelta(hours=2)
        assert past.status == 410


async def test_the_price_is_frozen_at_rental(tmp_path: Path) -> None:
    async with rented_market(tmp_path) as market:
        instance_id = await rent(market, 2, disk=73.0)
        await list_machine(market.context, 1, Listing(Decimal(9), price_disk_per_gb_month=Decimal(9)))

        row = await show(market, instance_id)

        assert row["dph_base"] == pytest.approx(0.8)
        assert row["storage_total_cost"] == pytest.approx(0.01)
        assert row["dph_total"] == pytest.approx(0.81)
        assert row["storage_cost"] == pytest.approx(0.1)


async def test_a_bid_is_an_interruptible_contract_at_its_price(tmp_path: Path) -> None:
    async with rented_market(tmp_path) as market:
        instance_id = await rent(market, 2, price=0.25)

        contract = await contract_of(market, instance_id)
        row = await show(market, instance_id)

        assert contract.kind is ContractKind.INTERRUPTIBLE
        assert contract.price_usd_per_hour == Decimal("0.25")
        assert row["is_bid"] is True
        assert row["dph_base"] == 0.25


async def test_the_registry_login_is_sealed_and_forgotten_at_the_end(tmp_path: Path) -> None:
    async with rented_market(tmp_path) as market:
        instance_id = await rent(market, image="ghcr.io/me/app", image_login="-u bob -p 's3 cret' ghcr.io")
        plain = await rent(market, label="no login")

        async with market.context.engine.begin() as tx:
            sealed = await tx.scalar(
                sa.select(tables.contracts.c.image_login).where(tables.contracts.c.id == instance_id)
            )
            login = await rentals.registry_login(market.context, tx, instance_id)
            nothing = await rentals.registry_login(market.context, tx, plain)

        assert (await contract_of(market, instance_id)).spec.needs_registry_login
        assert sealed is not None
        assert b"cret" not in sealed
        assert login is not None
        assert (login.registry, login.username, login.password) == ("ghcr.io", "bob", "s3 cret")
        assert nothing is None
        assert "cret" not in str(await show(market, instance_id))
        assert b"s3 cret" not in (tmp_path / "marketplace.db").read_bytes()

        await market.renter.call("DELETE", f"/api/v0/instances/{instance_id}/", {})
        async with market.context.engine.begin() as tx:
            assert await rentals.registry_login(market.context, tx, instance_id) is None


async def test_an_older_status_does_not_replace_a_newer_one(tmp_path: Path) -> None:
    async with rented_market(tmp_path) as market:
        instance_id = await rent(market)
        earlier = market.clock.now()
        market.clock.advance(5)
        await say(market, instance_id, WorkloadState.RUNNING)

        await say(market, instance_id, WorkloadState.PULLING, as_of=earlier)

        assert (await show(market, instance_id))["actual_status"] == "running"


async def test_proof_of_removal_frees_the_slice_once(tmp_path: Path) -> None:
    async with rented_market(tmp_path) as market:
        ask_id = await ask_of(market.context, 8)
        made = await accept(market, ask_id)
        instance_id = made.body["new_contract"]
        await say(market, instance_id, WorkloadState.RUNNING)
        await market.renter.call("DELETE", f"/api/v0/instances/{instance_id}/", {})
        assert await _rentable(market) == []

        await prove_removed(market, instance_id)
        revision = await revision_of(market)
        await prove_removed(market, instance_id)

        assert ask_id in await _rentable(market)
        assert await revision_of(market) == revision
        own_key = market.anyone.using(made.body["instance_api_key"])
        assert (await own_key.call("GET", f"/api/v0/instances/{instance_id}/")).status == 401


async def test_many_offers_are_rented_each_for_itself(tmp_path: Path) -> None:
    async with rented_market(tmp_path) as market:
        free = await ask_of(market.context)
        body = {"image": "ubuntu", "disk": 10, "ids": [free, 4711]}

        answer = await market.renter.call("POST", "/api/v0/asks/bulk/", body)
        none = await market.renter.call("POST", "/api/v0/asks/bulk/", {**body, "ids": [4711]})

        assert answer.body["success"] is True
        assert len(answer.body["new_contracts"]) == 1
        assert [result["success"] for result in answer.body["results"]] == [True, False]
        assert answer.body["results"][1]["ask_id"] == 4711
        assert none.status == 404


async def _rentable(market: Market) -> list[int]:
    async with market.context.engine.begin() as tx:
        machine = await machines.get(tx, 1)
        assert machine is not None
        records = await listings.of(tx, machine, await listings.free(tx, machine, market.context.clock.now()))
    return [record.id for record in records if record.rentable]


async def test_a_contract_has_a_largest_size_so_that_no_renter_can_swell_a_machines_snapshot(tmp_path: Path) -> None:
    async with rented_market(tmp_path) as market:
        fits = await accept(market, env={"A": "x" * 50_000})
        secret = await market.renter.call("POST", "/api/v0/secrets/", {"key": "BIG", "value": "y" * 30_000})
        variables = await accept(market, env={f"A{n}": '"' * 20_000 for n in range(4)})
        arguments = await accept(market, args=["x" * 150_000], runtype="args")
        offers = await market.search(num_gpus={"eq": 1}, rentable={"eq": True})

    assert (fits.status, secret.status) == (200, 200)
    assert [(a.status, a.body["error"]) for a in (variables, arguments)] == [(400, "invalid_args")] * 2
    assert "131072" in variables.body["msg"]
    assert len(offers) == 7
