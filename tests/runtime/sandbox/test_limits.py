"""How much a tenant may do at once: connections and bandwidth, in the kernel of a namespace of our own."""

import json
import socket
import subprocess
import sys
import time

import pytest

from kaalia.host import netfilter, shaping
from kaalia.host.netfilter import Family
from kaalia.model.traffic import Counter
from kaalia.runtime.sandbox import rules
from kaalia.runtime.sandbox.counters import PacketCounters
from kaalia.runtime.sandbox.rules import Enclosure, Reach
from tests.runtime.sandbox.conftest import MACHINE, Scene
from tests.support.neighbourhood import INTERNET, Door, closed, connection, inside, knock, opened


async def test_new_connections_are_limited_by_contract(scene: Scene) -> None:
    walls = scene.walls(Reach(connections_per_s=1))
    await walls.stand(51)
    await walls.stand(52)
    doors: list[Door] = [("tcp", INTERNET[0], 443)] * 3

    spent = inside(scene.first, sys.executable, "-I", "-c", _FLOOD, INTERNET[0], rules.CONNECTIONS_BURST)

    assert int(spent) == rules.CONNECTIONS_BURST
    assert opened(knock(scene.first, doors, 0.3)) == []
    assert not closed(knock(scene.second, doors))


async def test_another_limit_takes_effect_at_once(scene: Scene) -> None:
    """The kernel finds its tables of paces by name, with the settings that they were made with."""
    await scene.walls(Reach(connections_per_s=1)).stand(51)
    inside(scene.first, sys.executable, "-I", "-c", _FLOOD, INTERNET[0], rules.CONNECTIONS_BURST)
    doors: list[Door] = [("tcp", INTERNET[0], port) for port in (22, 53, 443)]
    assert closed(knock(scene.first, doors, 0.3)) == doors

    await scene.walls(Reach(connections_per_s=1000)).mend()

    assert not closed(knock(scene.first, doors, 0.3))


async def test_what_nobody_answers_is_one_connection(scene: Scene) -> None:
    await scene.walls(Reach(connections_per_s=1)).stand(51)

    inside(scene.first, sys.executable, "-I", "-c", _MONOLOGUE, INTERNET[0], 2 * rules.CONNECTIONS_BURST)

    assert not closed(knock(scene.first, [("tcp", INTERNET[0], port) for port in (22, 53, 443)], 0.3))


async def test_who_holds_too_many_connections_begins_no_other(scene: Scene) -> None:
    """One in 32 is counted: 1,600 are some 50 of these, 5,000 some 156."""
    walls = scene.walls(Reach(connections=100 * rules.SAMPLE, connections_per_s=None))
    await walls.stand(51)
    await walls.stand(52)
    doors: list[Door] = [("tcp", INTERNET[0], port) for port in (22, 53, 443)]
    with connection(scene.first, INTERNET[0], 8080) as early:
        inside(scene.first, sys.executable, "-I", "-c", _FLOOD, INTERNET[0], 1600)
        assert not closed(knock(scene.first, doors, 0.5))
        inside(scene.first, sys.executable, "-I", "-c", _FLOOD, INTERNET[0], 5000)

        assert opened(knock(scene.first, doors, 0.5)) == []
        assert early()
    assert not closed(knock(scene.second, doors))


_MONOLOGUE = """
import socket, sys
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
    for _ in range(int(sys.argv[2])):
        sock.sendto(b"x", (sys.argv[1], 9))
"""
_FLOOD = """
import socket, sys
sent = 0
for number in range(int(sys.argv[2])):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("", 10000 + number))
        sent += sock.sendto(b"x", (sys.argv[1], 9))
print(sent)
"""


@pytest.mark.parametrize("direction", ["up", "down"])
async def test_a_contract_is_held_to_its_bandwidth(scene: Scene, direction: str) -> None:
    bits_per_s, size_bytes = 16_000_000, 12_000_000
    burst_bytes = 3 * bits_per_s // 8 if direction == "up" else 0
    await scene.walls(Reach(bits_per_s=bits_per_s)).stand(51)
    argv = ["nsenter", f"--net=/proc/{scene.first}/ns/net", sys.executable, "-I", "-c", _PEER, direction]
    with subprocess.Popen([*argv, str(size_bytes)], stdout=subprocess.PIPE, text=True) as tenant:
        assert tenant.stdout is not None
        assert tenant.stdout.readline() == "ready\n"
        began_s = time.monotonic()
        with socket.create_connection(("10.214.0.2", 7000)) as sock:
            if direction == "down":
                sock.sendall(bytes(size_bytes))
            while sock.recv(65_536):
                pass
        took_s = time.monotonic() - began_s

    assert 0.9 < took_s / (8 * (size_bytes - burst_bytes) / bits_per_s) < 3


_PEER = """
import socket, sys
left = int(sys.argv[2])
with socket.create_server(("", 7000)) as server:
    print("ready", flush=True)
    with server.accept()[0] as peer:
        if sys.argv[1] == "up":
            peer.sendall(bytes(left))
        else:
            while left:
                left -= len(peer.recv(65536))
"""


@pytest.mark.parametrize("bits_per_s", [100_000, 1_000_000, 16_000_000])
async def test_what_is_above_the_bandwidth_is_not_counted(scene: Scene, bits_per_s: int) -> None:
    """Nor charged. Four times the bandwidth comes for 6 s; a second's worth may come as a burst."""
    seconds = 6
    counters, counter = PacketCounters(MACHINE), Counter(51, "10.214.0.0/28", "000a")
    await counters.build([counter])
    await scene.walls(Reach(bits_per_s=bits_per_s)).mend()
    before = arrived_bytes(scene.first)

    inside(scene.internet, sys.executable, "-I", "-c", _STREAM, "10.214.0.2", bits_per_s // 2, seconds)

    arrived = arrived_bytes(scene.first) - before
    (reading,) = (await counters.read()).readings
    assert arrived > 0.9 * bits_per_s / 8 * seconds
    assert reading.raw.down - arrived < 1.1 * bits_per_s / 8


@pytest.mark.parametrize("bits_per_s", [250_000, 1_000_000])
async def test_a_slow_download_keeps_its_bandwidth_and_what_is_sent_again_costs_little(
    scene: Scene, bits_per_s: int
) -> None:
    """The bridge alone would drop a third of what comes, after it was counted."""
    seconds = 10
    counters = PacketCounters(MACHINE)
    await counters.build([Counter(51, "10.214.0.0/28", "000a")])
    await scene.walls(Reach(bits_per_s=bits_per_s)).mend()
    argv = ["nsenter", f"--net=/proc/{scene.first}/ns/net", sys.executable, "-I", "-c", _PEER, "down", str(2**40)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as tenant:
        assert tenant.stdout is not None
        assert tenant.stdout.readline() == "ready\n"
        inside(scene.internet, sys.executable, "-I", "-c", _DOWNLOAD, "10.214.0.2", seconds)
        tenant.kill()

    arrived = arrived_bytes(scene.first)
    (reading,) = (await counters.read()).readings
    assert arrived > 0.9 * bits_per_s / 8 * seconds
    assert reading.raw.down < 1.15 * arrived


_DOWNLOAD = """
import socket, sys, time
until_s = time.monotonic() + float(sys.argv[2])
with socket.create_connection((sys.argv[1], 7000)) as sock:
    sock.setblocking(False)
    while time.monotonic() < until_s:
        try:
            sock.send(bytes(65536))
        except BlockingIOError:
            time.sleep(0.01)
"""


def arrived_bytes(pid: int) -> int:
    """What came by the tenant's own interface."""
    (link,) = json.loads(inside(pid, "ip", "-json", "-statistics", "link", "show", "dev", "eth0"))
    return int(link["stats64"]["rx"]["bytes"])


_STREAM = """
import socket, sys, time
address, bytes_per_s, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
began_s, sent = time.monotonic(), 0
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
    while (passed_s := time.monotonic() - began_s) < seconds:
        while sent < passed_s * bytes_per_s:
            sent += sock.sendto(bytes(1200), (address, 9))
        time.sleep(0.001)
"""


async def test_limits_of_bandwidth_are_mended_and_taken_away(scene: Scene) -> None:
    scene.networks.append(Enclosure(53, "br-absent", "10.214.2.0/28"))
    walls = scene.walls(Reach(bits_per_s=8_000_000))
    await walls.mend()
    subprocess.run(["tc", "qdisc", "delete", "dev", "br-first", "root"], check=True)
    await walls.mend()
    limited = await shaping.limits()
    pace = rules.names(MACHINE).pace
    subprocess.run(["iptables", "-t", "mangle", "-F", pace], check=True)
    mended = await walls.mend()
    held = await netfilter.saved(Family.IPV4, "mangle")

    await scene.walls().mend()
    unlimited = await shaping.limits()
    after = await netfilter.saved(Family.IPV4, "mangle")

    assert (mended.chains, len(held[pace]), len(after[pace])) == ((pace,), 1, 0)

    assert (limited["br-first"], limited["br-second"]) == (8_000_000, 8_000_000)
    assert [one for one, rate in unlimited.items() if rate is not None] == []


@pytest.mark.parametrize("mbit", [0.1, 1, 100, 1000, 2500, 10_000])
async def test_every_bandwidth_is_one_that_the_kernel_takes(scene: Scene, mbit: float) -> None:
    walls = scene.walls(Reach(bits_per_s=round(mbit * 125_000) * 8))
    await walls.mend()

    assert (await walls.mend()).chains == ()
    assert (await shaping.limits())["br-first"] == round(mbit * 125_000) * 8
