"""What the cell costs a copy: rsync by a door, as `vastai copy` calls it, over rsync by this machine's own sshd.

Both by loopback, in turns, with the same client and options; both targets on the file system of the engine's data. The
first of each is thrown away. Prints one JSON line last, with the bar.
Run by `scripts/bench copying [--rounds N] [--mb N]`.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.access import host_sshd
from tests.support.kinds import import_kinds, name_of
from tests.support.scene import scene
from tests.support.ssh import Ssh, new_key
from tests.support.stack import Stack
from tests.support.waiting import wait_until

RATIO_BAR = 0.9
FILES = 20


def main() -> int:
    parser = argparse.ArgumentParser(prog="copying", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--mb", type=int, default=200)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kaalia-") as name, scene(gpus="1xRTX_4090") as (stack, _):
        folder = Path(name)
        import_kinds(stack.engine, ["debian"])
        stack.list_machine()
        key, public = new_key(folder, "renter")
        stack.renter.run("create", "ssh-key", public)
        found = measure(stack, key, folder, options.rounds, options.mb)
    print(json.dumps({"benchmark": "copying", "bar": RATIO_BAR, **vars(options), **found}))
    return 0


def measure(stack: Stack, key: Path, folder: Path, rounds: int, size_mb: int) -> dict[str, Any]:
    """Megabytes a second each way: medians, and the median ratio of the turns."""
    offer = wait_until("an offer", stack.rentable_offer, 30)
    instance = stack.rent(offer, image=name_of("debian"), disk=5, runtype="args", args=["sleep", "9999"])
    stack.wait_status(instance, "running")
    data = folder / "data"
    data.mkdir()
    for number in range(FILES):
        (data / str(number)).write_bytes(os.urandom(size_mb * 1_000_000 // FILES))
    far = Path(stack.engine.request("GET", "/info")["DockerRootDir"]) / "bench"
    with host_sshd(key) as theirs:
        turns = [
            {
                "ours": both_ways(door(stack, key, instance), "C.{}//", instance, data, number, size_mb),
                "host": both_ways(theirs, str(far) + "-", None, data, number, size_mb),
            }
            for number in range(rounds + 1)
        ][1:]
    for left in far.parent.glob("bench-*"):
        shutil.rmtree(left)
    found: dict[str, Any] = {}
    for at, way in enumerate(("up", "down")):
        for who in ("ours", "host"):
            found[f"{way}_{who}_mb_s"] = round(statistics.median(one[who][at] for one in turns), 1)
        found[f"{way}_ratio"] = round(statistics.median(one["ours"][at] / one["host"][at] for one in turns), 3)
    return found


def door(stack: Stack, key: Path, instance: int) -> Ssh:
    """As the client is answered."""
    body = {"client_id": "me", "src_id": None, "dst_id": f"C.{instance}", "src_path": "data", "dst_path": "/"}
    status, reply = stack.renter_api.call("PUT", "/api/v0/commands/rsync/", body)
    if status != 200:
        raise RuntimeError(f"no door: {reply}")
    return Ssh(key, int(reply["dst_port"]), str(reply["dst_addr"]), "vastai_kaalia")


def both_ways(
    ssh: Ssh, prefix: str, instance: int | None, data: Path, number: int, size_mb: int
) -> tuple[float, float]:
    """Up into a new folder, and down again; logins included."""
    separator = ":" if instance is None else "::"
    place = f"{ssh.place}{separator}{prefix.format(instance)}{number}/"
    back = data.parent / "back"
    rates = []
    for pair in ((f"{data}/", place), (place, str(back))):
        started = time.perf_counter()
        done = subprocess.run(
            ["rsync", "-arz", "-e", f"ssh {' '.join(ssh.flags('-p'))}", *pair],
            check=False,
            capture_output=True,
            text=True,
        )
        if done.returncode != 0:
            raise RuntimeError(f"rsync: {done.stderr}")
        rates.append(size_mb / (time.perf_counter() - started))
    shutil.rmtree(back)
    return rates[0], rates[1]


if __name__ == "__main__":
    raise SystemExit(main())
