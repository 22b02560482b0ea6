"""IPv6 for what lies around a machine: the same links and hosts as in `neighbourhood`, with more addresses.

All of it goes with the links. The internet's addresses are borrowed: nothing leaves these namespaces.
"""

import os
from pathlib import Path

from tests.support.neighbourhood import Around, inside, ip
from tests.support.waiting import wait_until

LAN, ROUTER = "fd77::2", "fd77::3"
MACHINE_ON_LAN, MACHINE_ON_INTERNET = "fd77::1", "2600:203::1"
NEIGHBOUR = "2600:203::2"
"""On the machine's own link by an address of the internet; the router to the internet too."""
INTERNET = ("2600:198::7", "2a00:198::8")
METADATA = "fd00:ec2::254"
CLOSED = (
    METADATA,
    "fc00::9",
    "fec0::9",
    "64:ff9b::c0a8:4d02",
    "64:ff9b:1::9",
    "100::9",
    "2001:0:9::9",
    "2001:2::9",
    "2001:db8::9",
    "2002:c0a8:4d02::9",
    "3fff::9",
    "4000::9",
)


def add_ipv6(around: Around) -> None:
    """The machine is the LAN's fd77::1, and has the internet behind 2600:203::2."""
    _address(around.lan, "lan0", MACHINE_ON_LAN, [f"{LAN}/64", f"{ROUTER}/64", *(f"{one}/128" for one in CLOSED)])
    _address(around.internet, "wan0", MACHINE_ON_INTERNET, [f"{NEIGHBOUR}/64", *(f"{one}/128" for one in INTERNET)])
    for one in CLOSED:
        ip("-6", "route", "add", one, "via", LAN)
    ip("-6", "route", "add", "default", "via", NEIGHBOUR)
    Path("/proc/sys/net/ipv6/conf/all/forwarding").write_text("1")


def add_tenant(pid: int, bridge: str, gateway: str, address: str) -> None:
    """A /64 on a bridge of the machine, as Docker makes it."""
    ip("-6", "address", "add", f"{gateway}/64", "dev", bridge, "nodad")
    inside(pid, "ip", "-6", "address", "add", f"{address}/64", "dev", "eth0", "nodad")
    inside(pid, "ip", "-6", "route", "add", "default", "via", gateway)


def settle(*pids: int) -> None:
    """Until nobody asks any more whether another host has his link-local address: from that neighbours are asked."""
    tentative = ("ip", "-6", "address", "show", "tentative")
    wait_until("link-local addresses", lambda: not any(inside(pid, *tentative) for pid in (os.getpid(), *pids)), 10)


def _address(pid: int, link: str, ours: str, theirs: list[str]) -> None:
    ip("-6", "address", "add", f"{ours}/64", "dev", link, "nodad")
    for one in theirs:
        inside(pid, "ip", "-6", "address", "add", one, "dev", "eth0", "nodad")
    inside(pid, "ip", "-6", "route", "add", "default", "via", ours)
