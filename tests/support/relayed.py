"""A relay and a renter on the far side of a firewall that lets nobody in: for the proof and the tests of relays.

host (here, behind the firewall) -- relay -- renter. Only inside scripts/sandbox. The marketplace listens on loopback
here; a bridge by unix sockets stands for its public address, so that no way leads in.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.support.networks import Networks, networks
from tests.support.stack import Stack
from tests.support.waiting import wait_until

HOST, RELAY = "203.0.113.5", "203.0.113.1"
RENTER, RENTERS_GATEWAY = "192.0.2.7", "192.0.2.1"
LOGIN_PORT, PORTS = 2222, range(30000, 30064)
NAME = "west"


class Far:
    """The relay's machine and the renter's, and what runs there."""

    def __init__(self, nets: Networks, folder: Path) -> None:
        self.nets, self.folder = nets, folder
        self.relay: subprocess.Popen[bytes] | None = None
        self.token_file = folder / "relay.token"
        self.data = folder / "relay"
        self._starts = 0

    def build(self) -> None:
        self.nets.machine("relay", is_router=True)
        self.nets.machine("renter")
        self.nets.cable("relay", f"{RENTERS_GATEWAY}/24", "renter", f"{RENTER}/24")
        self.nets.default_route("renter", RENTERS_GATEWAY)
        for command in (
            "link add wan0 type veth peer name host netns relay",
            f"address add {HOST}/24 dev wan0",
            "link set wan0 up",
            f"route add 192.0.2.0/24 via {RELAY}",
        ):
            if "route" in command:
                self.nets.run("relay", "ip", "address", "add", f"{RELAY}/24", "dev", "host")
                self.nets.run("relay", "ip", "link", "set", "host", "up")
            subprocess.run(["ip", *command.split()], check=True)

    def shut(self) -> None:
        """Nobody comes in to the host any more: no new connection, whatever it is for."""
        for words in ("-p tcp --syn", "-p udp", "-p icmp --icmp-type echo-request"):
            rule = f"iptables -w -t raw -I PREROUTING -i wan0 {words} -j DROP"
            subprocess.run(rule.split(), check=True)

    def opens(self, address: str, port: int, timeout_s: float = 2.0) -> bool:
        """Whether a TCP connection of the renter is taken."""
        script = f"import socket; socket.create_connection(({address!r}, {port}), {timeout_s}).close()"
        done = subprocess.run(
            ["ip", "netns", "exec", "renter", sys.executable, "-c", script], check=False, capture_output=True
        )
        return done.returncode == 0

    def introduce(self, stack: Stack) -> None:
        """Make the relay known to the marketplace, and the marketplace to the relay's machine."""
        where = f"{RELAY}:{LOGIN_PORT}"
        made = stack.kaalia(
            *("marketplace", "relay", "add", NAME, "--address", where, "--ports", f"{PORTS[0]}-{PORTS[-1]}"),
            *("--data", str(stack.data_dir), "--json"),
        )
        self.token_file.write_text(json.loads(made.stdout)["token"])
        middle = str(self.folder / "market.sock")
        bridge = (sys.executable, "-m", "tests.support.bridge")
        far_end = f"127.0.0.1:{stack.port}"
        self.nets.start("relay", *bridge, far_end, middle, log=self.log("bridge"))
        with self.log("bridge").open("ab") as log:
            self._near = subprocess.Popen([*bridge, middle, far_end], stdout=log, stderr=log)

    def close(self) -> None:
        if hasattr(self, "_near"):
            self._near.terminate()
            self._near.wait()
        self.kill_all()

    def start(self, stack: Stack, data: Path | None = None, url: str | None = None) -> None:
        """The relay's program; returns once it answers."""
        self._starts += 1
        log = self.log(f"relay-{self._starts}")
        self.relay = self.nets.start("relay", *self.command(stack, data, url), log=log)
        wait_until("the relay to answer", lambda: "the relay answers" in log.read_text(), 20, 0.02)

    def command(self, stack: Stack, data: Path | None = None, url: str | None = None) -> Sequence[str]:
        listen = ("--listen", f"{RELAY}:{LOGIN_PORT}", "--ports", f"{PORTS[0]}-{PORTS[-1]}")
        where = ("--marketplace", url or stack.url, "--token-file", str(self.token_file))
        program = (sys.executable, "-m", "kaalia.cli.main", "relay", "serve")
        return (*program, "--name", NAME, *listen, *where, "--data", str(data or self.data))

    def kill_program(self) -> None:
        """As a crash would: sessions live on."""
        assert self.relay is not None
        self.relay.kill()
        self.relay.wait()

    def kill_all(self) -> None:
        """As a power cut would: the program, sshd and every session."""
        for pid in self.pids():
            name = Path(f"/proc/{pid}/comm").read_text().strip() if Path(f"/proc/{pid}").exists() else ""
            words = Path(f"/proc/{pid}/cmdline").read_bytes() if name else b""
            if b"sshd" in words or b"kaalia.cli" in words:
                os.kill(pid, signal.SIGKILL)
        if self.relay is not None:
            self.relay.wait()

    def pids(self) -> list[int]:
        listed = subprocess.run(["ip", "netns", "pids", "relay"], check=False, capture_output=True, text=True).stdout
        return [int(word) for word in listed.split()]

    def listening(self) -> set[int]:
        """Ports of the range on which the relay's machine listens."""
        listed = self.nets.run("relay", "ss", "-Hltn").split()
        ports = {int(word.rpartition(":")[2]) for word in listed if word.rpartition(":")[2].isdecimal()}
        return ports & set(PORTS)

    def ssh(self, url: str, key: Path) -> list[str]:
        """The renter's command line up to the command, for an address as `vastai ssh-url` prints it."""
        host, _, port = url.strip().removeprefix("ssh://root@").partition(":")
        options = "-F none -o BatchMode=yes -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null"
        known = f"-o LogLevel=ERROR -o ConnectTimeout=5 -o IdentitiesOnly=yes -i {key}"
        return ["ip", "netns", "exec", "renter", "ssh", *options.split(), *known.split(), "-p", port, f"root@{host}"]

    def log(self, name: str) -> Path:
        return self.folder / f"{name}.log"


class Session:
    """A renter's session that counts up, and must not be cut."""

    def __init__(self, command: list[str], log: Path) -> None:
        self._log = log
        self._process = self._start(command)

    def restart(self, command: list[str]) -> None:
        """A new one after its end."""
        self.close()
        self._process = self._start(command)

    def _start(self, command: list[str]) -> subprocess.Popen[bytes]:
        with self._log.open("wb") as file:
            count = "n=0; while :; do echo $n; n=$((n+1)); sleep 0.1; done"
            process = subprocess.Popen([*command, count], stdin=subprocess.DEVNULL, stdout=file, stderr=file)
        wait_until("the session to begin", lambda: self.count() > 2, 20, 0.05)
        return process

    def count(self) -> int:
        return len(self._log.read_text().splitlines())

    def goes_on(self, seconds: float = 1.0) -> bool:
        """Whether more comes, on the same connection."""
        before, until_s = self.count(), time.monotonic() + seconds + 5
        while time.monotonic() < until_s and self.count() < before + 10 * seconds / 2:
            time.sleep(0.05)
        return self._process.poll() is None and self.count() > before

    def close(self) -> None:
        self._process.kill()
        self._process.wait()


@contextmanager
def far(folder: Path) -> Iterator[Far]:
    with networks() as nets:
        made = Far(nets, folder)
        made.build()
        try:
            yield made
        finally:
            made.close()
            subprocess.run(["ip", "link", "delete", "wan0"], check=False, capture_output=True)
