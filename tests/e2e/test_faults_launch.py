"""Launches that go wrong: images that cannot be had, or only by some; processes that do not do what was hoped."""

import base64
import json
import time
from pathlib import Path
from typing import Any

import pytest

from kaalia.client import LocalClient
from tests.e2e.flows import raw
from tests.e2e.rented import destroy, problem, process, rent
from tests.support.docker_engine import PrivateDocker
from tests.support.images import rootfs
from tests.support.registry import Mode, Registry, random_layer
from tests.support.rest import Rest
from tests.support.stack import Stack
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.docker, pytest.mark.timeout(120)]

ALARMING = ("error", "failed", "failure", "exception", "traceback", "oci runtime", "permission denied")
"""A poller of the public client takes an instance whose message holds one of these for broken."""


@pytest.fixture(autouse=True)
def plain(registry: Registry) -> None:
    registry.mode = Mode.PLAIN


def new_image(registry: Registry, name: str, noise_bytes: int = 200_000) -> str:
    """An image that runs and shares no layer but its first with any other."""
    return registry.add(name, "1", [rootfs(), random_layer(noise_bytes)])


def refused(stack: Stack, instance_id: int, code: str) -> str:
    """The renter's message about an image that was not had; the host reads code and evidence."""
    row = stack.wait_status(instance_id, "exited")
    seen = problem(stack, instance_id)
    assert seen.code == code
    assert seen.evidence
    assert f"[{code}]" in stack.log_text("daemon")
    assert row["intended_status"] == "running"
    assert row["cur_state"] == "unloaded"
    assert not stack.engine.has_container(f"C.{instance_id}")
    return str(row["status_msg"])


def test_an_image_that_does_not_exist(stack: Stack, registry: Registry) -> None:
    image = f"{registry.address}/no/such:1"
    instance_id = rent(stack, image=image)

    told = refused(stack, instance_id, "image_not_found")

    assert told == f"cannot pull {image}: there is no such image or tag. check the image name and tag"
    destroy(stack, instance_id)


def test_a_private_image_is_for_those_whom_the_registry_lets_in(
    stack: Stack, registry: Registry, docker_host: PrivateDocker
) -> None:
    image = new_image(registry, "team/secret")
    registry.mode = Mode.BASIC

    stranger = rent(stack, image=image)
    told = refused(stack, stranger, "registry_unauthorized")
    assert image in told
    assert "give a registry login if it is private" in told
    destroy(stack, stranger)

    login = f"-u {registry.username} -p {registry.password} {registry.address}"
    offer = str(wait_until("an offer", lambda: stack.rentable_offer(1), 30))
    made = stack.renter.run(
        *("create", "instance", offer, "--image", image, "--disk", "1", "--login", login, "--raw"),
        *("--args", "sleep", "9999"),
    )
    owner = int(raw(made)["new_contract"])
    stack.wait_status(owner, "running")
    assert leaks(stack, docker_host, registry, owner) == []
    before = process(stack, owner)

    rider_api = Rest(stack.url, stack.add_user("free-rider"))
    free_rider = rent(stack, rider_api, image=image)
    seen = wait_until("the free rider's end", lambda: stack.local_state(free_rider) == "failed", 30)
    assert seen
    assert problem(stack, free_rider).code == "registry_unauthorized"
    rider_api.call("DELETE", f"/api/v0/instances/{free_rider}/", {})

    guesser = rent(stack, image=image, image_login=f"-u {registry.username} -p guessed {registry.address}")
    assert "the registry refuses access" in refused(stack, guesser, "registry_unauthorized")

    assert process(stack, owner) == before
    registry.mode = Mode.PLAIN
    destroy(stack, owner, guesser)


def leaks(stack: Stack, docker_host: PrivateDocker, registry: Registry, instance_id: int) -> list[str]:
    """Where the password can be found, as it is or as registries are sent it."""
    clear = registry.password.encode()
    pair = base64.b64encode(f"{registry.username}:{registry.password}".encode())
    files = [path for path in stack.folder.rglob("*") if path.is_file() and "home-" not in str(path)]
    files += [
        docker_host.root / "dockerd.log",
        *Path("/proc").glob("[0-9]*/cmdline"),
        *Path("/proc").glob("[0-9]*/environ"),
    ]
    inspected = json.dumps(docker_host.inspect(f"C.{instance_id}")).encode()
    found = ["docker inspect"] if clear in inspected or pair in inspected else []
    for path in files:
        try:
            content = path.read_bytes()
        except OSError:  # a process that ended
            continue
        if clear in content or pair in content:
            found.append(str(path))
    return found


@pytest.mark.parametrize(
    ("mode", "code"), [(Mode.RATE_LIMITED, "registry_rate_limited"), (Mode.CUT_OFF, "pull_interrupted")]
)
def test_a_registry_that_will_do_later_is_asked_again(stack: Stack, registry: Registry, mode: Mode, code: str) -> None:
    image = new_image(registry, f"busy/{code}")
    registry.mode = mode
    instance_id = rent(stack, image=image)

    wait_until("the next attempt to be told", lambda: "next attempt" in message(stack, instance_id), 20)
    told = message(stack, instance_id)
    registry.mode = Mode.PLAIN

    assert told == f"loading {image}: next attempt in 5 s"
    assert f"[{code}]" in stack.log_text("daemon")
    stack.wait_status(instance_id, "running", 20)
    destroy(stack, instance_id)


def message(stack: Stack, instance_id: int) -> str:
    row = stack.instance(instance_id)
    return str(row["status_msg"]) if row else ""


def test_a_slow_pull_never_sounds_like_a_fault(stack: Stack, registry: Registry) -> None:
    image = new_image(registry, "slow/model", 2_000_000)
    registry.mode = Mode.SLOW
    instance_id = rent(stack, image=image)
    rows: list[dict[str, Any]] = []
    while not rows or rows[-1]["actual_status"] != "running":
        assert len(rows) < 2000
        row = stack.instance(instance_id)
        assert row is not None
        rows.append(row)
        time.sleep(0.02)

    messages = list(dict.fromkeys(row["status_msg"] for row in rows))
    assert any("MiB" in text for text in messages), messages

    assert [text for text in messages if any(word in text.lower() for word in ALARMING)] == []
    assert {row["intended_status"] for row in rows} == {"running"}
    assert {row["actual_status"] for row in rows} <= {None, "loading", "created", "running"}
    destroy(stack, instance_id)


def test_a_container_that_ends_at_once_is_exited_with_its_code_and_not_started_again(stack: Stack) -> None:
    instance_id = rent(stack, args=["sh", "-c", "echo done; exit 3"])

    row = stack.wait_status(instance_id, "exited")
    started_at = stack.engine.inspect(f"C.{instance_id}")["State"]["StartedAt"]
    time.sleep(1.5)

    assert row["status_msg"] == "exited with code 3"
    assert row["intended_status"] == "running"
    state = stack.engine.inspect(f"C.{instance_id}")["State"]
    assert (state["Status"], state["ExitCode"], state["StartedAt"]) == ("exited", 3, started_at)
    assert LocalClient(stack.socket).contract(instance_id).exit_code == 3
    assert "done" in stack.renter.run("logs", str(instance_id)).stdout
    destroy(stack, instance_id)


def test_an_onstart_that_fails_is_read_in_the_logs_and_ends_nothing(stack: Stack) -> None:
    script = "echo before\nno-such-command --now\nexit 7\n"
    instance_id = rent(stack, runtype="ssh", args=None, onstart=script)

    stack.wait_status(instance_id, "running")
    wait_until("onstart to speak", lambda: "not found" in stack.renter.run("logs", str(instance_id)).stdout, 20, 0.5)

    row = stack.instance(instance_id)
    assert row is not None
    assert row["actual_status"] == "running"
    destroy(stack, instance_id)


def test_a_command_that_the_image_lacks_fails_with_evidence_and_leaves_nothing(stack: Stack) -> None:
    instance_id = rent(stack, args=["no-such-program", "--serve"])

    row = stack.wait_status(instance_id, "exited")
    seen = problem(stack, instance_id)

    assert seen.code == "container_start_failed"
    assert "no-such-program" in seen.evidence
    assert f"cannot start C.{instance_id}" in row["status_msg"]
    assert "check the image's entrypoint, arguments and user" in row["status_msg"]
    assert "no-such-program" in stack.renter.run("logs", str(instance_id), "--daemon-logs").stdout
    assert not stack.engine.has_container(f"C.{instance_id}")
    assert "[container_start_failed]" in stack.log_text("daemon")
    destroy(stack, instance_id)
