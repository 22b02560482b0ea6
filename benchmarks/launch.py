"""Accept → running through kaalia, against bare Docker creating and starting the same container in the same run.

The floor is what nobody can avoid for this container: its own bridge network, create, start, with the very
configuration that kaalia used (read back by inspect), its ports published by Docker. Both sides take turns, so that a
noisy machine hurts both. kaalia's time runs from sending the accept request to the moment from which the marketplace
answers `running`. That moment is read from its log, since asking it every few milliseconds would take a core away from
what is measured; one `show instance` then confirms it. Prints a table and one JSON line last. Run by
`scripts/bench launch [--rounds N]`.
"""

import argparse
import json
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from tests.support.engine_api import EngineApi
from tests.support.scene import scene
from tests.support.stack import Stack
from tests.support.waiting import wait_until

BAR = 1.25
PORTS = (0, 1, 20)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    results = []
    with scene(gpus=None) as (stack, image):
        stack.list_machine()
        for ports in PORTS:
            results.append(compare(stack, image, ports, rounds))
    print(f"{'ports':>5} {'kaalia ms':>10} {'bare ms':>9} {'ratio':>7} {'bar':>6}   (medians of {rounds} pairs)")
    for row in results:
        print(f"{row['ports']:>5} {row['kaalia_ms']:>10.0f} {row['bare_ms']:>9.0f} {row['ratio']:>7.2f} {BAR:>6}")
    print(json.dumps({"benchmark": "launch", "bar": BAR, "rounds": rounds, "results": results}))
    return 0


def compare(stack: Stack, image: str, ports: int, rounds: int) -> dict[str, Any]:
    """Pairs of one launch by kaalia and one by bare Docker; medians, and the median of the pairwise ratios."""
    launch(stack, image, ports)
    pairs = []
    for _ in range(rounds):
        kaalia_s, found = launch(stack, image, ports)
        pairs.append((kaalia_s, bare(stack.engine, found)))
    return {
        "ports": ports,
        "kaalia_ms": round(1000 * statistics.median(pair[0] for pair in pairs), 1),
        "bare_ms": round(1000 * statistics.median(pair[1] for pair in pairs), 1),
        "ratio": round(statistics.median(pair[0] / pair[1] for pair in pairs), 3),
    }


def launch(stack: Stack, image: str, ports: int) -> tuple[float, dict[str, Any]]:
    """One rental; returns its seconds and the container as Docker describes it. It is destroyed again."""
    offer = wait_until("an offer", stack.rentable_offer, 30)
    env = {f"-p {9000 + number}:{9000 + number}": "1" for number in range(ports)}
    started = time.perf_counter()
    instance_id = stack.rent(offer, image=image, disk=1, runtype="args", env=env, args=["sleep", "9999"])
    told = f"contract {instance_id} is running"
    wait_until(f"the log to say: {told}", lambda: told in tail(stack.folder / "marketplace.log"), 60, 0.002)
    took = time.perf_counter() - started
    row = stack.instance(instance_id)
    if row is None or row["actual_status"] != "running":
        raise RuntimeError(f"the log said running, the marketplace says {row}")
    found = stack.engine.inspect(f"C.{instance_id}")
    found["Ports"] = row["ports"] or {}
    found["Network"] = stack.engine.request("GET", f"/networks/kaalia-{instance_id}")
    stack.destroy(instance_id)
    return took, found


def tail(path: Path, size_bytes: int = 4096) -> str:
    """The end of a log."""
    with path.open("rb") as log:
        log.seek(max(0, log.seek(0, os.SEEK_END) - size_bytes))
        return log.read().decode(errors="replace")


def bare(engine: EngineApi, found: dict[str, Any]) -> float:
    """The same network and container by three raw calls of the Engine API and nothing else."""
    network = {"Name": "bare", "Driver": "bridge", "IPAM": found["Network"]["IPAM"]}
    bindings = {port: [{"HostIp": "0.0.0.0", **one} for one in ones] for port, ones in found["Ports"].items()}
    host = {**found["HostConfig"], "NetworkMode": "bare", "PortBindings": bindings}
    body = {**found["Config"], "HostConfig": host}
    started = time.perf_counter()
    engine.request("POST", "/networks/create", network)
    container = engine.request("POST", "/containers/create?name=bare", body)["Id"]
    engine.request("POST", f"/containers/{container}/start")
    took = time.perf_counter() - started
    engine.request("DELETE", f"/containers/{container}?force=1")
    engine.request("DELETE", "/networks/bare")
    return took


if __name__ == "__main__":
    sys.exit(main())
