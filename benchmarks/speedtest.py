"""The speed test against iperf3 on loopback, in turns, with the same number of streams. Bar: 0.9 of iperf3's rate.

Both have a peer in a process of its own. Loopback has no line: what is measured is what each tool can move, and what
it costs. Both sides of either share the processors, so absolute figures say little beyond this machine.
"""

import argparse
import asyncio
import json
import os
import secrets
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from kaalia.capability.measuring import Plan, measure
from kaalia.model.speed import Direction, Figure, SpeedProgress
from kaalia.wire import stream
from kaalia.wire.speed import BYTES_MAX
from tests.support.stack import free_port
from tests.support.waiting import wait_until

BAR = 0.9
HERE = "127.0.0.1"
OMIT_S = 1
"""Of iperf3's beginning, as the speed test leaves out its own."""


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="scripts/bench speedtest", description=__doc__)
    parser.add_argument("--streams", type=int, default=4)
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args(argv)
    with TemporaryDirectory() as folder, _iperf_server() as iperf_port, _speed_peer(Path(folder)) as (port, secret):
        found = [_round(options, iperf_port, port, secret) for _ in range(options.rounds)]
    figures = {each.value: _figures([one[each] for one in found]) for each in Direction}
    print(f"{options.streams} streams, {options.rounds} rounds in turns, medians, {os.cpu_count()} cores, loopback")
    columns = ("kaalia Gb/s", "iperf3 Gb/s", "ratio", "bar", "kaalia CPU", "iperf3 CPU")
    print(f"{'direction':<12}" + "".join(f"{name:>12}" for name in columns))
    for name, one in figures.items():
        print(
            f"{name:<12}{one['kaalia_gbps']:>12.2f}{one['iperf3_gbps']:>12.2f}{one['ratio']:>12.2f}{BAR:>12}"
            f"{one['kaalia_cpu_percent']:>10.0f} %{one['iperf3_cpu_percent']:>10.0f} %"
        )
    passed = all(one["ratio"] >= BAR for one in figures.values())
    print(json.dumps({"benchmark": "speedtest", "streams": options.streams, **figures, "bar": BAR, "passed": passed}))
    return 0 if passed else 1


def _round(
    options: argparse.Namespace, iperf_port: int, port: int, secret: str
) -> dict[Direction, tuple[Figure, float, float]]:
    """Of each direction: kaalia's figure, iperf3's Gb/s and its client's CPU in percent of a core."""
    ours = _kaalia(options.streams, options.seconds + OMIT_S, port, secret)
    return {each: (ours[each], *_iperf(each, options.streams, options.seconds, iperf_port)) for each in Direction}


def _figures(found: list[tuple[Figure, float, float]]) -> dict[str, float]:
    own = statistics.median(one.mbps / 1000 for one, _, _ in found)
    other = statistics.median(gbps for _, gbps, _ in found)
    return {
        "kaalia_gbps": round(own, 2),
        "iperf3_gbps": round(other, 2),
        "ratio": round(own / other, 3),
        "kaalia_cpu_percent": round(statistics.median(one.cpu_percent for one, _, _ in found), 1),
        "iperf3_cpu_percent": round(statistics.median(cpu for _, _, cpu in found), 1),
    }


def _kaalia(streams: int, seconds: int, port: int, secret: str) -> dict[Direction, Figure]:
    order = secrets.token_bytes(stream.ID_BYTES)
    plan = Plan(HERE, port, order.hex(), stream.shared_key(secret.encode(), order).hex(), streams, seconds, BYTES_MAX)

    async def quiet(_: SpeedProgress) -> None:
        pass

    return dict(zip(Direction, asyncio.run(measure(plan, quiet)), strict=True))


def _iperf(direction: Direction, streams: int, seconds: int, port: int) -> tuple[float, float]:
    argv = ["iperf3", "-c", HERE, "-p", str(port), "-P", str(streams), "-t", str(seconds), "-O", str(OMIT_S), "-J"]
    done = subprocess.run(
        [*argv, *(["-R"] if direction is Direction.DOWN else [])],
        capture_output=True,
        text=True,
        timeout=seconds + 30,
        check=True,
    )
    end = json.loads(done.stdout)["end"]
    return end["sum_received"]["bits_per_second"] / 1e9, end["cpu_utilization_percent"]["host_total"]


@contextmanager
def _iperf_server() -> Iterator[int]:
    port = free_port()
    with _running(["iperf3", "-s", "-p", str(port)]):
        wait_until("iperf3 to listen", lambda: _listens(port), 10)
        yield port


@contextmanager
def _speed_peer(folder: Path) -> Iterator[tuple[int, str]]:
    port, secret, file = free_port(), secrets.token_hex(16), folder / "secret"
    file.write_text(secret)
    place = f"{HERE}:{port}"
    argv = [sys.executable, "-m", "kaalia.cli.main", "probe", "speed", "--secret-file", str(file), "--listen", place]
    with _running(argv):
        wait_until("the speed peer to listen", lambda: _listens(port), 20)
        yield port, secret


@contextmanager
def _running(argv: list[str]) -> Iterator[None]:
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        process.wait(timeout=10)


def _listens(port: int) -> bool:
    done = subprocess.run(["ss", "-Hltn", f"sport = :{port}"], capture_output=True, text=True, check=True)
    return bool(done.stdout.strip())


if __name__ == "__main__":
    sys.exit(main())
