"""A state directory that is full, corrupt, too new or in use: the tenant runs on, and nothing is lost or begun anew."""

import shutil
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.e2e.rented import destroy, problems, process, rent, running_stack, status
from tests.support.docker_engine import PrivateDocker
from tests.support.stack import Stack
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.docker, pytest.mark.timeout(120)]

STATE_MIB = 4


@pytest.fixture(scope="module")
def stack(docker_host: PrivateDocker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """One whose state directory is a small file system of its own."""
    folder = tmp_path_factory.mktemp("state")
    state = folder / "state"
    state.mkdir(mode=0o700)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={STATE_MIB}m,mode=700", "tmpfs", state], check=True)
    try:
        with running_stack(docker_host, folder, config={"intervals": {"report_s": 1}}) as stack:
            stack.list_machine()
            yield stack
    finally:
        subprocess.run(["umount", "--lazy", state], check=True)


@pytest.fixture(scope="module")
def tenant(stack: Stack) -> int:
    instance_id = rent(stack)
    stack.wait_status(instance_id, "running")
    return instance_id


def faults(stack: Stack) -> set[str]:
    """Without what is said of the disk of this stack, which is small so that it can be filled."""
    return problems(stack) - {"state_disk_low"}


def fill(folder: Path) -> Path:
    """Take every byte that is left."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file:
        for size in (65536, 4096, 1):
            try:
                while True:
                    file.write(b"x" * size)
            except OSError:
                continue
    return filler


def test_a_full_state_directory_holds_up_what_is_new_and_nothing_else(stack: Stack, tenant: int) -> None:
    before = process(stack, tenant)
    filler = fill(stack.folder / "state")
    try:
        late = rent(stack)
        wait_until("the log to name it", lambda: "[state_disk_full]" in stack.log_text("daemon"), 30)
        wait_until("the host to be told", lambda: faults(stack) == {"state_disk_full"}, 30)
        row = stack.instance(tenant)
        was_created = stack.engine.has_container(f"C.{late}")
    finally:
        filler.unlink()

    assert "free space in the state directory, then the daemon goes on by itself" in stack.log_text("daemon")
    assert row is not None
    assert row["actual_status"] == "running"
    assert not was_created
    stack.wait_status(late, "running", 60)
    assert process(stack, tenant) == before
    wait_until("all to be well", lambda: faults(stack) == set(), 30)
    destroy(stack, late)


def test_a_daemon_that_starts_on_a_full_disk_finds_its_tenants_and_goes_on_by_itself(stack: Stack, tenant: int) -> None:
    before = process(stack, tenant)
    stack.kill_daemon()
    told = len(stack.log_text("daemon"))
    filler = fill(stack.folder / "state")
    try:
        stack.start_daemon()
        wait_until("the log to name it", lambda: "[state_disk_full]" in stack.log_text("daemon")[told:], 20)
        wait_until("safe mode", lambda: (found := status(stack)) and found.safe_mode, 20)
        assert faults(stack) == {"state_disk_full"}
        assert process(stack, tenant) == before
    finally:
        filler.unlink()

    wait_until("the daemon to find the tenant", lambda: stack.local_state(tenant) == "running", 60)
    late = rent(stack)
    stack.wait_status(late, "running", 60)
    assert process(stack, tenant) == before
    destroy(stack, late)


@pytest.mark.parametrize("code", ["state_corrupt", "state_newer"])
def test_a_state_that_cannot_be_read_means_safe_mode(stack: Stack, tenant: int, code: str) -> None:
    before = process(stack, tenant)
    stack.kill_daemon()
    path = stack.folder / "state" / "state.db"
    copy = stack.folder / f"copy-{code}"
    shutil.copytree(path.parent, copy)
    spoil(path, code)
    stack.start_daemon()
    wait_until("safe mode", lambda: (found := status(stack)) and found.safe_mode, 20)
    late = rent(stack)
    time.sleep(1.5)

    shown = stack.kaalia("status", "--config", str(stack.config_file))
    row = stack.instance(late)

    assert faults(stack) == {code}
    assert shown.returncode == 1
    assert "in safe mode" in shown.stdout
    assert f"[{code}]" in shown.stdout
    assert "tenants run on" in shown.stdout
    assert row is not None
    assert row["actual_status"] is None
    assert not stack.engine.has_container(f"C.{late}")
    assert process(stack, tenant) == before

    stack.kill_daemon()
    shutil.copytree(copy, path.parent, dirs_exist_ok=True)
    stack.start_daemon()
    stack.wait_status(late, "running", 60)
    wait_until("the daemon to find the tenant", lambda: stack.local_state(tenant) == "running", 30)
    assert process(stack, tenant) == before
    destroy(stack, late)


def spoil(path: Path, code: str) -> None:
    if code == "state_corrupt":
        for log in path.parent.glob("state.db-*"):
            log.unlink()
        path.write_bytes(b"\xff" * path.stat().st_size)
        return
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 9999")
    connection.close()


def test_a_second_daemon_of_the_same_state_is_refused(stack: Stack, tenant: int) -> None:
    done = stack.kaalia("daemon", "--config", str(stack.config_file))

    assert done.returncode == 2
    assert "cannot start: a daemon with pid" in done.stderr
    assert "[already_running]" in done.stderr
    assert "give this one a state_dir of its own" in done.stderr
    assert stack.daemon is not None
    assert stack.daemon.poll() is None


def test_an_address_in_use_is_named(stack: Stack) -> None:
    done = stack.kaalia(
        "marketplace", "serve", "--listen", f"127.0.0.1:{stack.port}", "--data", str(stack.folder / "m")
    )

    assert done.returncode != 0
    assert f"cannot listen on 127.0.0.1:{stack.port}: another program does" in done.stderr
    assert "[address_in_use]" in done.stderr
    assert f"sport = :{stack.port}" in done.stderr


def test_a_misspelt_key_is_named_with_the_right_one(stack: Stack) -> None:
    wrong = stack.folder / "wrong.yaml"
    wrong.write_text(stack.config_file.read_text().replace("ports:", "prots:"))

    done = stack.kaalia("daemon", "--config", str(wrong))

    assert done.returncode == 2
    assert f"{wrong} has the unknown key prots" in done.stderr
    assert "write ports" in done.stderr
    assert "[config_unknown_key]" in done.stderr


def test_a_machine_enrols_once_and_a_token_serves_once(stack: Stack) -> None:
    again = stack.kaalia("enroll", stack.url, "-", "--config", str(stack.config_file), stdin=stack.enroll_token())
    assert again.returncode == 2
    assert f"cannot enrol: this machine is machine {stack.machine_id} of {stack.url}" in again.stderr
    assert "[already_enrolled]" in again.stderr

    token = stack.enroll_token()
    first, second = (enroll_elsewhere(stack, name, token) for name in ("first", "second"))
    assert first.returncode == 0, first.stderr
    assert second.returncode != 0
    assert "another machine has used the token" in second.stderr
    assert "[token_used]" in second.stderr
    assert "kaalia marketplace enroll-token" in second.stderr


def enroll_elsewhere(stack: Stack, name: str, token: str) -> subprocess.CompletedProcess[str]:
    """From another state directory, as another machine would."""
    config = yaml.safe_load(stack.config_file.read_text()) | {"state_dir": str(stack.folder / name)}
    file = stack.folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump(config))
    return stack.kaalia("enroll", stack.url, "-", "--config", str(file), stdin=token)
