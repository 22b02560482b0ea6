"""The disk of a machine end to end: sizes that no file system enforces, and room made by removing images."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.rented import destroy, problem, rent, running_stack, status
from tests.support.docker_engine import PrivateDocker
from tests.support.fake_nvidia.build import Hook
from tests.support.images import DEMO_IMAGE, import_demo, rootfs
from tests.support.registry import Registry, random_layer
from tests.support.stack import Stack
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.docker, pytest.mark.timeout(240)]

ALARMING = ("error", "failed", "failure", "exception", "traceback")


def look_now(stack: Stack) -> None:
    """A daemon that has just started looks at the disk at once."""
    stack.kill_daemon()
    stack.start_daemon()
    wait_until("the daemon to answer", lambda: status(stack), 30)


def codes(stack: Stack) -> set[str]:
    found = status(stack)
    return {one.code for one in (*found.problems, *found.warnings)} if found else set()


def message(stack: Stack, instance_id: int) -> str:
    return str((stack.instance(instance_id) or {}).get("status_msg"))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, gpu_hook: Hook) -> Iterator[Stack]:
    """A machine whose engine cannot limit a container's disk: overlay2 on whatever is here."""
    root = tmp_path_factory.mktemp("p")
    net = ("kaalia-plain0", "172.27.0.1/24")
    with PrivateDocker(root, has_quota=False, extra_path=gpu_hook.folder, bridge=net[0], bridge_cidr=net[1]) as engine:
        import_demo(engine)
        config = {"docker": {"subnet_pool": "10.213.0.0/16"}}
        with running_stack(engine, tmp_path_factory.mktemp("plain"), config=config) as stack:
            stack.list_machine()
            yield stack


def test_an_instance_that_nothing_limits_is_warned_and_then_stopped(plain: Stack) -> None:
    write = "fallocate -l 1500000000 /big; ls /more && fallocate -l 1000000000 /big2; echo written; sleep 9999"
    large = rent(plain, args=["sh", "-c", write])
    small = rent(plain)
    plain.wait_status(large, "running")
    plain.wait_status(small, "running")
    wait_until("the file", lambda: "written" in plain.renter.run("logs", str(large)).stdout, 30)

    look_now(plain)
    wait_until("the warning", lambda: "; warning: it holds 1.4 GiB" in message(plain, large), 60)

    assert not [word for word in ALARMING if word in message(plain, large).lower()]
    assert "warning" not in message(plain, small)
    wait_until("the condition", lambda: "disk_over_size" in codes(plain), 10)
    report = json.loads(plain.kaalia("report", "--json", "--config", str(plain.config_file)).stdout)
    assert report["engine"]["enforces_disk_size"]["value"] is False

    plain.renter_api.call("PUT", f"/api/v0/instances/{large}/", {"state": "stopped"})
    plain.wait_status(large, "stopped")
    layer = plain.engine.inspect(f"C.{large}")["GraphDriver"]["Data"]["UpperDir"]
    Path(layer, "more").write_text("go on")
    plain.renter_api.call("PUT", f"/api/v0/instances/{large}/", {"state": "running"})
    plain.wait_status(large, "running")
    wait_until("both files", lambda: plain.renter.run("logs", str(large)).stdout.count("written") == 2, 30)
    look_now(plain)

    row = plain.wait_status(large, "stopped")
    assert "cannot run C." in row["status_msg"]
    assert "more than the 953.7 MiB rented" in row["status_msg"]
    assert problem(plain, large).code == "disk_limit_exceeded"
    assert problem(plain, large).evidence
    wait_until("the condition", lambda: "disk_limit_exceeded" in codes(plain), 10)
    assert plain.engine.has_container(f"C.{large}"), "its data are kept"
    assert (plain.instance(small) or {})["actual_status"] == "running"

    plain.renter_api.call("PUT", f"/api/v0/instances/reboot/{large}/", {})
    assert plain.wait_status(large, "stopped")
    assert not plain.engine.inspect(f"C.{large}")["State"]["Running"]
    destroy(plain, large, small)
    look_now(plain)
    over = {"disk_over_size", "disk_limit_exceeded", "disk_low"}
    wait_until("nothing to be wrong", lambda: over.isdisjoint(codes(plain)), 60)


def test_who_fills_a_file_of_the_engine_s_is_stopped_and_the_file_emptied(plain: Stack) -> None:
    filler = rent(plain, args=["sh", "-c", "fallocate -l 50000000 /etc/hosts && echo written; sleep 9999"])
    plain.wait_status(filler, "running")
    wait_until("the file", lambda: "written" in plain.renter.run("logs", str(filler)).stdout, 30)
    hosts = Path(plain.engine.inspect(f"C.{filler}")["HostsPath"])
    assert hosts.stat().st_blocks * 512 >= 50_000_000, "it lies on the machine's disk"

    look_now(plain)

    assert "it filled /etc/hosts" in plain.wait_status(filler, "stopped")["status_msg"]
    assert problem(plain, filler).code == "engine_file_filled"
    assert hosts.stat().st_size == 0
    look_now(plain)
    assert problem(plain, filler).code == "engine_file_filled", "it stands"

    destroy(plain, filler)
    wait_until("the file to go", lambda: not hosts.exists(), 60)


@pytest.fixture(scope="module")
def tight(docker_host: PrivateDocker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A machine whose disk is always too full for its owner's taste."""
    config = {"disk": {"low_water_gb": 90_000}, "docker": {"subnet_pool": "10.212.0.0/16"}}
    with running_stack(docker_host, tmp_path_factory.mktemp("tight"), config=config) as stack:
        stack.list_machine()
        yield stack


def test_only_unused_images_that_kaalia_pulled_go_when_room_is_short(tight: Stack, registry: Registry) -> None:
    def pulled(name: str) -> str:
        config: dict[str, Any] = {"Cmd": ["sh"], "Env": ["PATH=/bin"], "Volumes": {"/data": {}}}
        return registry.add(name, "1", [rootfs(), random_layer(200_000)], config)

    used, unused = pulled("low/used"), pulled("low/unused")
    kept = rent(tight, image=used)
    gone = rent(tight, image=unused)
    tight.wait_status(kept, "running")
    tight.wait_status(gone, "running")
    look_now(tight)
    wait_until("the shortage to be told", lambda: "disk_low" in codes(tight), 60)
    assert {used, unused, DEMO_IMAGE} <= tags(tight)

    last_use = wait_until("the disk to be measured", lambda: last_uses(tight), 60)
    assert last_use[unused]
    assert last_use[DEMO_IMAGE] is None, "kaalia did not pull it"

    destroy(tight, gone)
    look_now(tight)
    wait_until("the unused image to go", lambda: unused not in tags(tight), 60)

    assert {used, DEMO_IMAGE} <= tags(tight)
    wait_until("the removal to be logged", lambda: f"removed image {unused}" in tight.log_text("daemon"), 10)
    assert (tight.instance(kept) or {})["actual_status"] == "running"
    again = rent(tight, image=unused)
    tight.wait_status(again, "running")
    destroy(tight, kept, again)


def last_uses(stack: Stack) -> dict[str, str | None]:
    """By image; empty until the daemon has measured."""
    told = stack.kaalia("disk", "--socket", str(stack.socket), "--json")
    entries = json.loads(told.stdout)["entries"] if told.returncode == 0 else []
    return {entry["name"]: entry["used_at"] for entry in entries if entry["owner"] == "image"}


def tags(stack: Stack) -> set[str]:
    return {tag for one in stack.engine.request("GET", "/images/json") for tag in one["RepoTags"] or []}
