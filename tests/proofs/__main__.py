"""Run one proof by name: `python -m tests.proofs restart`. Prints what it tries, then one JSON line last."""

import argparse
import json
import sys
import time

from tests.proofs import (
    access,
    client,
    clock,
    disk,
    dockerd,
    driver,
    faults,
    isolation,
    jupyter,
    kill_matrix,
    metering,
    offline,
    paths,
    prober,
    relay,
    restart,
    selftest,
    state,
    traffic,
    vastai_selftest,
    verification,
)

PROOFS = {
    "access": access.prove,
    "offline": offline.prove,
    "restart": restart.prove,
    "selftest": selftest.prove,
    "client": client.prove,
    "clock": clock.prove,
    "disk": disk.prove,
    "dockerd": dockerd.prove,
    "driver": driver.prove,
    "faults": faults.prove,
    "isolation": isolation.prove,
    "jupyter": jupyter.prove,
    "kill-matrix": kill_matrix.prove,
    "metering": metering.prove,
    "paths": paths.prove,
    "prober": prober.prove,
    "relay": relay.prove,
    "state": state.prove,
    "traffic": traffic.prove,
    "vastai-selftest": vastai_selftest.prove,
    "verification": verification.prove,
}

CHOOSABLE = {"vastai-selftest": vastai_selftest.prove_only}
"""Those that can do with some of their cases."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/prove", description=__doc__)
    parser.add_argument("name", choices=sorted(PROOFS))
    parser.add_argument("--seed", type=int, default=1, help="replays the same random moments (default 1)")
    parser.add_argument("--rounds", type=int, default=0, help="how many tries; 0 is the proof's own number")
    parser.add_argument("--only", default="", help=f"of {', '.join(CHOOSABLE)}: the cases whose names have these words")
    options = parser.parse_args()
    if options.only and options.name not in CHOOSABLE:
        parser.error(f"{options.name} has no cases to choose from")
    started = time.monotonic()

    def say(text: str) -> None:
        print(f"[{time.monotonic() - started:6.1f} s] {text}", flush=True)

    if options.only:
        report = CHOOSABLE[options.name](options.only, say)
    else:
        report = PROOFS[options.name](options.seed, options.rounds, say)
    print(json.dumps({"proof": options.name, "seed": options.seed, **report.as_dict()}))
    return 1 if report.violations else 0


if __name__ == "__main__":
    sys.exit(main())
