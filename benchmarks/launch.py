"""Accept → running and destroy → gone through kaalia, against Docker doing the same for the same container.

Three opponents, in turns with kaalia in one run, so that a noisy machine hurts all of them:

- bare: what nobody could avoid for this container with a bridge network of its own: three raw calls of the Engine API
  (network, create, start) with the very configuration that kaalia used, its ports published by Docker;
- docker run -d: what a user would type, with the same options, on Docker's default bridge;
- docker rm -f: of that container.

Networks of nobody are made and removed between turns, not in them: see `docker.warm_networks`. kaalia's time runs from
sending the request to the moment from which the marketplace knows. That moment is read from its log, since asking it
every few milliseconds would take a core away from what is measured; one `show instance` then confirms it. At last 50
rentals at once, against 50 `docker run -d` at once. Prints tables and one JSON line last, with the bars beside the
ratios, kept or not. Run by `scripts/bench launch [--rounds N] [--at-once N]`.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from kaalia.units import GIB
from tests.support.engine_api import EngineApi
from tests.support.scene import scene
from tests.support.stack import Stack
from tests.support.waiting import wait_until

BARE_BAR = 1.25
LAUNCH_BARS = {0: 0.6, 20: 0.35, 64: 0.2}
"""Against `docker run -d`, by published ports."""
REMOVE_BARS = {64: 0.1}
AT_ONCE_BAR = 0.7
PORTS = (0, 1, 20, 64)
SLEEP = ["sleep", "9999"]
BARE_SUBNET = "10.213.0.0/28"
WARM = 2
"""As many networks as the daemon keeps ready when the owner says nothing."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--at-once", type=int, default=50)
    options = parser.parse_args()
    with scene(gpus=None) as (stack, image):
        stack.list_machine()
        results = [compare(stack, image, ports, options.rounds) for ports in PORTS]
    table(results, options.rounds)
    together = at_once(options.at_once) if options.at_once else None
    if together:
        print(
            "\n{count} at once: kaalia {kaalia_s} s, docker run {docker_s} s, ratio {ratio}, bar {bar}".format(
                **together
            )
        )
    bars = {"bare": BARE_BAR, "launch": LAUNCH_BARS, "remove": REMOVE_BARS, "at_once": AT_ONCE_BAR}
    print(json.dumps({"benchmark": "launch", "bars": bars, **vars(options), "results": results, "together": together}))
    return 0


def table(results: list[dict[str, Any]], rounds: int) -> None:
    print(f"medians of {rounds} turns, in ms; ratios of each turn")
    print(
        f"{'ports':>5} {'kaalia':>8} {'bare':>8} {'ratio':>6} {'bar':>5} {'run -d':>8} {'ratio':>6} {'bar':>5}", end=""
    )
    print(f" {'remove':>8} {'rm -f':>8} {'ratio':>6} {'bar':>5}")
    for row in results:
        ports = row["ports"]
        print(f"{ports:>5} {row['kaalia_ms']:>8.0f} {row['bare_ms']:>8.0f} {row['ratio']:>6.2f} {BARE_BAR:>5}", end="")
        print(f" {row['run_ms']:>8.0f} {row['run_ratio']:>6.2f} {LAUNCH_BARS.get(ports, ''):>5}", end="")
        print(f" {row['remove_ms']:>8.0f} {row['rm_ms']:>8.0f} {row['rm_ratio']:>6.2f} {REMOVE_BARS.get(ports, ''):>5}")


def compare(stack: Stack, image: str, ports: int, rounds: int) -> dict[str, Any]:
    """Turns of one launch and removal by each; medians, and the medians of the ratios of each turn."""
    turn(stack, image, ports)
    turns = [turn(stack, image, ports) for _ in range(rounds)]

    def median(name: str) -> float:
        return round(1000 * statistics.median(one[name] for one in turns), 1)

    def ratio(one: str, other: str) -> float:
        return round(statistics.median(found[one] / found[other] for found in turns), 3)

    return {
        "ports": ports,
        **{f"{name}_ms": median(name) for name in ("kaalia", "bare", "run", "remove", "rm")},
        "ratio": ratio("kaalia", "bare"),
        "run_ratio": ratio("kaalia", "run"),
        "rm_ratio": ratio("remove", "rm"),
    }


def turn(stack: Stack, image: str, ports: int) -> dict[str, float]:
    """Seconds of everything once."""
    kaalia_s, instance_id, found = launch(stack, image, ports)
    remove_s = destroy(stack, instance_id)
    run_s, rm_s = typed(stack.engine, found)
    return {"kaalia": kaalia_s, "remove": remove_s, "bare": bare(stack.engine, found), "run": run_s, "rm": rm_s}


def launch(stack: Stack, image: str, ports: int) -> tuple[float, int, dict[str, Any]]:
    """One rental; returns its seconds, its number, and the container as Docker describes it."""
    offer = wait_until("an offer", stack.rentable_offer, 30)
    env = {f"-p {9000 + number}:{9000 + number}": "1" for number in range(ports)}
    started = time.perf_counter()
    instance_id = stack.rent(offer, image=image, disk=1, runtype="args", env=env, args=SLEEP)
    told(stack, f"contract {instance_id} is running")
    took = time.perf_counter() - started
    row = stack.instance(instance_id)
    if row is None or row["actual_status"] != "running":
        raise RuntimeError(f"the log said running, the marketplace says {row}")
    found = stack.engine.inspect(f"C.{instance_id}")
    found["Ports"] = row["ports"] or {}
    return took, instance_id, found


def destroy(stack: Stack, instance_id: int) -> float:
    """Seconds from the request until container, network and ports are gone and the marketplace knows."""
    started = time.perf_counter()
    stack.renter_api.call("DELETE", f"/api/v0/instances/{instance_id}/", {})
    told(stack, f"contract {instance_id} is ended")
    took = time.perf_counter() - started
    wait_until("the offer to be rentable again", stack.rentable_offer, 60)
    rest(stack.engine)
    return took


def rest(engine: EngineApi, warm: int = WARM) -> None:
    """Until networks are ready again and used ones are gone: that is to slow nobody's turn down."""

    def is_ready() -> bool:
        names = [one["Names"][0] for one in engine.request("GET", "/containers/json?all=1")]
        return len(names) == warm and all(name.startswith("/kaalia-warm-") for name in names)

    wait_until("warm networks alone", is_ready, 300, 0.1)


def told(stack: Stack, line: str) -> None:
    wait_until(f"the log to say: {line}", lambda: line in tail(stack.folder / "marketplace.log"), 60, 0.002)


def tail(path: Path, size_bytes: int = 4096) -> str:
    """The end of a log."""
    with path.open("rb") as log:
        log.seek(max(0, log.seek(0, os.SEEK_END) - size_bytes))
        return log.read().decode(errors="replace")


def bare(engine: EngineApi, found: dict[str, Any]) -> float:
    """The same network and container by three raw calls of the Engine API and nothing else."""
    network = {"Name": "bare", "Driver": "bridge", "IPAM": {"Config": [{"Subnet": BARE_SUBNET}]}}
    bindings = {port: [{"HostIp": "0.0.0.0", **one} for one in ones] for port, ones in found["Ports"].items()}
    host = {**found["HostConfig"], "NetworkMode": "bare", "PortBindings": bindings}
    body = {**found["Config"], "HostConfig": host, "ExposedPorts": {port: {} for port in found["Ports"]}}
    started = time.perf_counter()
    engine.request("POST", "/networks/create", network)
    container = engine.request("POST", "/containers/create?name=bare", body)["Id"]
    engine.request("POST", f"/containers/{container}/start")
    took = time.perf_counter() - started
    engine.request("DELETE", f"/containers/{container}?force=1")
    engine.request("DELETE", "/networks/bare")
    return took


def typed(engine: EngineApi, found: dict[str, Any]) -> tuple[float, float]:
    """Seconds of `docker run -d` with the same options, and of `docker rm -f`."""
    started = time.perf_counter()
    docker(engine, "run", "-d", "--name", "typed", *flags(found), found["Config"]["Image"], *SLEEP)
    ran = time.perf_counter()
    docker(engine, "rm", "-f", "typed")
    return ran - started, time.perf_counter() - ran


def docker(engine: EngineApi, *words: str) -> None:
    subprocess.run(["docker", "--host", engine.docker_host, *words], check=True, stdout=subprocess.DEVNULL)


def flags(found: dict[str, Any]) -> Iterator[str]:
    """The options of a container as one types them."""
    host, config = found["HostConfig"], found["Config"]
    yield from (f"--memory={host['Memory']}", f"--memory-swap={host['MemorySwap']}", f"--shm-size={host['ShmSize']}")
    yield from (f"--cpu-shares={host['CpuShares']}", f"--cpu-period={host['CpuPeriod']}")
    yield from (f"--cpu-quota={host['CpuQuota']}", f"--pids-limit={host['PidsLimit']}", "--no-healthcheck")
    yield from (f"--cap-drop={name}" for name in host["CapDrop"])
    yield from (f"--cap-add={name}" for name in host["CapAdd"])
    yield from (f"--security-opt={one}" for one in host["SecurityOpt"])
    yield from (f"--storage-opt={name}={value}" for name, value in (host["StorageOpt"] or {}).items())
    yield from (f"--log-opt={name}={value}" for name, value in host["LogConfig"]["Config"].items())
    yield from (f"--ulimit={one['Name']}={one['Soft']}:{one['Hard']}" for one in host["Ulimits"] or [])
    yield from (f"--env={one}" for one in config["Env"])
    yield from (f"--label={name}={value}" for name, value in config["Labels"].items() if "kaalia" not in name)
    for request in host["DeviceRequests"] or []:
        yield f'--gpus="device={",".join(request["DeviceIDs"])}"'
    yield from (f"--publish={one[0]['HostPort']}:{port}" for port, one in found["Ports"].items())


def at_once(count: int) -> dict[str, Any]:
    """As many rentals as the machine has GPUs, one after another as fast as they are accepted; then `docker run`s.

    As many networks stand ready, of which the daemon keeps two unless it is told otherwise.
    """
    config = {"docker": {"warm_networks": count}}
    with scene(gpus=f"{count}xRTX_4090", disk_bytes=(count + 10) * GIB, extra_config=config) as (stack, image):
        stack.list_machine()
        rest(stack.engine, count)
        started = time.perf_counter()
        ids = [rent_one(stack, image) for _ in range(count)]
        wait_until("all to run", lambda: all(is_told(stack, one) for one in ids), 300, 0.02)
        kaalia_s = time.perf_counter() - started
        every = [{**stack.engine.inspect(f"C.{one}"), "Ports": {}} for one in ids]
        stack.remove_workloads()
        rest(stack.engine, count)
        started = time.perf_counter()
        with ThreadPoolExecutor(count) as pool:
            list(pool.map(lambda one: docker(stack.engine, "run", "-d", *flags(one), image, *SLEEP), every))
        docker_s = time.perf_counter() - started
    rounded = {"kaalia_s": round(kaalia_s, 2), "docker_s": round(docker_s, 2), "ratio": round(kaalia_s / docker_s, 2)}
    return {"count": count, **rounded, "bar": AT_ONCE_BAR}


def rent_one(stack: Stack, image: str) -> int:
    offer = wait_until("an offer", lambda: stack.rentable_offer(1), 60, 0.005)
    return stack.rent(offer, image=image, disk=1, runtype="args", args=SLEEP)


def is_told(stack: Stack, instance_id: int) -> bool:
    return f"contract {instance_id} is running" in stack.log_text("marketplace")


if __name__ == "__main__":
    sys.exit(main())
