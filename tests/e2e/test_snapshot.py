"""Snapshots by the real client: what is pushed holds the renter's files and nothing of kaalia's or of the contract."""

import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.rented import destroy, process, rent, running_stack
from tests.e2e.test_faults_launch import leaks
from tests.support.docker_engine import PrivateDocker
from tests.support.images import DEMO_IMAGE, rootfs
from tests.support.registry import Mode, Registry
from tests.support.sessions import login
from tests.support.stack import Stack
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.docker, pytest.mark.timeout(180)]

SSH: dict[str, Any] = {"runtype": "ssh_direc ssh_proxy", "args": None}


@pytest.fixture(scope="module")
def stack(docker_host: PrivateDocker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    config = {"docker": {"subnet_pool": "10.205.0.0/16"}}
    with running_stack(docker_host, tmp_path_factory.mktemp("snapshot"), config=config) as stack:
        stack.list_machine()
        yield stack


def take(stack: Stack, registry: Registry, instance: int, repo: str, *flags: str, password: str | None = None) -> str:
    words = ["--repo", repo, "--container_registry", registry.address, "--docker_login_user", registry.username]
    words += ["--docker_login_pass", password or registry.password]
    done = stack.renter.run("take", "snapshot", str(instance), *words, *flags)
    return done.stdout + done.stderr


def told(stack: Stack, instance: int, wanted: str) -> str:
    """The message in which it stands."""

    def look() -> str | None:
        text = str((stack.instance(instance) or {}).get("status_msg"))
        return text if wanted in text else None

    try:
        return wait_until(f"{wanted!r} in status_msg", look, 60, 0.1)
    except TimeoutError as error:
        raise TimeoutError(f"{error}: {stack.instance(instance)}: {stack.log_text('daemon')[-2000:]}") from None


def files(layers: list[bytes]) -> dict[str, bytes]:
    """By path, as the layers together show them."""
    found: dict[str, bytes] = {}
    for layer in layers:
        with tarfile.open(fileobj=io.BytesIO(layer)) as tar:
            for entry in tar:
                folder, _, name = entry.name.rpartition("/")
                if name.startswith(".wh."):
                    hidden = f"{folder}/{name.removeprefix('.wh.')}".lstrip("/")
                    found = {path: text for path, text in found.items() if not f"{path}/".startswith(f"{hidden}/")}
                    continue
                opened = tar.extractfile(entry) if entry.isfile() else None
                found[entry.name.rstrip("/")] = opened.read() if opened else b""
    return found


def images_of(stack: Stack) -> set[str]:
    return {str(one["Id"]) for one in stack.engine.request("GET", "/images/json?all=1")}


def test_what_is_pushed_is_the_renter_s_alone(
    stack: Stack, registry: Registry, key: Path, docker_host: PrivateDocker
) -> None:
    registry.mode = Mode.PLAIN
    image = registry.add("team/base", "1", [rootfs()], {"Cmd": ["sh"], "Env": ["PATH=/bin:/usr/bin", "OWN=1"]})
    instance = rent(stack, image=image, env={"HUSH": "hush-1234"}, **SSH)
    ssh = login(stack, key, instance)
    assert ssh.run("echo mine > /root/mine; echo also >> /root/.ssh/authorized_keys; echo A=1 >> /etc/environment")
    before, running, environment = images_of(stack), process(stack, instance), ssh.run("cat /etc/environment").stdout
    registry.mode = Mode.BEARER

    assert "Snapshot request sent successfully" in take(stack, registry, instance, "me/saved:v1")
    told(stack, instance, f"snapshot pushed to {registry.address}/me/saved:v1, sha256:")

    config, layers = registry.pushed("me/saved", "v1")
    seen = files(layers)
    assert seen["root/mine"] == b"mine\n"
    assert config["config"]["Env"] == ["PATH=/bin:/usr/bin", "OWN=1"]
    assert config["config"]["Cmd"] == ["sh"]
    assert not config["config"].get("Entrypoint")
    assert not config["config"].get("Labels")
    assert [path for path in seen if "kaalia" in path or path in (".launch", "root/.vast_containerlabel")] == []
    assert seen["root/.ssh/authorized_keys"] == b"also\n"
    assert seen["etc/environment"] == b"A=1\n"
    everything = json.dumps(config).encode() + b"".join(layers)
    api_key = ssh.run("echo $CONTAINER_API_KEY").stdout.strip()
    assert len(api_key) > 20
    assert [word for word in (b"hush-1234", api_key.encode(), b"io.kaalia") if word in everything] == []

    assert process(stack, instance) == running
    assert ssh.run("cat /etc/environment").stdout == environment, "and the renter has them as before"
    wait_until("the image to go", lambda: images_of(stack) == before, 20)
    assert leaks(stack, docker_host, registry, instance) == []
    registry.mode = Mode.PLAIN
    again = rent(stack, image=f"{registry.address}/me/saved:v1", **SSH)
    assert login(stack, key, again).run("cat /root/mine; echo $OWN$HUSH").stdout == "mine\n1\n"
    destroy(stack, instance, again)


def test_pushes_that_cannot_be_are_told_and_leave_nothing(stack: Stack, registry: Registry) -> None:
    registry.mode = Mode.PLAIN
    instance = rent(stack)
    stack.wait_status(instance, "running")
    before, running = images_of(stack), process(stack, instance)
    registry.mode = Mode.BASIC

    take(stack, registry, instance, "me/saved:v2", password="wrong-password-1")
    message = told(stack, instance, "[registry_unauthorized]")
    assert f"cannot push {registry.address}/me/saved:v2" in message
    assert "wrong-password-1" not in message + stack.log_text("daemon") + stack.log_text("marketplace")

    registry.mode = Mode.PLAIN
    stack.renter_api.call(
        "POST", f"/api/v0/instances/take_snapshot/{instance}/", {"personal_repo": DEMO_IMAGE, "pause": "false"}
    )
    told(stack, instance, "[snapshot_name_taken]")
    assert stack.engine.request("GET", f"/images/{DEMO_IMAGE}/json")["Id"] in before

    assert process(stack, instance) == running
    assert images_of(stack) == before
    assert stack.wait_status(instance, "running")
    code, body = stack.host_api.call("POST", f"/api/v0/instances/take_snapshot/{instance}/", {"personal_repo": "a/b"})
    assert (code, body["error"]) == (404, "no_such_instance")
    destroy(stack, instance)


def test_a_stopped_instance_is_pushed_too_and_a_crash_leaves_nothing(stack: Stack, registry: Registry) -> None:
    registry.mode = Mode.PLAIN
    instance = rent(stack, args=["sh", "-c", "echo kept > /kept; sleep 9999"])
    stack.wait_status(instance, "running")
    stack.renter.run("stop", "instance", str(instance))
    stack.wait_status(instance, "stopped")
    before = images_of(stack)
    take(stack, registry, instance, "me/stopped")
    told(stack, instance, "snapshot pushed to")
    assert files(registry.pushed("me/stopped", "latest")[1])["kept"] == b"kept\n"

    registry.mode = Mode.SILENT_PUSH
    take(stack, registry, instance, "me/killed:1")
    told(stack, instance, "snapshot: pushing")
    stack.kill_daemon()
    registry.mode = Mode.PLAIN
    stack.start_daemon()
    message = told(stack, instance, "[snapshot_interrupted]. take the snapshot again")
    assert f"{registry.address}/me/killed:1" in message
    wait_until("what is left to go", lambda: images_of(stack) == before, 20)
    assert "Snapshot request sent" in take(stack, registry, instance, "me/killed:1")
    told(stack, instance, "snapshot pushed to")
    destroy(stack, instance)


def test_a_daemon_that_dies_at_the_commit_gives_the_renter_his_files_back(
    stack: Stack, registry: Registry, key: Path
) -> None:
    registry.mode = Mode.PLAIN
    instance = rent(stack, **SSH)
    ssh = login(stack, key, instance)
    assert ssh.run("dd if=/dev/urandom of=/root/large bs=1M count=150").returncode == 0
    look = "cat /etc/environment /root/.ssh/authorized_keys"
    files, before, running = ssh.run(look).stdout, images_of(stack), process(stack, instance)
    assert files.count("# kaalia: begin") == 2
    held = stack.folder / "state" / "snapshots"

    take(stack, registry, instance, "me/cut:1", "--pause", "false")
    wait_until("the blocks to be out", lambda: held.is_dir() and len(list(held.iterdir())) == 2, 30, 0.002)
    stack.kill_daemon()
    assert len(list(held.iterdir())) == 2, "killed in time"
    stack.start_daemon()

    told(stack, instance, "[snapshot_interrupted]")
    wait_until("the blocks to be back", lambda: ssh.run(look).stdout == files, 20, 0.2)
    assert list(held.iterdir()) == []
    assert process(stack, instance) == running
    take(stack, registry, instance, "me/cut:1")
    told(stack, instance, "snapshot pushed to")
    assert ssh.run(look).stdout == files
    wait_until("what is left to go", lambda: images_of(stack) == before, 20)
    destroy(stack, instance)
