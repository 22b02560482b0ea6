"""What a self-test takes on two simulated GPUs, and how soon one that is broken off has given back everything.

Needs root and Docker: `scripts/bench selftest [--full] [--breaks TURNS]`. Prints a table and one JSON line last.
`--full`: all but the burn as long as on a true machine. Exit code 1: a test took longer than a minute, or a Ctrl-C
longer than 5 s.
"""

import argparse
import json
import re
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from kaalia.capability import fio
from kaalia.client import LocalClient
from tests.proofs.selftest_ends import work_processes
from tests.support.canaries import kit_with_program
from tests.support.fake_nvidia.profiles import machine, write
from tests.support.scene import scene
from tests.support.self_tests import GPUS, SMALL
from tests.support.stack import Stack
from tests.support.waiting import wait_until

BAR_S, BREAK_BAR_S = 60.0, 5.0
BURN_MINUTES = "0.05"
BREAKS = (
    ("launch", "its container is launched"),
    ("launch", "ssh logs in"),
    ("ports", "a prober tries the ports"),
    ("network", "the speed of the line"),
    ("memory", "pattern"),
    ("matrix", "GPU"),
    ("burn", "products"),
    ("cpu", "cores compute"),
    ("ram", "MiB"),
    ("disk", "MiB"),
    ("disk", "its speed is measured"),
)
"""Broken off in the middle of these: a step, and what it tells of itself then."""


def argv(stack: Stack, *options: str) -> list[str]:
    command = [sys.executable, "-m", "kaalia.cli.main", "self-test", "machine", "--json"]
    return [*command, "--socket", str(stack.socket), *options]


def tested(stack: Stack, *options: str) -> dict[str, float]:
    """Seconds of each step, and of the whole command."""
    begun_s = time.monotonic()
    done = subprocess.run(argv(stack, *options), capture_output=True, text=True, timeout=900, check=False)
    took_s = time.monotonic() - begun_s
    run = json.loads(done.stdout)
    bad = [one for one in run["steps"] if one["outcome"] == "failed"]
    if bad or run["result"] == "not_run":
        raise RuntimeError(f"the self-test did not go through: {bad or run['problem']}")
    return {one["step"]: one["took_s"] for one in run["steps"]} | {"all": round(took_s, 1)}


def interrupted(stack: Stack, data_root: Path, step: str, words: str) -> tuple[float, float]:
    """Seconds from Ctrl-C until the command has ended, and until nothing of the test is left."""
    client = LocalClient(stack.socket)
    for _ in range(5):
        with closing(sqlite3.connect(stack.folder / "state" / "state.db", timeout=30)) as state, state:
            state.execute("DELETE FROM port_map")  # else there is nothing to probe
        options = ("--only", step, "--burn", "1")
        with subprocess.Popen(argv(stack, *options), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as command:
            while command.poll() is None:
                now = client.self_test().progress
                if now is not None and now.step == step and words in now.words:
                    break
                time.sleep(0.02)
            begun_s = time.monotonic()
            command.send_signal(signal.SIGINT)
            command.communicate(timeout=60)
        ended_s = time.monotonic() - begun_s
        wait_until("nothing to be left", lambda: not left(stack, data_root), 120, 0.05)
        if command.returncode == 2:
            return ended_s, time.monotonic() - begun_s
    raise RuntimeError(f"{step} is over before it is seen")


def left(stack: Stack, data_root: Path) -> list[str]:
    """Containers, processes, and files on Docker's disk."""
    listed = stack.engine.request("GET", "/containers/json?all=1")
    containers = [name for one in listed for name in one["Names"] if re.fullmatch(r"/C\.1\d{12}", name)]
    files = [str(path) for path in data_root.glob(".kaalia*")]
    return [*containers, *files, *work_processes(), *map(str, fio.writers(data_root))]


def on_scene(measure: Callable[[Stack, Path], dict[str, Any]], **config: Any) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="kaalia-") as folder:
        own = {"access": {"kit_dir": str(kit_with_program(Path(folder)))}, **config}
        with scene(GPUS, Path(folder), cuda=True, extra_config=own) as (stack, _):
            write(Path(folder) / "gpus.txt", SMALL + machine(GPUS))
            return measure(stack, Path(folder) / "docker" / "data")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help=f"a full test too, with --burn {BURN_MINUTES}")
    parser.add_argument("--breaks", type=int, default=1, metavar="TURNS", help="how often each is broken off")
    wanted = parser.parse_args()

    def tests(stack: Stack, _: Path) -> dict[str, Any]:
        found = {"quick": tested(stack, "--quick")}
        return found | ({"full": tested(stack, "--burn", BURN_MINUTES)} if wanted.full else {})

    def breaks(stack: Stack, data_root: Path) -> dict[str, Any]:
        turns = range(wanted.breaks)
        return {
            f"{step}: {words}": [interrupted(stack, data_root, step, words) for _ in turns] for step, words in BREAKS
        }

    found = on_scene(tests)
    found["breaks"] = on_scene(breaks, speed={"peer": "marketplace", "max_gb": 32}) if wanted.breaks else {}
    for name in ("quick", "full"):
        for step, took_s in found.get(name, {}).items():
            print(f"{name:<6} {step:<18} {took_s:7.1f} s")
    for what, rows in found["breaks"].items():
        ends, gone = (", ".join(f"{row[at]:.2f}" for row in rows) for at in (0, 1))
        print(f"Ctrl-C {what:<34} {ends} s to the command's end; {gone} s until nothing is left")
    print(json.dumps(found))
    slowest_s = max((row[1] for rows in found["breaks"].values() for row in rows), default=0.0)
    longest_s = max(found[name]["all"] for name in ("quick", "full") if name in found)
    return int(longest_s > BAR_S or slowest_s > BREAK_BAR_S)


if __name__ == "__main__":
    sys.exit(main())
