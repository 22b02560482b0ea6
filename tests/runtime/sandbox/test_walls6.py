"""What a tenant with IPv6 reaches by it, asked of the kernel itself, as `test_walls` does for IPv4."""

import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from kaalia.contracts.ports import ipv6_pool
from kaalia.host import netfilter
from kaalia.host.netfilter import Family
from kaalia.runtime.sandbox import rules
from kaalia.runtime.sandbox.rules import Reach
from tests.runtime.sandbox.conftest import MACHINE, Scene, gateway6
from tests.support import neighbourhood
from tests.support.neighbourhood import Door, closed, connection, inside, ip, knock, opened
from tests.support.neighbourhood6 import (
    CLOSED,
    INTERNET,
    LAN,
    MACHINE_ON_INTERNET,
    MACHINE_ON_LAN,
    METADATA,
    NEIGHBOUR,
    ROUTER,
)
from tests.support.sysfs import write_files

OWN = rules.names(MACHINE)
ALLOWED: list[Door] = [
    *(("tcp", address, port) for address in INTERNET for port in (22, 53, 443, 8080)),
    *(("udp", address, port) for address in INTERNET for port in (53, 123, 4433)),
]
KINDS = (("tcp", 22), ("tcp", 80), ("udp", 53), ("udp", 4433))


def forbidden(scene: Scene) -> list[Door]:
    mine, other = scene.networks
    addresses = (gateway6(mine), gateway6(other), other.address6, MACHINE_ON_LAN, MACHINE_ON_INTERNET, LAN, NEIGHBOUR)
    links = (f"{link_local(mine.bridge)}%eth0",)
    doors = [(kind, address, port) for address in (*addresses, *CLOSED, *links) for kind, port in KINDS]
    return [*doors, *(("tcp", INTERNET[0], port) for port in (25, 465, 587))]


def link_local(link: str) -> str:
    shown = subprocess.run(
        ["ip", "-6", "-o", "address", "show", "dev", link, "scope", "link"], check=True, capture_output=True, text=True
    ).stdout
    return shown.split()[3].partition("/")[0]


async def table(name: str = "mangle") -> netfilter.Saved:
    return await netfilter.saved(Family.IPV6, name)


async def test_without_walls_every_door_is_open(scene6: Scene) -> None:
    """Or else the other tests would prove nothing."""
    assert not closed(knock(scene6.first, [*forbidden(scene6), *ALLOWED]))


async def test_a_tenant_reaches_the_internet_and_nothing_else(scene6: Scene) -> None:
    await scene6.walls().stand(51)
    await scene6.walls().stand(52)

    for pid in (scene6.first, scene6.second):
        inside(pid, "ip", "-6", "neigh", "flush", "all")
    ip("-6", "neigh", "flush", "all")
    found = knock(scene6.first, [*forbidden(scene6), *ALLOWED, *IPV4])

    assert opened(found) == [*ALLOWED, *IPV4]


IPV4: list[Door] = [("tcp", neighbourhood.INTERNET[0], 443), ("udp", neighbourhood.INTERNET[1], 53)]


async def test_the_machine_and_the_lan_reach_the_tenant_and_it_answers(scene6: Scene) -> None:
    await scene6.walls().stand(51)
    doors: list[Door] = [("tcp", scene6.networks[0].address6, 8080), ("udp", scene6.networks[0].address6, 4433)]

    assert closed(knock(scene6.second, doors)) == doors
    assert not closed(knock(os.getpid(), doors))


async def test_what_was_begun_while_the_walls_were_down_ends_with_them(scene6: Scene) -> None:
    subprocess.run(
        ["ip6tables", "-A", "FORWARD", "-m", "conntrack", "--ctstate", "ESTABLISHED", "-j", "ACCEPT"], check=True
    )
    with (
        connection(scene6.first, LAN, 8080) as shut,
        connection(scene6.first, INTERNET[0], 8080) as open_,
        connection(os.getpid(), scene6.networks[0].address6, 8080) as asked,
    ):
        assert shut()
        await scene6.walls().stand(51)

        assert not shut()
        assert open_()
        assert asked()


async def test_name_servers_of_the_machine_answer_wherever_they_are(scene6: Scene, tmp_path: Path) -> None:
    write_files(
        tmp_path,
        {
            "etc/resolv.conf": f"nameserver {ROUTER}\nnameserver {MACHINE_ON_LAN}\nnameserver fe80::1%lan0\n",
            "proc/net/if_inet6": Path("/proc/net/if_inet6").read_text(),
        },
    )

    await scene6.walls(root=tmp_path).stand(51)
    again = scene6.walls(root=tmp_path)
    (tmp_path / "etc/resolv.conf").write_text("")
    await again.mend()

    doors: list[Door] = [(kind, one, 53) for one in (ROUTER, MACHINE_ON_LAN) for kind in ("udp", "tcp")]
    others: list[Door] = [("tcp", ROUTER, 22), ("udp", ROUTER, 123), ("tcp", MACHINE_ON_LAN, 22), ("udp", LAN, 53)]
    assert opened(knock(scene6.first, [*doors, *others])) == doors


async def test_what_the_owner_allows_is_open(scene6: Scene) -> None:
    allow = ("fd77::/64", ipv6_pool(MACHINE), f"{NEIGHBOUR}/128", METADATA, "192.168.77.2/32", "ff00::/8")
    await scene6.walls(Reach(allow=allow)).stand(51)

    doors: list[Door] = [("tcp", LAN, 25), ("udp", ROUTER, 123), ("tcp", NEIGHBOUR, 80), ("tcp", METADATA, 80)]
    mine, other = scene6.networks
    others = (gateway6(mine), other.address6, MACHINE_ON_LAN, MACHINE_ON_INTERNET, CLOSED[1])
    shut: list[Door] = [("tcp", one, 22) for one in others]
    assert opened(knock(scene6.first, [*doors, *shut])) == doors
    assert knock(scene6.first, [("tcp", neighbourhood.LAN, 80)]) == {("tcp", neighbourhood.LAN, 80): True}


async def test_nobody_speaks_by_another_address(scene6: Scene) -> None:
    """Not even by another one of its own network: of these there are more than the machine can remember."""
    stranger = scene6.networks[0].address6.removesuffix("2") + "3"
    inside(scene6.first, "ip", "-6", "address", "add", f"{stranger}/64", "dev", "eth0", "nodad")
    use = ("ip", "-6", "route", "replace", "default", "via", gateway6(scene6.networks[0]), "src")
    inside(scene6.first, *use, stranger)
    assert not closed(knock(scene6.first, ALLOWED))

    await scene6.walls().stand(51)

    assert not opened(knock(scene6.first, ALLOWED))
    inside(scene6.first, *use, scene6.networks[0].address6)
    assert not closed(knock(scene6.first, ALLOWED))


async def test_a_network_without_ipv6_stands_beside_one_that_has_it(scene6: Scene) -> None:
    walls = scene6.walls()
    six = list(scene6.networks)
    scene6.networks[:] = [replace(six[0], subnet6=""), replace(six[1], subnet6="")]
    await walls.stand(51)
    assert OWN.reach not in await table()
    scene6.networks[1] = six[1]
    walls.expect(six[1])

    await walls.stand(52)

    assert not opened(knock(scene6.first, ALLOWED))
    assert opened(knock(scene6.second, [("tcp", LAN, 80), *ALLOWED])) == ALLOWED
    assert (await walls.mend()).chains == ()


FAULTS = [
    ["-t", "mangle", "-F"],
    ["-t", "mangle", "-F", OWN.walls],
    ["-t", "mangle", "-F", OWN.reach],
    ["-t", "mangle", "-F", OWN.near],
    ["-t", "mangle", "-D", OWN.reach, "-d", "8000::/1", "-j", "DROP"],
    ["-t", "mangle", "-I", "PREROUTING", "1", "-j", "ACCEPT"],
    ["-F"],
]


@pytest.mark.parametrize("fault", FAULTS, ids=[" ".join(fault) for fault in FAULTS])
async def test_what_others_change_is_mended_and_told(scene6: Scene, fault: list[str]) -> None:
    subprocess.run(["ip6tables", "-P", "FORWARD", "DROP"], check=True)
    walls = scene6.walls()
    await walls.stand(51)
    await walls.mend()
    assert (await walls.mend()).chains == ()
    subprocess.run(["ip6tables", *fault], check=True)

    assert (await walls.mend()).chains
    assert (await walls.mend()).chains == ()
    assert opened(knock(scene6.first, [*forbidden(scene6)[::5], *ALLOWED])) == ALLOWED


async def test_a_start_raises_fallen_walls_itself(scene6: Scene) -> None:
    walls = scene6.walls()
    await walls.stand(51)
    subprocess.run(["ip6tables", "-t", "mangle", "-F"], check=True)

    await walls.stand(52)

    assert opened(knock(scene6.first, [*forbidden(scene6)[::5], *ALLOWED])) == ALLOWED


async def test_the_limits_hold_each_contract(scene6: Scene) -> None:
    await scene6.walls(Reach(connections_per_s=50, connections=3200, bits_per_s=100_000_000)).stand(51)

    reach = [one.text for one in (await table())[OWN.reach]]
    (pace,) = (one.text for one in (await table())[OWN.pace])

    assert sum("--hashlimit-srcmask 64" in text for text in reach) == 2
    assert any("--connlimit-above 100 --connlimit-mask 64" in text for text in reach)
    assert f"-d {ipv6_pool(MACHINE)}" in pace
    assert opened(knock(scene6.first, ALLOWED)) == ALLOWED
