"""What a self-test takes on two simulated GPUs, and how soon one that is broken off has given back everything.

Needs root and Docker: `scripts/bench selftest [--full]`. Prints a table and one JSON line last. `--full`: all but the
burn as long as on a true machine. Exit code 1: a quick one took longer than a minute, or a break longer than 5 s.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from kaalia.client import LocalClient
from kaalia.model.selftest import StepName
from kaalia.wire.selftest_local import SelfTestWish
from tests.support.canaries import kit_with_program
from tests.support.scene import scene
from tests.support.stack import Stack
from tests.support.waiting import wait_until

QUICK_BAR_S, BREAK_BAR_S = 60.0, 5.0
BREAKS = (StepName.LAUNCH, StepName.MEMORY, StepName.MATRIX, StepName.RAM, StepName.BURN)
"""Broken off in the middle of these."""


def tested(stack: Stack, *options: str) -> dict[str, float]:
    """Seconds of each step, and of the whole command."""
    argv = (sys.executable, "-m", "kaalia.cli.main", "self-test", "machine", "--json", "--socket", str(stack.socket))
    begun_s = time.monotonic()
    done = subprocess.run([*argv, *options], capture_output=True, text=True, timeout=900, check=False)
    took_s = time.monotonic() - begun_s
    run = json.loads(done.stdout)
    bad = [one for one in run["steps"] if one["outcome"] == "failed"]
    if bad or run["result"] == "not_run":
        raise RuntimeError(f"the self-test did not go through: {bad or run['problem']}")
    return {one["step"]: one["took_s"] for one in run["steps"]} | {"all": round(took_s, 1)}


def broken_off(stack: Stack, client: LocalClient, step: StepName) -> tuple[float, float]:
    """Seconds until the run has ended, and until no container of it is left."""
    client.order_self_test(SelfTestWish(only=(step,)))
    wait_until("the step", lambda: (now := client.self_test().progress) and now.words and now.step is step, 120)
    begun_s = time.monotonic()
    client.cancel_self_test()
    wait_until("the end", lambda: (run := client.self_test().run) and run.result, 60, 0.02)
    ended_s = time.monotonic() - begun_s
    wait_until("nothing to be left", lambda: not containers(stack), 60, 0.05)
    return ended_s, time.monotonic() - begun_s


def containers(stack: Stack) -> list[str]:
    """Of the machine's own."""
    listed = stack.engine.request("GET", "/containers/json?all=1")
    return [name for one in listed for name in one["Names"] if re.fullmatch(r"/C\.1\d{12}", name)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="a full test too, with a burn of 12 s")
    wanted = parser.parse_args()
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="kaalia-") as folder:
        config = {"access": {"kit_dir": str(kit_with_program(Path(folder)))}}
        with scene("2xRTX_4090", cuda=True, extra_config=config) as (stack, _):
            client = LocalClient(stack.socket)
            found["quick"] = tested(stack, "--quick")
            if wanted.full:
                found["full"] = tested(stack, "--burn", "0.2")
            found["breaks"] = {step: broken_off(stack, client, step) for step in BREAKS}
    for name in ("quick", "full"):
        for step, took_s in found.get(name, {}).items():
            print(f"{name:<6} {step:<18} {took_s:7.1f} s")
    for step, (ended_s, gone_s) in found["breaks"].items():
        print(f"break  {step:<18} {ended_s:7.2f} s to the end of the run, {gone_s:.2f} s to the last container")
    print(json.dumps(found))
    slowest_s = max(gone_s for _, gone_s in found["breaks"].values())
    return int(found["quick"]["all"] > QUICK_BAR_S or slowest_s > BREAK_BAR_S)


if __name__ == "__main__":
    sys.exit(main())
