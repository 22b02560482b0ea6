"""How long a probe of a range of ports takes, and what it asks of the host's link, its router and its processor.

In the scene of `scripts/prove prober`: host, home router, provider and prober are network namespaces, daemon and prober
the real programs. The router forwards the whole range. Answering: all of it comes through. Silent: the host drops it,
before its own rules, so the router follows connections that nobody answers.
"""

import argparse
import json
import sys
import threading
import time
from dataclasses import asdict, dataclass
from typing import Any

import psutil

from kaalia.wire.probe import FIRST_PORT
from tests.proofs.prober import Scene, scene
from tests.proofs.report import Report

LOOK_S = 0.2
PATIENCE_S = 3600.0


@dataclass
class Cost:
    took_s: float = 0.0
    connections: int = 0
    packets: int = 0
    wire_bytes: int = 0
    packets_per_s: float = 0.0
    """Of the busiest second."""
    cpu_s: float = 0.0
    """Of the daemon."""
    proven: int = 0


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="scripts/bench ports", description=__doc__)
    parser.add_argument("--first", type=int, default=FIRST_PORT)
    parser.add_argument("--last", type=int, default=65535)
    parser.add_argument("--way", choices=("answering", "silent"), nargs="+", default=["answering", "silent"])
    options = parser.parse_args(argv)
    ports = range(options.first, options.last + 1)
    found = {way: measured(ports, way) for way in options.way}
    print(f"{'':10}{'s':>8}{'tracked':>9}{'packets':>10}{'MB':>7}{'most/s':>9}{'CPU s':>8}{'proven':>9}")
    for way, cost in found.items():
        sizes = f"{cost.packets:>10}{cost.wire_bytes / 1e6:>7.1f}{cost.packets_per_s:>9.0f}"
        print(f"{way:10}{cost.took_s:>8.1f}{cost.connections:>9}{sizes}{cost.cpu_s:>8.2f}{cost.proven:>9}")
    figures = {way: asdict(cost) for way, cost in found.items()}
    print(json.dumps({"benchmark": "ports", "first": ports[0], "last": ports[-1], "ways": figures}))
    return 0


def measured(ports: range, way: str) -> Cost:
    with scene(Report(lambda _: None), ports) as made:
        made.forward()
        if way == "silent":
            for words in ("-p tcp --syn", "-p udp"):
                made.nets.iptables("host", f"-t raw -A PREROUTING -i home {words} -j DROP")
        made.start_daemon()
        return _watched(made)


def _watched(made: Scene) -> Cost:
    cost, is_over = Cost(), threading.Event()
    assert made.daemon is not None
    daemon = psutil.Process(made.daemon.pid)
    before, cpu_before, began_s = _link(made), _cpu_s(daemon), time.monotonic()

    def look() -> None:
        last, last_s = before[0], began_s
        while not is_over.wait(LOOK_S):
            count = int(made.nets.run("home", "cat", "/proc/sys/net/netfilter/nf_conntrack_count"))
            cost.connections = max(cost.connections, count)
            now_s = time.monotonic()
            if now_s - last_s >= 1.0:
                packets = _link(made)[0]
                cost.packets_per_s = max(cost.packets_per_s, (packets - last) / (now_s - last_s))
                last, last_s = packets, now_s

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        found = made.probe(PATIENCE_S)
    finally:
        is_over.set()
        watcher.join()
    cost.took_s = time.monotonic() - began_s
    cost.packets, cost.wire_bytes = (now - then for now, then in zip(_link(made), before, strict=True))
    cost.cpu_s = _cpu_s(daemon) - cpu_before
    spans = [span for span in found["spans"] if span["state"] == "open"]
    cost.proven = sum(span["last"] - span["first"] + 1 for span in spans)
    return cost


def _link(made: Scene) -> tuple[int, int]:
    """Packets and bytes of the host's cable, both ways."""
    (link,) = json.loads(made.nets.run("host", "ip", "-json", "-statistics", "link", "show", "dev", "home"))
    stats: dict[str, Any] = link["stats64"]
    return tuple(stats["rx"][what] + stats["tx"][what] for what in ("packets", "bytes"))


def _cpu_s(process: psutil.Process) -> float:
    """With children that have ended."""
    times = process.cpu_times()
    return float(times.user + times.system + times.children_user + times.children_system)


if __name__ == "__main__":
    sys.exit(main())
