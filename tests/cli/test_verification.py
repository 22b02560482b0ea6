"""`kaalia verification` and the operator's commands: the state, why it is so, and what to do about it."""

import json
import subprocess
import sys
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

from kaalia.model.selftest import RunResult
from kaalia.model.standing import Standing
from kaalia.model.verification import Cause, Change, Lack, Ordered, RunNote, State, VerificationView
from kaalia.store import machine, standing
from kaalia.store.database import Transaction
from tests.cli.conftest import Daemon, Run
from tests.support.clock import START
from tests.support.sound import sound_report

HOUR = timedelta(hours=1)
NOTE = RunNote(
    3,
    START - 3 * HOUR,
    START - 2 * HOUR,
    START - 2 * HOUR,
    RunResult.FAILED,
    failed=("memory",),
    words="GPU-1 read other bits than were written",
)
DOWN = VerificationView(
    State.DEVERIFIED,
    START - HOUR,
    causes=(
        Cause("gpu_xid_79", "GPU-1", "the driver reported Xid 79", START - HOUR, START - HOUR, needs_test=True),
        Cause("engine_unavailable", "host", "cannot reach Docker", START, START + 10 * timedelta(minutes=1)),
        Cause("gpu_lost", "GPU-1", "cannot see it", START - HOUR, START - HOUR, gone_at=START),
    ),
    lacks=(
        Lack("gpu_xid_79", "the driver reported Xid 79", remedy="kaalia doctor explain gpu_xid_79"),
        Lack("network.upload", "the machine uploads fast enough", "80 Mb/s", ">= 125 Mb/s", "use a wire [not wifi]"),
    ),
    asides=(Cause("disk_over_size", "C.51", "cannot hold C.51 to its size", START, START),),
    last=NOTE,
    ordered=Ordered("task", START - HOUR, "at random"),
    history=(Change(START - 9 * HOUR, State.VERIFIED),),
)


def told(view: VerificationView | None, state: str = "deverified") -> object:
    def fill(tx: Transaction) -> None:
        standing.put(tx, Standing(state, (), view), START)
        machine.put_report(tx, sound_report())

    return fill


def test_what_costs_the_verification_and_what_is_missing(run: Run, rented: Daemon) -> None:
    rented.write(told(DOWN))  # type: ignore[arg-type]

    result = run("verification", "--socket", str(rented.socket))

    assert (result.code, result.err) == (1, "")
    assert "deverified, since 2026-01-01 11:00" in result.out
    assert "failed 2 h ago: memory: GPU-1 read other bits than were written" in result.out
    assert "a self-test, 60 min ago: at random" in result.out or "a self-test, 1 h ago: at random" in result.out
    assert "gpu_xid_79" in result.out
    assert "counts in 10 min" in result.out
    assert "it is over, and must stay so for a while" in result.out
    assert "of GPU-1, since 2026-01-01 11:00 UTC: it counts, then a new self-test is needed" in result.out
    assert result.out.count("the driver reported Xid 79") == 1
    assert "Noted; it costs no verification:" in result.out
    assert "cannot hold C.51 to its size [disk_over_size]" in result.out
    assert "…" not in result.out
    assert "the machine uploads fast enough: 80 Mb/s, required >= 125 Mb/s [network.upload]" in result.out
    assert "remedy: use a wire [not wifi]" in result.out
    assert "By this machine's own look:" in result.out
    assert "reliability" in result.out


def test_a_verified_machine_ends_with_0_and_shows_all_requirements_on_wish(run: Run, rented: Daemon) -> None:
    view = VerificationView(State.VERIFIED, START - HOUR, last=replace(NOTE, result=RunResult.PASSED, failed=()))
    rented.write(told(view, "verified"))  # type: ignore[arg-type]

    short = run("verification", "--socket", str(rented.socket))
    everything = run("verification", "--all", "--socket", str(rented.socket))

    assert (short.code, everything.code) == (0, 0)
    assert "pcie.bandwidth" not in short.out
    assert "pcie.bandwidth" in everything.out
    assert "> 2.85 GB/s" in everything.out


def test_status_and_metrics_tell_the_state(run: Run, rented: Daemon) -> None:
    silent = run("metrics", "--socket", str(rented.socket)).out
    rented.write(told(DOWN))  # type: ignore[arg-type]
    down = run("status", "--socket", str(rented.socket)).out
    low = run("metrics", "--socket", str(rented.socket)).out
    rented.write(told(VerificationView(State.VERIFIED, START), "verified"))  # type: ignore[arg-type]
    up = run("status", "--json", "--socket", str(rented.socket)).out
    high = run("metrics", "--socket", str(rented.socket)).out

    assert "kaalia_marketplace_verified" not in silent
    assert "deverified; what is missing: kaalia verification" in down
    assert "kaalia_marketplace_verified 0" in low
    assert json.loads(up)["verification"] == "verified"
    assert "kaalia_marketplace_verified 1" in high


def test_the_same_for_programs(run: Run, rented: Daemon) -> None:
    rented.write(told(DOWN))  # type: ignore[arg-type]

    document = json.loads(run("verification", "--json", "--socket", str(rented.socket)).out)

    assert (document["state"], document["view"]["causes"][0]["code"]) == ("deverified", "gpu_xid_79")
    outcomes = {one["requirement"]: one["outcome"] for one in document["verdicts"]}
    assert outcomes["network.direct_ports"] == "passed"
    assert outcomes["reliability"] == "skipped"


def test_who_has_not_told_anything_is_named(run: Run, daemon: Daemon, tmp_path: Path) -> None:
    result = run("verification", "--socket", str(daemon.socket))

    assert result.code == 1
    assert "This machine is not enrolled" in result.out
    assert "has not read itself yet" in result.out


def test_an_older_marketplace_says_no_more_than_the_state(run: Run, rented: Daemon) -> None:
    rented.write(told(None, "unverified"))  # type: ignore[arg-type]

    result = run("verification", "--socket", str(rented.socket))

    assert "The marketplace says: unverified. It does not say why" in result.out


def marketplace(data: Path, *args: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "kaalia.cli.main", "marketplace", "verification", *args, "--data", str(data)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_the_operator_is_told_of_machines_that_are_none(tmp_path: Path) -> None:
    for args in (("show", "7"), ("bar", "7", "--words", "why"), ("lift", "7")):
        done = marketplace(tmp_path, *args)

        assert (done.returncode, "cannot find machine 7" in done.stderr) == (2, True), done.stderr
        assert "Traceback" not in done.stderr
