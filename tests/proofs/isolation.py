"""Two tenants of a real engine knock at every door around them: at the machine, its LAN, a metadata service, each
other, and the internet, by TCP and UDP, by IPv4 and IPv6.

Every forbidden door stays shut and every allowed one opens: after the launch, after a stop and start, after somebody
flushes the firewall, after kills of dockerd and of the daemon, and after all rules are gone as by a reboot. A container
of the same engine that kaalia did not start opens the forbidden ones: so they are really there.
"""

import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

from tests.proofs.report import Report, Say
from tests.proofs.tenant import Tenant
from tests.support import neighbourhood6 as six
from tests.support.docker_engine import PrivateDocker
from tests.support.neighbourhood import (
    GROUP,
    INTERNET,
    LAN,
    MACHINE_ON_INTERNET,
    MACHINE_ON_LAN,
    MDNS,
    METADATA,
    PRIVATE,
    ROUTER,
    Around,
    Door,
    connection,
    knock,
    neighbourhood,
    the_machine,
)
from tests.support.scene import scene
from tests.support.stack import Stack
from tests.support.waiting import wait_until

DOCKER0 = "172.17.0.1"
SERVED = 8000
"""What a tenant serves, inside."""
MEND_S = 20.0


FILTERS = ("iptables", "ip6tables")
OPEN_NETWORK, OPEN_SUBNET6 = "open", "fd99::/64"


@dataclass(frozen=True)
class Home:
    """Where a tenant lives."""

    pid: int
    address: str
    gateway: str
    address6: str
    gateway6: str
    port: int
    """Of the machine, which leads to what it serves."""


def prove(seed: int, rounds: int, say: Say) -> Report:
    """All events `rounds` times (default 1). The seed has no say here."""
    report = Report(say)
    with (
        name_server_in_the_lan(),
        neighbourhood() as around,
        with_ipv6(around),
        scene(gpus="2xRTX_4090") as (stack, image),
    ):
        stack.list_machine()
        tenants = [Tenant(stack, image), Tenant(stack, image)]
        with the_machine():
            control(stack, image, report)
            examine(stack, tenants, around, report, "the launch")
            for _ in range(rounds or 1):
                for name, event in events(stack, tenants, report).items():
                    event()
                    examine(stack, tenants, around, report, name)
                    say(f"{name}: {report.counts['checks']} checks, {len(report.violations)} violations")
    return report


@contextmanager
def with_ipv6(around: Around) -> Iterator[None]:
    six.add_ipv6(around)
    six.settle(around.lan, around.internet)
    yield


@contextmanager
def name_server_in_the_lan() -> Iterator[None]:
    """What the machine, and so Docker, asks for names from now on."""
    with tempfile.NamedTemporaryFile("w", suffix=".conf") as file:
        file.write(f"nameserver {ROUTER}\nnameserver {six.ROUTER}\n")
        file.flush()
        subprocess.run(["mount", "--bind", file.name, "/etc/resolv.conf"], check=True)
        try:
            yield
        finally:
            subprocess.run(["umount", "/etc/resolv.conf"], check=True)


def home(stack: Stack, tenant: Tenant) -> Home:
    document = stack.engine.inspect(f"C.{tenant.instance_id}")
    pause = stack.engine.inspect(f"kaalia-sandbox-{tenant.instance_id}")
    (network,) = pause["NetworkSettings"]["Networks"].values()
    addresses = (network["IPAddress"], network["Gateway"], network["GlobalIPv6Address"], network["IPv6Gateway"])
    return Home(document["State"]["Pid"], *addresses, tenant.port)


def around_doors() -> list[Door]:
    """Forbidden to every tenant, and open to whoever is not one."""
    machine = [(kind, one, port) for one in (DOCKER0, MACHINE_ON_LAN, MACHINE_ON_INTERNET) for kind, port in SERVICES]
    lan = [(kind, one, port) for one in (LAN, METADATA, *PRIVATE) for kind, port in SERVICES]
    mail = [("tcp", one, port) for one in (INTERNET[0], six.INTERNET[0]) for port in (25, 465, 587)]
    return [*machine, *lan, *mail, ("tcp", ROUTER, 80), *around_doors6()]


def around_doors6() -> list[Door]:
    others = (six.MACHINE_ON_LAN, six.MACHINE_ON_INTERNET, six.LAN, six.NEIGHBOUR, *six.CLOSED)
    return [*((kind, one, port) for one in others for kind, port in SERVICES), ("tcp", six.ROUTER, 80)]


SERVICES = (("tcp", 22), ("tcp", 80), ("tcp", 8080), ("udp", 123), ("udp", 4433))


def forbidden(mine: Home, other: Home) -> list[Door]:
    published = [("tcp", one, other.port) for one in (MACHINE_ON_LAN, MACHINE_ON_INTERNET, DOCKER0, mine.gateway)]
    bridges = [(kind, one, port) for one in (mine.gateway, other.gateway) for kind, port in SERVICES]
    heard: list[Door] = [("udp", GROUP, MDNS), ("udp", "255.255.255.255", MDNS)]
    return [*around_doors(), *published, *bridges, ("tcp", other.address, SERVED), *heard, *forbidden6(mine, other)]


def forbidden6(mine: Home, other: Home) -> list[Door]:
    machine = (six.MACHINE_ON_LAN, six.MACHINE_ON_INTERNET, mine.gateway6, other.gateway6, "fe80::1%eth0")
    published: list[Door] = [("tcp", one, other.port) for one in machine]
    bridges: list[Door] = [(kind, one, port) for one in machine[2:] for kind, port in SERVICES]
    return [*published, *bridges, ("tcp", other.address6, SERVED)]


def allowed() -> list[Door]:
    internet = [("tcp", one, port) for one in (*INTERNET, *six.INTERNET) for port in (22, 53, 80, 443, 8080)]
    internet += [("udp", one, port) for one in (*INTERNET, *six.INTERNET) for port in (53, 123, 4433)]
    names: list[Door] = [(kind, one, 53) for kind in ("udp", "tcp") for one in (ROUTER, six.ROUTER)]
    return [*internet, *names, ("dns", "127.0.0.11", 53)]


def examine(stack: Stack, tenants: Sequence[Tenant], around: Around, report: Report, after: str) -> None:
    """Knock at everything, from everywhere."""
    homes = [home(stack, tenant) for tenant in tenants]
    for mine, other in (homes, homes[::-1]):
        shut(mine, other, report, after)
        for door, is_open in knock(mine.pid, allowed(), 5.0).items():
            report.counts["allowed"] += 1
            report.check(f"{door} opens to a tenant after {after}", is_open)
        for name, pid in (("the machine", os.getpid()), ("the LAN", around.lan), ("the internet", around.internet)):
            addresses = ["127.0.0.1"] * (pid == os.getpid()) + [MACHINE_ON_LAN, MACHINE_ON_INTERNET]
            addresses += [six.MACHINE_ON_LAN, six.MACHINE_ON_INTERNET]
            for door, is_open in knock(pid, [("tcp", one, mine.port) for one in addresses], 5.0).items():
                report.counts["allowed"] += 1
                report.check(f"the published {door} opens to {name} after {after}", is_open)


def shut(mine: Home, other: Home, report: Report, after: str) -> None:
    for door, is_open in knock(mine.pid, forbidden(mine, other)).items():
        report.counts["forbidden"] += 1
        report.check(f"{door} stays shut to a tenant after {after}", not is_open)


def control(stack: Stack, image: str, report: Report) -> None:
    """A container without walls, on a bridge that kaalia did not make, reaches what tenants must not."""
    networks: dict[str, object] = {"Config": [{"Subnet": "172.31.0.0/24"}, {"Subnet": OPEN_SUBNET6}]}
    stack.engine.request("POST", "/networks/create", {"Name": OPEN_NETWORK, "EnableIPv6": True, "IPAM": networks})
    body = {"Image": image, "Cmd": ["sleep", "600"], "HostConfig": {"NetworkMode": OPEN_NETWORK}}
    number = stack.engine.request("POST", "/containers/create", body)["Id"]
    stack.engine.request("POST", f"/containers/{number}/start")
    try:
        for door, is_open in knock(stack.engine.inspect(number)["State"]["Pid"], around_doors(), 5.0).items():
            report.counts["controls"] += 1
            report.check(f"{door} is there at all", is_open)
    finally:
        stack.engine.request("DELETE", f"/containers/{number}?force=1")
        stack.engine.request("DELETE", f"/networks/{OPEN_NETWORK}")


def events(stack: Stack, tenants: Sequence[Tenant], report: Report) -> dict[str, Callable[[], None]]:
    engine = stack.engine
    assert isinstance(engine, PrivateDocker)

    def stop_and_start() -> None:
        for tenant in tenants:
            stack.renter.run("stop", "instance", str(tenant.instance_id))
            stack.wait_status(tenant.instance_id, "stopped")
            stack.renter.run("start", "instance", str(tenant.instance_id))
            stack.wait_status(tenant.instance_id, "running")
            wait_until("the tenant to serve", tenant.serves, 15)

    def flush_filter() -> None:
        flush("filter")
        first, second = (home(stack, tenant) for tenant in tenants)
        shut(first, second, report, "a flush, at once")
        mended(report, "filter")

    def kill_dockerd() -> None:
        first, second = (home(stack, tenant) for tenant in tenants)
        engine.kill()
        shut(first, second, report, "a kill of dockerd, while it is dead")
        engine.start()
        wait_until(
            "the engine to answer to the daemon", lambda: stack.local_state(tenants[0].instance_id) == "running", 30
        )

    def kill_daemon() -> None:
        stack.kill_daemon()
        flush("mangle")
        tenant = home(stack, tenants[0]).pid
        with (
            connection(tenant, LAN, 8080) as forbidden,
            connection(tenant, INTERNET[0], 8080) as allowed,
            connection(tenant, six.LAN, 8080) as forbidden6,
            connection(tenant, six.INTERNET[0], 8080) as allowed6,
        ):
            report.check("a connection to the LAN stands while the walls are down", forbidden())
            report.check("one by IPv6 to the LAN stands while the walls are down", forbidden6())
            flush("filter")
            stack.start_daemon()
            mended(report, "mangle")
            mended(report, "filter")
            wait_until("the walls", lambda: all("-A KAALIA-REACH-" in rules("mangle", one) for one in FILTERS), MEND_S)
            report.check("a connection to the LAN dies with the walls' return", not forbidden())
            report.check("a connection to the internet outlives it all", allowed())
            report.check("one by IPv6 to the LAN dies with the walls' return", not forbidden6())
            report.check("one by IPv6 to the internet outlives it all", allowed6())

    def emptied(table: str) -> bool:
        """False: somebody mended a rule meanwhile, so that a chain is in use again."""
        flush(table)
        commands = ([program, "-t", table, "-X"] for program in FILTERS)
        return all(subprocess.run(one, check=False).returncode == 0 for one in commands)

    def reboot_of_the_rules() -> None:
        for table in ("mangle", "filter", "nat"):
            wait_until(f"an empty table {table}", partial(emptied, table), MEND_S)
        engine.restart()
        for table in ("mangle", "filter", "nat"):
            mended(report, table)

    return {
        "a stop and a start": stop_and_start,
        "a flush of table filter": flush_filter,
        "a flush of table mangle": partial(flushed, report, "mangle"),
        "a flush of table nat": partial(flushed, report, "nat"),
        "a kill of dockerd": kill_dockerd,
        "a kill of the daemon, and a flush while it is dead": kill_daemon,
        "a reboot of the rules": reboot_of_the_rules,
    }


def flush(table: str) -> None:
    for program in FILTERS:
        subprocess.run([program, "-t", table, "-F"], check=True)


def flushed(report: Report, table: str) -> None:
    flush(table)
    mended(report, table)


def mended(report: Report, table: str) -> None:
    """Own rules stand in this table again; how long that took is kept."""
    began_s = time.monotonic()
    wait_until(
        f"rules in table {table}", lambda: all("-A KAALIA-" in rules(table, one) for one in FILTERS), MEND_S, 0.02
    )
    report.worst(f"slowest_mending_of_{table}_s", time.monotonic() - began_s)


def rules(table: str, program: str = FILTERS[0]) -> str:
    return subprocess.run([f"{program}-save", "-t", table], check=True, capture_output=True, text=True).stdout
