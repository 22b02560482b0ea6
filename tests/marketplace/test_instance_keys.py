"""Keys of one instance: what is copied at rental, attach and detach by the real client, and what is refused."""

from pathlib import Path

from kaalia.marketplace.db import tables
from tests.marketplace.renting import contract_of, rent, rented_market
from tests.support.ssh import new_key

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGJ4kxd1mHZbWLuGvQk1VpDmq3cH3oCl1hC4eTuTIqoC me@home"
OTHER = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIMX5cvkyBqTpPrqPLbUtYPxDb6Vnrg2ijRAGYDhmZLDX"


async def test_account_keys_are_copied_at_rental_and_later_ones_are_not(tmp_path: Path) -> None:
    async with rented_market(tmp_path) as market:
        await market.renter.call("POST", "/api/v0/ssh/", {"ssh_key": KEY})
        instance_id = await rent(market)
        await market.renter.call("POST", "/api/v0/ssh/", {"ssh_key": OTHER})
        contract = await contract_of(market, instance_id)
        listed = await market.renter.call("GET", f"/api/v0/instances/{instance_id}/ssh/")

    assert contract.ssh_keys == (KEY,)
    assert dict(contract.spec.env)["SSH_PUBLIC_KEY"] == KEY
    assert [one["public_key"] for one in listed.body] == [KEY]


async def test_the_client_attaches_and_detaches(tmp_path: Path) -> None:
    file = tmp_path / "other.pub"
    file.write_text(OTHER + "\n")
    async with rented_market(tmp_path) as market:
        await market.renter.call("POST", "/api/v0/ssh/", {"ssh_key": KEY})
        instance_id = await rent(market)
        before = await contract_of(market, instance_id)
        client = market.client(market.renter)
        attached = await client.run("attach", "ssh", str(instance_id), str(file))
        again = await market.renter.call("POST", f"/api/v0/instances/{instance_id}/ssh/", {"ssh_key": OTHER})
        both = await contract_of(market, instance_id)
        listed = await market.renter.call("GET", f"/api/v0/instances/{instance_id}/ssh/")
        account = await market.renter.call("GET", "/api/v0/ssh/")
        first = listed.body[0]["id"]
        detached = await client.run("detach", "ssh", str(instance_id), str(first))
        after = await contract_of(market, instance_id)
        absent = await market.renter.call("DELETE", f"/api/v0/instances/{instance_id}/ssh/{first}/", {})

    assert attached.returncode == detached.returncode == 0, attached.stderr + detached.stderr
    assert again.body["key"]["id"] == listed.body[1]["id"]
    assert both.ssh_keys == (KEY, OTHER)
    assert (both.generation, both.spec) == (before.generation, before.spec), "nothing restarts for a key"
    assert [one["public_key"] for one in account.body] == [KEY], "the account has no more keys than before"
    assert after.ssh_keys == (OTHER,)
    assert (absent.status, absent.body["error"]) == (404, "no_such_ssh_key")


async def test_a_private_key_is_refused_and_not_kept(tmp_path: Path) -> None:
    path, _ = new_key(tmp_path)
    private = path.read_text()
    async with rented_market(tmp_path) as market:
        instance_id = await rent(market)
        for place in (f"/api/v0/instances/{instance_id}/ssh/", "/api/v0/ssh/"):
            answer = await market.renter.call("POST", place, {"ssh_key": private})
            assert (answer.status, answer.body["error"]) == (400, "private_ssh_key")
            assert ".pub" in answer.body["msg"]
            assert not any(line in str(answer.body) for line in private.splitlines()[1:-1])
        contract = await contract_of(market, instance_id)
        async with market.context.engine.begin() as tx:
            kept = [list(await tx.execute(table.select())) for table in (tables.ssh_keys, tables.instance_keys)]

    assert contract.ssh_keys == ()
    assert kept == [[], []]


async def test_others_and_images_without_sshd_are_refused(tmp_path: Path) -> None:
    async with rented_market(tmp_path) as market:
        instance_id = await rent(market, runtype="args", args=["true"])
        path = f"/api/v0/instances/{instance_id}/ssh/"
        plain = await market.renter.call("POST", path, {"ssh_key": KEY})
        foreign = await market.host.call("POST", path, {"ssh_key": KEY})
        wrong = await market.renter.call("POST", path, {"ssh_key": 7})

    assert (plain.status, plain.body["error"]) == (400, "no_ssh_mode")
    assert (foreign.status, foreign.body["error"]) == (404, "no_such_instance")
    assert (wrong.status, wrong.body["error"]) == (400, "invalid_args")
