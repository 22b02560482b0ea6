"""Recycling with the real client: a fresh image on the same ports, and nothing lost when the image cannot be had."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.rented import destroy, problem, process, rent, running_stack
from tests.support.docker_engine import PrivateDocker
from tests.support.images import rootfs
from tests.support.registry import Mode, Registry
from tests.support.sessions import login
from tests.support.stack import Stack
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.docker, pytest.mark.timeout(180)]

SSH: dict[str, Any] = {"runtype": "ssh_direc ssh_proxy", "args": None}


@pytest.fixture(scope="module")
def stack(docker_host: PrivateDocker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    config = {"docker": {"subnet_pool": "10.206.0.0/16"}}
    with running_stack(docker_host, tmp_path_factory.mktemp("recycle"), config=config) as stack:
        stack.list_machine()
        yield stack


def publish(registry: Registry, version: str, name: str = "team/app") -> str:
    return registry.add(name, "latest", [rootfs({"etc/version": f"{version}\n".encode()})])


def container_id(stack: Stack, instance: int) -> str:
    return str(stack.engine.inspect(f"C.{instance}")["Id"])


def is_another(stack: Stack, instance: int, before: str) -> bool:
    found = stack.engine.find(f"C.{instance}")
    return found is not None and found["Id"] != before


def recycle(stack: Stack, instance: int) -> None:
    done = stack.renter.run("recycle", "instance", str(instance))
    assert done.stdout == f"Recycling instance {instance}.\n", (done.stdout, done.stderr)


def message(stack: Stack, instance: int) -> str:
    return str((stack.instance(instance) or {}).get("status_msg"))


def test_a_recycle_brings_the_newest_image_to_the_same_place(stack: Stack, registry: Registry, key: Path) -> None:
    registry.mode = Mode.PLAIN
    instance = rent(stack, image=publish(registry, "one"), env={"-p 9000:9000": "1"}, **SSH)
    ssh = login(stack, key, instance)
    assert ssh.run("cat /etc/version; echo mine > /root/mine").stdout == "one\n"
    before, made = stack.instance(instance), container_id(stack, instance)
    sandbox = stack.engine.inspect(f"kaalia-sandbox-{instance}")["Id"]
    assert before is not None

    publish(registry, "two")
    recycle(stack, instance)
    wait_until("another container", lambda: is_another(stack, instance, made), 60)

    again = login(stack, key, instance)
    assert again.run("cat /etc/version; ls /root/mine").stdout == "two\n"
    assert again.port == ssh.port, "and the client knows the host key: it would have refused another"
    after = stack.wait_status(instance, "running")
    assert after["ports"] == before["ports"]
    assert stack.engine.inspect(f"kaalia-sandbox-{instance}")["Id"] == sandbox
    destroy(stack, instance)


def test_what_runs_goes_on_when_its_image_or_its_login_is_gone(stack: Stack, registry: Registry) -> None:
    registry.mode = Mode.BASIC
    login_words = f"-u {registry.username} -p {registry.password} {registry.address}"
    instance = rent(stack, image=publish(registry, "one", "team/private"), image_login=login_words)
    stack.wait_status(instance, "running")
    before = process(stack, instance)
    password, registry.password = registry.password, "changed"

    recycle(stack, instance)
    wait_until("the refusal", lambda: "[registry_unauthorized]" in message(stack, instance), 30)

    row = stack.wait_status(instance, "running")
    assert "the registry refuses access" in row["status_msg"]
    assert "so it was not made anew" in row["status_msg"]
    assert process(stack, instance) == before
    assert password not in stack.log_text("daemon")

    registry.password = password
    publish(registry, "two", "team/private")
    recycle(stack, instance)
    wait_until("the new process", lambda: process(stack, instance) not in (before, (0, "")), 60)
    assert "warning" not in stack.wait_status(instance, "running")["status_msg"]
    destroy(stack, instance)
    registry.mode = Mode.PLAIN


def test_a_pull_under_way_disturbs_nobody_and_is_shown(stack: Stack, registry: Registry) -> None:
    registry.mode = Mode.PLAIN
    instance = rent(stack, image=publish(registry, "one", "team/slow"))
    stack.wait_status(instance, "running")
    before = process(stack, instance)
    publish(registry, "two", "team/slow")
    registry.mode, registry.chunk_wait_s = Mode.SLOW, 0.1

    recycle(stack, instance)
    row = stack.wait_status(instance, "recycling")

    assert (row["intended_status"], row["cur_state"]) == ("running", "running")
    assert process(stack, instance) == before
    registry.mode = Mode.PLAIN
    wait_until("the new process", lambda: process(stack, instance) not in (before, (0, "")), 60)
    stack.wait_status(instance, "running")
    destroy(stack, instance)


def test_a_stopped_one_is_made_anew_at_its_start_and_a_foreign_one_is_not_found(
    stack: Stack, registry: Registry
) -> None:
    instance = rent(stack, image=publish(registry, "one", "team/later"))
    stack.wait_status(instance, "running")
    made = container_id(stack, instance)
    stack.renter.run("stop", "instance", str(instance))
    stack.wait_status(instance, "stopped")

    recycle(stack, instance)
    code, body = stack.host_api.call("PUT", f"/api/v0/instances/recycle/{instance}/", {})

    assert (code, body["error"]) == (404, "no_such_instance")
    assert container_id(stack, instance) == made
    stack.renter.run("start", "instance", str(instance))
    stack.wait_status(instance, "running")
    assert container_id(stack, instance) != made
    destroy(stack, instance)


def test_the_machine_chooses_the_tag_that_its_driver_allows(stack: Stack, registry: Registry) -> None:
    registry.mode = Mode.BEARER
    layer = [rootfs()]
    for cuda in ("11.8.0", "12.4.1", "99.1"):
        registry.add("team/auto", f"cuda-{cuda}-auto", layer)
    login_words = f"-u {registry.username} -p {registry.password} {registry.address}"
    automatic = f"{registry.address}/team/auto:@vastai-automatic-tag"

    instance = rent(stack, image=automatic, image_login=login_words)

    row = stack.wait_status(instance, "running")
    assert stack.engine.inspect(f"C.{instance}")["Config"]["Image"].endswith("/team/auto:cuda-12.4.1-auto")
    assert row["image_uuid"] == automatic
    refused = rent(stack, image=f"{registry.address}/team/auto:[Automatic]")
    stack.wait_status(refused, "exited")
    assert problem(stack, refused).code == "registry_unauthorized"
    registry.mode = Mode.PLAIN
    destroy(stack, instance, refused)


def test_an_update_brings_another_image_and_variables_to_the_same_place(
    stack: Stack, registry: Registry, key: Path
) -> None:
    instance = rent(stack, image=publish(registry, "one", "team/before"), env={"KEPT": "1"}, **SSH)
    ssh, port = login(stack, key, instance), stack.wait_status(instance, "running")["ports"]["22/tcp"]
    made = container_id(stack, instance)

    words = ("--image", publish(registry, "two", "team/after"), "--env", '{"ADDED": "2"}', "--onstart", "touch /tmp/on")
    done = stack.renter.run("update", "instance", str(instance), *words)
    assert f"Instance {instance} updated successfully." in done.stdout, (done.stdout, done.stderr)
    wait_until("another container", lambda: is_another(stack, instance, made), 60)

    again = login(stack, key, instance)
    assert again.run('cat /etc/version; echo "$KEPT$ADDED"').stdout == "two\n12\n"
    wait_until("onstart", lambda: again.run("ls /tmp/on").returncode == 0, 20)
    assert (again.port, stack.wait_status(instance, "running")["ports"]["22/tcp"]) == (ssh.port, port)

    gone = f"{registry.address}/team/gone:1"
    stack.renter.run("update", "instance", str(instance), "--image", gone)
    wait_until("the refusal", lambda: "[image_not_found]" in message(stack, instance), 30)
    assert again.run("cat /etc/version").stdout == "two\n", "and it goes on"
    destroy(stack, instance)
