"""What lies around a machine: a LAN with a metadata service, and the internet, each a namespace with hosts that answer.

To be set up in a network namespace of one's own, which then is the machine. Everything ends with the context.
"""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
TCP = (22, 25, 53, 80, 443, 465, 587, 8080)
UDP = (53, 123, 4433)
GROUP, MDNS = "224.0.0.251", 5353
"""Only the machine hears these."""
Door = tuple[str, str, int]
"""Protocol, address, port. Protocol `dns` asks the address for the name `internet.test`."""

LAN, ROUTER = "192.168.77.2", "192.168.77.3"
METADATA = "169.254.169.254"
PRIVATE = ("10.99.0.9", "172.20.0.9", "100.64.0.9", "198.18.0.9", "192.0.0.9", "168.63.129.16")
"""Not the internet; the last one is Azure's."""
INTERNET = ("203.0.113.2", "198.51.100.7")
MACHINE_ON_LAN, MACHINE_ON_INTERNET = "192.168.77.1", "203.0.113.1"


def ip(*words: str | int) -> None:
    subprocess.run(["ip", *map(str, words)], check=True)


def inside(pid: int, *argv: object, stdin: str = "") -> str:
    """Run a program in the network namespace of a process."""
    command = ["nsenter", f"--net=/proc/{pid}/ns/net", *map(str, argv)]
    return subprocess.run(command, check=True, input=stdin, stdout=subprocess.PIPE, text=True).stdout


def knock(pid: int, doors: Sequence[Door], timeout_s: float = 1.5) -> dict[Door, bool]:
    """Which doors answer to this process's network."""
    answers = inside(pid, sys.executable, "-I", HERE / "knock.py", timeout_s, stdin=json.dumps(doors))
    return dict(zip(doors, json.loads(answers), strict=True))


def closed(found: dict[Door, bool]) -> list[Door]:
    return [door for door, answered in found.items() if not answered]


def opened(found: dict[Door, bool]) -> list[Door]:
    return [door for door, answered in found.items() if answered]


@contextmanager
def connection(pid: int, address: str, port: int) -> Iterator[Callable[[], bool]]:
    """One that stays, from this process's network to a host that answers. Called: does a word come back by it?"""
    argv = ["nsenter", f"--net=/proc/{pid}/ns/net", sys.executable, "-I", str(HERE / "hold.py"), address, str(port)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        said, heard = process.stdin, process.stdout

        def is_alive() -> bool:
            said.write("\n")
            said.flush()
            return str(heard.readline()) == "answered\n"

        try:
            assert heard.readline() == "ready\n"
            yield is_alive
        finally:
            process.kill()


@contextmanager
def host(tcp: Sequence[int] = TCP, udp: Sequence[int] = UDP, *, group: str = "", is_new: bool = True) -> Iterator[int]:
    """A host that answers, in a namespace of its own or (the machine itself) in ours; its process id."""
    program = [sys.executable, "-I", str(HERE / "echo.py"), ",".join(map(str, tcp)), ",".join(map(str, udp)), group]
    argv = ["unshare", "--net", *program] if is_new else program
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield process.pid
        finally:
            process.kill()


def the_machine() -> AbstractContextManager[int]:
    """Services of the machine itself. After its links are made: it joins the group on each."""
    return host(udp=(*UDP, MDNS), group=GROUP, is_new=False)


def cable(pid: int, name: str, ours: str, theirs: Sequence[str], gateway: str, bridge: str = "") -> None:
    """A link between the machine and a host. `ours`: the machine's address, with its prefix; "": none on this link."""
    ip("link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", pid)
    if bridge:
        ip("link", "set", name, "master", bridge)
    if ours:
        ip("address", "add", ours, "dev", name)
    ip("link", "set", name, "up")
    inside(pid, "ip", "link", "set", "lo", "up")
    for address in theirs:
        inside(pid, "ip", "address", "add", address, "dev", "eth0")
    inside(pid, "ip", "link", "set", "eth0", "up")
    if gateway:
        inside(pid, "ip", "route", "add", "default", "via", gateway)


@dataclass(frozen=True)
class Around:
    """Process ids: of a host of the LAN, and of one of the internet."""

    lan: int
    internet: int


@contextmanager
def neighbourhood() -> Iterator[Around]:
    """The machine is the LAN's 192.168.77.1 and has the internet behind 203.0.113.2."""
    with ExitStack() as stack:
        lan, internet = stack.enter_context(host()), stack.enter_context(host())
        addresses = [f"{LAN}/24", f"{ROUTER}/24", *(f"{one}/32" for one in (METADATA, *PRIVATE))]
        cable(lan, "lan0", f"{MACHINE_ON_LAN}/24", addresses, MACHINE_ON_LAN)
        cable(
            internet,
            "wan0",
            f"{MACHINE_ON_INTERNET}/24",
            [f"{INTERNET[0]}/24", f"{INTERNET[1]}/32"],
            MACHINE_ON_INTERNET,
        )
        for address in (METADATA, *PRIVATE):
            ip("route", "add", address, "via", LAN)
        ip("route", "add", "default", "via", INTERNET[0])
        Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
        try:
            yield Around(lan, internet)
        finally:
            for link in ("lan0", "wan0"):
                ip("link", "delete", link)


@contextmanager
def tenant(bridge: str, subnet_begin: str) -> Iterator[int]:
    """A host behind a bridge of the machine, as Docker makes it: .1 is the bridge, .2 the tenant."""
    with host() as pid:
        ip("link", "add", bridge, "type", "bridge")
        ip("address", "add", f"{subnet_begin}.1/28", "dev", bridge)
        ip("link", "set", bridge, "up")
        cable(pid, f"v{bridge}"[:15], "", [f"{subnet_begin}.2/28"], f"{subnet_begin}.1", bridge)
        try:
            yield pid
        finally:
            ip("link", "delete", bridge)
