"""Recycle and update as a renter asks for them: one more generation, once, of what is his and not over."""

from pathlib import Path
from typing import Any

from kaalia.errors import Problem
from kaalia.model.workload import LaunchMode, NotMade, PortRequest, WorkloadState
from tests.marketplace.renting import TERMS, contract_of, list_machine, rent, rented_market, say, show
from tests.marketplace.support import Answer, Market


def path_of(instance_id: int) -> str:
    return f"/api/v0/instances/recycle/{instance_id}/"


async def generation(market: Market, instance_id: int) -> int:
    return (await contract_of(market, instance_id)).generation


async def test_a_recycle_is_one_more_generation_until_the_machine_has_made_it(tmp_path: Path) -> None:
    async with rented_market(tmp_path) as market:
        instance_id = await rent(market)
        await say(market, instance_id, WorkloadState.RUNNING)
        seen = []

        answers = [await market.renter.call("PUT", path_of(instance_id), {}) for _ in range(2)]
        told = [
            (WorkloadState.RUNNING, 1),
            (WorkloadState.REMOVING, 1),
            (WorkloadState.CREATING, 2),
            (WorkloadState.RUNNING, 2),
        ]
        for state, number in told:
            await say(market, instance_id, state, generation=number)
            seen.append((await show(market, instance_id))["actual_status"])

        assert [answer.status for answer in answers] == [200, 200]
        assert answers[0].body["success"] is True
        assert seen == ["recycling", "recycling", "created", "running"]
        assert await generation(market, instance_id) == 2, "clients repeat requests"
        await market.renter.call("PUT", path_of(instance_id), {})
        assert await generation(market, instance_id) == 3


async def test_one_that_could_not_be_made_shows_what_goes_on_and_may_be_asked_again(tmp_path: Path) -> None:
    async with rented_market(tmp_path) as market:
        instance_id = await rent(market)
        await say(market, instance_id, WorkloadState.RUNNING)
        await market.renter.call("PUT", path_of(instance_id), {})
        told = NotMade(2, Problem("image_not_found", "cannot pull ubuntu:22.04: there is no such image or tag"))

        await say(market, instance_id, WorkloadState.RUNNING, not_made=told, status_msg=told.warning)

        row = await show(market, instance_id)
        assert row["actual_status"] == "running"
        assert "[image_not_found]" in row["status_msg"]
        await market.renter.call("PUT", path_of(instance_id), {})
        assert await generation(market, instance_id) == 3
        assert (await show(market, instance_id))["actual_status"] == "recycling"


async def test_what_is_stopped_stays_stopped(tmp_path: Path) -> None:
    async with rented_market(tmp_path) as market:
        instance_id = await rent(market)
        await say(market, instance_id, WorkloadState.STOPPED)
        await market.renter.call("PUT", f"/api/v0/instances/{instance_id}/", {"state": "stopped"})

        answer = await market.renter.call("PUT", path_of(instance_id), {})

        assert answer.status == 200
        assert await generation(market, instance_id) == 2
        row = await show(market, instance_id)
        assert (row["actual_status"], row["intended_status"]) == ("stopped", "stopped")


async def test_what_is_another_s_or_over_is_refused(tmp_path: Path) -> None:
    async with rented_market(tmp_path) as market:
        await list_machine(market.context, 1, type(TERMS)(TERMS.price_gpu_per_hour, rolling_duration_s=60.0))
        mine, gone = await rent(market), await rent(market, label="gone")
        for number in (mine, gone):
            await say(market, number, WorkloadState.RUNNING)
        await market.renter.call("DELETE", f"/api/v0/instances/{gone}/", {})

        foreign = await market.host.call("PUT", path_of(mine), {})
        destroyed = await market.renter.call("PUT", path_of(gone), {})
        market.clock.advance(61)
        expired = await market.renter.call("PUT", path_of(mine), {})

        assert (foreign.status, foreign.body["error"]) == (404, "no_such_instance")
        assert (destroyed.status, destroyed.body["error"]) == (404, "no_such_instance")
        assert (expired.status, expired.body["error"]) == (400, "contract_expired")
        assert expired.body["msg"].startswith(f"cannot recycle instance {mine}: its contract expired at ")
        assert await generation(market, mine) == 1


async def update(market: Market, instance_id: int, **changes: Any) -> Answer:
    path = f"/api/v0/instances/update_template/{instance_id}/"
    return await market.renter.call("PUT", path, {"id": instance_id, **changes})


async def rented(market: Market, **body: Any) -> int:
    instance_id = await rent(market, **body)
    await say(market, instance_id, WorkloadState.RUNNING)
    return instance_id


async def test_what_is_not_given_stays(tmp_path: Path) -> None:
    async with rented_market(tmp_path) as market:
        env = {"KEEP": "1", "CHANGE": "old", "-p 9000:9000": "1"}
        instance_id = await rented(market, runtype="ssh", env=env, onstart="echo one", user="worker", disk=25)
        before = await contract_of(market, instance_id)

        changes = {"image": "debian:12", "env": {"CHANGE": "new", "-p 9001:9001/udp": "1"}}
        answer = await update(market, instance_id, **changes)

        after = await contract_of(market, instance_id)
        env_of = dict(after.spec.env)
        assert (answer.status, answer.body["success"]) == (200, True)
        assert answer.body["updated_instance"]["image_uuid"] == "debian:12"
        assert after.generation == 2
        assert (after.spec.image, after.spec.onstart, after.spec.user) == ("debian:12", "echo one", "worker")
        assert (env_of["KEEP"], env_of["CHANGE"]) == ("1", "new")
        assert {PortRequest(22), PortRequest(9000)} < set(after.spec.ports)
        assert len(after.spec.ports) == 3
        same = ("disk_bytes", "gpu_count", "launch_mode", "volumes", "needs_registry_login")
        assert [getattr(after.spec, name) for name in same] == [getattr(before.spec, name) for name in same]
        fixed = ("CONTAINER_API_KEY", "JUPYTER_TOKEN", "CONTAINER_ID")
        assert [env_of[name] for name in fixed] == [dict(before.spec.env)[name] for name in fixed]
        row = await show(market, instance_id)
        assert (row["actual_status"], row["image_uuid"], row["onstart"]) == ("recycling", "debian:12", "echo one")
        assert ["CHANGE", "new"] in row["extra_env"]


async def test_a_repeated_update_is_one_and_another_is_another(tmp_path: Path) -> None:
    async with rented_market(tmp_path) as market:
        instance_id = await rented(market)

        for image in ("debian:12", "debian:12", "debian:11"):
            assert (await update(market, instance_id, image=image)).status == 200

        after = await contract_of(market, instance_id)
        assert (after.generation, after.spec.image) == (3, "debian:11")


async def test_a_template_brings_all_that_it_says_and_is_named_in_the_row(tmp_path: Path) -> None:
    async with rented_market(tmp_path) as market:
        instance_id = await rented(market, runtype="args", args=["sleep", "9"], env={"MINE": "1"})
        body = {
            "name": "one",
            "image": "debian",
            "tag": "12",
            "env": "-e FROM=template -p 9000:9000",
            "onstart": "echo template",
            "runtype": "ssh",
            "use_ssh": True,
            "ssh_direct": True,
        }
        made = (await market.renter.call("POST", "/api/v0/template/", body)).body["template"]

        answer = await update(market, instance_id, template_hash_id=made["hash_id"], env={"MORE": "2"})

        spec = (await contract_of(market, instance_id)).spec
        env = dict(spec.env)
        assert answer.status == 200, answer.body
        assert (spec.image, spec.launch_mode, spec.args) == ("debian:12", LaunchMode.SSH, ())
        assert (env["FROM"], env["MORE"], "MINE" in env) == ("template", "2", False)
        assert spec.onstart == "echo template"
        row = await show(market, instance_id)
        assert (row["template_id"], row["template_hash_id"]) == (made["id"], made["hash_id"])
        await say(market, instance_id, WorkloadState.RUNNING, generation=2)

        changed = {"hash_id": made["hash_id"], "onstart": "echo newer"}
        assert (await market.renter.call("PUT", "/api/v0/template/", changed)).status == 200
        assert (await update(market, instance_id)).status == 200

        newest = await contract_of(market, instance_id)
        assert (newest.generation, newest.spec.onstart) == (3, "echo newer")


async def test_a_login_stays_with_its_registry(tmp_path: Path) -> None:
    async with rented_market(tmp_path) as market:
        login = "-u bob -p hush registry.example:5000"
        instance_id = await rented(market, image="registry.example:5000/a/b:1", image_login=login)

        await update(market, instance_id, image="registry.example:5000/a/b:2")
        assert (await contract_of(market, instance_id)).spec.needs_registry_login
        await update(market, instance_id, image="debian:12")
        assert not (await contract_of(market, instance_id)).spec.needs_registry_login
        assert "hush" not in str(await show(market, instance_id))


async def test_updates_that_cannot_be_are_refused_and_change_nothing(tmp_path: Path) -> None:
    async with rented_market(tmp_path) as market:
        instance_id = await rented(market)
        before = await contract_of(market, instance_id)
        refused = {
            "nothing": await update(market, instance_id),
            "image": await update(market, instance_id, image="Not An Image"),
            "onstart": await update(market, instance_id, onstart="x" * 4049),
            "env": await update(market, instance_id, env={"--privileged": "1"}),
            "volume": await update(market, instance_id, env={"-v V.7:/data": "1"}),
            "template": await update(market, instance_id, template_id=99),
        }
        foreign = await market.host.call("PUT", f"/api/v0/instances/update_template/{instance_id}/", {"image": "a"})

        assert {name: answer.status for name, answer in refused.items()} == dict.fromkeys(refused, 400)
        assert all(answer.body["msg"].startswith("cannot ") for answer in refused.values())
        assert "vastai recycle instance" in refused["nothing"].body["msg"]
        assert (foreign.status, foreign.body["error"]) == (404, "no_such_instance")
        assert await contract_of(market, instance_id) == before
