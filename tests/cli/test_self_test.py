"""`kaalia self-test machine`: what is ordered, how it is shown, and its three exit codes."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kaalia.cli import output
from kaalia.cli.commands import self_test
from kaalia.errors import Problem
from kaalia.model.selftest import (
    Figure,
    Outcome,
    RequirementVerdict,
    RunResult,
    Sample,
    SelfTestOrder,
    SelfTestRun,
    StepName,
    StepResult,
)
from kaalia.store import selftest
from tests.cli.conftest import Daemon, Result
from tests.support.clock import START
from tests.support.waiting import wait_until

GOOD = StepResult(StepName.SYSTEM, Outcome.PASSED, "8x RTX 4090", figures=(Figure("gpus", 8, "GPUs"),))
BAD = StepResult(StepName.MEMORY, Outcome.FAILED, "cannot trust 3 words of GPU 1", "wrong_bits", "replace it", 4.5)
UNMET = RequirementVerdict("pcie", Outcome.FAILED, "PCIe bandwidth", "2.1 GB/s", "> 2.85 GB/s", "docs", "see the riser")
Call = Callable[..., Result]


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Call:
    """The program of its own that the command is."""

    def run(*args: str) -> Result:
        try:
            code = output.COULD_NOT_RUN if output.run(self_test.app, args, "kaalia self-test") else output.OK
        except SystemExit as end:
            code = int(end.code or 0)
        captured = capsys.readouterr()
        return Result(code, captured.out, captured.err)

    return run


@contextmanager
def answered(daemon: Daemon, *, cancelled: bool = False, **ended: Any) -> Iterator[list[SelfTestRun]]:
    """Whoever orders a run, or wants its end, gets this end of it from somebody beside."""
    seen: list[SelfTestRun] = []

    def ordered(tx: Any) -> SelfTestRun | None:
        run = selftest.open_run(tx)
        return run if run is not None and (not cancelled or selftest.is_cancelled(tx, run.run_id)) else None

    def serve() -> None:
        run = wait_until("an order", lambda: daemon.read(ordered), 30)
        seen.append(run)
        done = replace(run, began_at=START, ended_at=START, **ended)
        daemon.write(lambda tx: selftest.put(tx, done))

    beside = threading.Thread(target=serve)
    beside.start()
    yield seen
    beside.join()


def known(daemon: Daemon, **parts: Any) -> SelfTestRun:
    """A run in the store."""
    made: list[SelfTestRun] = []

    def work(tx: Any) -> None:
        run = replace(selftest.order(tx, SelfTestOrder(START)), began_at=START, **parts)
        selftest.put(tx, run)
        selftest.add_samples(tx, run.run_id, [Sample(1.5, "GPU-1", temperature_c=60)])
        made.append(run)

    daemon.write(work)
    return made[0]


def test_a_test_that_passes(call: Call, rented: Daemon) -> None:
    with answered(rented, result=RunResult.PASSED, steps=(GOOD,)) as ordered:
        shown = call("machine", "--quick", "--burn", "2", "--only", "system", "--socket", str(rented.socket))

    assert shown.code == 0, shown.err
    assert ordered[0].order == SelfTestOrder(START, is_quick=True, only=(StepName.SYSTEM,), burn_s=120.0)
    assert "8x RTX 4090" in shown.out
    assert "Self-test passed" in shown.out


def test_one_that_fails_names_what_and_what_to_do(call: Call, rented: Daemon) -> None:
    advice = replace(UNMET, requirement="ports.many", words="ports", is_advice=True)
    with answered(rented, result=RunResult.FAILED, steps=(GOOD, BAD), verdicts=(UNMET, advice)):
        shown = call("machine", "--socket", str(rented.socket))

    words = " ".join(shown.out.split())
    assert shown.code == 1
    assert "cannot trust 3 words of GPU 1 [wrong_bits]" in words
    assert "2.1 GB/s, required > 2.85 GB/s [pcie]" in words
    assert words.count("see the riser") == 1, "an advice is no failure"
    assert "ports advice" in words


def test_one_that_gave_way_is_no_verdict(call: Call, rented: Daemon) -> None:
    why = Problem("selftest_gave_way", "cannot go on with the self-test: it gave way to C.51", "run it again later")
    with answered(rented, result=RunResult.NOT_RUN, problem=why, steps=(GOOD,)):
        shown = call("machine", "--json", "--socket", str(rented.socket))

    assert shown.code == 2
    assert json.loads(shown.out)["problem"]["code"] == "selftest_gave_way"


def test_an_unknown_step_names_all_that_are_known(call: Call, rented: Daemon) -> None:
    shown = call("machine", "--only", "vram", "--socket", str(rented.socket))

    assert shown.code == 2
    assert all(step in shown.err for step in StepName)
    assert rented.read(selftest.newest) is None


@pytest.mark.parametrize("minutes", ["0", "-1", "1441", "nan"])
def test_a_burn_without_a_length_is_refused(call: Call, rented: Daemon, minutes: str) -> None:
    assert call("machine", "--burn", minutes, "--socket", str(rented.socket)).code == 2
    assert rented.read(selftest.newest) is None


def test_a_second_one_is_refused_and_can_be_broken_off(call: Call, rented: Daemon) -> None:
    run = known(rented)

    shown = call("machine", "--socket", str(rented.socket))

    assert (shown.code, "selftest_under_way" in shown.err) == (2, True)
    why = Problem("selftest_cancelled", "cannot go on")
    with answered(rented, cancelled=True, result=RunResult.NOT_RUN, problem=why):
        cancelled = call("cancel", "--socket", str(rented.socket))
    assert cancelled.code == 0
    assert rented.read(lambda tx: selftest.is_cancelled(tx, run.run_id))


def test_a_machine_that_is_not_enrolled_cannot_run_it(call: Call, daemon: Daemon) -> None:
    shown = call("machine", "--socket", str(daemon.socket))

    assert (shown.code, "selftest_not_enrolled" in shown.err) == (2, True)


def test_no_daemon_no_test(call: Call, tmp_path: Path) -> None:
    assert call("machine", "--socket", str(tmp_path / "none")).code == 2


def test_the_report_has_the_samples_too(call: Call, rented: Daemon, tmp_path: Path) -> None:
    known(rented, ended_at=START, result=RunResult.PASSED, steps=(GOOD,))
    path = tmp_path / "report.json"

    shown = call("machine", "--last", "--report", str(path), "--socket", str(rented.socket))

    assert shown.code == 0
    written = json.loads(path.read_text())
    assert written["samples"][0]["temperature_c"] == 60
    assert written["run"]["steps"][0]["figures"][0]["name"] == "gpus"


def test_the_burn_is_drawn(call: Call, rented: Daemon, tmp_path: Path) -> None:
    known(rented, ended_at=START, result=RunResult.PASSED, steps=(GOOD,))
    path = tmp_path / "burn.png"

    shown = call("machine", "--last", "--plot", str(path), "--socket", str(rented.socket))

    assert shown.code == 0, shown.err
    assert path.read_bytes().startswith(b"\x89PNG")
    assert call("machine", "--last", "--plot", str(tmp_path), "--socket", str(rented.socket)).code == 2


def test_a_report_that_cannot_be_written_is_refused_before_the_test(call: Call, rented: Daemon, tmp_path: Path) -> None:
    shown = call("machine", "--report", str(tmp_path / "no" / "r.json"), "--socket", str(rented.socket))

    assert shown.code == 2
    assert rented.read(selftest.newest) is None


def test_without_any_run_there_is_nothing_to_show(call: Call, rented: Daemon) -> None:
    shown = call("machine", "--last", "--socket", str(rented.socket))

    assert (shown.code, "selftest_never_run" in shown.err) == (2, True)


@pytest.mark.parametrize(("result", "code"), [(RunResult.PASSED, 2), (RunResult.FAILED, 1)])
def test_a_file_that_cannot_be_written_takes_nothing_from_the_result(
    call: Call, rented: Daemon, result: RunResult, code: int
) -> None:
    known(rented, ended_at=START, result=result, steps=(GOOD,))

    shown = call("machine", "--last", "--report", "/dev/full", "--socket", str(rented.socket))

    assert "8x RTX 4090" in shown.out
    assert "cannot write /dev/full: No space left on device" in shown.err
    assert shown.code == code


def test_a_file_that_only_others_may_write_is_refused_before_the_test(
    call: Call, rented: Daemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "report.json"
    path.touch()
    monkeypatch.setattr(os, "access", lambda place, mode: (Path(place), mode) != (path, os.W_OK))

    shown = call("machine", "--report", str(path), "--socket", str(rented.socket))

    assert (shown.code, "it cannot be written" in shown.err) == (2, True), shown.err
    assert rented.read(selftest.newest) is None


def program(daemon: Daemon, *args: str) -> list[str]:
    return [sys.executable, "-m", "kaalia.cli.commands.self_test", *args, "--socket", str(daemon.socket)]


@pytest.mark.parametrize("form", [(), ("--json",)])
def test_a_result_that_cannot_be_shown_is_no_pass(rented: Daemon, form: tuple[str, ...]) -> None:
    known(rented, ended_at=START, result=RunResult.PASSED, steps=(GOOD,))

    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            program(rented, "machine", "--last", *form), stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )

    assert (done.returncode, "cannot write the result" in done.stderr) == (2, True), done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(("result", "code"), [(RunResult.PASSED, 0), (RunResult.FAILED, 1)])
@pytest.mark.parametrize("form", [(), ("--json",)])
def test_who_reads_no_further_gets_the_verdict_as_exit_code(
    rented: Daemon, form: tuple[str, ...], result: RunResult, code: int
) -> None:
    known(rented, ended_at=START, result=result, steps=(GOOD,))
    reader, writer = os.pipe()
    os.close(reader)

    done = subprocess.run(
        program(rented, "machine", "--last", *form), stdout=writer, stderr=subprocess.PIPE, text=True, check=False
    )
    os.close(writer)

    assert (done.returncode, done.stderr) == (code, "")


def test_a_terminal_that_goes_away_takes_the_order_back_for_sure(rented: Daemon) -> None:
    """It sends more than one signal: the second is no reason to forget what the first one wanted."""
    why = Problem("selftest_cancelled", "cannot go on")
    argv = program(rented, "machine", "--json")
    with (
        answered(rented, cancelled=True, result=RunResult.NOT_RUN, problem=why) as seen,
        subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as command,
    ):
        wait_until("the order", lambda: rented.read(selftest.open_run), 60)
        for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
            command.send_signal(number)
        out, err = command.communicate(timeout=60)

    assert (command.returncode, len(seen)) == (2, 1), err
    assert json.loads(out)["problem"]["code"] == "selftest_cancelled"


def test_forty_columns_and_no_colour(call: Call, rented: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    known(rented, ended_at=START, result=RunResult.FAILED, steps=(GOOD, BAD), verdicts=(UNMET,))
    for key, value in {"COLUMNS": "40", "TTY_COMPATIBLE": "1", "FORCE_COLOR": "1", "NO_COLOR": "1"}.items():
        monkeypatch.setenv(key, value)

    shown = call("machine", "--last", "--socket", str(rented.socket))

    lines = re.sub(r"\x1b\[[0-9;]*m", "", shown.out).splitlines()
    print(shown.out)
    assert max(map(len, lines)) <= 40
    assert not re.search(r"\x1b\[(3[0-9]|38|9[0-7])", shown.out), "colour"
    assert "wrong_bits" in shown.out
