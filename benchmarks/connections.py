"""What a tenant's new connection costs the machine that follows many of its connections, in three firewalls in turns.

Without a limit; with kaalia's (one connection in `rules.SAMPLE` is counted); with every connection counted. A tenant in
a namespace holds connections of UDP, then begins one every 5 ms: each is timed from the system call to its return, in
which the packet has passed bridge and rules.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence

from kaalia.contracts.ports import SUBNET_PREFIX
from kaalia.host.netfilter import Rule
from kaalia.runtime.sandbox import rules
from tests.support.neighbourhood import INTERNET, inside, neighbourhood, tenant
from tests.support.own_network import own_network

NEW = ("-m", "conntrack", "--ctstate", "NEW", "!", "--ctstatus", "CONFIRMED")
MANY = 10_000_000
"""A limit that nobody comes to."""
ALL = ("-m", "connlimit", "--connlimit-above", str(MANY), "--connlimit-mask", str(SUBNET_PREFIX), "--connlimit-saddr")
WAYS: dict[str, Sequence[Rule]] = {"none": (), "sampled": rules.hold(rules.names("7@0"), MANY), "all": (ALL,)}
_BEGIN = """
import socket, statistics, sys, time
address, port, count, pause_s = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
took_s = []
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
    sock.bind(("", port))
    for number in range(count):
        time.sleep(pause_s) if pause_s else None
        began_s = time.perf_counter()
        sock.sendto(b"x", (address, 1 + number))
        took_s.append(time.perf_counter() - began_s)
print(statistics.mean(took_s) * 1e6, max(took_s) * 1e6)
"""


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="scripts/bench connections", description=__doc__)
    parser.add_argument("--held", type=int, nargs="+", default=[1000, 4000, 16_000])
    parser.add_argument("--begun", type=int, default=200)
    options = parser.parse_args(argv)
    figures = {held: {way: measured(way, held, options.begun) for way in WAYS} for held in options.held}
    print(f"{'held':>8}" + "".join(f"{way + ' us':>14}{'max us':>10}" for way in WAYS))
    for held, found in figures.items():
        print(f"{held:>8}" + "".join(f"{mean:>14.0f}{most:>10.0f}" for mean, most in found.values()))
    print(json.dumps({"benchmark": "connections", "begun": options.begun, "mean_and_max_us": figures}))
    return 0


def measured(way: str, held: int, begun: int) -> tuple[float, float]:
    """Mean and longest time of a new connection, in microseconds."""
    with own_network(), neighbourhood() as around, tenant("br-first", "10.214.0") as pid:
        # Nobody answers: the kernel keeps each for 30 s.
        inside(around.internet, "iptables", "-A", "INPUT", "-p", "udp", "-j", "DROP")
        follow = ("-m", "conntrack", "--ctstate", "INVALID")
        for words in (follow, *((*NEW, *one) for one in WAYS[way])):
            command = ["iptables", "-t", "mangle", "-A", "PREROUTING", "-i", "br-first", *words, "-j", "DROP"]
            subprocess.run(command, check=True)
        inside(pid, sys.executable, "-I", "-c", _BEGIN, INTERNET[1], 5000, held, 0)
        mean, most = inside(pid, sys.executable, "-I", "-c", _BEGIN, INTERNET[1], 6000, begun, 0.005).split()
        return float(mean), float(most)


if __name__ == "__main__":
    sys.exit(main())
