"""What a tenant reaches, asked of the kernel itself: every door is knocked at with and without walls."""

import asyncio
import os
import subprocess
import time
from pathlib import Path

import pytest

from kaalia.errors import WorkloadError
from kaalia.host import netfilter
from kaalia.host.netfilter import Family
from kaalia.runtime.sandbox import rules
from kaalia.runtime.sandbox.rules import Reach
from tests.runtime.sandbox.conftest import MACHINE, Scene
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
    Door,
    closed,
    connection,
    inside,
    ip,
    knock,
    opened,
)
from tests.support.sysfs import write_files

OWN = rules.names(MACHINE)
MACHINES = ("10.214.0.1", "10.214.1.1", MACHINE_ON_LAN, MACHINE_ON_INTERNET)
FORBIDDEN: list[Door] = [
    *(("tcp", address, port) for address in (*MACHINES, LAN, METADATA, *PRIVATE, "10.214.1.2") for port in (22, 80)),
    *(("udp", address, port) for address in (*MACHINES, LAN, METADATA, *PRIVATE, "10.214.1.2") for port in (53, 123)),
    *(("tcp", INTERNET[0], port) for port in (25, 465, 587)),
    ("udp", GROUP, MDNS),
    ("udp", "10.214.0.15", MDNS),
]
ALLOWED: list[Door] = [
    *(("tcp", address, port) for address in INTERNET for port in (22, 53, 443, 8080)),
    *(("udp", address, port) for address in INTERNET for port in (53, 123, 4433)),
]


async def test_without_walls_every_door_is_open(scene: Scene) -> None:
    """Or else the other tests would prove nothing."""
    assert not closed(knock(scene.first, [*FORBIDDEN, *ALLOWED]))


async def test_a_tenant_reaches_the_internet_and_nothing_else(scene: Scene) -> None:
    await scene.walls().stand(51)

    found = knock(scene.first, [*FORBIDDEN, *ALLOWED])

    assert opened(found) == ALLOWED


async def test_the_machine_and_the_lan_reach_the_tenant(scene: Scene) -> None:
    """Whoever is asked may answer."""
    await scene.walls().stand(51)
    doors: list[Door] = [("tcp", "10.214.0.2", 8080), ("udp", "10.214.0.2", 4433)]

    assert closed(knock(scene.second, doors)) == doors
    assert not closed(knock(os.getpid(), doors))


async def test_what_was_begun_while_the_walls_were_down_ends_with_them(scene: Scene) -> None:
    # As Docker does, for the kernel to follow connections while there are no walls.
    subprocess.run(
        ["iptables", "-A", "FORWARD", "-m", "conntrack", "--ctstate", "ESTABLISHED", "-j", "ACCEPT"], check=True
    )
    with (
        connection(scene.first, LAN, 8080) as forbidden,
        connection(scene.first, INTERNET[0], 8080) as allowed,
        connection(os.getpid(), "10.214.0.2", 8080) as asked,
    ):
        assert forbidden()
        await scene.walls().stand(51)

        assert not forbidden()
        assert allowed()
        assert asked()


async def test_name_servers_of_the_machine_answer_wherever_they_are(scene: Scene, tmp_path: Path) -> None:
    write_files(tmp_path, {"etc/resolv.conf": f"nameserver {ROUTER}\nnameserver {MACHINE_ON_LAN}\nnameserver ::1\n"})

    await scene.walls(root=tmp_path).stand(51)

    doors: list[Door] = [(kind, one, 53) for one in (ROUTER, MACHINE_ON_LAN) for kind in ("udp", "tcp")]
    others: list[Door] = [("tcp", ROUTER, 22), ("udp", ROUTER, 123), ("tcp", MACHINE_ON_LAN, 22), ("udp", LAN, 53)]
    assert opened(knock(scene.first, [*doors, *others])) == doors


async def test_a_name_server_of_yesterday_answers_as_long_as_there_are_tenants(scene: Scene, tmp_path: Path) -> None:
    """Docker's resolver asks, for each container, those that the machine had when it started."""
    old, new = ROUTER, LAN
    doors: list[Door] = [("udp", old, 53), ("udp", new, 53)]
    write_files(tmp_path, {"etc/resolv.conf": f"nameserver {old}\n"})
    walls = scene.walls(root=tmp_path)
    await walls.stand(51)
    write_files(tmp_path, {"etc/resolv.conf": f"nameserver {new}\n"})

    await walls.mend()
    assert not closed(knock(scene.first, doors))
    after_a_restart = scene.walls(root=tmp_path)
    await after_a_restart.mend()
    assert not closed(knock(scene.first, doors))

    networks, scene.networks = scene.networks, []
    await after_a_restart.mend()
    scene.networks = networks
    await after_a_restart.mend()
    assert opened(knock(scene.first, doors)) == doors[1:]


async def test_what_the_owner_allows_is_open(scene: Scene) -> None:
    await scene.walls(Reach(allow=("192.168.77.0/24", "10.0.0.0/8"))).stand(51)

    doors: list[Door] = [("tcp", LAN, 25), ("tcp", LAN, 80), ("udp", ROUTER, 123), ("tcp", "10.99.0.9", 80)]
    others: list[Door] = [("tcp", one, 22) for one in (*MACHINES, "10.214.1.2", METADATA, "172.20.0.9")]
    assert opened(knock(scene.first, [*doors, *others])) == doors


async def test_the_machine_itself_is_open_only_by_its_own_address(scene: Scene) -> None:
    await scene.walls(Reach(allow=(f"{MACHINE_ON_LAN}/32", METADATA))).stand(51)

    doors: list[Door] = [("tcp", MACHINE_ON_LAN, 80), ("tcp", METADATA, 80), ("tcp", MACHINE_ON_INTERNET, 80)]
    assert opened(knock(scene.first, doors)) == doors[:2]


async def test_mail_leaves_where_the_owner_says_so(scene: Scene) -> None:
    await scene.walls(Reach(blocks_smtp=False)).stand(51)

    assert not closed(knock(scene.first, [("tcp", INTERNET[0], port) for port in (25, 465, 587)]))


async def test_nobody_speaks_by_another_address_or_by_ipv6(scene: Scene) -> None:
    inside(scene.first, "ip", "address", "add", "192.168.77.200/32", "dev", "eth0")
    inside(scene.first, "ip", "-6", "address", "add", "fd00:51::2/64", "dev", "eth0", "nodad")
    ip("-6", "address", "add", "fd00:51::1/64", "dev", "br-first", "nodad")
    ip("route", "add", "192.168.77.200/32", "dev", "br-first")
    foreign: Door = ("tcp", "fd00:51::1", 80)
    assert not closed(knock(scene.first, [foreign]))
    inside(scene.first, "ip", "route", "replace", "default", "via", "10.214.0.1", "src", "192.168.77.200")

    await scene.walls().stand(51)

    assert not opened(knock(scene.first, [foreign, *ALLOWED]))


async def test_ipv6_that_is_switched_on_later_meets_walls(scene: Scene, tmp_path: Path) -> None:
    walls = scene.walls(root=tmp_path)
    await walls.stand(51)
    assert OWN.walls not in await table(Family.IPV6)
    write_files(tmp_path, {"proc/net/if_inet6": f"{1:032x} 01 80 10 80 lo"})

    await walls.mend()

    assert [rule.text.split()[1] for rule in (await table(Family.IPV6))[OWN.walls]] == ["br-first", "br-second"]


async def table(family: Family = Family.IPV4, name: str = "mangle") -> netfilter.Saved:
    return await netfilter.saved(family, name)


async def test_walls_of_others_stand_while_one_is_added_or_gone(scene: Scene) -> None:
    walls = scene.walls()
    await walls.stand(51)
    await walls.stand(52)
    assert (await walls.mend()).chains == ()
    both = await table()

    del scene.networks[0]
    walls.forget(51)
    assert (await walls.mend()).chains == ()

    texts = [rule.text for rule in (await table())[OWN.walls]]
    assert [rule.text for rule in both[OWN.walls][2:]] == texts
    assert all("br-second" in text for text in texts)
    assert not opened(knock(scene.second, [("tcp", LAN, 80)]))


async def test_what_the_kernel_counts_of_others_stays_when_one_is_gone(scene: Scene) -> None:
    walls = scene.walls()
    await walls.stand(51)
    await walls.stand(52)
    await walls.mend()
    assert not opened(knock(scene.first, FORBIDDEN[:3], 0.3))
    before = sum(rule.packets for rule in (await netfilter.saved(Family.IPV4, "mangle", with_counters=True))[OWN.reach])

    del scene.networks[1]
    await walls.mend()

    after = await netfilter.saved(Family.IPV4, "mangle", with_counters=True)
    assert sum(rule.packets for rule in after[OWN.reach]) >= before > 0
    assert not any("br-second" in rule.text for rule in after[OWN.walls])


async def test_a_restarted_daemon_keeps_what_stands(scene: Scene) -> None:
    await scene.walls().stand(51)

    again = scene.walls()
    await again.stand(52)

    assert [rule.text.split()[3] for rule in (await table())[OWN.walls]][::2] == ["br-first", "br-second"]
    assert [rule.text for rule in (await table())["PREROUTING"]] == [f"-j {OWN.walls}"]


FAULTS = [
    (["-t", "mangle", "-F"], True),
    (["-t", "mangle", "-F", OWN.walls], True),
    (["-t", "mangle", "-F", OWN.reach], True),
    (["-t", "mangle", "-D", OWN.reach, "-d", "192.168.0.0/16", "-j", "DROP"], True),
    (["-t", "mangle", "-I", "PREROUTING", "1", "-j", "ACCEPT"], True),
    (["-t", "mangle", "-A", "PREROUTING", "-j", OWN.walls], True),
    (["-t", "mangle", "-I", OWN.walls, "-j", "RETURN"], True),
    (["-F"], True),
    (["-t", "mangle", "-A", "POSTROUTING", "-j", "ACCEPT"], False),
    (["-t", "nat", "-F"], False),
    (["-A", "INPUT", "-j", "ACCEPT"], False),
]


@pytest.mark.parametrize(("fault", "is_ours"), FAULTS, ids=[" ".join(fault[0]) for fault in FAULTS])
async def test_what_others_change_is_mended_and_told(scene: Scene, fault: list[str], is_ours: bool) -> None:
    walls = scene.walls()
    await walls.stand(51)
    await walls.mend()
    subprocess.run(["iptables", *fault], check=True)

    assert bool((await walls.mend()).chains) is is_ours
    assert (await walls.mend()).chains == ()
    assert opened(knock(scene.first, [*FORBIDDEN[::5], *ALLOWED])) == ALLOWED


@pytest.mark.parametrize("fault", [["-t", "mangle", "-F"], ["-t", "mangle", "-I", "PREROUTING", "1", "-j", "ACCEPT"]])
async def test_a_start_raises_fallen_walls_itself(scene: Scene, fault: list[str]) -> None:
    walls = scene.walls()
    await walls.stand(51)
    subprocess.run(["iptables", *fault], check=True)

    await walls.stand(52)

    foreign = [door for door in FORBIDDEN if not door[1].startswith("10.214.")]
    for pid in (scene.first, scene.second):
        assert opened(knock(pid, [*foreign[::5], *ALLOWED])) == ALLOWED
    assert "PREROUTING" in (await walls.mend()).chains
    assert (await walls.mend()).chains == ()


async def test_docker_s_own_permits_are_replaced_when_they_are_gone(scene: Scene) -> None:
    """Docker makes DROP the policy of FORWARD, and nothing puts its rules back after a flush."""
    subprocess.run(["iptables", "-P", "FORWARD", "DROP"], check=True)
    walls = scene.walls()
    await walls.stand(51)
    assert not opened(knock(scene.first, ALLOWED[:3]))

    await walls.mend()

    assert opened(knock(scene.first, [*FORBIDDEN[::5], *ALLOWED])) == ALLOWED


async def test_foreign_rules_and_those_of_another_machine_stay(scene: Scene) -> None:
    subprocess.run(
        ["iptables", "-t", "mangle", "-A", "PREROUTING", "-p", "udp", "-j", "MARK", "--set-mark", "7"], check=True
    )
    other = scene.walls(machine="8@0123456789abcdef")
    await other.stand(51)
    theirs = rules.names("8@0123456789abcdef")
    before = await table()

    walls = scene.walls()
    await walls.stand(51)
    await walls.mend()

    after = await table()
    assert after[theirs.walls] == before[theirs.walls]
    assert after[theirs.reach] == before[theirs.reach]
    assert after["PREROUTING"][1:] == before["PREROUTING"]


async def test_two_daemons_of_one_machine_leave_each_other_in_peace(scene: Scene) -> None:
    first, second = scene.walls(), scene.walls(machine="8@0123456789abcdef")
    await first.mend()
    await second.mend()

    found = [await walls.mend() for walls in (first, second, first, second)]

    assert [one.chains for one in found] == [()] * 4
    assert opened(knock(scene.first, [*FORBIDDEN[::5], *ALLOWED])) == ALLOWED


async def test_without_a_firewall_nothing_starts(scene: Scene, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(WorkloadError) as caught:
        await scene.walls().stand(51)

    assert caught.value.code == "walls_failed"
    assert "iptables-save is not on this machine" in caught.value.problem.message
    assert "install iptables" in caught.value.problem.remedy


async def test_a_contract_without_a_network_does_not_start(scene: Scene) -> None:
    with pytest.raises(WorkloadError, match="cannot find the network kaalia-53"):
        await scene.walls().stand(53)


async def test_a_silent_engine_leaves_what_is_known(scene: Scene) -> None:
    walls = scene.walls()
    await walls.stand(51)
    scene.is_silent = True
    subprocess.run(["iptables", "-t", "mangle", "-F"], check=True)

    await walls.mend()

    assert not opened(knock(scene.first, FORBIDDEN[::5]))


@pytest.mark.parametrize("fault", [["-F"], ["-t", "mangle", "-F"], ["-t", "mangle", "-D", "PREROUTING", "1"]])
async def test_a_flush_is_heard(scene: Scene, fault: list[str]) -> None:
    walls = scene.walls()
    await walls.stand(51)
    await walls.mend()
    await walls.alarmed(0.0)
    try:
        waiting = asyncio.gather(walls.alarmed(30.0))
        await asyncio.sleep(0.1)
        assert not waiting.done()
        process = await asyncio.create_subprocess_exec("iptables", *fault)
        assert await process.wait() == 0
        async with asyncio.timeout(30):
            await waiting
    finally:
        walls.close()


async def test_what_docker_does_with_its_own_rules_is_not_heard(scene: Scene) -> None:
    walls = scene.walls()
    await walls.stand(51)
    await walls.mend()
    await walls.alarmed(0.0)
    try:
        waiting = asyncio.gather(walls.alarmed(0.5))
        await asyncio.sleep(0.1)
        for rule in (["-N", "DOCKER"], ["-I", "FORWARD", "-j", "DOCKER"], ["-t", "nat", "-N", "DOCKER"]):
            process = await asyncio.create_subprocess_exec("iptables", *rule)
            assert await process.wait() == 0
        began_s = time.monotonic()
        await waiting
        assert time.monotonic() - began_s > 0.1
    finally:
        walls.close()
