"""`vastai cloud copy` at the marketplace: connections, who is asked for what, and who gets a login."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from kaalia.errors import Problem
from kaalia.marketplace import clouds
from kaalia.marketplace.db.copy_tables import cloud_connections
from kaalia.model.copying import CloudLogin, CopyEnd, Holder, HolderKind
from kaalia.wire import document
from kaalia.wire.error import ApiError
from kaalia.wire.protocol import TaskResult, Verb
from tests.marketplace.renting import rent, rented_market
from tests.marketplace.support import Answer, Market
from tests.marketplace.test_copies import answered, copy, give, open_task, refusal

CONNECTIONS = "/api/v0/users/cloud_integrations/"
OPTIONS = {"access_key_id": "AKIA1", "secret_access_key": "very-secret-0123456789", "region": "eu-west-1"}


async def connect(market: Market, **changes: Any) -> Answer:
    body = {"name": "backups", "cloud_type": "s3", "options": OPTIONS, **changes}
    return await market.renter.call("POST", CONNECTIONS, body)


async def cloud_copy(market: Market, **changes: Any) -> Answer:
    body = {"src": "/work", "dst": "bucket/x", "transfer": "Instance To Cloud", "flags": [], **changes}
    return await market.renter.call("POST", "/api/v0/commands/rclone/", body)


async def test_a_connection_is_listed_without_its_login_and_sealed_at_rest(tmp_path: Path) -> None:
    async with rented_market(tmp_path) as market:
        made = await connect(market)
        assert (made.status, made.body) == (200, {"success": True, "id": 1, "name": "backups", "cloud_type": "s3"})
        shown = await market.client(market.renter).json("show", "connections")
        assert shown == [{"id": 1, "name": "backups", "cloud_type": "s3"}]
        assert (await market.host.call("GET", CONNECTIONS)).body == []
        async with market.context.engine.begin() as tx:
            sealed = await tx.scalar(sa.select(cloud_connections.c.login))
        assert sealed is not None
        assert b"very-secret" not in sealed

        assert refusal(await market.host.call("DELETE", f"{CONNECTIONS}1/")) == (404, "no_such_connection")
        assert (await market.renter.call("DELETE", f"{CONNECTIONS}1/")).status == 200
        assert (await market.renter.call("GET", CONNECTIONS)).body == []


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"cloud_type": "hf"}, "cloud_kind_unknown"),
        ({"cloud_type": None}, "cloud_kind_unknown"),
        ({"options": {"access_key_id": "x"}}, "cloud_login_invalid"),
        ({"options": {**OPTIONS, "shared_credentials_file": "/etc/shadow"}}, "cloud_login_invalid"),
        ({"options": {**OPTIONS, "endpoint": "file:///etc"}}, "cloud_login_invalid"),
        ({"options": {**OPTIONS, "endpoint": "http://me:secret@example.com"}}, "cloud_login_invalid"),
        ({"options": "secret"}, "cloud_login_invalid"),
        ({"name": ""}, "connection_invalid"),
        ({"name": "a\nb"}, "connection_invalid"),
    ],
)
async def test_bad_connections_are_refused_and_quote_no_secret(
    tmp_path: Path, changes: dict[str, Any], code: str
) -> None:
    async with rented_market(tmp_path) as market:
        answer = await connect(market, **changes)
        assert refusal(answer) == (400, code)
        assert "secret-0" not in json.dumps(answer.body)
        assert "/etc/shadow" not in json.dumps(answer.body)


async def test_both_ways_ask_the_machine_without_the_login(tmp_path: Path) -> None:
    async with rented_market(tmp_path) as market:
        instance = await rent(market)
        await connect(market)
        place = CopyEnd(Holder(HolderKind.INSTANCE, instance), "/work")
        ways = {
            "Instance To Cloud": {"src": "/work", "dst": "/bucket/x/"},
            "Cloud To Instance": {"src": "bucket/x", "dst": f"C.{instance}:/work"},
        }
        for transfer, ends in ways.items():
            asking = cloud_copy(
                market, transfer=transfer, instance_id=str(instance), selected="1", flags=["--dry-run"], **ends
            )
            task, answer = await answered(market, TaskResult("begun"), asking)
            assert answer.status == 200, answer.body
            assert task.verb is Verb.CLOUD_COPY
            assert task.cloud is not None
            is_upload = transfer == "Instance To Cloud"
            assert (task.cloud.place, task.cloud.cloud, task.cloud.path) == (place, "s3.1", "bucket/x")
            assert (task.cloud.is_upload, task.cloud.flags) == (is_upload, ("--dry-run",))
            assert "very-secret" not in document.encode(task)
        shown = await market.renter.call("GET", f"/api/v0/instances/{instance}/")
        assert "copy from s3.1:bucket/x to" in shown.body["instances"]["status_msg"]


async def test_the_places_of_copy_name_a_connection_too(tmp_path: Path) -> None:
    async with rented_market(tmp_path) as market:
        instance = await rent(market)
        await connect(market)
        asking = copy(market, "s3.1", f"C.{instance}", src_path="/bucket/x", dst_path="/root")
        task, answer = await answered(market, TaskResult("begun"), asking)
        assert task.cloud is not None
        assert not task.cloud.is_upload
        assert "can lock you out" in answer.body["msg"]
        assert refusal(await copy(market, "local", "s3.1")) == (400, "copy_cloud_local")
        assert refusal(await copy(market, "s3.9", f"C.{instance}")) == (404, "no_such_connection")


async def test_only_the_machine_that_was_asked_gets_the_login_and_only_meanwhile(tmp_path: Path) -> None:
    async with rented_market(tmp_path) as market:
        instance = await rent(market)
        await connect(market)
        asking = asyncio.ensure_future(cloud_copy(market, instance_id=str(instance), selected="1"))
        async with asyncio.timeout(30):
            while (task := await open_task(market)) is None:
                await asyncio.sleep(0.01)
        assert await clouds.login(market.context, 1, task.task_id) == CloudLogin("s3", OPTIONS)
        for machine, number in ((2, task.task_id), (1, "x" * 43)):
            with pytest.raises(ApiError, match="cannot find a login"):
                await clouds.login(market.context, machine, number)
        await give(market, TaskResult("begun"))
        assert (await asking).status == 200
        with pytest.raises(ApiError, match="cannot find a login"):
            await clouds.login(market.context, 1, task.task_id)


async def test_what_is_refused(tmp_path: Path) -> None:
    async with rented_market(tmp_path) as market:
        instance = str(await rent(market))
        assert refusal(await cloud_copy(market, instance_id=instance, selected="1")) == (404, "no_such_connection")
        await connect(market)
        here = {"instance_id": instance, "selected": "1"}
        for changes, code in (
            ({"transfer": "Sideways"}, "cloud_transfer_invalid"),
            ({"flags": ["--config=/etc/shadow"]}, "cloud_flag_refused"),
            ({"flags": "--dump=headers"}, "cloud_flag_refused"),
            ({"src": "/a/../../etc"}, "copy_path_invalid"),
            ({"dst": "/"}, "copy_path_invalid"),
            ({"dst": "bucket/../.."}, "copy_path_invalid"),
            ({"src": None}, "copy_path_invalid"),
            ({"instance_id": "Z.1"}, "copy_place_invalid"),
            ({"instance_id": None}, "copy_cloud_local"),
        ):
            assert refusal(await cloud_copy(market, **{**here, **changes})) == (400, code), changes
        assert refusal(await cloud_copy(market, instance_id="9999", selected="1")) == (404, "no_such_instance")
        body = {"src": "/a", "dst": "b/x", "transfer": "Instance To Cloud", **here}
        foreign = await market.host.call("POST", "/api/v0/commands/rclone/", body)
        assert refusal(foreign) == (404, "no_such_connection")
        assert await open_task(market) is None


async def test_a_machine_without_rclone_says_so(tmp_path: Path) -> None:
    async with rented_market(tmp_path) as market:
        instance = str(await rent(market))
        await connect(market)
        problem = Problem("copy_cloud_unsupported", "cannot copy from or to a cloud", "run rclone inside the instance")
        asking = cloud_copy(market, instance_id=instance, selected="1")
        _, answer = await answered(market, TaskResult("", problem), asking)
        assert refusal(answer) == (409, "copy_cloud_unsupported")


async def test_copies_with_clouds_are_cancelled(tmp_path: Path) -> None:
    async with rented_market(tmp_path) as market:
        instance = await rent(market)
        cancelling = market.renter.call("DELETE", "/api/v0/commands/rclone/", {"dst_id": f"C.{instance}:/x"})
        task, answer = await answered(market, TaskResult("1"), cancelling)
        assert (task.verb, task.holder) == (Verb.CANCEL_SYNC, Holder(HolderKind.INSTANCE, instance))
        assert answer.status == 200
        again = market.renter.call("DELETE", "/api/v0/commands/rclone/", {"dst_id": str(instance)})
        _, none = await answered(market, TaskResult("0"), again)
        assert refusal(none) == (404, "copy_unknown")
