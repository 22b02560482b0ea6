from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from kaalia.errors import ConfigError
from kaalia.marketplace import accounts, auth
from kaalia.marketplace.db import tables
from kaalia.wire.error import ApiError
from tests.marketplace.support import add_machine, open_context, open_market
from tests.support.machines import machine_report

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGJ4kxd1mHZbWLuGvQk1VpDmq3cH3oCl1hC4eTuTIqoC me@home"


async def test_a_user_name_is_taken_once(tmp_path: Path) -> None:
    async with open_context(tmp_path) as context:
        key = await accounts.add_user(context.engine, "ada", True)
        with pytest.raises(ConfigError, match="user_exists"):
            await accounts.add_user(context.engine, "ada", False)

    assert len(key) >= 43


async def test_an_enrolment_token_is_stored_as_a_digest_and_expires_in_a_day(tmp_path: Path) -> None:
    async with open_context(tmp_path) as context:
        await accounts.add_user(context.engine, "ada", True)
        now = context.clock.now()
        token = await accounts.new_enrol_token(context.engine, "ada", now)
        async with context.engine.begin() as tx:
            row = (await tx.execute(sa.select(tables.enrol_tokens))).one()
        with pytest.raises(ConfigError, match="no_such_user"):
            await accounts.new_enrol_token(context.engine, "bob", now)

    assert row.token_sha256 == auth.digest(token)
    assert row.expires_at == (now + timedelta(hours=24)).timestamp()
    assert row.used_by_machine_id is None


@pytest.mark.parametrize(
    ("method", "body", "status", "code"),
    [
        ("POST", {"value": "x"}, 400, "missing_input"),
        ("POST", {"key": "A"}, 400, "missing_input"),
        ("POST", {"key": "1A", "value": "x"}, 400, "invalid_args"),
        ("POST", {"key": "A=B", "value": "x"}, 400, "invalid_args"),
        ("POST", {"key": 7, "value": "x"}, 400, "invalid_args"),
        ("POST", {"key": "A", "value": "\0"}, 400, "invalid_args"),
        ("PUT", {"key": "A", "value": "x"}, 404, "no_such_key"),
        ("DELETE", {"key": "A"}, 404, "no_such_key"),
        ("DELETE", {}, 400, "missing_input"),
    ],
)
async def test_secrets_that_cannot_be(
    tmp_path: Path, method: str, body: dict[str, Any], status: int, code: str
) -> None:
    async with open_market(tmp_path) as market:
        answer = await market.renter.call(method, "/api/v0/secrets/", body)

    assert (answer.status, answer.body["error"]) == (status, code)


async def test_secrets_are_the_accounts_own_and_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accounts, "SECRETS_MAX", 1)
    async with open_market(tmp_path) as market:
        first = await market.renter.call("POST", "/api/v0/secrets/", {"key": "a", "value": ""})
        second = await market.renter.call("POST", "/api/v0/secrets/", {"key": "b", "value": "x"})
        mine = await market.renter.call("GET", "/api/v0/secrets/")
        others = await market.host.call("GET", "/api/v0/secrets/")

    assert first.status == 200
    assert (second.status, second.body["error"]) == (400, "max_secrets")
    assert mine.body["secrets"] == {"A": ""}
    assert others.body["secrets"] == {}


@pytest.mark.parametrize(
    "text",
    [
        "/home/me/.ssh/id_ed25519.pub",
        "ssh-ed25519",
        "ssh-ed25519 notbase64",
        "ssh-rsa " + KEY.split()[1],
        KEY + "\ncommand=rm " + KEY,
        "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXk=",
        'command="sh" ' + KEY,
        "ssh-dss AAAAB3NzaC1kc3M=",
        KEY + "x" * 20_000,
    ],
)
def test_what_is_no_public_key_is_refused(text: str) -> None:
    with pytest.raises(ApiError) as caught:
        accounts.check_ssh_key(text)

    assert caught.value.code == ("private_ssh_key" if "PRIVATE" in text else "invalid_ssh_key")
    assert "public key" in caught.value.problem.remedy or "ssh-ed25519 AAAA" in caught.value.problem.remedy


async def test_the_same_ssh_key_twice_is_one_key(tmp_path: Path) -> None:
    async with open_market(tmp_path) as market:
        first = await market.renter.call("POST", "/api/v0/ssh/", {"ssh_key": KEY})
        second = await market.renter.call("POST", "/api/v0/ssh/", {"ssh_key": KEY + "\n"})
        foreign = await market.host.call("DELETE", f"/api/v0/ssh/{first.body['key']['id']}/", {})
        listed = await market.renter.call("GET", "/api/v0/ssh/")

    assert first.body["key"] == second.body["key"]
    assert (foreign.status, foreign.body["error"]) == (404, "no_such_ssh_key")
    assert [row["public_key"] for row in listed.body] == [KEY]
    assert listed.body[0]["deleted_at"] is None


async def test_gpu_names_are_those_of_the_machines(tmp_path: Path) -> None:
    async with open_market(tmp_path) as market:
        empty = await market.anyone.call("GET", "/api/v0/gpu_names/unique/")
        await add_machine(market.context, machine_report(gpus=2))
        await add_machine(market.context, machine_report(gpus=1, gpu_name="NVIDIA H100 PCIe"))
        names = await market.anyone.call("GET", "/api/v0/gpu_names/unique/")

    assert empty.body == {"gpu_names": None}
    assert names.body == {"gpu_names": ["H100 PCIE", "RTX 4090"]}


@pytest.mark.parametrize(
    "permissions",
    [
        {},
        [],
        {"api": []},
        {"api": {"everything": {}}},
        {"api": {"misc": []}},
        {"api": {"misc": {"api.x": {"limits": {}}}}},
        {"api": {"misc": {"api.x": {"constraints": {"id": {"near": 3}}}}}},
        {"api": {"misc": {"api.x": {"constraints": {"id": 3}}}}},
    ],
)
async def test_permissions_that_mean_nothing_make_no_key(tmp_path: Path, permissions: Any) -> None:
    async with open_market(tmp_path) as market:
        body = {"name": "x", "permissions": permissions}
        answer = await market.renter.call("POST", "/api/v0/auth/apikeys/", body)
        keys = (await market.renter.call("GET", "/api/v0/auth/apikeys/")).body["apikeys"]

    assert (answer.status, answer.body["error"]) == (400, "invalid_args")
    assert "permissions" in answer.body["msg"]
    assert len(keys) == 1


async def test_foreign_api_keys_are_not_there(tmp_path: Path) -> None:
    async with open_market(tmp_path) as market:
        key_id = (await market.host.call("GET", "/api/v0/auth/apikeys/")).body["apikeys"][0]["id"]
        shown = await market.renter.call("GET", f"/api/v0/auth/apikeys/{key_id}/")
        deleted = await market.renter.call("DELETE", f"/api/v0/auth/apikeys/{key_id}/", {})
        host = await market.host.call("GET", "/api/v0/users/current")

    assert (shown.status, deleted.status, host.status) == (404, 404, 200)


async def test_the_databases_own_errors_hold_no_secret(tmp_path: Path) -> None:
    async with open_context(tmp_path) as context:
        secret = sa.insert(tables.secrets).values(user_id=1, key="HF_TOKEN", value="hush-hush")
        async with context.engine.begin() as tx:
            await tx.execute(secret)
            with pytest.raises(IntegrityError) as caught:
                await tx.execute(secret)

    assert "hush-hush" not in str(caught.value)
