"""Snapshots as a renter asks for them: where they go, what is refused, and a login that is given once."""

from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from kaalia.errors import Problem
from kaalia.marketplace import daemons
from kaalia.marketplace.db import tables
from kaalia.marketplace.db.snapshot_tables import snapshots
from kaalia.model.workload import WorkloadState
from kaalia.wire import document
from kaalia.wire.error import ApiError
from kaalia.wire.protocol import TaskRequest, TaskResult, Verb
from tests.marketplace.renting import rent, rented_market, say, show
from tests.marketplace.support import Answer, Market

HUSH = "correct-horse-9"


async def running(market: Market) -> int:
    instance_id = await rent(market)
    await say(market, instance_id, WorkloadState.RUNNING, container_id="c" * 64)
    return instance_id


async def take(market: Market, instance_id: int, **changes: Any) -> Answer:
    """As the client sends it."""
    body = {
        "id": str(instance_id),
        "container_registry": "docker.io",
        "personal_repo": "me/saved:v1",
        "docker_login_user": "me",
        "docker_login_pass": HUSH,
        "pause": "true",
    }
    path = f"/api/v0/instances/take_snapshot/{instance_id}/"
    return await market.renter.call("POST", path, {**body, **changes})


async def tasks(market: Market) -> list[TaskRequest]:
    async with market.context.engine.begin() as tx:
        rows = (await tx.scalars(sa.select(tables.tasks.c.document))).all()
    return [document.decode(TaskRequest, text) for text in rows]


async def refused_login(market: Market, task_id: str, machine_id: int = 1) -> str:
    with pytest.raises(ApiError) as caught:
        await daemons.task_login(market.context, machine_id, task_id)
    return caught.value.code


@pytest.mark.parametrize(
    ("registry", "repo", "target"),
    [
        ("docker.io", "me/saved", "me/saved:latest"),
        ("https://ghcr.io", "me/saved:v1", "ghcr.io/me/saved:v1"),
        ("docker.io", "ghcr.io/me/saved:v1", "ghcr.io/me/saved:v1"),
        ("127.0.0.1:5000", "me/saved:v1", "127.0.0.1:5000/me/saved:v1"),
    ],
)
async def test_the_machine_is_told_where_and_fetches_the_login_once(
    tmp_path: Path, registry: str, repo: str, target: str
) -> None:
    async with rented_market(tmp_path) as market:
        instance_id = await running(market)

        answer = await take(market, instance_id, container_registry=registry, personal_repo=repo, pause="false")
        again = await take(market, instance_id, container_registry=registry, personal_repo=repo, pause="false")

        assert (answer.status, again.status, answer.body["success"]) == (200, 200, True), answer.body
        (task,) = await tasks(market)
        assert (task.verb, task.contract_id, task.image, task.pause) == (Verb.SNAPSHOT, instance_id, target, False)
        assert await refused_login(market, task.task_id, machine_id=2) == "login_unknown"
        login = await daemons.task_login(market.context, 1, task.task_id)
        assert (login.username, login.password) == ("me", HUSH)
        assert login.registry == target.partition("/")[0].replace("me", "docker.io")
        assert await refused_login(market, task.task_id) == "login_unknown"
        async with market.context.engine.begin() as tx:
            assert (await tx.execute(sa.select(snapshots.c.login))).scalar_one() is None


async def test_a_login_is_sealed_until_then(tmp_path: Path) -> None:
    async with rented_market(tmp_path) as market:
        await take(market, await running(market))

        stored = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
        assert HUSH.encode() not in stored
        assert HUSH not in str([document.encode(task) for task in await tasks(market)])


async def test_how_it_goes_and_how_it_ended_is_shown_for_an_hour(tmp_path: Path) -> None:
    async with rented_market(tmp_path) as market:
        instance_id = await running(market)
        await take(market, instance_id)
        (task,) = await tasks(market)

        async def tell(result: TaskResult) -> str:
            await daemons.take_result(market.context, 1, task.task_id, result)
            return str((await show(market, instance_id))["status_msg"])

        assert "snapshot: pushing me/saved:v1: 40 %" in await tell(
            TaskResult("pushing me/saved:v1: 40 %", is_final=False)
        )
        other = await take(market, instance_id, personal_repo="me/other")
        assert (other.status, other.body["error"]) == (400, "snapshot_running")
        problem = Problem("registry_unauthorized", "cannot push me/saved:v1: the registry refuses access", "log in")
        ended = await tell(TaskResult("", problem))
        assert "cannot push me/saved:v1: the registry refuses access [registry_unauthorized]. log in" in ended
        assert await tell(TaskResult("pushing me/saved:v1: 50 %", is_final=False)) == ended, "what comes late is late"
        market.clock.advance(3601)
        assert "snapshot" not in (await show(market, instance_id))["status_msg"]
        assert (await take(market, instance_id, personal_repo="me/other")).status == 200


async def test_what_cannot_be_is_refused(tmp_path: Path) -> None:
    async with rented_market(tmp_path) as market:
        fresh = await rent(market)
        instance_id = await running(market)
        refused = {
            "no_container": await take(market, fresh),
            "repo": await take(market, instance_id, personal_repo="Not A Repo"),
            "digest": await take(market, instance_id, personal_repo="me/saved@sha256:" + "a" * 64),
            "automatic": await take(market, instance_id, personal_repo="me/saved:@vastai-automatic-tag"),
            "missing": await take(market, instance_id, personal_repo=None),
            "half": await take(market, instance_id, docker_login_pass=None),
            "pause": await take(market, instance_id, pause="maybe"),
        }
        path = f"/api/v0/instances/take_snapshot/{instance_id}/"
        foreign = await market.host.call("POST", path, {"personal_repo": "me/saved"})

        assert {name: answer.status for name, answer in refused.items()} == dict.fromkeys(refused, 400)
        assert refused.pop("no_container").body["error"] == "no_container"
        assert {answer.body["error"] for answer in refused.values()} == {"invalid_args"}
        assert all(answer.body["msg"].startswith("cannot ") for answer in refused.values())
        assert (foreign.status, foreign.body["error"]) == (404, "no_such_instance")
        assert await tasks(market) == []
