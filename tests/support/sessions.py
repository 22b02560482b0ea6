"""What a renter does over ssh by the client's own programs: copy both ways, forward a port, sit at a terminal."""

import os
import pty
import select
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from tests.support.ssh import Ssh
from tests.support.stack import Stack, free_port
from tests.support.waiting import wait_until

GREETING = b"SSH-2.0-"


def login(stack: Stack, key: Path, instance: int, user: str = "root") -> Ssh:
    """To an instance that runs, once its sshd answers; by the address that the renter is told."""
    row = stack.wait_status(instance, "running")
    port = int(row["ports"]["22/tcp"][0]["HostPort"])
    return answering(Ssh(key, port, user=user, hosts=f"known_hosts.{instance}"))


def answering(ssh: Ssh) -> Ssh:
    """Once its sshd answers, be it by refusing the key."""
    not_yet = ("refused", "reset by peer", "Connection closed", "timed out")
    wait_until("sshd to answer", lambda: not any(one in ssh.run("true").stderr for one in not_yet), 30)
    return ssh


def copies(ssh: Ssh, folder: Path) -> list[str]:
    """Files there and back by scp, the older scp, sftp, rsync and a pipe; the ways that failed."""
    content = os.urandom(300_000)
    (folder / "up").write_bytes(content)
    rsync = f"ssh {' '.join(ssh.flags('-p'))}"
    ways = {
        "scp": (["scp", *ssh.flags("-P"), *pair] for pair in _pairs(ssh, folder, "scp")),
        "scp -O": (["scp", "-O", *ssh.flags("-P"), *pair] for pair in _pairs(ssh, folder, "scp -O")),
        "rsync": (["rsync", "-e", rsync, *pair] for pair in _pairs(ssh, folder, "rsync")),
        "sftp": (
            ["sh", "-c", f"echo '{line}' | sftp -b - {' '.join(ssh.flags('-P'))} {ssh.place}"]
            for line in (f"put {folder / 'up'} /tmp/sftp", f"get /tmp/sftp {folder / 'sftp'}")
        ),
    }
    failed = []
    for name, commands in ways.items():
        done = [subprocess.run(one, capture_output=True, text=True, timeout=60, check=False) for one in commands]
        file = folder / name
        if any(one.returncode for one in done) or not file.exists() or file.read_bytes() != content:
            failed.append(f"{name}: {' '.join(one.stderr.strip() for one in done)}")
    return failed


@contextmanager
def forwarded(ssh: Ssh, far_port: int) -> Iterator[int]:
    """A port of this machine that leads, through the session, to one inside the instance."""
    port = free_port()
    command = ["ssh", *ssh.flags("-p"), "-N", "-L", f"127.0.0.1:{port}:127.0.0.1:{far_port}", ssh.place]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as process:
        try:
            wait_until("the forwarded port", lambda: _listens(port), 10)
            yield port
        finally:
            process.terminate()


def greeting(port: int) -> bytes:
    """The first bytes that an sshd says on a port of this machine."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.settimeout(10)
        return connection.recv(len(GREETING))


@contextmanager
def strangers(port: int, count: int) -> Iterator[int]:
    """`count` connections that never log in, held open: how many of them an sshd greets. The others were closed."""
    with ExitStack() as held:
        waiting = [held.enter_context(socket.create_connection(("127.0.0.1", port), 10)) for _ in range(count)]
        served, until_s = 0, time.monotonic() + 30
        while waiting and time.monotonic() < until_s:
            ready, _, _ = select.select(waiting, [], [], 1)
            waiting = [one for one in waiting if one not in ready]
            served += sum(_is_greeted(one) for one in ready)
        assert not waiting, f"{len(waiting)} connections were neither served nor closed"
        yield served


class Terminal:
    """`ssh HOST` at a terminal of its own, as a person has it."""

    def __init__(self, ssh: Ssh, kind: str = "xterm-256color") -> None:
        pid, self._fd = pty.fork()
        if pid == 0:
            command = ["ssh", *ssh.flags("-p"), "-tt", ssh.place]
            os.execvpe(command[0], command, {**os.environ, "TERM": kind})
        self.pid = pid
        self.text = ""

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(self, *_: object) -> None:
        """The terminal goes away, as when a window is closed; `leave` before it for a farewell."""
        os.close(self._fd)
        os.waitpid(self.pid, 0)

    def leave(self, last_words: str = "exit") -> None:
        """Until the far side has ended the session."""
        self.type(last_words)
        with suppress(TimeoutError):
            self.wait("no screen shows this", 10)

    def type(self, line: str) -> None:
        os.write(self._fd, f"{line}\n".encode())

    def wait(self, wanted: str, timeout_s: float = 15) -> None:
        """Until the screen has shown it since the last call."""
        until_s = time.monotonic() + timeout_s
        while wanted not in self.text:
            ready, _, _ = select.select([self._fd], [], [], 0.2)
            if ready:
                self.text += self._read()
            elif time.monotonic() > until_s:
                raise TimeoutError(f"no {wanted!r} on the screen: {self.text[-2000:]!r}")
        self.text = self.text.rpartition(wanted)[2]

    def _read(self) -> str:
        try:
            return os.read(self._fd, 65536).decode(errors="replace")
        except OSError:
            raise TimeoutError(f"the session ended: {self.text[-2000:]!r}") from None


def _is_greeted(connection: socket.socket) -> bool:
    try:
        return connection.recv(len(GREETING)) == GREETING
    except ConnectionError:
        return False


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _pairs(ssh: Ssh, folder: Path, name: str) -> list[list[str]]:
    """From and to: there, and back."""
    far = f"{ssh.place}:/tmp/{name.replace(' ', '')}"
    return [[str(folder / "up"), far], [far, str(folder / name)]]
