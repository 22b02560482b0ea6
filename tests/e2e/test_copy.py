"""`vastai copy` end to end: the unmodified client with the real rsync and ssh; instances of every kind, volumes."""

import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.rented import destroy, rent, running_stack, status
from tests.support.docker_engine import PrivateDocker
from tests.support.images import DEMO_IMAGE
from tests.support.kinds import KINDS, import_kinds, name_of
from tests.support.scene import simulated_gpus
from tests.support.ssh import new_key
from tests.support.stack import Stack, StackOptions
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.docker, pytest.mark.timeout(180)]

SSH: dict[str, Any] = {"runtype": "ssh_direc ssh_proxy", "args": None}


@pytest.fixture(scope="module")
def stack(docker_host: PrivateDocker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    import_kinds(docker_host)
    config = {"docker": {"subnet_pool": "10.210.0.0/16"}}
    with running_stack(docker_host, tmp_path_factory.mktemp("copy"), "8xRTX_4090", config) as stack:
        stack.list_machine()
        yield stack


def copy(stack: Stack, key: Path, source: str, target: str) -> subprocess.CompletedProcess[str]:
    return stack.renter.run("copy", source, target, "-i", str(key))


@contextmanager
def copies_at_rest() -> Iterator[Callable[[], None]]:
    """Copies between instances stand still meanwhile, however fast they are: each part of rsync that comes up.

    Gives what waits for the first one: the machine answers before it.
    """
    stopped: set[int] = set()
    is_over = threading.Event()

    def stop_each() -> None:
        while not is_over.wait(0.005):
            for number in set(copying()) - stopped:
                with suppress(ProcessLookupError):
                    os.kill(number, signal.SIGSTOP)
                    stopped.add(number)

    def wait_for_one() -> None:
        wait_until("a copy to be under way", lambda: stopped, 20)

    watcher = threading.Thread(target=stop_each)
    watcher.start()
    try:
        yield wait_for_one
    finally:
        is_over.set()
        watcher.join()
        for number in stopped:
            with suppress(ProcessLookupError):
                os.kill(number, signal.SIGCONT)


def copying() -> Iterator[int]:
    """The processes of rsync that the daemon runs for copies."""
    for line in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if b"--no-inc-recursive" in line.read_bytes().split(b"\0"):
                yield int(line.parent.name)


def tree(folder: Path) -> Path:
    """Something to copy: folders, a megabyte, modes and a link that leads out."""
    (folder / "deep" / "deeper").mkdir(parents=True)
    (folder / "deep" / "deeper" / "data").write_bytes(os.urandom(1_000_000))
    (folder / "script").write_text("#!/bin/sh\necho hello\n")
    (folder / "script").chmod(0o755)
    (folder / "out").symlink_to("/etc/shadow")
    return folder


def difference(one: Path, other: Path) -> str:
    """In the words of `diff`; "" where both are the same."""
    argv = ["diff", "-r", "--no-dereference", str(one), str(other)]
    done = subprocess.run(argv, check=False, capture_output=True, text=True)
    return done.stdout + done.stderr


@pytest.mark.parametrize("kind", KINDS)
def test_files_go_into_an_instance_of_every_kind_and_back(stack: Stack, key: Path, kind: str, tmp_path: Path) -> None:
    instance = rent(stack, image=name_of(kind), **SSH)
    stack.wait_status(instance, "running")
    mine = tree(tmp_path / "mine")

    up = copy(stack, key, f"local:{mine}/", f"C.{instance}:/workspace/")
    assert "speedup is" in up.stdout, up.stdout + up.stderr
    down = copy(stack, key, f"{instance}:/workspace/", str(tmp_path / "back"))
    assert "speedup is" in down.stdout, down.stdout + down.stderr
    assert difference(mine, tmp_path / "back") == ""
    stack.destroy(instance)


def test_a_stopped_instance_is_copied_from_and_to(stack: Stack, key: Path, tmp_path: Path) -> None:
    instance = rent(stack, image=name_of("debian"), **SSH)
    stack.wait_status(instance, "running")
    stack.renter.run("stop", "instance", str(instance))
    stack.wait_status(instance, "stopped")
    mine = tree(tmp_path / "mine")

    assert "speedup is" in (up := copy(stack, key, str(mine), f"C.{instance}:/opt")).stdout, up
    stack.renter.run("start", "instance", str(instance))
    stack.wait_status(instance, "running")
    assert (
        "speedup is" in (down := copy(stack, key, f"C.{instance}:/opt/mine/", f"local:{tmp_path / 'back'}")).stdout
    ), down
    assert difference(mine, tmp_path / "back") == ""
    destroy(stack, instance)


def test_a_volume_is_copied_from_and_to_and_its_mounts_are_seen(stack: Stack, key: Path, tmp_path: Path) -> None:
    machine = str(stack.machine_id)
    assert stack.host.json("list", "machine", machine, "--price_gpu", "0.4", "-v", "3", "-z", "0.2")["success"]
    (offer,) = stack.renter.json("search", "volumes", f"verified=any machine_id={machine}")
    number = int(stack.renter.json("create", "volume", str(offer["id"]), "-s", "1")["volume_id"])
    wait_until("the volume", lambda: stack.renter.json("show", "volumes")[0]["status"] == "ready", 30)
    mine = tree(tmp_path / "mine")
    assert "speedup is" in (up := copy(stack, key, f"local:{mine}/", f"V.{number}:/in/")).stdout, up
    instance = rent(stack, env={f"-v V.{number}:/data": "1"})
    stack.wait_status(instance, "running")

    down = copy(stack, key, f"C.{instance}:/data/in/", f"local:{tmp_path / 'back'}")
    assert "speedup is" in down.stdout, down
    assert difference(mine, tmp_path / "back") == ""
    destroy(stack, instance)
    stack.renter.run("delete", "volume", str(number))


def test_the_disk_of_an_instance_is_not_overfilled(stack: Stack, key: Path, tmp_path: Path) -> None:
    instance = rent(stack, image=DEMO_IMAGE, disk=1)
    stack.wait_status(instance, "running")
    with (tmp_path / "big").open("wb") as file:
        for _ in range(1200):
            file.write(os.urandom(1024**2))

    done = copy(stack, key, f"local:{tmp_path / 'big'}", f"C.{instance}:/")
    said = done.stdout + done.stderr
    assert "No space left on device" in said or "Disk quota exceeded" in said, said[-2000:]
    destroy(stack, instance)


def message(stack: Stack, instance: int) -> str:
    return str((stack.instance(instance) or {}).get("status_msg"))


def direct(stack: Stack, source: str, target: str, instance: int) -> str:
    """By the client, to its end; what the message of the target's instance says then."""
    begun = stack.renter.run("copy", source, target)
    assert "Remote to Remote copy initiated" in begun.stdout, begun.stdout + begun.stderr
    ends = ("finished", "failed", "cancelled", "cut off")
    wait_until("the end of the copy", lambda: any(end in message(stack, instance) for end in ends), 60, 0.3)
    return message(stack, instance)


def test_files_go_from_one_instance_to_another_and_to_a_stopped_one(stack: Stack, key: Path, tmp_path: Path) -> None:
    one, two = rent(stack, image=name_of("debian"), **SSH), rent(stack, image=name_of("distroless"), **SSH)
    for instance in (one, two):
        stack.wait_status(instance, "running")
    mine = tree(tmp_path / "mine")
    assert "speedup is" in copy(stack, key, f"local:{mine}/", f"C.{one}:/work/").stdout

    assert "finished" in direct(stack, f"C.{one}:/work/", f"C.{two}:/made/here/", two)
    assert f"copy from C.{one}:/work/ to C.{two}:/made/here/: finished" in message(stack, one)
    stack.renter.run("stop", "instance", str(two))
    stack.wait_status(two, "stopped")
    assert "finished" in direct(stack, f"{one}:/work", f"{two}:/again", two)
    for number, path in enumerate(("/made/here/", "/again/work/")):
        down = copy(stack, key, f"C.{two}:{path}", f"local:{tmp_path / f'back{number}'}")
        assert "speedup is" in down.stdout, down
        assert difference(mine, tmp_path / f"back{number}") == ""
    assert "copy_source_missing" not in message(stack, two)
    assert "it is not there" in direct(stack, f"C.{one}:/nothing/", f"C.{two}:/x/", two)
    refused = stack.renter.run("copy", f"C.{one}:/work/", f"C.{one}:/work/deep/")
    assert "one is inside the other" in refused.stdout + refused.stderr
    destroy(stack, one, two)


def test_a_copy_is_cancelled_and_one_that_a_crash_cut_off_is_told(stack: Stack, key: Path, tmp_path: Path) -> None:
    one, two = rent(stack, disk=3), rent(stack, disk=3)
    for instance in (one, two):
        stack.wait_status(instance, "running")
    mine = tmp_path / "many"
    mine.mkdir()
    for number in range(2000):
        (mine / str(number)).write_bytes(b"x" * 2000)
    assert "speedup is" in copy(stack, key, f"local:{mine}", f"C.{one}:/").stdout

    with copies_at_rest() as wait_for_one:
        stack.renter.run("copy", f"C.{one}:/many/", f"C.{two}:/in/")
        wait_for_one()
        cancelled = stack.renter.run("cancel", "copy", f"C.{two}")
    assert "Remote copy canceled" in cancelled.stdout, cancelled.stdout + cancelled.stderr
    wait_until("the message", lambda: "was cancelled" in message(stack, two), 20, 0.3)
    nothing = stack.renter.run("cancel", "copy", f"C.{two}")
    assert "none goes on" in nothing.stdout + nothing.stderr

    with copies_at_rest() as wait_for_one:
        stack.renter.run("copy", f"C.{one}:/many/", f"C.{two}:/in/")
        wait_for_one()
        stack.kill_daemon()
    stack.start_daemon()
    wait_until("the message", lambda: "cut off by a restart" in message(stack, two), 40, 0.3)
    assert "finished" in direct(stack, f"C.{one}:/many/", f"C.{two}:/in/", two)
    assert "speedup is" in copy(stack, key, f"C.{two}:/in/", f"local:{tmp_path / 'back'}").stdout
    assert difference(mine, tmp_path / "back") == ""
    destroy(stack, one, two)


def test_the_disk_of_the_target_holds(stack: Stack, key: Path, tmp_path: Path) -> None:
    one, two = rent(stack, disk=3), rent(stack, disk=1)
    for instance in (one, two):
        stack.wait_status(instance, "running")
    with (tmp_path / "big").open("wb") as file:
        for _ in range(1200):
            file.write(os.urandom(1024**2))
    assert "speedup is" in copy(stack, key, f"local:{tmp_path / 'big'}", f"C.{one}:/").stdout
    told = direct(stack, f"C.{one}:/big", f"C.{two}:/", two)
    assert f"the disk space of C.{two} is used up" in told
    destroy(stack, one, two)


def test_files_go_from_one_machine_to_another(stack: Stack, key: Path, tmp_path: Path) -> None:
    one = rent(stack)
    stack.wait_status(one, "running")
    mine = tree(tmp_path / "mine")
    assert "speedup is" in copy(stack, key, f"local:{mine}/", f"C.{one}:/work/").stdout
    with another_machine(stack, tmp_path) as other:
        two = rent(other)
        stack.wait_status(two, "running")
        assert "finished" in direct(stack, f"C.{one}:/work/", f"C.{two}:/far/away/", two)
        down = copy(stack, key, f"C.{two}:/far/away/", f"local:{tmp_path / 'back'}")
        assert "speedup is" in down.stdout, down
        assert difference(mine, tmp_path / "back") == ""
        destroy(other, two)
    destroy(stack, one)


@contextmanager
def another_machine(stack: Stack, folder: Path) -> Iterator[Stack]:
    """A second machine of the same owner and marketplace, with the same engine."""
    config: dict[str, Any] = {"docker": {"subnet_pool": "10.215.0.0/16"}}
    gpus = simulated_gpus(folder, "2xRTX_4090")
    other = Stack(folder / "other", StackOptions(stack.engine, "22000-22399", gpu_env=gpus, extra_config=config))
    other.port, other.url, other.data_dir = stack.port, stack.url, stack.data_dir
    other.host_key, other.renter_key = stack.host_key, stack.renter_key
    other.folder.mkdir()
    other.join()
    try:
        other.list_machine()
        yield other
    finally:
        other.close()


def test_strangers_are_kept_out_and_ports_come_back(stack: Stack, key: Path, tmp_path: Path) -> None:
    instance = rent(stack)
    stack.wait_status(instance, "running")
    stranger, _ = new_key(tmp_path, "stranger")
    kept_out = copy(stack, stranger, f"C.{instance}:/etc/", f"local:{tmp_path / 'stolen'}")
    assert "Permission denied (publickey)" in kept_out.stderr
    assert not list((tmp_path / "stolen").iterdir())

    body = {"client_id": "me", "src_id": f"C.{instance}", "dst_id": None, "src_path": "/", "dst_path": "x"}
    code, told = stack.host_api.call("PUT", "/api/v0/commands/rsync/", body)
    assert (code, told["error"]) == (404, "no_such_instance")
    assert "copy by rsync" in message(stack, instance)
    destroy(stack, instance)

    def held() -> list[str]:
        rows = stack.kaalia("ledger", "--json", "--config", str(stack.config_file)).stdout
        return [line for line in rows.splitlines() if '"copies"' in line]

    wait_until("the port to be free again", lambda: not held(), 30, 0.5)
    assert status(stack) is not None
