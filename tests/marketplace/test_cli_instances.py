"""Renting, instances and logs with the real client."""

import asyncio
import json
from pathlib import Path

import sqlalchemy as sa

from kaalia.contracts.contract import Desired
from kaalia.marketplace.db import tables
from kaalia.model.workload import LaunchMode, PortBinding, PortRequest, Protocol, WorkloadState
from kaalia.wire import document
from kaalia.wire.protocol import TaskResult
from tests.marketplace.renting import ask_of, contract_of, prove_removed, rent, rented_market, say
from tests.marketplace.support import Market

PORTS = (PortBinding(22, 22, 40022, Protocol.TCP), PortBinding(8080, 8080, 40080, Protocol.TCP))


async def test_create_instance_with_docker_options(tmp_path: Path) -> None:
    async with rented_market(tmp_path) as market:
        renter = market.client(market.renter)
        env = "-e A=B -p 8080:8080 -p 8081:8081/udp -p 70000:70000 -h node1"

        made = await renter.json(
            *("create", "instance", str(await ask_of(market.context)), "--image", "ubuntu:22.04", "--disk", "40"),
            *("--ssh", "--direct", "--env", env, "--label", "L1", "--onstart-cmd", "echo hi"),
            *("--login", "-u bob -p pw docker.io"),
        )

        spec = (await contract_of(market, made["new_contract"])).spec
        assert made["success"] is True
        assert len(made["instance_api_key"]) >= 32
        assert dict(spec.env)["A"] == "B"
        assert spec.ports == (
            PortRequest(22),
            PortRequest(8080),
            PortRequest(8081, Protocol.UDP),
            PortRequest(70000),
        )
        assert (spec.hostname, spec.onstart, spec.launch_mode) == ("node1", "echo hi", LaunchMode.SSH)
        assert (spec.disk_bytes, spec.needs_registry_login) == (40_000_000_000, True)


async def test_create_instance_with_entrypoint_and_args(tmp_path: Path) -> None:
    async with rented_market(tmp_path) as market:
        made = await market.client(market.renter).run(
            *("create", "instance", "1", "--image", "busybox", "--raw", "--entrypoint", "sh"),
            *("--args", "-c", "echo hello; sleep 9"),
        )

        spec = (await contract_of(market, json.loads(made.stdout)["new_contract"])).spec
        assert (spec.launch_mode, spec.entrypoint, spec.args) == (LaunchMode.ARGS, "sh", ("-c", "echo hello; sleep 9"))
        assert spec.ports == ()


async def test_a_refusal_is_printed_with_its_remedy(tmp_path: Path) -> None:
    async with rented_market(tmp_path) as market:
        renter = market.client(market.renter)

        gone = await renter.run("create", "instance", "4711", "--image", "ubuntu")
        disk = await renter.run("create", "instance", "1", "--image", "ubuntu", "--disk", "5000")

        assert "no_such_ask" in gone.stdout + gone.stderr
        assert "1000.0 GB free" in disk.stdout + disk.stderr


async def test_create_several_instances(tmp_path: Path) -> None:
    async with rented_market(tmp_path) as market:
        ids = [str(ask_id) for ask_id in (1, 2, 3)]

        done = await market.client(market.renter).run("create", "instances", *ids, "--image", "ubuntu")

        assert done.returncode == 0, done.stderr
        assert len((await market.renter.call("GET", "/api/v0/instances")).body["instances"]) == 3


async def test_launch_instance_finds_its_offer(tmp_path: Path) -> None:
    async with rented_market(tmp_path) as market:
        renter = market.client(market.renter)
        async with market.context.engine.begin() as tx:
            await tx.execute(sa.update(tables.machines).values(verification="verified"))

        launched = await renter.run("launch", "instance", "-g", "RTX_4090", "-n", "1", "-i", "ubuntu", "-d", "16")
        nothing = await renter.run("launch", "instance", "-g", "RTX_4090", "-n", "14", "-i", "ubuntu")

        assert '"new_contract": 1' in launched.stdout or "new_contract': 1" in launched.stdout, launched.stdout
        assert "no offer fits" in nothing.stdout + nothing.stderr


async def test_show_instances_raw_and_as_tables(tmp_path: Path) -> None:
    async with rented_market(tmp_path) as market:
        renter = market.client(market.renter)
        waiting = await rent(market, label="waiting")
        running = await rent(market, label="ready", env={"A": "B", "-p 8080:8080": "1"})
        await say(market, running, WorkloadState.RUNNING, ports=PORTS, started_at=market.clock.now())

        rows = await renter.json("show", "instances")
        row = await renter.json("show", "instance", str(running))
        tables_shown = [
            await renter.run("show", "instances"),
            await renter.run("show", "instances", "-v"),
            await renter.run("show", "instance", str(running)),
            await renter.run("show", "instance", str(waiting)),
        ]
        quiet = await renter.run("show", "instances", "-q")

        assert [(row["id"], row["actual_status"]) for row in rows] == [(waiting, None), (running, "running")]
        assert row["extra_env"] == {"A": "B", "-p 8080:8080": "1"}
        assert row["ports"]["8080/tcp"][0]["HostPort"] == "40080"
        for shown in tables_shown:
            assert shown.returncode == 0
            assert "rror" not in shown.stderr
            assert "Traceback" not in shown.stderr
        assert "running" in tables_shown[0].stdout
        assert "RTX" in tables_shown[2].stdout
        assert quiet.stdout.split() == [str(waiting), str(running)]


async def test_show_instances_pages_through_more_than_25(tmp_path: Path) -> None:
    async with rented_market(tmp_path) as market:
        for number in range(30):
            instance_id = await rent(market, label=f"n{number}", target_state="stopped")
            await say(market, instance_id, WorkloadState.STOPPED)

        rows = await market.client(market.renter).json("show", "instances")

        assert [row["label"] for row in rows] == [f"n{number}" for number in range(30)]


async def test_ssh_url_is_not_poisoned_while_loading(tmp_path: Path) -> None:
    async with rented_market(tmp_path) as market:
        renter = market.client(market.renter)
        instance_id = await rent(market)
        await say(market, instance_id, WorkloadState.PULLING)
        early = await renter.run("ssh-url", str(instance_id))

        await say(market, instance_id, WorkloadState.RUNNING, ports=PORTS)
        later = await renter.run("ssh-url", str(instance_id))

        assert "not found" in early.stdout + early.stderr
        assert later.stdout.strip() == "ssh://root@203.0.113.7:40022"


async def test_life_cycle_commands(tmp_path: Path) -> None:
    async with rented_market(tmp_path) as market:
        renter = market.client(market.renter)
        instance_id = await rent(market)
        await say(market, instance_id, WorkloadState.RUNNING)
        name = str(instance_id)

        stopped = await renter.run("stop", "instance", name)
        assert (await contract_of(market, instance_id)).desired is Desired.STOPPED
        started = await renter.run("start", "instance", name)
        assert (await contract_of(market, instance_id)).desired is Desired.RUNNING
        rebooted = await renter.run("reboot", "instance", name)
        assert (await contract_of(market, instance_id)).restart_count == 1
        labelled = await renter.run("label", "instance", name, "my label")
        assert (await renter.json("show", "instances"))[0]["label"] == "my label"
        destroyed = await renter.run("destroy", "instance", name, "-y")
        await prove_removed(market, instance_id)
        gone = await renter.run("show", "instance", name)
        again = await renter.run("stop", "instance", name)

        for done in (stopped, started, rebooted, labelled, destroyed):
            assert (done.returncode, done.stderr) == (0, ""), done
            assert "fail" not in done.stdout.lower()
        assert gone.returncode == 1
        assert "no_such_instance" in again.stderr + again.stdout or "no such instance" in again.stderr + again.stdout


async def test_bulk_stop_and_destroy(tmp_path: Path) -> None:
    async with rented_market(tmp_path) as market:
        renter = market.client(market.renter)
        ids = [await rent(market, label=str(number)) for number in range(3)]
        names = [str(instance_id) for instance_id in ids]

        await renter.run("stop", "instances", *names)
        assert [(await contract_of(market, one)).desired for one in ids] == [Desired.STOPPED] * 3
        await renter.run("destroy", "instances", *names, "-y")
        assert [(await contract_of(market, one)).desired for one in ids] == [Desired.ENDED] * 3


async def answer_tasks(market: Market, text: str) -> None:
    """A machine that answers each request for logs with its tail and filter, then `text`."""
    while True:
        async with market.context.engine.begin() as tx:
            rows = (await tx.execute(sa.select(tables.tasks).where(tables.tasks.c.result.is_(None)))).all()
            for row in rows:
                asked = json.loads(row.document)
                head = f"tail={asked['tail']} filter={asked['filter']} daemon={asked['daemon_logs']}\n"
                result = document.encode(TaskResult(head + text))
                await tx.execute(
                    sa.update(tables.tasks).where(tables.tasks.c.task_id == row.task_id).values(result=result)
                )
        for row in rows:
            if bell := market.context.task_bells.get(row.task_id):
                bell.set()
        await asyncio.sleep(0.1)


async def test_logs_are_printed(tmp_path: Path) -> None:
    async with rented_market(tmp_path) as market:
        renter = market.client(market.renter)
        instance_id = await rent(market)
        daemon = asyncio.create_task(answer_tasks(market, "hello from the container\n"))
        try:
            plain = await renter.run("logs", str(instance_id))
            chosen = await renter.run("logs", str(instance_id), "--tail", "5", "--filter", "hello", "--daemon-logs")
        finally:
            daemon.cancel()
        market.clock.advance(300)
        offline = await renter.run("logs", str(instance_id))

        assert "hello from the container" in plain.stdout, plain.stderr
        assert "tail=1000 filter=None daemon=False" in plain.stdout
        assert "tail=5 filter=hello daemon=True" in chosen.stdout
        assert "machine 1 is offline" in offline.stdout


async def test_the_sdk_class_does_the_same(tmp_path: Path) -> None:
    async with rented_market(tmp_path) as market:
        script = """
import json, os
from vastai import VastAI
sdk = VastAI(server_url=os.environ["VAST_URL"], raw=True, quiet=True)
made = sdk.create_instance(id=1, image="busybox", disk=1, env="-e FROM=sdk -p 8000:8000", args=["sh", "-c", "sleep 1"])
iid = made["new_contract"]
row = sdk.show_instance(id=iid)
sdk.label_instance(id=iid, label="by-sdk")
listed = [(r["label"], r["extra_env"]) for r in sdk.show_instances() if r["id"] == iid]
sdk.stop_instance(id=iid)
stopped = sdk.show_instance(id=iid)["intended_status"]
sdk.destroy_instance(id=iid)
print(json.dumps({"made": made, "runtype": row["image_runtype"], "listed": listed, "stopped": stopped,
                  "left": len(sdk.show_instances())}))
"""
        done = await market.client(market.renter).python(script)

        assert done.returncode == 0, done.stderr
        seen = json.loads(done.stdout.strip().splitlines()[-1])
        assert seen["made"]["success"] is True
        assert seen["runtype"] == "args"
        assert seen["listed"] == [["by-sdk", {"FROM": "sdk", "-p 8000:8000": "1"}]]
        assert (seen["stopped"], seen["left"]) == ("stopped", 0)
