"""The account commands of the real client."""

import json
from pathlib import Path

from tests.marketplace.support import open_market

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGJ4kxd1mHZbWLuGvQk1VpDmq3cH3oCl1hC4eTuTIqoC me@home"
OTHER = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIMX5cvkyBqTpPrqPLbUtYPxDb6Vnrg2ijRAGYDhmZLDX"


async def test_show_user(tmp_path: Path) -> None:
    async with open_market(tmp_path) as market:
        renter = market.client(market.renter)
        raw = await renter.json("show", "user")
        table = await renter.run("show", "user")
        host = await market.client(market.host).json("show", "user")

    assert raw["username"] == "renter"
    assert raw["credit"] > 0
    assert raw["host_agreement_accepted"] is False
    assert host["host_agreement_accepted"] is True
    assert table.returncode == 0, table.stderr
    assert "renter" in table.stdout


async def test_api_keys_are_made_shown_and_deleted(tmp_path: Path) -> None:
    permissions = tmp_path / "permissions.json"
    permissions.write_text(json.dumps({"api": {"user_read": {}}}))
    async with open_market(tmp_path) as market:
        renter = market.client(market.renter)
        made = await renter.run("create", "api-key", "--name", "ci", "--permission_file", str(permissions))
        listed = (await renter.json("show", "api-keys"))["apikeys"]
        key_id = next(key["id"] for key in listed if key["name"] == "ci")
        one = await renter.run("show", "api-key", str(key_id))
        deleted = await renter.run("delete", "api-key", str(key_id))
        left = (await renter.json("show", "api-keys"))["apikeys"]

    assert "api-key created" in made.stdout, made.stderr
    assert [key["permissions"] for key in listed] == [None, {"api": {"user_read": {}}}]
    assert all("key" not in key for key in listed)
    assert "ci" in one.stdout
    assert "success" in deleted.stdout
    assert [key["name"] for key in left] == ["first key"]


async def test_reset_api_key_voids_the_old_one(tmp_path: Path) -> None:
    async with open_market(tmp_path) as market:
        done = await market.client(market.renter).run("reset", "api-key")
        new = done.stdout.strip().rsplit(" ", 1)[-1]
        with_old = await market.renter.call("GET", "/api/v0/users/current")
        with_new = await market.renter.using(new).call("GET", "/api/v0/users/current")

    assert "New api-key" in done.stdout, done.stderr
    assert with_old.status == 401
    assert with_new.status == 200


async def test_environment_variables(tmp_path: Path) -> None:
    async with open_market(tmp_path) as market:
        renter = market.client(market.renter)
        created = await renter.run("create", "env-var", "hf_token", "one")
        again = await renter.run("create", "env-var", "HF_TOKEN", "two")
        updated = await renter.run("update", "env-var", "HF_TOKEN", "three")
        shown = await renter.run("show", "env-vars", "-s")
        deleted = await renter.run("delete", "env-var", "HF_TOKEN")
        missing = await renter.run("delete", "env-var", "HF_TOKEN")

    assert "HF_TOKEN created" in created.stdout, created.stderr
    assert "cannot create HF_TOKEN: it exists" in again.stderr
    assert "updated" in updated.stdout
    assert "Name: HF_TOKEN\nValue: three" in shown.stdout
    assert "deleted" in deleted.stdout
    assert "cannot delete HF_TOKEN" in missing.stderr


async def test_ssh_keys(tmp_path: Path) -> None:
    file = tmp_path / "other.pub"
    file.write_text(OTHER + "\n")
    async with open_market(tmp_path) as market:
        renter = market.client(market.renter)
        created = await renter.run("create", "ssh-key", KEY)
        first = await renter.json("show", "ssh-keys")
        key_id = str(first[0]["id"])
        updated = await renter.run("update", "ssh-key", key_id, str(file))
        second = await renter.json("show", "ssh-keys")
        await renter.run("delete", "ssh-key", key_id)
        last = await renter.json("show", "ssh-keys")
        wrong = await market.renter.call("POST", "/api/v0/ssh/", {"ssh_key": "/home/me/.ssh/id_ed25519.pub"})

    assert created.returncode == 0, created.stderr
    assert first[0]["public_key"] == first[0]["key"] == KEY
    assert updated.returncode == 0, updated.stderr
    assert second[0]["public_key"] == OTHER
    assert last == []
    assert (wrong.status, wrong.body["error"]) == (400, "invalid_ssh_key")
