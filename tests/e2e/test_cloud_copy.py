"""`vastai cloud copy` end to end: the unmodified client, the machine's rclone, a store that looks at signatures."""

import asyncio
import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import pytest

from tests.e2e.rented import destroy, rent, running_stack
from tests.support.docker_engine import PrivateDocker
from tests.support.s3 import ObjectStore
from tests.support.stack import Stack
from tests.support.waiting import wait_until

pytestmark = [
    pytest.mark.docker,
    pytest.mark.timeout(300),
    pytest.mark.skipif(shutil.which("rclone") is None, reason="needs rclone"),
]
ADDRESS = "198.18.77.1"
END_S = 150
"""A gigabyte onto a disk that others write to."""


@pytest.fixture(scope="module")
def store(docker_host: PrivateDocker) -> Iterator[ObjectStore]:
    """In a thread of its own; not on loopback, which no proxy is asked for."""
    subprocess.run(["ip", "address", "replace", f"{ADDRESS}/32", "dev", "lo"], check=True)
    loop, store = asyncio.new_event_loop(), ObjectStore()
    thread = Thread(target=loop.run_forever)
    thread.start()
    asyncio.run_coroutine_threadsafe(store.start(ADDRESS), loop).result(10)
    yield store
    asyncio.run_coroutine_threadsafe(store.stop(), loop).result(10)
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


@pytest.fixture(scope="module")
def stack(docker_host: PrivateDocker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    config = {"docker": {"subnet_pool": "10.216.0.0/16"}, "network": {"allow": [f"{ADDRESS}/32"]}}
    with running_stack(docker_host, tmp_path_factory.mktemp("cloud"), config=config) as stack:
        stack.list_machine()
        yield stack


def message(stack: Stack, instance: int) -> str:
    return str((stack.instance(instance) or {}).get("status_msg"))


def connect(stack: Stack, store: ObjectStore, **changes: str) -> str:
    options = {"endpoint": f"http://{ADDRESS}:{store.port}", "access_key_id": store.key_id}
    body = {"name": "mine", "cloud_type": "s3", "options": {**options, "secret_access_key": store.secret, **changes}}
    code, reply = stack.renter_api.call("POST", "/api/v0/users/cloud_integrations/", body)
    assert code == 200, reply
    return str(reply["id"])


def cloud_copy(stack: Stack, source: str, target: str, instance: int, connection: str, transfer: str) -> str:
    """By the client, to its end; what the message of the instance says then."""
    words = ("--src", source, "--dst", target, "--instance", str(instance), "--connection", connection)
    begun = stack.renter.run("cloud", "copy", *words, "--transfer", transfer)
    assert "Cloud Copy Started" in begun.stdout, begun.stdout + begun.stderr
    ends = ("Cloud Copy Operation Finished", "failed", "cancelled")
    wait_until("the end of the copy", lambda: any(end in message(stack, instance) for end in ends), END_S, 0.3)
    return message(stack, instance)


def test_files_come_from_a_cloud_and_go_back_from_a_stopped_instance(stack: Stack, store: ObjectStore) -> None:
    data = os.urandom(2_000_000)
    store.put("bucket/in/deep/data", data)
    connection = connect(stack, store)
    shown = stack.renter.json("show", "connections")
    assert [(str(one["id"]), one["name"], one["cloud_type"]) for one in shown] == [(connection, "mine", "s3")]
    instance = rent(stack)
    stack.wait_status(instance, "running")

    told = cloud_copy(stack, "bucket/in", "/workspace", instance, connection, "Cloud To Instance")
    assert "Cloud Copy Operation Finished, 1 files, 1.9 MiB copied" in told
    stack.renter.run("stop", "instance", str(instance))
    stack.wait_status(instance, "stopped")
    told = cloud_copy(stack, "/workspace/deep", "bucket/out", instance, connection, "Instance To Cloud")
    assert "Cloud Copy Operation Finished" in told
    assert store.objects["bucket/out/data"].content == data
    by_copy = stack.renter.run("copy", f"s3.{connection}:/bucket/in", f"C.{instance}:/again/")
    assert "Remote to Remote copy initiated" in by_copy.stdout, by_copy.stdout + by_copy.stderr
    finished = f"to C.{instance}:/again/: Cloud Copy Operation Finished"
    wait_until("the copy", lambda: finished in message(stack, instance), 30, 0.3)
    destroy(stack, instance)


def test_wrong_logins_escapes_and_full_disks_are_told_and_no_secret_is(stack: Stack, store: ObjectStore) -> None:
    secret = "a-secret-that-is-wrong-0123456789"
    wrong, connection = connect(stack, store, secret_access_key=secret), connect(stack, store)
    instance = rent(stack)
    stack.wait_status(instance, "running")
    told = cloud_copy(stack, "/etc/passwd", "bucket/x", instance, wrong, "Instance To Cloud")
    assert f"cannot log in to the cloud of s3.{wrong}" in told
    assert secret not in told
    refused = stack.renter.run(
        "cloud", "copy", "--src", "/a/../../etc", "--dst", "bucket/x", *named(instance, connection)
    )
    assert "no part of it may be .." in refused.stdout + refused.stderr
    store.put("bucket/big/data", bytes(1_150_000_000))
    told = cloud_copy(stack, "bucket/big", "/workspace", instance, connection, "Cloud To Instance")
    assert f"the disk space of C.{instance} is used up" in told, copier_said(stack)
    del store.objects["bucket/big/data"]
    for kept in (secret, store.secret):
        assert not holding(stack.folder, kept)
    destroy(stack, instance)


def copier_said(stack: Stack) -> str:
    """What the copying programs complained of, by the daemon's log."""
    return (stack.folder / "daemon.log").read_text().partition("transfer.copier")[2][-4000:]


def named(instance: int, connection: str) -> tuple[str, ...]:
    return ("--instance", str(instance), "--connection", connection, "--transfer", "Instance To Cloud")


def holding(folder: Path, secret: str) -> list[Path]:
    """Files of the daemon and of the marketplace in which it stands."""
    found = []
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):
            if path.is_file() and not path.is_symlink() and secret.encode() in path.read_bytes():
                found.append(path)
    return found


def test_a_copy_with_a_cloud_is_cancelled(stack: Stack, store: ObjectStore) -> None:
    connection, instance = connect(stack, store), rent(stack)
    stack.wait_status(instance, "running")
    store.put("bucket/slow/data", os.urandom(20_000_000))
    store.piece_wait_s = 0.1
    words = ("--src", "bucket/slow", "--dst", "/workspace", "--instance", str(instance), "--connection", connection)
    stack.renter.run("cloud", "copy", *words, "--transfer", "Cloud To Instance")
    cancelled = stack.renter.run("cancel", "sync", f"C.{instance}")
    assert cancelled.returncode == 0, cancelled.stdout + cancelled.stderr
    wait_until("the message", lambda: "was cancelled" in message(stack, instance), 20, 0.3)
    store.piece_wait_s = 0.0
    destroy(stack, instance)
