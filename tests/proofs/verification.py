"""A machine proves itself and is verified: renters of the unmodified client find it then, and not when a GPU is lost.

Marketplace, daemon, Docker Engine, self-test and client are the real ones; the GPUs are simulated. The marketplace was
told to verify such machines (`--verify-simulated`). Takes some minutes.
"""

import json
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tests.proofs.report import Report, Say
from tests.support.fake_nvidia.profiles import fault, machine, well, write
from tests.support.self_tests import GPUS, PEERS, SMALL, Host, room, seed
from tests.support.waiting import wait_until

TEST_S = 900.0
HEARD_S = 120.0


def prove(_: int, __: int, say: Say) -> Report:
    """Seed and rounds have no say here."""
    report = Report(say)
    with (
        TemporaryDirectory(prefix="kaalia-") as folder,
        room(Path(folder), marketplace_args=("--verify-simulated",)) as made,
    ):
        host = made.first
        host.show()
        well_gpus = PEERS + SMALL + well(machine(GPUS, seed(0)), 2)
        write(host.stack.folder / "gpus.txt", well_gpus)  # whose copies are made, so that they can be compared
        for order in (("speedtest",), ("ports", "--probe")):
            _kaalia(host, *order)
        lacks = _lacks(host)
        report.check("a new machine lacks its test", "selftest" in lacks, lacks)
        report.check("and default searches do not find it", not _offers(host), _offers(host))
        began = time.monotonic()
        done = _kaalia(host, "self-test", "machine", "--burn", "0.1", "--json")
        report.worst("selftest_s", time.monotonic() - began)
        report.check("the self-test passes", done.returncode == 0, _failed(done))
        host.stack.list_machine()
        report.check("then it is verified", _becomes(host, "verified"), _lacks(host))
        say(f"what default searches find: {_offers(host)}")
        report.check("and default searches find it", _offers(host) == [1, 1, 2], _offers(host))
        found = host.stack.renter.json("search", "benchmarks", "type=matrix_tflops")
        report.check("its benchmarks are found", len(found) == 1, found)

        write(host.stack.folder / "gpus.txt", fault("nvmlDeviceGetHandleByIndex_v2", "error 15", 1) + well_gpus)
        report.check("a GPU that is lost deverifies it", _becomes(host, "deverified"), _lacks(host))
        report.check("default searches find it no more", not _offers(host), _offers(host))
        (row,) = host.stack.host.json("show", "machines")["machines"]
        told = row["error_description"] or ""
        report.check("its owner reads why", "gpu_lost" in told and row["vericode"] == 8, told)
        report.check("the machine knows it too", "gpu_lost" in _lacks(host), _lacks(host))
    return report


def _kaalia(host: Host, *args: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "kaalia.cli.main", *args, "--socket", str(host.stack.socket)]
    return subprocess.run(command, capture_output=True, text=True, timeout=TEST_S, check=False)


def _failed(done: "subprocess.CompletedProcess[str]") -> list[str]:
    """Steps and requirements of a self-test that did not pass."""
    try:
        document = json.loads(done.stdout)
        run = document.get("run", document)
    except (ValueError, KeyError):
        return [done.stdout[-500:], done.stderr[-1000:]]
    found = [*run["steps"], *run["verdicts"]]
    return [f"{one.get('step') or one['requirement']}: {one['words']}" for one in found if one["outcome"] == "failed"]


def _becomes(host: Host, state: str) -> bool:
    """The machine itself is told so."""
    try:
        wait_until(f"it to be {state}", lambda: _document(host)["state"] == state, HEARD_S)
    except TimeoutError:
        return False
    return True


def _lacks(host: Host) -> list[str]:
    view = _document(host)["view"]
    return [] if view is None else [lack["code"] for lack in view["lacks"]]


def _document(host: Host) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(_kaalia(host, "verification", "--json").stdout)
    return document


def _offers(host: Host) -> list[int]:
    """Sizes of what `vastai search offers` shows."""
    return sorted(row["num_gpus"] for row in host.stack.renter.json("search", "offers"))
