"""What the reconciler costs where it counts: deciding, coming back after a crash, and preempting.

1. plan and diff of 1,000 contracts on 16 GPUs, pure functions, in one process;
2. kill -9 of a daemon with 50 running containers: from the start of the next one until the marketplace has heard of all
   50 again, none of them restarted;
3. a higher bid against a bare Docker stop and start of the same two containers: turn by turn in one run.

Prints a table and one JSON line last. Run by `scripts/bench reconcile [--rounds N] [--containers N]`.
"""

import argparse
import json
import re
import statistics
import sys
import time
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Any

from kaalia.contracts.contract import ContractKind, Desired
from kaalia.contracts.offer import Listing
from kaalia.contracts.placement import plan
from kaalia.contracts.wish import Held, Machine
from kaalia.model.workload import WorkloadState
from kaalia.reconciler.actions import Record
from kaalia.reconciler.diff import diff
from kaalia.reconciler.seen import Sight
from kaalia.runtime.base import Observed, ObservedState
from kaalia.units import GIB
from tests.support.builders import build_contract, build_report, build_status
from tests.support.clock import START
from tests.support.scene import scene
from tests.support.stack import Stack
from tests.support.waiting import wait_until

CONTRACTS, GPUS = 1000, 16
BARS = {"plan_and_diff_ms": 20.0, "readopted_s": 2.0, "preemption_ratio": 1.3}
WAIT = ["sh", "-c", "trap 'exit 0' TERM; while :; do sleep 1 & wait $!; done"]
RUNNING = re.compile(r"contract (\d+) is running")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--containers", type=int, default=50)
    options = parser.parse_args()
    figures = {"plan_and_diff_ms": deciding(options.rounds)}
    figures |= readoption(options.containers)
    figures |= preemption(options.rounds)
    print(f"{'figure':<28}{'measured':>10}{'bar':>8}")
    for name, value in figures.items():
        print(f"{name:<28}{value:>10.3f}{BARS.get(name, ''):>8}")
    print(json.dumps({"benchmark": "reconcile", "bars": BARS, **vars(options), **figures}))
    return 0


# Deciding


def deciding(rounds: int) -> float:
    """Median milliseconds of one whole turn's decisions, on books that are up to date: much to see, little to do."""
    held, sights, machine = world()
    now = START + timedelta(hours=1)
    for at, wish in enumerate(plan(held, machine, now).wishes):
        one = held[at]
        action = diff(wish, one.workload, sights[one.contract.contract_id], now)
        held[at] = replace(one, workload=action.status) if isinstance(action, Record) else one
    took = []
    for _ in range(rounds):
        began = time.perf_counter()
        for wish, one in zip(plan(held, machine, now).wishes, held, strict=True):
            diff(wish, one.workload, sights[one.contract.contract_id], now)
        took.append(time.perf_counter() - began)
    return round(1000 * statistics.median(took), 2)


def world() -> tuple[list[Held], dict[int, Observed | Sight], Machine]:
    """A machine that every contract wants: 16 run, every third of the others is stopped, the rest waits."""
    report = build_report(START, gpus=GPUS)
    held: list[Held] = []
    sights: dict[int, Observed | Sight] = {}
    owners = {}
    for number in range(1, CONTRACTS + 1):
        runs = number <= GPUS
        desired = Desired.STOPPED if not runs and number % 3 == 0 else Desired.RUNNING
        made = build_contract(number, kind=ContractKind.INTERRUPTIBLE, desired=desired)
        made = replace(made, price_usd_per_hour=Decimal(2 if runs else 1), spec=replace(made.spec, disk_bytes=1))
        uuid = report.gpus[number % GPUS].uuid
        state = WorkloadState.RUNNING if runs else WorkloadState.STOPPED
        row = build_status(number, state=state, gpu_uuids=(uuid,))
        seen = ObservedState.RUNNING if runs else ObservedState.EXITED
        sights[number] = Observed(number, 1, f"C.{number}", "c" * 64, seen, (uuid,), row.ports, started_at=START)
        held.append(Held(made, row, is_present=True))
        if runs:
            owners[uuid] = number
    return held, sights, Machine(report, Listing(price_gpu_per_hour=Decimal("0.40")), owners)


# Coming back


def readoption(containers: int) -> dict[str, float]:
    with scene(gpus=f"{containers}xRTX_4090", disk_bytes=(containers + 10) * GIB) as (stack, image):
        stack.list_machine()
        ids = [rent(stack, image) for _ in range(containers)]
        wait_until("all to run", lambda: set(ids) <= heard(stack, 0), 300, 0.2)
        before = processes(stack, ids)
        mark = len(stack.log_text("marketplace"))
        stack.kill_daemon()
        began = time.perf_counter()
        stack.start_daemon()
        wait_until("all to be heard of", lambda: set(ids) <= heard(stack, mark), 60, 0.01)
        took = time.perf_counter() - began
        after = processes(stack, ids)
    restarted = sum(before[one] != after[one] for one in ids)
    return {"readopted_s": round(took, 2), "readopted": float(containers), "restarted": float(restarted)}


def rent(stack: Stack, image: str, **more: Any) -> int:
    offer = wait_until("an offer", lambda: stack.rentable_offer(1), 60)
    return stack.rent(offer, image=image, disk=1, runtype="args", args=WAIT, **more)


def heard(stack: Stack, mark: int) -> set[int]:
    """Whom the marketplace was told to run, since its log was `mark` characters long."""
    return {int(number) for number in RUNNING.findall(stack.log_text("marketplace")[mark:])}


def processes(stack: Stack, ids: list[int]) -> dict[int, tuple[int, str]]:
    states = {one: stack.engine.inspect(f"C.{one}")["State"] for one in ids}
    return {one: (state["Pid"], state["StartedAt"]) for one, state in states.items()}


# Preempting


def preemption(rounds: int) -> dict[str, float]:
    """Two bidders for one GPU outbid each other in turn; beside it bare Docker swaps two equal containers."""
    with scene(gpus="1xRTX_4090") as (stack, image):
        stack.list_machine()
        first = rent(stack, image, price=1.0)
        stack.wait_status(first, "running")
        second = rent(stack, image, price=1.1)
        stack.wait_status(second, "running")
        found = stack.engine.inspect(f"C.{first}")
        twins = [bare_twin(stack, found, name) for name in ("bare-1", "bare-2")]
        stack.engine.request("POST", f"/containers/{twins[1]}/start")
        pairs = []
        for turn in range(rounds):
            winner = (first, second)[turn % 2]
            pairs.append((outbid(stack, winner, 1.2 + turn / 10), swap(stack, twins[1 - turn % 2], twins[turn % 2])))
        for twin in twins:
            stack.engine.request("DELETE", f"/containers/{twin}?force=1")
    return {
        "preemption_ms": round(1000 * statistics.median(pair[0] for pair in pairs), 1),
        "bare_swap_ms": round(1000 * statistics.median(pair[1] for pair in pairs), 1),
        "preemption_ratio": round(statistics.median(pair[0] / pair[1] for pair in pairs), 3),
    }


def bare_twin(stack: Stack, found: dict[str, Any], name: str) -> str:
    """The same container on a network of its own, made by raw calls."""
    network = stack.engine.request("POST", "/networks/create", {"Name": name, "Driver": "bridge"})["Id"]
    config = {key: value for key, value in found["Config"].items() if key != "Labels"}
    body = {**config, "HostConfig": {**found["HostConfig"], "NetworkMode": network, "PortBindings": {}}}
    return str(stack.engine.request("POST", f"/containers/create?name={name}", body)["Id"])


def outbid(stack: Stack, winner: int, price: float) -> float:
    """Seconds from the higher bid until the marketplace knows that its bidder runs."""
    mark = len(stack.log_text("marketplace"))
    began = time.perf_counter()
    stack.renter_api.call("PUT", f"/api/v0/instances/bid_price/{winner}/", {"client_id": "me", "price": price})
    wait_until(f"{winner} to run", lambda: winner in heard(stack, mark), 60, 0.005)
    return time.perf_counter() - began


def swap(stack: Stack, loser: str, winner: str) -> float:
    began = time.perf_counter()
    stack.engine.request("POST", f"/containers/{loser}/stop?t=10")
    stack.engine.request("POST", f"/containers/{winner}/start")
    return time.perf_counter() - began


if __name__ == "__main__":
    sys.exit(main())
