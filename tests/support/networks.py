"""Networks of the test's own: machines that are network namespaces, cables between them, routers, firewalls.

Only inside scripts/sandbox: everything ends with it, and nothing of the machine's own network can be meant.
"""

import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

TIMEOUT_S = 120.0


def is_possible() -> bool:
    return "KAALIA_TEST_NAMESPACES" in os.environ


class Networks:
    """Made with `networks()`. Names of machines are short words; each has loopback from the start."""

    def __init__(self) -> None:
        self._machines: list[str] = []
        self._cables = 0
        self._processes: list[subprocess.Popen[bytes]] = []

    def machine(self, name: str, *, is_router: bool = False) -> None:
        _run("ip", "netns", "add", name)
        self._machines.append(name)
        self.run(name, "ip", "link", "set", "lo", "up")
        if is_router:
            self.run(name, "sysctl", "-qw", "net.ipv4.ip_forward=1")

    def cable(self, one: str, address_of_one: str, other: str, address_of_other: str) -> None:
        """Addresses with their prefix, as 192.168.1.20/24. Interfaces bear the name of the machine at the far end."""
        self._cables += 1
        ends = [(one, other, address_of_one, f"k{self._cables}a"), (other, one, address_of_other, f"k{self._cables}b")]
        _run("ip", "link", "add", ends[0][3], "type", "veth", "peer", "name", ends[1][3])
        for machine, far, address, link in ends:
            _run("ip", "link", "set", link, "netns", machine)
            self.run(machine, "ip", "link", "set", link, "name", far)
            self.run(machine, "ip", "address", "add", address, "dev", far)
            self.run(machine, "ip", "link", "set", far, "up")

    def default_route(self, name: str, via: str) -> None:
        self.run(name, "ip", "route", "replace", "default", "via", via)

    def iptables(self, name: str, rule: str) -> None:
        """A rule as on the command line, without the command."""
        self.run(name, "iptables", "-w", *rule.split())

    def run(self, name: str, *command: str, env: Mapping[str, str] | None = None, timeout_s: float = TIMEOUT_S) -> str:
        """To its end, which must be a good one; returns what it wrote to stdout."""
        return _run("ip", "netns", "exec", name, *command, env=env, timeout_s=timeout_s)

    def start(
        self, name: str, *command: str, log: Path, env: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        with log.open("ab") as file:
            process = subprocess.Popen(
                ["ip", "netns", "exec", name, *command],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                env={**os.environ, **(env or {})},
            )
        self._processes.append(process)
        return process

    def stop(self, process: subprocess.Popen[bytes]) -> None:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(10)

    def close(self) -> None:
        for process in self._processes:
            self.stop(process)
        for name in self._machines:
            subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)


@contextmanager
def networks() -> Iterator[Networks]:
    made = Networks()
    try:
        yield made
    finally:
        made.close()


def _run(*command: str, env: Mapping[str, str] | None = None, timeout_s: float = TIMEOUT_S) -> str:
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=timeout_s, check=False, env={**os.environ, **(env or {})}
    )
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout
