"""The access kit end to end: the real OpenSSH client in images of every kind, without anything installed in them."""

import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.rented import destroy, problem, process, rent, running_stack, status
from tests.support.docker_engine import PrivateDocker
from tests.support.kinds import KINDS, import_kinds, name_of
from tests.support.kits import KITS
from tests.support.sessions import GREETING, Terminal, copies, forwarded, greeting, login, strangers
from tests.support.ssh import Ssh, new_key
from tests.support.stack import Stack
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.docker, pytest.mark.timeout(180)]

SSH: dict[str, Any] = {"runtype": "ssh_direc ssh_proxy", "args": None}


@pytest.fixture(scope="module")
def stack(docker_host: PrivateDocker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    import_kinds(docker_host)
    config = {"docker": {"subnet_pool": "10.209.0.0/16"}}
    with running_stack(docker_host, tmp_path_factory.mktemp("access"), "8xRTX_4090", config) as stack:
        stack.list_machine()
        yield stack


@pytest.mark.parametrize("kind", KINDS)
def test_an_image_of_every_kind_lets_its_renter_in(stack: Stack, key: Path, kind: str, tmp_path: Path) -> None:
    env = {"GREETING": "it's $me"}
    instance = rent(stack, image=name_of(kind), env=env, onstart="echo onstart speaks", **SSH)
    ssh = login(stack, key, instance)

    done = ssh.run('id -u; echo "$GREETING"; cat /root/.vast_containerlabel; exit 7')
    assert (done.stdout, done.stderr, done.returncode) == (f"0\nit's $me\nC.{instance}\n", "", 7)
    assert ssh.run("cat", stdin="through a pipe").stdout == "through a pipe"
    assert copies(ssh, tmp_path) == []
    with forwarded(ssh, 22) as port:
        assert greeting(port) == GREETING
    assert 'GREETING="it\'s \\$me"\n' in ssh.run("cat /etc/environment").stdout
    assert ssh.run("test -e /.launch && grep -q jupyter /.launch").returncode == 1
    wait_until(
        "onstart in the log", lambda: "onstart speaks" in stack.renter.run("logs", str(instance)).stdout, 20, 0.5
    )
    with Terminal(ssh) as terminal:
        terminal.type("echo in${TMUX:+side}-$GREETING")
        terminal.wait("inside-it's $me")
        terminal.leave("touch ~/.no_auto_tmux; exit")
    with Terminal(ssh) as terminal:
        terminal.type("echo out${TMUX:-side}")
        terminal.wait("outside")
        terminal.leave()
    if kind == "musl":
        assert ssh.run("speak").stdout == "musl speaks\n"
    destroy(stack, instance)


def test_keys_come_and_go_while_it_runs(stack: Stack, key: Path, tmp_path: Path) -> None:
    instance = rent(stack, image=name_of("busybox"), **SSH)
    mine = login(stack, key, instance)
    before = process(stack, instance)
    path, public = new_key(tmp_path, "guest")
    guest = Ssh(path, mine.port)
    assert guest.run("true").returncode == 255

    done = stack.renter.run("attach", "ssh", str(instance), str(path.with_suffix(".pub")))
    assert done.returncode == 0, done.stderr
    wait_until("the guest to be let in", lambda: guest.run("true").returncode == 0, 10)
    assert public in mine.run("cat /root/.ssh/authorized_keys").stdout

    listed = stack.renter_api.get(f"/api/v0/instances/{instance}/ssh/")
    number = next(one["id"] for one in listed if one["public_key"] == public)
    stack.renter.run("detach", "ssh", str(instance), str(number))
    wait_until("the guest to be locked out", lambda: guest.run("true").returncode == 255, 10)
    assert public not in mine.run("cat /root/.ssh/authorized_keys").stdout
    assert process(stack, instance) == before
    destroy(stack, instance)


def test_a_flood_of_strangers_leaves_room_for_others(stack: Stack, key: Path) -> None:
    instance = rent(stack, image=name_of("busybox"), **SSH)
    ssh = login(stack, key, instance)
    with Terminal(ssh) as terminal:
        terminal.type("echo be${X}fore")
        terminal.wait("before")
        with strangers(ssh.port, 200) as served:
            assert 30 <= served <= 100
            terminal.type("echo still${X}here")
            terminal.wait("stillhere")
            wait_until("the renter to be let in", lambda: ssh.run("true").returncode == 0, 60)
        wait_until("the renter to be let in at once", lambda: ssh.run("true").returncode == 0, 5)
        terminal.leave()
    destroy(stack, instance)


def test_a_detached_key_is_refused_whatever_the_disk(stack: Stack, key: Path, tmp_path: Path) -> None:
    instance = rent(stack, image=name_of("busybox"), **SSH)
    mine = login(stack, key, instance)
    path, public = new_key(tmp_path, "guest")
    guest = Ssh(path, mine.port)
    own, own_public = new_key(tmp_path, "own")
    assert mine.run("cat >> /root/.ssh/authorized_keys", stdin=f"{own_public}\n").returncode == 0

    def switch(word: str, number: str) -> None:
        done = stack.renter.run(word, "ssh", str(instance), number)
        assert done.returncode == 0, done.stderr

    def attach() -> str:
        switch("attach", str(path.with_suffix(".pub")))
        wait_until("the guest to be let in", lambda: guest.run("true").returncode == 0, 10)
        listed = stack.renter_api.get(f"/api/v0/instances/{instance}/ssh/")
        return str(next(one["id"] for one in listed if one["public_key"] == public))

    def refused() -> None:
        wait_until("the guest to be locked out", lambda: guest.run("true").returncode == 255, 10)
        assert mine.run("true").returncode == 0
        assert Ssh(own, mine.port).run("true").returncode == 0, "what the renter has written there holds"

    def shell(script: str) -> None:
        """As the machine's root, in the container's mounts."""
        pid, _ = process(stack, instance)
        busybox = "/.kaalia/sbin/busybox"
        command = ["nsenter", f"--mount=/proc/{pid}/ns/mnt", "--root", "--wd=/", f"--target={pid}", busybox, "sh", "-c"]
        subprocess.run([*command, f"bb={busybox}; {script}"], check=True)

    number = attach()
    keys = "/root/.ssh/authorized_keys"
    shell(f"$bb cp {keys} /.kaalia/run/kept; $bb mount -t tmpfs -o size=8k,mode=700 tmpfs /root/.ssh")
    shell(f"$bb cp /.kaalia/run/kept {keys}; $bb dd if=/dev/zero of=/root/.ssh/filler bs=4k 2>&1 || true")
    switch("detach", number)
    refused()
    assert public not in mine.run(f"cat {keys}").stdout, "a removal needs no room"
    switch("detach", attach())
    refused()

    shell("$bb rm /root/.ssh/filler")
    number = attach()
    assert public in mine.run(f"cat {keys}").stdout
    shell("$bb mount -t tmpfs -o remount,ro tmpfs /root/.ssh")
    switch("detach", number)
    refused()
    shell("$bb mount -t tmpfs -o remount,rw tmpfs /root/.ssh")
    refused()
    assert public not in mine.run(f"cat {keys}").stdout, "mended when it can be written again"
    destroy(stack, instance)


def test_host_keys_stay_over_stop_and_start_and_reboot(stack: Stack, key: Path) -> None:
    instance = rent(stack, image=name_of("debian"), **SSH)
    ssh = login(stack, key, instance)
    ssh.known_hosts.unlink()
    assert ssh.run("echo kept > /root/file").returncode == 0

    stack.renter.run("stop", "instance", str(instance))
    stack.wait_status(instance, "stopped")
    stack.renter.run("start", "instance", str(instance))
    again = login(stack, key, instance)

    assert again.port == ssh.port
    assert again.run("cat /root/file").stdout == "kept\n", "and the client took the host key for the one it knows"
    before = process(stack, instance)
    stack.renter.run("reboot", "instance", str(instance))
    wait_until("the reboot", lambda: process(stack, instance) != before and process(stack, instance)[0], 30)
    assert login(stack, key, instance).run("cat /root/file").stdout == "kept\n"
    destroy(stack, instance)


def test_a_user_of_the_image_is_honoured_and_another_refused(stack: Stack, key: Path) -> None:
    instance = rent(stack, image=name_of("debian"), user="worker", onstart="id -un", **SSH)
    worker = login(stack, key, instance, "worker")

    assert worker.run("id -un; pwd").stdout.startswith("worker\n")
    assert Ssh(key, worker.port).run("id -un").stdout == "root\n"
    wait_until("onstart in the log", lambda: "worker" in stack.renter.run("logs", str(instance)).stdout, 20, 0.5)
    destroy(stack, instance)

    refused = rent(stack, image=name_of("debian"), user="nobody-here", **SSH)
    wait_until("the refusal", lambda: "nobody-here" in str((stack.instance(refused) or {}).get("status_msg")), 20)
    assert problem(stack, refused).code == "user_unknown"
    assert "root is the default" in problem(stack, refused).remedy
    assert not stack.engine.has_container(f"C.{refused}"), "it is not left half made"
    destroy(stack, refused)


def test_without_a_kit_ssh_is_refused_and_the_owner_told(docker_host: PrivateDocker, tmp_path: Path) -> None:
    config = {"docker": {"subnet_pool": "10.207.0.0/16"}, "access": {"kit_dir": str(tmp_path / "none")}}
    with running_stack(docker_host, tmp_path, config=config, port_range="22500-22599") as bare:
        bare.list_machine()
        instance = rent(bare, image=name_of("busybox"), **SSH)
        wait_until("the refusal", lambda: bare.local_state(instance) == "failed", 20)

        assert problem(bare, instance).code == "kit_missing"
        assert not bare.engine.has_container(f"C.{instance}")
        assert "kit_missing" in warned(bare)
        plain = rent(bare, image=name_of("busybox"))
        bare.wait_status(plain, "running")
        destroy(bare, instance, plain)

        (tmp_path / "none").symlink_to(KITS)
        again = rent(bare, image=name_of("busybox"), **SSH)
        bare.wait_status(again, "running")
        wait_until("the condition to go", lambda: "kit_missing" not in warned(bare), 10)
        destroy(bare, again)


def warned(stack: Stack) -> set[str]:
    told = status(stack)
    return {one.code for one in told.warnings} if told else {"no answer"}


def test_the_daemon_dies_and_sessions_live(stack: Stack, key: Path) -> None:
    instance = rent(stack, image=name_of("debian"), **SSH)
    ssh = login(stack, key, instance)
    with Terminal(ssh) as terminal:
        terminal.type("echo be${X}fore")
        terminal.wait("before")
        stack.kill_daemon(signal.SIGKILL)
        terminal.type("echo mean${X}while")
        terminal.wait("meanwhile")
        assert ssh.run("echo new").stdout == "new\n", "and others begin"
        stack.start_daemon()
        wait_until("the daemon", lambda: stack.local_state(instance) == "running", 30)
        terminal.type("echo af${X}ter")
        terminal.wait("after")
        terminal.leave()
    destroy(stack, instance)
